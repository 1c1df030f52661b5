"""Breadcrumbs against a stable sort, then the election entry by entry in float64."""

import jax
import jax.numpy as jnp
import pytest
from helpers import assert_close, grid
from methods.sparsified import band, elected_mean

from mda_jax import Side
from mda_jax.methods import breadcrumbs_ties


@jax.jit
def merged(density, outliers, d):
    return breadcrumbs_ties(density, outliers, scale=0.7)(d, Side(d[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (3, (8, 16)), (2, (3, 2, 4))])
@pytest.mark.parametrize("density, outliers", [(0.9, 0.01), (0.5, 0.25)])
def test_is_the_composition(seed, k, shape, density, outliers):
    d = grid(seed, (k, *shape))
    got = merged(density, outliers, jnp.asarray(d))
    want = 0.7 * elected_mean(band(d, density, outliers))
    assert_close(got, want, flops=k + 2)


def test_ranges():
    with pytest.raises(ValueError, match=r"breadcrumbs_ties.*fraction in \(0, 1\]"):
        breadcrumbs_ties(0.0)
    with pytest.raises(ValueError, match=r"breadcrumbs_ties.*outliers is a number in"):
        breadcrumbs_ties(outliers=-0.5)
