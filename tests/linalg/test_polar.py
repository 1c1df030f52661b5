import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import (
    distance,
    gaussian,
    polar_oracle,
    slope,
    spectrum,
    tangent,
    thin_product,
    with_spectrum,
)

from mda_jax.linalg import (
    nuclear_norm,
    polar,
    polar_gram,
    polar_polynomial,
    polar_svd,
)
from mda_jax.linalg._polynomials import sign_polynomials


EPS32, EPS64 = 2.0**-23, 2.0**-52
# A matrix product of inner length n perturbs a matrix of norm 1 by at most about
# eps * sqrt(n) in the spectral norm when roundings are independent; the iteration
# makes some forty, of which each step damps the earlier ones: 8 eps sqrt(n) is the
# backward error allowed. The polar factor turns by at most 2 / (s_n + s_(n-1))
# per unit of it (Higham, Functions of Matrices, Theorem 8.10): 8 eps sqrt(n) / s_n.
BACKWARD = 8

FORMS = [polar, polar_polynomial, polar_svd]
ALL = [*FORMS, polar_gram]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(48, 48), (20, 48)])
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_forward_error_is_that_of_a_backward_stable_method(form, shape, condition):
    n = min(shape)
    x = with_spectrum(1, *shape, np.geomspace(1, 1 / condition, n))
    bound = BACKWARD * EPS32 * np.sqrt(n) * condition
    assert distance(jax.jit(form)(jnp.asarray(x)), polar_oracle(x)) <= bound


@pytest.mark.parametrize("shape", [(48, 48), (20, 48)])
@pytest.mark.parametrize("condition", [1.0, 30.0])
def test_gram_form_loses_the_square_of_the_condition(shape, condition):
    n = min(shape)
    x = with_spectrum(1, *shape, np.geomspace(1, 1 / condition, n))
    bound = BACKWARD * EPS32 * np.sqrt(n) * condition**2
    assert distance(polar_gram(jnp.asarray(x)), polar_oracle(x)) <= bound


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(
    "values",
    [np.geomspace(1, 1e-6, 128), np.r_[np.ones(127), 1e-6], np.repeat([3.0, 1.0], 64)],
    ids=["geometric", "one weak", "repeated"],
)
def test_is_an_isometry_at_condition_1e6(form, values):
    x = with_spectrum(2, 128, 128, values)
    # Two quintic Newton-Schulz steps leave (5 d^3 / 16)^3 of a defect d <= 0.3 in the
    # Gram form: below 1e-6. The rest is rounding: 8 eps sqrt(n) = 1.1e-5.
    worst = np.abs(spectrum(jax.jit(form)(jnp.asarray(x))) - 1).max()
    assert worst <= BACKWARD * EPS32 * np.sqrt(128)


def duplicate_columns():
    x = gaussian(3, 96, 48)
    return np.concatenate([x, x], axis=1)


def zero_columns():
    x = gaussian(4, 96, 96)
    x[:, ::2] = 0
    return x


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(
    "x",
    [duplicate_columns(), zero_columns(), thin_product(5, 96, 96, 48)],
    ids=["duplicates", "zeros", "thin product"],
)
def test_is_a_partial_isometry_at_rank_48(form, x):
    values = spectrum(jax.jit(form)(jnp.asarray(x)))
    bound = BACKWARD * EPS32 * np.sqrt(96)
    np.testing.assert_allclose(values[:48], 1, rtol=0, atol=bound)
    np.testing.assert_allclose(values[48:], 0, rtol=0, atol=bound)


@pytest.mark.parametrize("form", FORMS)
def test_drops_the_null_space(form):
    x = thin_product(5, 96, 96, 48)
    s = spectrum(x)
    # The null space of the rounded product is known to eps s_1 / s_48.
    bound = BACKWARD * EPS32 * np.sqrt(96) * s[0] / s[47]
    assert distance(jax.jit(form)(jnp.asarray(x)), polar_oracle(x, 48)) <= bound


@pytest.mark.parametrize("form", ALL)
def test_vectors_are_normalised(form):
    x = gaussian(6, 1, 9)
    unit = x / np.linalg.norm(x.astype(np.float64))
    bound = BACKWARD * EPS32 * 3
    assert distance(jax.jit(form)(jnp.asarray(x)), unit) <= bound
    assert distance(jax.jit(form)(jnp.asarray(x.T)), unit.T) <= bound


@pytest.mark.parametrize("form", ALL)
def test_edges_in_one_batch(form):
    x = gaussian(7, 6, 5)
    bad = x.copy()
    bad[2, 3] = np.inf
    batch = np.stack([x, 0 * x, 1e30 * x, 1e-30 * x, bad])
    p = np.asarray(jax.jit(form)(jnp.asarray(batch)))
    bound = BACKWARD * EPS32 * np.sqrt(5) * np.divide(*spectrum(x)[[0, -1]])
    for i in (0, 2, 3):
        assert distance(p[i], polar_oracle(x)) <= bound
    assert (p[1] == 0).all() and np.isnan(p[4]).all()


@pytest.mark.parametrize("form", ALL)
def test_batches_like_vmap(form):
    x = jnp.asarray(gaussian(8, 3, 7, 5))
    one_by_one = jnp.stack([jax.jit(form)(each) for each in x])
    # Different products may run in another order: two roundings of forward error.
    bound = 2 * BACKWARD * EPS32 * np.sqrt(5) * 10
    assert distance(jax.jit(jax.vmap(form))(x), one_by_one) <= bound
    assert distance(jax.jit(form)(x[None])[0], one_by_one) <= bound


@pytest.mark.parametrize("form", ALL)
def test_double_precision(form):
    with jax.enable_x64(True):
        x = with_spectrum(9, 40, 30, np.geomspace(1, 1e-2, 30), np.float64)
        bound = BACKWARD * EPS64 * np.sqrt(40) * 1e4  # the Gram form: the square
        p = jax.jit(form)(jnp.asarray(x))
        assert p.dtype == jnp.float64
        assert distance(p, polar_oracle(x)) <= bound


@pytest.mark.parametrize(
    ("form", "shape"), [*((f, (6, 4)) for f in ALL), (polar, (4, 6)), (polar, (5, 5))]
)
def test_derivative_is_the_slope(form, shape):
    with jax.enable_x64(True):
        x = with_spectrum(10, *shape, np.linspace(2, 1, min(shape)), np.float64)
        dx, cotangent = gaussian(11, 2, *shape, dtype=np.float64)
        want = slope(polar_oracle, x, dx, 1e-5)
        # Central differences err by step^2 |f'''| / 6 + eps / step: some 1e-10.
        got = tangent(form, x, dx)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)
        pulled = jax.jit(jax.grad(lambda x: (form(x) * cotangent).sum()))(x)
        np.testing.assert_allclose((pulled * dx).sum(), (want * cotangent).sum(), 1e-8)


def test_derivative_along_matrices_of_equal_rank():
    left, right, dleft, dright = gaussian(12, 4, 7, 3, dtype=np.float64)

    def curve(t):
        return (left + t * dleft) @ (right + t * dright).T

    with jax.enable_x64(True):
        dx = dleft @ right.T + left @ dright.T
        want = slope(lambda t: polar_oracle(curve(t), 3), 0.0, 1.0, 1e-5)
        got = tangent(polar, curve(0.0), dx)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)


@pytest.mark.parametrize("form", [polar, nuclear_norm])
def test_gradient_is_finite_at_degenerate_spectra(form):
    x = np.stack([np.eye(4), 0 * np.eye(4), np.ones((4, 4)), np.diag([1.0, 1, 0, 0])])
    weights = jnp.asarray(gaussian(13, 4, 4, 4))
    target = weights if form is polar else weights[:, 0, 0]
    loss = jax.jit(jax.grad(lambda x: (form(x) * target).sum()))
    gradient = loss(jnp.asarray(x, np.float32))
    assert np.isfinite(gradient).all()


def test_nuclear_norm_and_its_gradient():
    x = gaussian(14, 2, 9, 6)
    total = np.asarray(jax.jit(nuclear_norm)(jnp.asarray(x)), np.float64)
    # The error of the polar factor enters to second order: the rounding of a sum.
    np.testing.assert_allclose(total, spectrum(x).sum(-1), rtol=BACKWARD * EPS32)
    gradient = jax.jit(jax.grad(lambda x: nuclear_norm(x).sum()))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, jax.jit(polar)(jnp.asarray(x)))


@pytest.mark.parametrize("lower", [1e-15, 6e-7, 1e-3, 0.5])
def test_sign_polynomials_reach_one_and_stay_stable(lower):
    x = np.geomspace(lower, 1, 4001)
    y = x
    for a, b, c in sign_polynomials(lower):
        y = a * y + b * y**3 + c * y**5
        # Backward stability: no singular value shrinks against the largest.
        assert (y / y.max() >= 0.3 * x / x.max()).all()
    assert np.abs(y - 1).max() <= 0.01
