"""Linear systems with a positive definite matrix."""

from jaxtyping import Array, Float

from mda_jax.linalg import _lapack
from mda_jax.linalg._ops import symmetric


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
