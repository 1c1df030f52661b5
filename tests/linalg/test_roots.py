import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import distance, gaussian, slope, tangent

from mda_jax.linalg import inverse_sqrt


EPS32 = 2.0**-23


def psd(seed, values, dtype=np.float32):
    draw = np.random.default_rng(seed).standard_normal((len(values), len(values)))
    q = np.linalg.qr(draw)[0]
    return ((q * values) @ q.T).astype(dtype)


def oracle(g, rank=None):
    values, v = np.linalg.eigh(np.asarray(g, np.float64))
    values, v = values[::-1][:rank], v[:, ::-1][:, :rank]
    return (v / np.sqrt(values)) @ v.T


@pytest.mark.parametrize("values", [np.ones(20), np.geomspace(5, 5e-3, 20)])
def test_is_the_inverse_square_root(values):
    g = psd(1, values)
    # d(a^-1/2) = a^-3/2 da / 2, da = 8 eps sqrt(n) times the largest eigenvalue.
    bound = 4 * EPS32 * np.sqrt(20) * values.max() * values.min() ** -1.5
    root = jax.jit(inverse_sqrt)(jnp.asarray(g))
    assert distance(root, oracle(g)) <= bound


def test_is_zero_on_the_null_space():
    g = psd(2, np.r_[np.linspace(2, 1, 8), np.zeros(12)])
    bound = 8 * EPS32 * np.sqrt(20) * 2
    assert distance(jax.jit(inverse_sqrt)(jnp.asarray(g)), oracle(g, 8)) <= bound


def test_scales_zero_and_not_finite():
    g = psd(3, np.linspace(2, 1, 5))
    bad = np.full_like(g, np.nan)
    roots = jax.jit(inverse_sqrt)(
        jnp.asarray(np.stack([g * 1e20, g * 1e-20, 0 * g, bad]))
    )
    bound = 8 * EPS32 * np.sqrt(5)
    assert distance(roots[0] * 1e10, oracle(g)) <= bound
    assert distance(roots[1] * 1e-10, oracle(g)) <= bound
    assert (np.asarray(roots[2]) == 0).all() and np.isnan(roots[3]).all()


def test_derivative_is_the_slope():
    with jax.enable_x64(True):
        g = psd(4, np.linspace(2, 1, 5), np.float64)
        dg = gaussian(5, 5, 5, dtype=np.float64)
        dg = dg + dg.T
        got = tangent(inverse_sqrt, g, dg)
        np.testing.assert_allclose(got, slope(oracle, g, dg, 1e-5), rtol=0, atol=1e-8)


def test_derivative_along_matrices_of_equal_rank():
    factor, change = gaussian(6, 2, 5, 2, dtype=np.float64)

    def curve(t):
        moved = factor + t * change
        return moved @ moved.T

    with jax.enable_x64(True):
        dg = change @ factor.T + factor @ change.T
        want = slope(lambda t: oracle(curve(t), 2), 0.0, 1.0, 1e-5)
        got = tangent(inverse_sqrt, curve(0.0), dg)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)


def test_gradient_is_finite_at_degenerate_spectra():
    values = [[0, 0, 0], [1, 1, 1], [2, 2, 0], [1, 0, 0]]
    g = jnp.asarray([np.diag(each) for each in values], jnp.float32)
    weights = jnp.asarray(gaussian(7, 4, 3, 3))
    gradient = jax.jit(jax.grad(lambda g: (inverse_sqrt(g) * weights).sum()))(g)
    assert np.isfinite(gradient).all()
