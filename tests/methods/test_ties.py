"""TIES against Algorithm 1 of the paper, one entry at a time, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import ties


def trimmed(row, density):
    """The row with its largest entries; of equal ones the earlier."""
    keep = max(1, round(density * row.size))
    order = sorted(range(row.size), key=lambda i: (-abs(row[i]), i))
    return [x if i in order[:keep] else 0.0 for i, x in enumerate(row)]


def oracle(deltas, density, scale):
    rows = [trimmed(d.ravel(), density) for d in deltas.astype(np.float64)]
    merged = []
    for column in zip(*rows, strict=True):
        agree = [x for x in column if x * sum(column) > 0]
        merged.append(scale * np.mean(agree) if agree else 0.0)
    return np.reshape(merged, (1, *deltas.shape[1:]))


@jax.jit
def merged(density, d):
    return ties(density, scale=0.7)(d, Side(d[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (2, (4, 6)), (5, (4, 6)), (5, ())])
@pytest.mark.parametrize("density", [0.01, 0.3, 1.0])
def test_is_algorithm_1(seed, k, shape, density):
    d = grid(seed, (k, *shape))
    got = merged(density, jnp.asarray(d))
    assert_close(got, oracle(d, density, 0.7), flops=k + 2)


def test_signs_that_cancel_merge_to_zero():
    d = jnp.asarray([[1.0, 2.0], [-1.0, 3.0]])
    np.testing.assert_array_equal(ties(1.0)(d, Side(d[0])), [[0.0, 2.5]])


@pytest.mark.parametrize("density, hint", [(20, "density=0.2"), (0, ""), (-1, "")])
def test_density_is_a_fraction(density, hint):
    with pytest.raises(ValueError, match=rf"ties.*fraction in \(0, 1\].*{hint}"):
        ties(density)
