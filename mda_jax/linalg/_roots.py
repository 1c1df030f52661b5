"""Powers of positive semidefinite matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import (
    epsilon,
    finite,
    in_float32,
    matmul,
    normalised,
    safe_inverse,
    symmetric,
    transpose,
)


@in_float32
def inverse_sqrt(g: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """Pseudo-inverse square root of positive semidefinite matrices.

    Args:
      g: symmetric positive semidefinite; only the symmetric part is read.

    Returns:
      `[*b, n, n]`, symmetric: `g^(-1/2)` where eigenvalues exceed `16 eps` times the
      largest, 0 on the span of the others.
    """
    return _inverse_sqrt(g)


@jax.custom_jvp
def _inverse_sqrt(g: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    roots, v, size = _inverse_roots(g)
    result = matmul(v * roots[..., None, :], transpose(v)) / jnp.sqrt(size)
    return jnp.where(finite(g), result, jnp.nan)


def _inverse_roots(
    g: Float[Array, "*b n n"],
) -> tuple[Float[Array, "*b n"], Float[Array, "*b n n"], Float[Array, "*b 1 1"]]:
    scaled, size = normalised(symmetric(jnp.where(finite(g), g, 0)))
    values, v = _lapack.eigh(scaled)
    kept = values > 16 * epsilon(g.dtype) * values[..., -1:]
    return jnp.sqrt(safe_inverse(values, kept)), v, size


@_inverse_sqrt.defjvp
def _inverse_sqrt_jvp(
    primals: tuple[Float[Array, "*b n n"]], tangents: tuple[Float[Array, "*b n n"]]
) -> tuple[Float[Array, "*b n n"], Float[Array, "*b n n"]]:
    """Divided differences of `f(a) = a^(-1/2)`, with `f = 0` for dropped eigenvalues.

    With `p = a^(-1/2)`: `(f(a) - f(b)) / (a - b) = -p q (p q / (p + q))` for two kept
    eigenvalues, `p^3` for one kept and one dropped, 0 for two dropped.
    """
    (g,), (dg,) = primals, tangents
    p, v, size = _inverse_roots(g)
    rows, columns = p[..., :, None], p[..., None, :]
    total = rows + columns
    both = rows * columns
    slopes = -both * both * safe_inverse(total, total > 0)
    slopes = jnp.where(both > 0, slopes, total**3)
    inner = matmul(matmul(transpose(v), symmetric(dg / size)), v)
    tangent = matmul(matmul(v, slopes * inner), transpose(v)) / jnp.sqrt(size)
    return _inverse_sqrt(g), tangent
