"""The polar factor U V^T of U S V^T, two ways, with one derivative."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack, _polynomials
from mda_jax.linalg._ops import (
    columns_first,
    epsilon,
    finite,
    gram,
    in_float32,
    matmul,
    normalised,
    safe_inverse,
    skew,
    symmetric,
    transpose,
)


Kernel = Callable[[Float[Array, "*b m n"]], Float[Array, "*b m n"]]


@in_float32
def polar(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """Polar factor by matrix products, the default of every merge method.

    `polar_polynomial`; on CPU, a matrix at least twice as long as wide is first
    reduced to a square by a QR decomposition.

    Args:
      x: matrices.

    Returns:
      `[*b, m, n]`: the partial isometry `U V^T` over the singular triplets whose
      value is not negligible (see `polar_polynomial`); 0 for a zero matrix, NaN for
      a matrix with NaN or infinity. Its derivative is finite everywhere, and is that
      along matrices of equal rank where the rank is not full.
    """
    return by_kernel(_by_platform, x)


@in_float32
def polar_polynomial(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """Polar factor by matrix products alone.

    Composed minimax quintics lift singular values above about `5 eps` times the
    largest to 1; then `x (5 x^2 - 3 x^4) / 2`, for which 0 and 1 attract, lowers what
    is below 0.8 to 0. Backward stable: the forward error is of order
    `eps * s_max / s_min`. Singular values between 2 and 8 `eps` times the largest may
    end anywhere between 0 and 1.

    Args:
      x: matrices.

    Returns:
      `[*b, m, n]`, as `polar`.

    Paper:
      Amsel et al., The Polar Express, 2025, https://arxiv.org/abs/2505.16932,
      Algorithm 1. Differs: see `_polynomials.sign_polynomials`; the last steps make
      the result a partial isometry to rounding, of the rank of `x`.
    """
    return by_kernel(_polynomial, x)


@in_float32
def polar_gram(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """Polar factor from two eigendecompositions on the smaller side.

    The first divides by `sqrt(x^T x + mu)`, `mu = 8 eps s_max^2`, which leaves a
    condition number that the second can bear. An isometry to rounding on the kept
    directions, of which singular values below about `4 eps` times the largest are
    no part; but rounding in the first Gram matrix turns it within the weak
    directions: the forward error is of order `eps (s_max / s_min)^2`, at most that
    of an arbitrary rotation of directions weaker than `sqrt(eps)`, and
    `sqrt(eps)` where the rank is not full. Meant for long, well-conditioned
    matrices (condition below 1e2).

    Args:
      x: matrices.

    Returns:
      `[*b, m, n]`, as `polar`.
    """
    return by_kernel(_gram, x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def by_kernel(kernel: Kernel, x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    """Polar factor by a kernel for m >= n and entries of at most 1."""
    ok = finite(x)
    scaled, _ = normalised(jnp.where(ok, x, 0))
    return jnp.where(ok, columns_first(kernel, scaled), jnp.nan)


@by_kernel.defjvp
def _polar_jvp(
    kernel: Kernel,
    primals: tuple[Float[Array, "*b m n"]],
    tangents: tuple[Float[Array, "*b m n"]],
) -> tuple[Float[Array, "*b m n"], Float[Array, "*b m n"]]:
    (x,), (dx,) = primals, tangents
    p = by_kernel(kernel, x)
    if x.shape[-2] >= x.shape[-1]:
        return p, _tangent(p, x, dx)
    return p, transpose(_tangent(transpose(p), transpose(x), transpose(dx)))


def _tangent(
    p: Float[Array, "*b m n"], x: Float[Array, "*b m n"], dx: Float[Array, "*b m n"]
) -> Float[Array, "*b m n"]:
    """Derivative of the polar factor `p` of `x` along `dx`, for m >= n.

    With `p^T x = V S V^T` and `K = V^T p^T dx V`:
    `p V ((K - K^T) / (s_i + s_j)) V^T + (1 - p p^T) dx V S^-1 V^T`, where the
    inverse of a numerically zero number is 0. That is the derivative along matrices
    of equal rank, and finite everywhere.
    """
    scaled, size = normalised(x)
    s, v = _lapack.eigh(symmetric(matmul(transpose(p), scaled)))
    pairs = s[..., :, None] + s[..., None, :]
    cut = 4 * epsilon(x.dtype) * s[..., -1:]
    inverse = safe_inverse(s, s > cut)[..., None, :]
    pairs = safe_inverse(pairs, pairs > cut[..., None])
    dv = matmul(dx / size, v)
    inner = matmul(transpose(p), dv)
    k = matmul(transpose(v), inner)
    turned = matmul(matmul(p, v), pairs * skew(k))
    outside = (dv - matmul(p, inner)) * inverse
    return matmul(turned + outside, transpose(v))


def _by_platform(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    result: Array = jax.lax.platform_dependent(
        x, cpu=_reduced_polynomial, default=_polynomial
    )
    return result


def _reduced_polynomial(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    if x.shape[-2] < 2 * x.shape[-1]:
        return _polynomial(x)
    q, r = _lapack.qr(x)
    return matmul(q, _polynomial(r))


def _polynomial(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    lift = _polynomials.sign_polynomials(5 * epsilon(x.dtype))
    steps = jnp.asarray(lift + 4 * (_polynomials.DIVIDE,), x.dtype)
    return jax.lax.scan(_quintic, x / _norm_bound(gram(x)), steps)[0]


def _quintic(
    x: Float[Array, "*b m n"], step: Float[Array, " 3"]
) -> tuple[Float[Array, "*b m n"], None]:
    """`a x + b x x^T x + c x x^T x x^T x`."""
    a, b, c = step
    g = gram(x)
    return a * x + matmul(x, b * g + c * matmul(g, g)), None


def _norm_bound(g: Float[Array, "*b n n"]) -> Float[Array, "*b 1 1"]:
    """Schatten 16-norm of the matrix whose Gram matrix is `g`; 1 where that is 0.

    Between the largest singular value and `n^(1/16)` times it: 1.5 for n = 768.
    """
    bound = jnp.ones_like(g[..., :1, :1])
    for power in (1 / 2, 1 / 4, 1 / 8):
        size = jnp.linalg.norm(g, axis=(-2, -1), keepdims=True)
        size = jnp.where(size > 0, size, 1)
        bound = bound * size**power
        g = matmul(g / size, g / size)
    return bound


def _gram(x: Float[Array, "*b m n"]) -> Float[Array, "*b m n"]:
    eps = epsilon(x.dtype)
    squares, v = _lapack.eigh(gram(x))
    top = jnp.where(squares[..., -1:] > 0, squares[..., -1:], 1)
    shifted = jnp.maximum(squares, 0) + 8 * eps * top
    y = matmul(x, v) * jax.lax.rsqrt(shifted)[..., None, :]
    _, w = _lapack.eigh(gram(y))
    z = matmul(y, w)
    norms = jnp.linalg.norm(z, axis=-2, keepdims=True)
    z = z * safe_inverse(norms, norms > 4 * eps / (8 * eps) ** 0.5)
    for _ in range(2):
        g = gram(z)
        z = 1.875 * z - matmul(z, 1.25 * g - 0.375 * matmul(g, g))
    return matmul(z, transpose(matmul(v, w)))
