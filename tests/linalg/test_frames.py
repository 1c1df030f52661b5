import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import distance, gaussian, polar_oracle

from mda_jax.linalg import nearest_simplex_frame, simplex_etf


EPS32 = 2.0**-23


def cosines(k):
    return np.eye(k) * (1 + 1 / (k - 1)) - 1 / (k - 1)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_simplex_has_unit_columns_equally_far_apart(k):
    frame = np.asarray(simplex_etf(k), np.float64)
    # Entries err by two roundings each, an inner product by 2 k of those at most.
    np.testing.assert_allclose(frame.T @ frame, cosines(k), rtol=0, atol=4 * k * EPS32)
    np.testing.assert_allclose(frame.sum(0), 0, rtol=0, atol=2 * k * EPS32)


def test_simplex_in_double_precision():
    with jax.enable_x64(True):
        frame = simplex_etf(4, jnp.float64)
        np.testing.assert_allclose(frame.T @ frame, cosines(4), rtol=0, atol=1e-15)


@pytest.mark.parametrize("k", [-1, 0, 1])
def test_a_simplex_needs_two_vertices(k):
    with pytest.raises(ValueError, match=rf"simplex_etf\(k={k}\).*at least 2"):
        simplex_etf(k)


def test_a_frame_needs_two_columns():
    with pytest.raises(ValueError, match=r"nearest_simplex_frame\(k=1\).*at least 2"):
        nearest_simplex_frame(jnp.ones((3, 1)))


@pytest.mark.parametrize("shape", [(2, 9, 5), (4, 5)])
def test_frame_is_equiangular_and_solves_procrustes(shape):
    x, k = gaussian(1, *shape), shape[-1]
    frame = np.asarray(jax.jit(nearest_simplex_frame)(jnp.asarray(x)), np.float64)
    gram = frame.swapaxes(-1, -2) @ frame
    bound = 16 * EPS32 * np.sqrt(k)
    np.testing.assert_allclose(
        gram, np.broadcast_to(cosines(k), gram.shape), rtol=0, atol=bound
    )
    etf = np.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)
    want = polar_oracle(x.astype(np.float64) @ etf, min(shape[-2], k - 1)) @ etf
    # Forward error of a polar factor: 8 eps sqrt(k) times a condition below 50.
    assert distance(frame, want) <= 8 * EPS32 * np.sqrt(k) * 50


def test_equal_columns_have_no_frame_and_a_finite_gradient():
    x = jnp.ones((4, 3))
    assert (np.asarray(jax.jit(nearest_simplex_frame)(x)) == 0).all()
    gradient = jax.jit(jax.grad(lambda x: nearest_simplex_frame(x).sum()))(x)
    assert np.isfinite(gradient).all()
