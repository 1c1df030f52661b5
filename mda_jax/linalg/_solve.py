"""Linear systems with a positive definite matrix."""

import jax
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import identity_like, in_float32, matmul, symmetric


@in_float32
def solve_positive(
    g: Float[Array, "*b n n"], x: Float[Array, "*b n m"]
) -> Float[Array, "*b n m"]:
    """Solution `y` of `g y = x` by a Cholesky factorisation.

    Args:
      g: symmetric positive definite, with a condition number well below `1 / eps`;
        only the symmetric part is read.
      x: right-hand sides in columns.

    Returns:
      `[*b, n, m]`; NaN where `g` is not numerically positive definite.
    """
    return _solve(g, x)


@jax.custom_jvp
def _solve(
    g: Float[Array, "*b n n"], x: Float[Array, "*b n m"]
) -> Float[Array, "*b n m"]:
    return _lapack.solve_positive(symmetric(g), x)


@_solve.defjvp
def _solve_jvp(
    primals: tuple[Float[Array, "*b n n"], Float[Array, "*b n m"]],
    tangents: tuple[Float[Array, "*b n n"], Float[Array, "*b n m"]],
) -> tuple[Float[Array, "*b n m"], Float[Array, "*b n m"]]:
    """Products with the inverse, so that nothing is factored again."""
    (g, x), (dg, dx) = primals, tangents
    y = _solve(g, x)
    inverse = _solve(g, identity_like(g))
    return y, matmul(inverse, dx - matmul(symmetric(dg), y))
