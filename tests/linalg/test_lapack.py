import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import gaussian

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


@pytest.mark.parametrize("f", CALLED)
def test_second_derivatives_exist_under_vmap(f):
    x = jnp.asarray(symmetric(3, 4, 4))

    def along(a):
        slope = jax.grad(lambda b: sum((y**2).sum() for y in f(b)))
        return jax.jvp(slope, (a,), (jnp.ones_like(a),))[1]

    second = jax.jit(jax.vmap(along))(x)
    assert np.isfinite(second).all() and np.any(second != 0)
    one_by_one = jnp.stack([along(each) for each in x])
    np.testing.assert_allclose(second, one_by_one, rtol=1e-3, atol=1e-3)
