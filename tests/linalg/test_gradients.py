"""Slopes of every kernel against central differences of the kernel, in float64."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_slope, difference
from linalg.spectra import gaussian, with_spectrum
from nonfinite import watched

from mda_jax import linalg


FIXED = gaussian(1, 5, 5, dtype=np.float64)


def of_square(f):
    return lambda x: f(x @ x.T)


def truncated(x):
    top = linalg.top_singular_subspaces(x, 2)
    return top.left @ top.core @ top.right.T


def solved(x):
    return linalg.solve_positive(x @ x.T + jnp.eye(5, dtype=x.dtype), x)


def turned(find):
    return lambda x: find(x, jnp.asarray(FIXED, x.dtype))


def low_rank(x):
    return linalg.low_rank_rotation(jnp.stack([x[:, :2], x[:, 2:4]]))


KERNELS = {
    "polar": linalg.polar,
    "polar_gram": linalg.polar_gram,
    "nuclear_norm": linalg.nuclear_norm,
    "nearest_simplex_frame": linalg.nearest_simplex_frame,
    "inverse_sqrt": of_square(linalg.inverse_sqrt),
    "solve_positive": solved,
    "procrustes": turned(linalg.procrustes),
    "procrustes_rotation": turned(linalg.procrustes_rotation),
    "top_singular_subspaces": truncated,
    "exp_rotation": linalg.exp_rotation,
    "cayley_rotation": linalg.cayley_rotation,
    "low_rank_rotation": low_rank,
}
CASES = {
    "generic": with_spectrum(2, 5, 5, [3.0, 2.5, 1.5, 1, 0.5], np.float64),
    "equal in pairs": with_spectrum(3, 5, 5, [2.0, 2, 1, 1, 0.5], np.float64),
    "all equal": with_spectrum(4, 5, 5, np.ones(5), np.float64),
    "rank two": with_spectrum(5, 5, 5, [2.0, 1], np.float64),
    "rank one": np.outer(FIXED[0], FIXED[1]),
    "zero": np.zeros((5, 5)),
}
# A subspace that ends between equal values; a rotation whose slope holds still what
# several directions cost nothing; a kernel that is good to the root of eps there.
UNDETERMINED = {("all equal", "top_singular_subspaces")} | {
    (case, name)
    for case in ("rank two", "rank one")
    for name in ("procrustes_rotation", "polar_gram")
}
ADD_ONE = {"solve_positive", "cayley_rotation", "low_rank_rotation"}  # to a square
TURN, STRETCH = gaussian(6, 2, 5, 5, dtype=np.float64)
every_kernel = pytest.mark.parametrize("name", KERNELS)


def weighed(name, x):
    found = KERNELS[name](x)
    weights = jnp.cos(jnp.arange(found.size, dtype=x.dtype)).reshape(found.shape)
    return (found * weights).sum()


@cache
def slopes(name):
    return jax.jit(jax.value_and_grad(lambda x: weighed(name, x)))


@every_kernel
@pytest.mark.parametrize("case", CASES)
def test_slopes(name, case):
    """In any direction where the rank is full, else along matrices of that rank."""
    x = CASES[case]
    full = np.linalg.matrix_rank(x) == 5

    def curve(h):
        if full:
            return x + h * TURN
        return (np.eye(5) + h * TURN) @ x @ (np.eye(5) + h * STRETCH)

    with jax.enable_x64(True):
        _, slope = slopes(name)(x)
        assert jnp.isfinite(slope).all()
        if (case, name) not in UNDETERMINED:
            want = difference(lambda h: slopes(name)(curve(h))[0])
            assert_slope((slope * (curve(0.5) - curve(-0.5))).sum(), want)


@pytest.mark.slow
@every_kernel
def test_no_step_makes_a_nan_or_an_infinity(name):
    f = jax.jit(watched(jax.value_and_grad(lambda x: weighed(name, x))))
    sizes = (1.0, 1e-20) if name in ADD_ONE else (1.0, 1e-20, 1e15)
    for case, x in CASES.items():
        for size in sizes:
            (_, slope), bad = f(jnp.asarray(size * x, jnp.float32))
            assert not bad and jnp.isfinite(slope).all(), (case, size)
