"""RAM, one entry at a time in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import ram


def oracle(d, epsilon):
    flat = d.astype(np.float64).reshape(len(d), -1)
    merged = []
    for column in flat.T:
        changed = [x for x in column if abs(x) > epsilon]
        merged.append(np.mean(changed) if changed else 0.0)
    return np.reshape(merged, (1, *d.shape[1:]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (5, (4, 6)), (2, (3, 2, 4))])
@pytest.mark.parametrize("epsilon", [1e-5, 0.5, 1.5])
def test_averages_over_those_who_changed(seed, k, shape, epsilon):
    d = grid(seed, (k, *shape))
    got = ram(epsilon)(jnp.asarray(d), Side(jnp.zeros(shape)))
    assert_close(got, oracle(d, epsilon), flops=k + 1)


def test_what_one_expert_changed_alone_is_not_diluted():
    d = jnp.asarray([[1.0, 0.5, 0.0, 1.0], [0.0, -1.0, 0.0, 0.25]])
    got = ram(0.25)(d, Side(d[0]))
    np.testing.assert_array_equal(got, [[1.0, -0.25, 0.0, 1.0]])
