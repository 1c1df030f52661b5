"""The leading singular subspaces from one Gram matrix."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check
from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import (
    epsilon,
    finite,
    gram,
    in_float32,
    matmul,
    normalised,
    transpose,
)
from mda_jax.linalg._signs import leading_signs


class Subspaces(NamedTuple):
    """Orthonormal bases, and what the matrix does between them."""

    left: Float[Array, "*b m r"]
    core: Float[Array, "*b r r"]
    right: Float[Array, "*b n r"]


@in_float32
def top_singular_subspaces(x: Float[Array, "*b m n"], rank: int) -> Subspaces:
    """Orthonormal bases of the leading singular subspaces on both sides.

    One eigendecomposition of the Gram matrix of the smaller side gives the basis
    there; its image, made orthonormal by QR, is the other. With singular values
    `s_i`, the subspaces are exact to about `eps s_1^2 / (s_r^2 - s_(r+1)^2)`, and
    column i to the same with the gap around `s_i`. The bases are orthonormal to
    rounding whatever the input: directions that `x` does not determine (repeated
    values, rank below `rank`, zero matrix) are filled in, by the platform's choice.

    Args:
      x: matrices.
      rank: how many directions r, in [1, min(m, n)].

    Returns:
      `left [*b, m, r]`, `core [*b, r, r]` and `right [*b, n, r]`, columns by falling
      singular value. `core = left^T x right` is diagonal to rounding, and
      `left @ core @ right^T` is the nearest matrix of rank r. In each column of
      `left` the largest entry is positive (the first of those within 1 % of it).
      NaN for a matrix with NaN or infinity. The derivative is finite everywhere; that
      of `left @ core @ right^T` is off by about `(delta / gap)^2`, with
      `delta = eps^(2/3) s_1^2` and `gap = s_r^2 - s_(r+1)^2`.

    Raises:
      ValueError: `rank` is outside [1, min(m, n)].
    """
    _check.rank_within("top_singular_subspaces", rank, x.shape)
    return _top(rank, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _top(rank: int, x: Float[Array, "*b m n"]) -> Subspaces:
    return _with_spectrum(rank, x)[0]


@_top.defjvp
def _top_jvp(
    rank: int,
    primals: tuple[Float[Array, "*b m n"]],
    tangents: tuple[Float[Array, "*b m n"]],
) -> tuple[Subspaces, Subspaces]:
    (x,), (dx,) = primals, tangents
    top, v, squares = _with_spectrum(rank, x)
    if x.shape[-2] >= x.shape[-1]:
        return top, _tangent(top, v, squares, x, dx)
    d = _tangent(_mirrored(top), v, squares, transpose(x), transpose(dx))
    return top, _mirrored(d)


def _mirrored(top: Subspaces) -> Subspaces:
    return Subspaces(top.right, transpose(top.core), top.left)


def _with_spectrum(
    rank: int, x: Float[Array, "*b m n"]
) -> tuple[Subspaces, Float[Array, "*b k k"], Float[Array, "*b k"]]:
    """Also all right singular vectors of the tall side and the squared values."""
    ok = finite(x)
    scaled, size = normalised(jnp.where(ok, x, 0))
    wide = x.shape[-2] < x.shape[-1]
    tall = transpose(scaled) if wide else scaled
    squares, v = _lapack.eigh(gram(tall))
    squares, v = squares[..., ::-1], v[..., ::-1]
    right = v[..., :rank]
    left = orthonormal(matmul(tall, right))
    left, right = (right, left) if wide else (left, right)
    signs = leading_signs(left)
    left, right = left * signs, right * signs
    core = matmul(transpose(left), matmul(scaled, right)) * size
    top = Subspaces(*(jnp.where(ok, each, jnp.nan) for each in (left, core, right)))
    return top, v, squares


def orthonormal(x: Float[Array, "*b m k"]) -> Float[Array, "*b m k"]:
    """Gram-Schmidt, with negligible columns replaced by any orthogonal ones."""
    norms = jnp.linalg.norm(x, axis=-2, keepdims=True)
    kept = norms > 4 * epsilon(x.dtype) * norms.max(axis=-1, keepdims=True)
    q, r = _lapack.qr(jnp.where(kept, x, 0))
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)[..., None, :]
    return jnp.where(diagonal < 0, -q, q)


def _tangent(
    top: Subspaces,
    v: Float[Array, "*b n n"],
    squares: Float[Array, "*b n"],
    x: Float[Array, "*b m n"],
    dx: Float[Array, "*b m n"],
) -> Subspaces:
    """Derivative of `top` along `dx`, for m >= n.

    First-order perturbation of singular vectors, with `1 / d` replaced by
    `d / (d^2 + delta^2)` throughout, `delta = eps^(2/3)` of the largest `d`. A
    rotation inside the subspace that this replacement leaves out of `left` and
    `right` is also out of `core`, so the derivative of `left @ core @ right^T` does
    not feel it.
    """
    x, size = normalised(x)
    dx = dx / size
    left, _, right = top
    rank = right.shape[-1]
    s = jnp.sqrt(jnp.maximum(squares, 0))[..., None, :rank]
    largest = jnp.where(squares[..., :1] > 0, squares[..., :1], 1)
    delta = epsilon(x.dtype) ** (2 / 3) * largest
    gaps = _regular_inverse(
        squares[..., None, :rank] - squares[..., :, None], delta[..., None]
    )
    dxr = matmul(dx, right)
    change = matmul(transpose(dx), matmul(x, right)) + matmul(transpose(x), dxr)
    dright = matmul(v, gaps * matmul(transpose(v), change))
    k = matmul(transpose(left), dxr)
    turn = gaps[..., :rank, :] * (k * s + transpose(k * s))
    grown = dxr + matmul(x, dright)
    outside = grown - matmul(left, matmul(transpose(left), grown))
    dleft = matmul(left, turn) + outside * _regular_inverse(
        s, jnp.sqrt(delta)[..., None]
    )
    dcore = (
        matmul(transpose(dleft), matmul(x, right))
        + k
        + matmul(transpose(left), matmul(x, dright))
    )
    return Subspaces(dleft, dcore * size, dright)


def _regular_inverse(
    x: Float[Array, "*b p q"], delta: Float[Array, "*b 1 1"]
) -> Float[Array, "*b p q"]:
    return x / (x * x + delta * delta)
