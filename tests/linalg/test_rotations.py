import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from linalg.spectra import gaussian

from mda_jax.linalg import cayley_rotation, exp_rotation


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
