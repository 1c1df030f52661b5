"""Elections and disjoint means, one entry at a time in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import primitives as p


@pytest.mark.parametrize("shape", [(3, 50), (1, 8)])
def test_elections(shape):
    d = jnp.asarray(grid(0, shape)).at[:, 0].set(0)
    sums = np.asarray(d, np.float64).sum(0, keepdims=True)
    np.testing.assert_array_equal(p.sign_of_sum(d), np.sign(sums))
    positive = np.where(sums >= 0, 1, -1)
    np.testing.assert_array_equal(p.nonnegative_sign_of_sum(d), positive)


def test_an_exact_zero_agrees_with_no_sign():
    d = jnp.asarray([[0.0, 1.0], [0.0, -1.0]])
    none = p.agreeing(d, sign=jnp.zeros((1, 2)))
    assert not none.any()
    assert p.agreeing(d, sign=jnp.ones((1, 2))).tolist() == [[False, True], [False] * 2]


@pytest.mark.parametrize("seed", range(3))
def test_means_over_those_who_agree(seed):
    d, weights = grid(seed, (4, 60)), np.array([1.0, -0.5, 2.0, 0.25])
    y = weights[:, None] * d
    mean, total, shared = np.zeros((3, 1, 60))
    for i in range(60):
        sign = 1 if y[:, i].sum() >= 0 else -1
        kept = [t for t in range(4) if y[t, i] * sign > 0]
        total[0, i] = sum(y[t, i] for t in kept)
        mean[0, i] = total[0, i] / max(len(kept), 1)
        shared[0, i] = total[0, i] / (sum(weights[t] for t in kept) or 1)
    rows = jnp.asarray(y, jnp.float32)
    sign = p.nonnegative_sign_of_sum(rows)
    assert_close(p.agreeing_sum(rows, sign=sign), total, flops=4)
    assert_close(p.agreeing_mean(rows, sign=sign), mean, flops=5)
    got = p.agreeing_weighted_mean(rows, sign=sign, weights=p.per_expert(weights))
    # a sum of agreeing weights may be 0.25 small, so that roundings count fourfold
    assert_close(got, shared, flops=4 * 9)
