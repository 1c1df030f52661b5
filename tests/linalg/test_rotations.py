import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from linalg.spectra import gaussian

from mda_jax.linalg import cayley_rotation, exp_rotation, low_rank_rotation


EPS = 2.0**-23
CHARTS = [exp_rotation, cayley_rotation]


def skew(x):
    return (x - np.swapaxes(x, -1, -2)) / 2


@pytest.mark.parametrize("chart", CHARTS)
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 20.0])
def test_is_a_rotation(chart, size):
    q = np.asarray(jax.jit(chart)(jnp.asarray(size * gaussian(1, 2, 7, 7))), np.float64)
    departure = np.swapaxes(q, -1, -2) @ q - np.eye(7)
    # every squaring doubles the error: eight of them for norms near 100
    assert np.abs(departure).max() <= 2**8 * 8 * EPS
    assert (np.linalg.det(q) > 0).all()


def test_exp_is_the_exponential_and_cayley_the_fraction():
    a = gaussian(2, 6, 6)
    want = scipy.linalg.expm(skew(a.astype(np.float64)))
    np.testing.assert_allclose(exp_rotation(jnp.asarray(a)), want, rtol=0, atol=2e-5)
    s = skew(a.astype(np.float64)) / 2
    want = np.linalg.solve(np.eye(6) - s, np.eye(6) + s)
    np.testing.assert_allclose(cayley_rotation(jnp.asarray(a)), want, rtol=0, atol=2e-5)


def test_the_charts_agree_to_second_order_at_the_identity():
    a = jnp.asarray(1e-2 * gaussian(3, 5, 5))
    gap = jnp.abs(exp_rotation(a) - cayley_rotation(a)).max()
    assert gap <= jnp.linalg.norm(a) ** 3


@pytest.mark.parametrize("chart", CHARTS)
def test_the_derivative_at_the_identity_is_the_skew_part(chart):
    da = gaussian(4, 5, 5)
    zero = jnp.zeros((5, 5))
    got = jax.jvp(chart, (zero,), (jnp.asarray(da),))[1]
    np.testing.assert_allclose(got, skew(da), rtol=0, atol=8 * EPS)
    slope = jax.grad(lambda a: chart(a)[0, 1])(zero)
    want = np.zeros((5, 5))
    want[0, 1], want[1, 0] = 0.5, -0.5
    np.testing.assert_allclose(slope, want, rtol=0, atol=8 * EPS)


def sides(seed, d=9, rank=2):
    return gaussian(seed, 3, d, rank), gaussian(seed + 1, 3, d, rank)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0])
def test_the_low_rank_chart_is_cayley_of_a_low_rank_matrix(size):
    a, b = sides(5)
    b = size * b
    product = a @ np.swapaxes(b, -1, -2)
    want = cayley_rotation(jnp.asarray(product - np.swapaxes(product, -1, -2)))
    got = np.asarray(low_rank_rotation(jnp.asarray(np.stack([a, b], 1))))
    # normal equations: the condition of `inner`, about |a| |b| = 20, squared
    np.testing.assert_allclose(got, want, rtol=0, atol=400 * 16 * EPS)


def test_the_low_rank_chart_moves_what_its_sides_span():
    a, b = sides(7)
    q = np.asarray(low_rank_rotation(jnp.asarray(np.stack([a, b], 1))))
    for each, turn in zip(np.concatenate([a, b], -1), q, strict=True):
        outside = np.linalg.qr(each, mode="complete")[0][:, 4:]
        np.testing.assert_allclose(turn @ outside, outside, rtol=0, atol=400 * 16 * EPS)


def test_the_low_rank_chart_can_leave_the_identity():
    a, b = sides(9)

    def entry(b):
        return low_rank_rotation(jnp.stack([jnp.asarray(a), b], 1))[0, 0, 1]

    slope = jax.grad(entry)(jnp.zeros_like(jnp.asarray(b)))
    assert jnp.isfinite(slope).all() and jnp.abs(slope[0]).max() > 0.1
