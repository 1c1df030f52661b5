"""Directional least squares: the normal equations, and what they promise."""

import jax
import numpy as np
import pytest
from methods.spectral import merged

from mda_jax import Role
from mda_jax.methods import dls


def loss(x, deltas, ridge, pull):
    """As the docstring has it, with roots of Gram matrices."""
    mu = ridge * len(deltas) / deltas.shape[2]
    value = mu * np.sum((x - pull * deltas.sum(0)) ** 2)
    for d in deltas:
        squares, v = np.linalg.eigh(d.T @ d / np.sum(d * d))
        root = v * np.sqrt(np.maximum(squares, 0)) @ v.T
        value += np.sum(((x - d) @ root) ** 2)
    return value


@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_is_the_minimiser(shape):
    """The loss is quadratic: any step away from its minimiser raises it."""
    rng = np.random.default_rng(0)
    deltas = rng.normal(size=(3, *shape))
    with jax.enable_x64(True):
        x = merged(dls(ridge=0.4, pull=0.6, scale=1.0), deltas)
    least = loss(x, deltas, 0.4, 0.6)
    for _ in range(20):
        step = 1e-3 * rng.normal(size=shape)
        ahead, back = (loss(x + way * step, deltas, 0.4, 0.6) for way in (1, -1))
        assert ahead > least and back > least
        # the slope vanishes to rounding
        assert abs(ahead - back) <= 1e-10 * least


def test_experts_that_use_different_directions_are_all_kept():
    blocks = np.zeros((2, 6, 8), np.float32)
    draw = np.random.default_rng(1).normal(size=(2, 6, 4))
    blocks[0, :, :4], blocks[1, :, 4:] = draw
    got = merged(dls(ridge=1e-5, scale=1.0), blocks)
    # The ridge pulls towards 0.6 of the sum, by 1e-5 times the condition of each Gram.
    np.testing.assert_allclose(got, blocks.sum(0), rtol=0, atol=0.01)


def test_a_large_ridge_gives_the_scaled_sum():
    d = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
    got = merged(dls(ridge=1e6, pull=0.6, scale=0.5), d)
    np.testing.assert_allclose(got, 0.3 * d.sum(0), rtol=0, atol=1e-5)


def test_an_expert_that_changes_nothing_only_counts_in_the_ridge():
    d = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    got = merged(dls(ridge=0.4), np.concatenate([d, 0 * d[:1]]))
    want = merged(dls(ridge=0.6), d)  # mu is ridge k / n
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(4).normal(size=(3, 4, 6)).astype(np.float32)
    got = merged(dls(scale=1.0), d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * np.finfo(np.float32).eps
