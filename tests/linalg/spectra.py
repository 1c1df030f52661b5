"""Matrices of known spectrum, and float64 LAPACK as the oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def with_spectrum(seed, m, n, values, dtype=np.float32):
    """`U diag(values) V^T` with random orthonormal U and V, rounded once to `dtype`."""
    draw = np.random.default_rng(seed)
    u = np.linalg.qr(draw.standard_normal((m, len(values))))[0]
    v = np.linalg.qr(draw.standard_normal((n, len(values))))[0]
    return ((u * values) @ v.T).astype(dtype)


def thin_product(seed, m, n, rank, dtype=np.float32):
    draw = np.random.default_rng(seed)
    left, right = draw.standard_normal((m, rank)), draw.standard_normal((rank, n))
    return left.astype(dtype) @ right.astype(dtype)


def gaussian(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def polar_oracle(x, rank=None):
    u, _, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    return u[..., :rank] @ vt[..., :rank, :]


def spectrum(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def distance(x, y):
    """Spectral norm of the difference."""
    return spectrum(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max()


def slope(f, x, dx, step):
    """Central difference of a NumPy function of a float64 matrix."""
    return (f(x + step * dx) - f(x - step * dx)) / (2 * step)


def tangent(f, x, dx):
    """The derivative of `f` at `x` along `dx`."""
    push = jax.jit(partial(jax.jvp, f))
    return push((jnp.asarray(x),), (jnp.asarray(dx),))[1]
