"""The decomposition of a TPU, which runs anywhere, and the derivative of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import (
    distance,
    gaussian,
    slope,
    tangent,
    thin_product,
    with_spectrum,
)

from mda_jax.linalg import _svd, svd


CASES = {
    "tall": gaussian(1, 40, 24),
    "wide": gaussian(2, 24, 40),
    "equal values": with_spectrum(3, 40, 24, np.repeat([3.0, 1.0], 12)),
    "rank 5": thin_product(4, 40, 24, 5),
    "condition 1e6": with_spectrum(5, 24, 24, np.geomspace(1, 1e-6, 24)),
    "zero": np.zeros((12, 7), np.float32),
}


@pytest.mark.parametrize("case", CASES)
def test_from_the_polar_factor_it_is_backward_stable(case):
    x = CASES[case]
    u, s, vt = map(np.asarray, jax.jit(_svd._from_polar)(x))
    want = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    # Backward stable: a modest multiple of the size times the rounding of the largest.
    bound = 8 * np.sqrt(x.size) * np.finfo(np.float32).eps
    top = max(float(want[0]), 1e-30)
    np.testing.assert_allclose(s, want, atol=bound * top)
    assert distance((u * s) @ vt, x) <= bound * top
    for basis in (u, vt.T):
        assert distance(basis.T @ basis, np.eye(len(s))) <= bound
    assert (np.diff(s) <= 0).all()


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_the_derivative_is_that_of_float64_lapack(shape):
    rank = min(shape)
    x = with_spectrum(6, *shape, np.arange(rank, 0, -1.0))
    dx = gaussian(7, *shape)

    def oracle(part):
        def f(x):
            u, s, vt = np.linalg.svd(x, full_matrices=False)
            return s if part < 0 else np.outer(u[:, part], vt[part])

        return f

    def mine(part):
        def f(x):
            u, s, v = svd(x)
            return s if part < 0 else jnp.outer(u[:, part], v[:, part])

        return f

    wide, dwide = x.astype(np.float64), dx.astype(np.float64)
    for part in range(-1, rank):
        want = slope(oracle(part), wide, dwide, 1e-6)
        # Gaps of the spectrum are 1: errors of some roundings times the tangent's size.
        np.testing.assert_allclose(tangent(mine(part), x, dx), want, atol=1e-4)
