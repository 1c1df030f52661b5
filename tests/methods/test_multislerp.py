"""Multi-SLERP against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import multislerp
from mda_jax.primitives import weighted_sum


def oracle(d, weights):
    """The weights as they are."""
    flat = d.astype(np.float64).reshape(len(d), -1)
    lengths = np.linalg.norm(flat, axis=1)
    units = flat / np.where(lengths, lengths, 1)[:, None]
    middle = sum(w * u for w, u in zip(weights, units, strict=True))
    if np.linalg.norm(middle) < 1e-7:
        return (weights @ flat).reshape(1, *d.shape[1:])
    middle /= np.linalg.norm(middle)
    tangent = np.zeros_like(middle)
    for w, u in zip(weights, units, strict=True):
        tangent += w * (u - (u @ middle) * middle)
    far = np.linalg.norm(tangent)
    moved = np.cos(far) * middle + (np.sin(far) / far * tangent if far else 0)
    return (weights @ lengths * moved).reshape(1, *d.shape[1:])


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
def test_is_the_formula(k, shape):
    d = grid(k, (k, *shape))
    weights = np.arange(1.0, k + 1)
    for method, shares in (
        (multislerp(), np.full(k, 1 / k)),
        (multislerp(weights), weights / weights.sum()),
        (multislerp(weights, average=weighted_sum), weights),
    ):
        got = jax.jit(method)(jnp.asarray(d), Side(d[0]))
        # the mean of the unit vectors is no shorter than 0.2
        assert_close(got, oracle(d, shares), flops=32 * k)


@pytest.mark.parametrize("k", [2, 3])
def test_directions_that_cancel_are_averaged_plainly(k):
    turn = 2 * np.pi / k
    corners = [[np.cos(i * turn), np.sin(i * turn)] for i in range(k)]
    d = jnp.asarray(np.array(corners) * np.arange(1, k + 1)[:, None], jnp.float32)
    got = multislerp()(d, Side(d[0]))
    np.testing.assert_allclose(got, d.mean(0, keepdims=True), atol=1e-6)


def test_identical_experts_are_kept():
    d = jnp.tile(jnp.asarray(grid(1, (1, 4, 6))), (3, 1, 1))
    assert_close(multislerp()(d, Side(d[0])), np.float64(d[:1]), flops=16)


def test_there_is_one_weight_per_expert():
    with pytest.raises(ValueError, match="there are 3 experts"):
        multislerp([1.0, 2.0])(jnp.ones((3, 2)), Side(jnp.ones(2)))
