"""RAM+, expert by expert and entry by entry in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import ram, ram_plus


def oracle(d, epsilon, gain, most_overlap):
    flat = d.astype(np.float64).reshape(len(d), -1)
    changed = np.abs(flat) > epsilon
    count = changed.sum(0)
    merged = np.zeros(flat.shape[1])
    for row, own in zip(flat, changed, strict=True):
        shared, alone = (own & (count > 1)).sum(), (own & (count == 1)).sum()
        overlap = np.clip(shared / max(alone, epsilon), 0, most_overlap)
        for i in np.flatnonzero(own):
            factor = 1 + gain * overlap if count[i] == 1 else 1
            merged[i] += factor * row[i] / count[i]
    return merged.reshape(1, *d.shape[1:])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (5, (4, 6)), (2, (3, 2, 4))])
@pytest.mark.parametrize("epsilon, most_overlap", [(1e-5, 0.2), (1.5, 0.2), (1.0, 9.0)])
def test_amplifies_what_one_expert_changed_alone(seed, k, shape, epsilon, most_overlap):
    d = grid(seed, (k, *shape))
    method = ram_plus(epsilon, gain=0.5, most_overlap=most_overlap)
    got = method(jnp.asarray(d), Side(jnp.zeros(shape)))
    assert_close(got, oracle(d, epsilon, 0.5, most_overlap), flops=4 * (k + 4))


def test_without_gain_or_overlap_it_is_ram():
    d = jnp.asarray(grid(0, (3, 4, 6)))
    side = Side(d[0])
    np.testing.assert_array_equal(ram_plus(1.0, gain=0.0)(d, side), ram(1.0)(d, side))
    apart = jnp.eye(3)
    np.testing.assert_array_equal(ram_plus()(apart, side), jnp.ones((1, 3)))
