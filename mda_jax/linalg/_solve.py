"""Linear systems with a positive definite matrix."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import matmul, symmetric


@jax.custom_jvp
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
    return _lapack.solve_positive(symmetric(g), x)


@solve_positive.defjvp
def _solve_positive_jvp(
    primals: tuple[Float[Array, "*b n n"], Float[Array, "*b n m"]],
    tangents: tuple[Float[Array, "*b n n"], Float[Array, "*b n m"]],
) -> tuple[Float[Array, "*b n m"], Float[Array, "*b n m"]]:
    """Products with the inverse, so that nothing is factored again."""
    (g, x), (dg, dx) = primals, tangents
    y = solve_positive(g, x)
    identity = jnp.broadcast_to(jnp.eye(g.shape[-1], dtype=g.dtype), g.shape)
    inverse = solve_positive(g, identity)
    return y, matmul(inverse, dx - matmul(symmetric(dg), y))
