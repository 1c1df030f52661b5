"""DARE's drop by the same draws, then election and mean entry by entry in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid
from methods.sparsified import drawn, elected_mean

from mda_jax import Side, primitives as p
from mda_jax.methods import dare_ties


KEY = jax.random.key(5)


def oracle(d, density, scale):
    kept = np.where(np.stack(drawn(KEY, d)) < density, d / density, 0)
    return scale * elected_mean(kept)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (4, (4, 6)), (2, (3, 2, 4))])
@pytest.mark.parametrize("density", [0.25, 1.0])
def test_is_the_composition(seed, k, shape, density):
    d = grid(seed, (k, *shape))
    got = dare_ties(density, 0.7)(jnp.asarray(d), Side(jnp.zeros(shape), KEY))
    assert_close(got, oracle(d, density, 0.7), flops=k + 3)


def test_ids_and_rescale_rules_are_handed_on():
    d = jnp.asarray(grid(3, (2, 4, 6)))
    side = Side(d[0], KEY)
    turned = dare_ties(ids=[1, 0])(d[::-1], side)
    np.testing.assert_allclose(turned, dare_ties()(d, side), atol=1e-6)
    alone = dare_ties(0.3, rescale=p.by_l1_norm)(d[:1], side)
    np.testing.assert_allclose(np.abs(alone).sum(), np.abs(d[0]).sum(), rtol=1e-5)


@pytest.mark.parametrize("density", [50, 0])
def test_density_is_a_fraction(density):
    with pytest.raises(ValueError, match=r"dare_ties.*fraction in \(0, 1\]"):
        dare_ties(density)


def test_needs_a_key():
    with pytest.raises(ValueError, match="at random"):
        dare_ties()(jnp.ones((2, 3)), Side(jnp.ones(3)))
