"""The sum of the singular values."""

import jax
from jaxtyping import Array, Float

from mda_jax.linalg._ops import in_float32
from mda_jax.linalg._polar import polar


@in_float32
def nuclear_norm(x: Float[Array, "*b m n"]) -> Float[Array, "*b"]:
    """Sum of the singular values, as the inner product with the polar factor.

    Args:
      x: matrices.

    Returns:
      `[*b]`. The gradient is `polar(x)`: finite everywhere, and the subgradient of
      least norm where singular values are 0.
    """
    return _nuclear_norm(x)


@jax.custom_jvp
def _nuclear_norm(x: Float[Array, "*b m n"]) -> Float[Array, "*b"]:
    return (polar(x) * x).sum(axis=(-2, -1))


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(
    primals: tuple[Float[Array, "*b m n"]], tangents: tuple[Float[Array, "*b m n"]]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    (x,), (dx,) = primals, tangents
    p = polar(x)
    return (p * x).sum(axis=(-2, -1)), (p * dx).sum(axis=(-2, -1))
