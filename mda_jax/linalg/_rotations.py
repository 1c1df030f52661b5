"""Charts of SO(d): rotations from skew-symmetric parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg._ops import matmul, skew, transpose
from mda_jax.linalg._solve import solve_positive


_TERMS = 12  # of the series of exp at norms up to 1/2: the next one is below 1e-13


def exp_rotation(a: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """The rotation `exp((a - a^T) / 2)`: every rotation is one.

    Args:
      a: any matrices; the skew-symmetric part counts, and 0 is the identity.

    Returns:
      `[*b, d, d]`, orthogonal with determinant +1, to rounding for norms up to about
      500. By scaling and squaring, matrix products alone.
    """
    x = skew(a) / 2
    norm = jnp.abs(x).sum(-1).max(-1)[..., None, None]
    halvings = jnp.ceil(jnp.log2(jnp.maximum(jax.lax.stop_gradient(norm), 0.5))) + 1
    x = x / 2**halvings
    identity = jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
    result = identity
    for i in range(_TERMS, 0, -1):
        result = identity + matmul(x, result) / i

    def square(i: Array, r: Array) -> Array:
        return jnp.where(i.astype(r.dtype) < halvings, matmul(r, r), r)

    return jax.lax.fori_loop(0, 10, square, result)


def cayley_rotation(a: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """The rotation `(1 - s)^-1 (1 + s)`, `s = (a - a^T) / 4`: cheaper than `exp`.

    Args:
      a: any matrices; the skew-symmetric part counts, and 0 is the identity. Near 0 it
        is `exp_rotation(a)` to second order.

    Returns:
      `[*b, d, d]`, orthogonal with determinant +1. Half turns in a plane are reached
      in the limit of infinite `a` only.
    """
    s = skew(a) / 4
    identity = jnp.broadcast_to(jnp.eye(s.shape[-1], dtype=s.dtype), s.shape)
    plus = identity + s
    # (1 - s)^-1 = (1 + s) (1 - s^2)^-1, where 1 - s^2 = 1 + s^T s is positive.
    positive = identity + matmul(transpose(s), s)
    return solve_positive(positive, matmul(plus, plus))
