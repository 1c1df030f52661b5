import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import gaussian

from mda_jax import linalg
from mda_jax.linalg import _lapack


CALLED = [_lapack.eigh, _lapack.qr, _lapack.slogdet, _lapack.svd]
NUMPY = {
    _lapack.eigh: np.linalg.eigh,
    _lapack.qr: np.linalg.qr,
    _lapack.slogdet: np.linalg.slogdet,
    _lapack.svd: lambda x: np.linalg.svd(x, full_matrices=False),
}


def symmetric(*shape):
    x = gaussian(1, *shape)
    return x + np.swapaxes(x, -1, -2)


@pytest.mark.parametrize("f", CALLED)
def test_no_program_hands_lapack_a_batch(f):
    """Batches are what deadlocks: see the module."""
    twice = jax.jit(jax.vmap(jax.vmap(f)))
    text = twice.lower(symmetric(2, 3, 4, 9, 9)).compile().as_text()
    calls = re.findall(r"= \(?(\w+\[[\d,]*\])\S*.* custom-call\(.*lapack", text)
    assert calls and set(calls) == {"f32[9,9]"}


@pytest.mark.parametrize("f", CALLED)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_any_batch_gives_what_numpy_gives_up_to_signs(f, batch):
    x = symmetric(*batch, 9, 9)
    for got, want in zip(f(jnp.asarray(x)), NUMPY[f](x), strict=True):
        assert got.shape == want.shape
        # Backward stable, and gaps of this draw's spectrum are above 1e-2 of its norm.
        np.testing.assert_allclose(np.abs(got), np.abs(want), rtol=1e-4, atol=1e-4)


def squares(f):
    return lambda x: sum((y**2).sum() for y in jax.tree.leaves(f(x)))


def curvature(f):
    """A second derivative: along the all-ones direction, of the gradient."""
    slope = jax.grad(squares(f))
    return lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),))[1]


def solved(x):
    return linalg.solve_positive(x @ x.T + jnp.eye(len(x)), x)


def procrustes_rotation(x):
    return linalg.procrustes_rotation(jnp.eye(len(x)), x)


def subspaces(x):
    return linalg.top_singular_subspaces(x, 2)


@pytest.mark.parametrize(
    "f",
    [
        *(_lapack.eigh, solved, subspaces, procrustes_rotation),
        *(linalg.polar, linalg.polar_gram, linalg.inverse_sqrt),
        *(linalg.cayley_rotation, linalg.svd),
    ],
)
@pytest.mark.parametrize("derivative", [lambda f: jax.grad(squares(f)), curvature])
def test_no_derivative_hands_lapack_a_batch(derivative, f):
    program = jax.jit(jax.vmap(derivative(f))).lower(symmetric(3, 6, 6))
    call = r"= \(?\w+\[([\d,]*)\]\S*.* custom-call\(.*lapack"
    calls = re.findall(call, program.compile().as_text())
    assert calls and all(shape.count(",") < 2 for shape in calls)


@pytest.mark.parametrize("f", [_lapack.eigh, linalg.svd, solved])
def test_second_derivatives_exist_under_vmap(f):
    x = jnp.asarray(symmetric(3, 4, 4))
    second = jax.jit(jax.vmap(curvature(f)))(x)
    assert np.isfinite(second).all() and np.any(second != 0)
    one_by_one = jnp.stack([curvature(f)(each) for each in x])
    np.testing.assert_allclose(second, one_by_one, rtol=1e-3, atol=1e-3)


def test_the_derivative_of_eigh_is_that_of_jax():
    x, dx = symmetric(5, 5), gaussian(2, 5, 5)
    got = jax.jvp(_lapack.eigh, (jnp.asarray(x),), (jnp.asarray(dx),))[1]
    want = jax.jvp(jnp.linalg.eigh, (jnp.asarray(x),), (jnp.asarray(dx),))[1]
    for a, b in zip(got, want, strict=True):
        # the eigenvectors are those of one LAPACK call: signs agree
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
