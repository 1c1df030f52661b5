"""The singular value decomposition, as the yardstick of the faster kernels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import epsilon, in_float32, matmul, symmetric, transpose
from mda_jax.linalg._polar import by_kernel, polar_polynomial
from mda_jax.linalg._signs import leading_signs
from mda_jax.linalg._subspaces import orthonormal


Factors = tuple[
    Float[Array, "*b m r"], Float[Array, "*b r"], Float[Array, "*b r n"]
]  # u, s, v^T


class SVD(NamedTuple):
    """`left @ diag(values) @ right^T`."""

    left: Float[Array, "*b m r"]
    values: Float[Array, "*b r"]
    right: Float[Array, "*b n r"]


@in_float32
def svd(x: Float[Array, "*b m n"]) -> SVD:
    """Thin singular value decomposition with the signs of `top_singular_subspaces`.

    For checking: its derivative is infinite at repeated singular values, and it is
    slow. Merge methods use `polar` and `top_singular_subspaces`. LAPACK's on a CPU; on
    a TPU, where JAX's does not work inside `shard_map`, it is made from
    `polar_polynomial` and an eigendecomposition.

    Args:
      x: matrices.

    Returns:
      `left [*b, m, r]`, `values [*b, r]` in descending order and `right [*b, n, r]`,
      with r = min(m, n).
    """
    u, s, vt = _factors(x)
    signs = leading_signs(u)
    return SVD(u * signs, s, transpose(vt) * signs)


@in_float32
def polar_svd(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """Polar factor from a singular value decomposition, to check the others.

    Args:
      x: matrices.

    Returns:
      `[*b, m, n]`, as `polar`; values up to `4 eps` times the largest are dropped.
    """
    return by_kernel(_kept_directions, x)


def _kept_directions(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    u, s, vt = _factors(x)
    kept = s > 4 * epsilon(x.dtype) * s[..., :1]
    return matmul(jnp.where(kept[..., None, :], u, 0), vt)


@jax.custom_jvp
def _factors(x: Float[Array, "*b m n"]) -> Factors:
    u, s, vt = jax.lax.platform_dependent(x, tpu=_from_polar, default=_lapack.svd)
    return u, s, vt


@_factors.defjvp
def _factors_jvp(
    primals: tuple[Float[Array, "*b m n"]], tangents: tuple[Float[Array, "*b m n"]]
) -> tuple[Any, Any]:
    """First-order perturbation; nothing is factored again."""
    (x,), (dx,) = primals, tangents
    u, s, vt = _factors(x)
    inner = matmul(matmul(transpose(u), dx), transpose(vt))
    row = s[..., None, :]
    column = s[..., :, None]
    beside = ~jnp.eye(s.shape[-1], dtype=bool)
    gaps = (row - column) * (row + column)
    turn = jnp.where(beside, 1 / jnp.where(beside, gaps, 1), 0)
    left, right = inner * row, column * inner
    du = matmul(u, turn * (left + transpose(left)))
    dvt = matmul(transpose(turn * (right + transpose(right))), vt)
    if x.shape[-2] > x.shape[-1]:
        grown = matmul(dx, transpose(vt))
        du = du + (grown - matmul(u, inner)) / row
    if x.shape[-2] < x.shape[-1]:
        grown = matmul(transpose(u), dx)
        dvt = dvt + (grown - matmul(inner, vt)) / column
    return (u, s, vt), (du, jnp.diagonal(inner, axis1=-2, axis2=-1), dvt)


def _from_polar(x: Float[Array, "*b m n"]) -> Factors:
    """With `x = p h` and `h = V S V^T`: `(p V) S V^T`.

    Paper:
      Nakatsukasa, Higham, Stable and Efficient Spectral Divide and Conquer Algorithms
      for the Symmetric Eigenvalue Decomposition and the SVD, 2013,
      https://doi.org/10.1137/120876605. Differs: the polar factor.
    """
    if x.shape[-2] < x.shape[-1]:
        v, s, ut = _from_polar(transpose(x))
        return transpose(ut), s, transpose(v)
    p = polar_polynomial(x)
    s, v = _lapack.eigh(symmetric(matmul(transpose(p), x)))
    s, v = s[..., ::-1], v[..., ::-1]
    return orthonormal(matmul(p, v)), jnp.maximum(s, 0), transpose(v)
