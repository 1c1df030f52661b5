import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import distance, gaussian, slope, spectrum, tangent, with_spectrum

from mda_jax.linalg import svd, top_singular_subspaces


EPS32, EPS64 = 2.0**-23, 2.0**-52
# Products and decompositions of size n perturb by at most about 8 eps sqrt(n) of the
# largest singular value, as in test_polar.
ROUNDING = 8

find = jax.jit(top_singular_subspaces, static_argnums=1)


def truncated(x, rank):
    u, s, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return (u[..., :rank] * s[..., None, :rank]) @ vt[..., :rank, :]


def product(top):
    left, core, right = (np.asarray(each, np.float64) for each in top)
    return left @ core @ right.swapaxes(-1, -2)


def assert_orthonormal(basis):
    bound = ROUNDING * EPS32 * np.sqrt(basis.shape[-2])
    assert np.abs(spectrum(basis) - 1).max() <= bound


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_spans_what_lapack_finds(shape):
    x = with_spectrum(1, *shape, np.r_[np.linspace(4, 2, 6), np.linspace(1, 0.1, 18)])
    top = find(jnp.asarray(x), 6)
    u, _, vt = np.linalg.svd(x.astype(np.float64))
    # Gram matrix: perturbed by 8 eps sqrt(n) s_1^2, over the gap of the squares.
    bound = ROUNDING * EPS32 * np.sqrt(40) * 4**2 / (2**2 - 1**2)
    for basis, exact in ((top.left, u[:, :6]), (top.right, vt[:6].T)):
        basis = np.asarray(basis, np.float64)
        assert distance(basis @ basis.T, exact @ exact.T) <= bound
        assert_orthonormal(basis)
    assert distance(product(top), truncated(x, 6)) <= 4 * bound


@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_core_is_the_leading_values_in_order(shape):
    x = with_spectrum(2, *shape, np.linspace(4, 0.1, 24))
    core = np.asarray(find(jnp.asarray(x), 5).core)
    # A column errs by eps s_1^2 / gap of squares, and the core shows it once more
    # multiplied by the gap: eps s_1^2 / (s_i + s_j), here s_1 / 6 at most.
    bound = ROUNDING * EPS32 * np.sqrt(40) * 4
    np.testing.assert_allclose(
        core, np.diag(np.linspace(4, 0.1, 24)[:5]), rtol=0, atol=bound
    )


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_vectors_and_signs_are_those_of_svd(shape):
    x = jnp.asarray(with_spectrum(3, *shape, np.arange(8.0, 1, -1)))
    top, full = find(x, 4), jax.jit(svd)(x)
    # Neighbouring values differ by 1: s_1^2 / (s_i^2 - s_(i+1)^2) <= 64 / 9.
    bound = ROUNDING * EPS32 * np.sqrt(12) * 64 / 9
    assert distance(top.left, full.left[:, :4]) <= bound
    assert distance(top.right, full.right[:, :4]) <= bound
    largest = np.take_along_axis(top.left, np.abs(top.left).argmax(0)[None], 0)
    assert (largest > 0).all()


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_svd_is_lapack(shape):
    x = gaussian(4, 2, *shape)
    left, values, right = svd(jnp.asarray(x))
    bound = ROUNDING * EPS32 * np.sqrt(12) * spectrum(x).max()
    np.testing.assert_allclose(values, spectrum(x), rtol=0, atol=bound)
    assert distance(left * values[:, None, :] @ right.swapaxes(-1, -2), x) <= 2 * bound


def test_tied_entries_do_not_let_rounding_choose_the_sign():
    for size in (1.0, 1.0 + EPS32):
        x = jnp.asarray([[-1.0, 0.0], [size, 0.0], [0.0, 0.1]])
        assert find(x, 1).left[0, 0] > 0


@pytest.mark.parametrize(
    "x",
    [
        with_spectrum(5, 30, 20, np.geomspace(1, 1e-6, 20)),
        with_spectrum(6, 30, 20, np.repeat([2.0, 1.0], 10)),
        with_spectrum(7, 30, 20, np.ones(3)),
        np.zeros((30, 20), np.float32),
        np.eye(30, 20, dtype=np.float32),
        1e-30 * gaussian(8, 30, 20),
    ],
    ids=["condition 1e6", "repeated", "rank 3", "zero", "identity", "tiny"],
)
def test_always_orthonormal_and_near(x):
    for each in (x, x.T):
        top = find(jnp.asarray(each), 8)
        assert_orthonormal(top.left)
        assert_orthonormal(top.right)
        # The Gram matrix errs by 8 eps sqrt(n) s_1^2 and what is missed of x is its
        # root: sqrt(8 eps sqrt(n)) s_1, more than the best rank-8 matrix misses.
        s = spectrum(x)
        missed = distance(product(top), each)
        assert missed <= s[8] + np.sqrt(ROUNDING * EPS32 * np.sqrt(30)) * s[0]


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_vectors(shape):
    x = gaussian(9, *shape)
    top = find(jnp.asarray(x), 1)
    bound = ROUNDING * EPS32 * np.sqrt(6) * np.linalg.norm(x)
    assert distance(product(top), x) <= bound


def test_not_finite_gives_nan():
    x = jnp.stack([jnp.ones((3, 2)), jnp.full((3, 2), jnp.inf)])
    top = find(x, 1)
    assert all(np.isfinite(each[0]).all() and np.isnan(each[1]).all() for each in top)


@pytest.mark.parametrize("rank", [0, 4])
def test_rank_outside_the_matrix_is_an_error(rank):
    with pytest.raises(ValueError, match=rf"rank={rank}\).* rank in \[1, 3\]"):
        top_singular_subspaces(jnp.ones((5, 3)), rank)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_derivatives_are_the_slopes(shape):
    n = min(shape)

    def each_part(x):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        signs = np.sign(np.take_along_axis(u, np.abs(u).argmax(0)[None], 0))
        return np.concatenate(
            [
                (u * signs)[:, :2].ravel(),
                np.diag(s[:2]).ravel(),
                (vt.T * signs)[:, :2].ravel(),
                truncated(x, 2).ravel(),
            ]
        )

    def flat(x):
        top = top_singular_subspaces(x, 2)
        whole = top.left @ top.core @ top.right.T
        return jnp.concatenate([part.ravel() for part in (*top, whole)])

    with jax.enable_x64(True):
        x = with_spectrum(10, *shape, np.linspace(3, 1, n), np.float64)
        dx = gaussian(11, *shape, dtype=np.float64)
        want = slope(each_part, x, dx, 1e-5)
        got = tangent(flat, x, dx)
        # Central differences err by step^2 |f'''| / 6 + eps / step: some 1e-9.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)
        back = jax.jit(jax.grad(lambda x: flat(x).sum()))(jnp.asarray(x))
        np.testing.assert_allclose((back * dx).sum(), want.sum(), rtol=0, atol=1e-7)


def test_derivative_of_the_product_ignores_repeats_inside():
    with jax.enable_x64(True):
        x = with_spectrum(12, 6, 5, np.array([2.0, 2, 2, 1, 0.5]), np.float64)
        dx = gaussian(13, 6, 5, dtype=np.float64)

        def whole(x):
            top = top_singular_subspaces(x, 3)
            return top.left @ top.core @ top.right.T

        want = slope(lambda x: truncated(x, 3), x, dx, 1e-5)
        got = tangent(whole, x, dx)
        # The rotations inside, up to 1 / (2 delta) with delta = eps^(2/3) s_1^2,
        # cancel to rounding: 8 eps / delta.
        bound = ROUNDING * EPS64 ** (1 / 3) * np.linalg.norm(dx)
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)


def test_gradient_is_finite_at_degenerate_spectra():
    x = np.stack([np.eye(4), 0 * np.eye(4), np.ones((4, 4)), np.diag([1.0, 1, 0, 0])])
    weights = jnp.asarray(gaussian(14, 4, 4, 2))

    def loss(x):
        top = top_singular_subspaces(x, 2)
        return (top.left * weights).sum() + top.core.sum() + (top.right**3).sum()

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(x, jnp.float32))
    assert np.isfinite(gradient).all()


def test_double_precision():
    with jax.enable_x64(True):
        x = with_spectrum(15, 30, 20, np.linspace(2, 1, 20), np.float64)
        top = find(jnp.asarray(x), 5)
        # The gap of the squares at 5 is about 0.2.
        bound = ROUNDING * EPS64 * np.sqrt(30) * 4 / 0.15
        assert top.core.dtype == jnp.float64
        assert distance(product(top), truncated(x, 5)) <= 2 * bound
