"""MagPrune by the same draws, one entry at a time in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid
from methods.sparsified import pruned

from mda_jax import Side, primitives as p
from mda_jax.methods import della_linear


KEY = jax.random.key(6)
SHAPES = [(1, (7,)), (3, ()), (4, (4, 6)), (2, (5, 1))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", SHAPES)
def test_is_magprune(seed, k, shape):
    d = grid(seed, (k, *shape))
    got = della_linear(0.5, 0.3, 0.7)(jnp.asarray(d), Side(jnp.zeros(shape), KEY))
    # the smallest chance is 0.2
    assert_close(got, 0.7 * pruned(d, KEY, 0.5, 0.3), flops=5 * 4)


def test_keeping_all_changes_nothing():
    d = jnp.asarray(grid(1, (3, 4, 6)))
    np.testing.assert_array_equal(della_linear(1.0, scale=1.0)(d, Side(d[0], KEY)), d)


def test_is_right_on_average():
    d, times = grid(1, (2, 2, 3)), 2000
    method = della_linear(0.5, 0.3, scale=1.0)
    side = Side(jnp.zeros((2, 3)))
    keys = jax.random.split(KEY, times)
    got = jax.vmap(lambda key: method(jnp.asarray(d), side._replace(key=key)))(keys)
    # chances are 0.2 at least: the variance of an entry is at most 4 d^2
    sigma = np.abs(d) * np.sqrt(4 / times)
    assert (np.abs(got.mean(0) - d) <= 5 * sigma + 1e-4).all()


def test_other_rules_rescale_otherwise():
    d = jnp.asarray(grid(3, (3, 4, 6)))
    got = della_linear(0.5, 0.3, 1.0, rescale=p.by_l1_norm)(d, Side(d[0], KEY))
    norms = [np.abs(x).sum((1, 2)) for x in (got, d)]
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.parametrize("density, epsilon", [(0.9, 0.15), (0.1, 0.1), (0.1, 0.2)])
def test_probabilities_are_probabilities(density, epsilon):
    with pytest.raises(ValueError, match=r"della_linear.*pass a smaller epsilon"):
        della_linear(density, epsilon)


@pytest.mark.parametrize("density", [50, 0])
def test_density_is_a_fraction(density):
    with pytest.raises(ValueError, match=r"della_linear.*fraction in \(0, 1\]"):
        della_linear(density)


def test_needs_a_key():
    with pytest.raises(ValueError, match="at random"):
        della_linear()(jnp.ones((2, 3)), Side(jnp.ones(3)))
