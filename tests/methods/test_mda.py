"""MDA: the experts' own directions, least squares between them, a flat spectrum."""

import jax
import numpy as np
import pytest
from methods.spectral import merged, near, polar

from mda_jax import Role
from mda_jax.methods import iso_c, mda


def oracle(deltas, ridge, scale):
    """The normal equations and a singular value decomposition."""
    k, _, n = deltas.shape
    mu = ridge * k / n
    grams = np.stack([d.T @ d / np.sum(d * d) for d in deltas])
    wanted = sum(d @ g for d, g in zip(deltas, grams, strict=True))
    x = (wanted + mu * deltas.mean(0)) @ np.linalg.inv(grams.sum(0) + mu * np.eye(n))
    spectrum = np.linalg.svd(x, compute_uv=False)
    return scale * spectrum.mean() * polar(x)


@pytest.mark.parametrize("k, shape", [(2, (7, 5)), (3, (5, 7)), (8, (6, 6))])
def test_is_least_squares_with_a_flat_spectrum(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got = merged(mda(ridge=0.5, scale=1.8), deltas)
    near(got, oracle(deltas, 0.5, 1.8), 1e4)  # the solve and the polar factor, squared


def test_a_large_ridge_flattens_the_mean():
    d = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    near(merged(mda(ridge=1e6, scale=3.0), d), merged(iso_c(scale=1.0), d), 500)


def test_experts_that_use_different_directions_are_summed():
    """Without overlap nothing has to give way: the same as flattening the sum."""
    blocks = np.zeros((2, 8, 8), np.float32)
    draw = np.random.default_rng(1).normal(size=(2, 8, 4))
    blocks[0, :, :4], blocks[1, :, 4:] = draw
    got = merged(mda(ridge=1e-4, scale=1.0), blocks)
    want = merged(iso_c(scale=1.0), blocks)
    # the ridge takes 1e-4 times the condition of a Gram matrix from each direction
    assert np.linalg.norm(got - want) <= 0.02 * np.linalg.norm(want)


def test_all_directions_have_one_strength():
    d = np.random.default_rng(2).normal(size=(4, 9, 6)).astype(np.float32)
    strengths = np.linalg.svd(merged(mda(), d), compute_uv=False)
    assert np.ptp(strengths) <= 100 * np.finfo(np.float32).eps * strengths.max()


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    got = merged(mda(scale=1.8), d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * np.finfo(np.float32).eps
