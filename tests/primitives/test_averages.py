import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import primitives as p


def test_sums_and_means():
    d = grid(0, (3, 4, 5))
    x, wide = jnp.asarray(d), d.astype(np.float64)
    assert_close(p.total(x), wide.sum(0, keepdims=True), flops=3)
    assert_close(p.mean(x), wide.mean(0, keepdims=True), flops=4)
    assert_close(p.scaled(x, by=0.3), 0.3 * wide, flops=2)
    weights = np.array([0.5, -0.25, 2.0])
    rows = weights[:, None, None] * wide
    assert_close(p.weighted(x, weights=p.per_expert(weights)), rows, flops=2)
    shared = rows.sum(0, keepdims=True) / weights.sum()
    got = p.weighted_mean(x, weights=p.per_expert(weights))
    assert_close(got, shared, flops=8)


def test_weights_that_cancel_are_not_divided_by():
    d = jnp.asarray([[3.0], [1.0]])
    got = p.weighted_mean(d, weights=p.per_expert([1, -1]))
    np.testing.assert_array_equal(got, [[2.0]])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0]]])
def test_there_is_one_weight_per_expert(weights):
    with pytest.raises(ValueError, match=r"there are 2 experts. Pass one number"):
        p.weighted(jnp.ones((2, 3)), weights=jnp.asarray(weights))


def test_numbers_take_the_type_of_the_deltas():
    d = jnp.ones((2, 3), jnp.bfloat16)
    assert p.scaled(d, by=np.float64(0.5)).dtype == jnp.bfloat16
    assert p.weighted(d, weights=p.per_expert([1, 2])).dtype == jnp.bfloat16
