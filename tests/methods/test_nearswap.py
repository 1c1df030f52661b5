"""NearSwap against the interpolation it is written as elsewhere."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import nearswap


def oracle(base, expert, t):
    merged = []
    for a, b in zip(base.ravel(), expert.ravel(), strict=True):
        share = 1.0 if a == b else min(1.0, t / abs(a - b))
        merged.append(share * b + (1 - share) * a)
    return np.reshape(merged, base.shape)


@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
@pytest.mark.parametrize("t", [0.0, 0.5, 9.0])
def test_is_the_interpolation(shape, t):
    base, expert = grid(0, shape), grid(1, shape)
    d = jnp.asarray(expert - base)[None]
    got = base + nearswap(t)(d, Side(jnp.asarray(base)))[0]
    want = oracle(base.astype(np.float64), expert.astype(np.float64), t)
    assert_close(got, want, flops=2)


def test_default():
    d = jnp.asarray([[1e-5, -1e-5, 1.0, -1.0, 0.0]])
    got = nearswap()(d, Side(d[0]))
    np.testing.assert_allclose(got, [[1e-5, -1e-5, 1e-4, -1e-4, 0]], rtol=1e-6)


def test_t_is_not_negative():
    with pytest.raises(ValueError, match=r"nearswap\(t=-1.*\[0, inf\]"):
        nearswap(-1)


def test_merges_one_expert():
    with pytest.raises(ValueError, match="nearswap: merges exactly 1 expert"):
        nearswap()(jnp.ones((2, 3)), Side(jnp.ones(3)))
