"""Breadcrumbs against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid
from methods.sparsified import band

from mda_jax import Side
from mda_jax.methods import breadcrumbs


@jax.jit
def merged(density, outliers, d):
    return breadcrumbs(density, outliers, scale=0.7)(d, Side(d[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (3, (8, 16)), (2, (3, 2, 4))])
@pytest.mark.parametrize("density, outliers", [(0.9, 0.01), (0.5, 0.25), (1.0, 0.25)])
def test_drops_both_ends(seed, k, shape, density, outliers):
    d = grid(seed, (k, *shape))
    got = merged(density, outliers, jnp.asarray(d))
    assert_close(got, 0.7 * band(d, density, outliers), flops=2)


def test_a_small_weight_is_not_lost():
    """Where a fraction of its entries is none, the largest is no outlier."""
    d = jnp.asarray([[3.0, -1.0, 2.0]])
    got = breadcrumbs(0.9, 0.01, scale=1.0)(d, Side(d[0]))
    np.testing.assert_array_equal(got, [[3.0, 0.0, 2.0]])


def test_ranges():
    with pytest.raises(ValueError, match=r"breadcrumbs.*Did you mean density=0.9"):
        breadcrumbs(90)
    with pytest.raises(ValueError, match=r"breadcrumbs.*outliers is a number in"):
        breadcrumbs(outliers=1.5)
