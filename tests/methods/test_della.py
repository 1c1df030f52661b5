"""DELLA: MagPrune, then election and mean entry by entry in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid
from methods.sparsified import elected_mean, pruned

from mda_jax import Side
from mda_jax.methods import della


KEY = jax.random.key(6)
SHAPES = [(1, (7,)), (3, ()), (4, (4, 6)), (2, (5, 1))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", SHAPES)
def test_is_drop_elect_fuse(seed, k, shape):
    # entries whose quotients by one chance cancel must do so in float32 too
    d = grid(seed, (k, *shape)) + np.float32(1 / 128)
    got = della(0.5, 0.3, 0.7)(jnp.asarray(d), Side(jnp.zeros(shape), KEY))
    # the smallest chance is 0.2
    want = 0.7 * elected_mean(pruned(d, KEY, 0.5, 0.3))
    assert_close(got, want, flops=5 * (k + 4))


def test_ids_are_handed_on():
    d = jnp.asarray(grid(3, (2, 4, 6)))
    side = Side(d[0], KEY)
    turned = della(ids=[1, 0])(d[::-1], side)
    np.testing.assert_allclose(turned, della()(d, side), atol=1e-6)


def test_probabilities_are_probabilities():
    with pytest.raises(ValueError, match=r"della.*pass a smaller epsilon"):
        della(0.9, 0.2)
