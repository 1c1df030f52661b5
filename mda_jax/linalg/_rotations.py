"""Charts of SO(d): rotations from skew-symmetric parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg._ops import identity_like, in_float32, matmul, skew, transpose
from mda_jax.linalg._solve import solve_positive


_TERMS = 12  # of the series of exp at norms up to 1/2: the next one is below 1e-13


@in_float32
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
    identity = identity_like(x)
    result = identity
    for i in range(_TERMS, 0, -1):
        result = identity + matmul(x, result) / i

    def square(i: Array, r: Array) -> Array:
        return jnp.where(i.astype(r.dtype) < halvings, matmul(r, r), r)

    return jax.lax.fori_loop(0, 10, square, result)


@in_float32
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
    identity = identity_like(s)
    plus = identity + s
    # (1 - s)^-1 = (1 + s) (1 - s^2)^-1, where 1 - s^2 = 1 + s^T s is positive.
    positive = identity + matmul(transpose(s), s)
    return solve_positive(positive, matmul(plus, plus))


@in_float32
def low_rank_rotation(ab: Float[Array, "*b 2 d r"]) -> Float[Array, "*b d d"]:
    """The Cayley rotation of `a b^T - b a^T`: few parameters for large `d`.

    Args:
      ab: `a [*b, d, r]` and `b [*b, d, r]`, stacked. The rotation is the identity where
        either is 0; the gradient is 0 only where both are.

    Returns:
      `[*b, d, d]`, orthogonal with determinant +1, that moves the span of `a` and `b`
      alone: equal to `cayley_rotation(a b^T - b a^T)`, at the cost of a solve of
      size 2r.
    """
    a, b = ab[..., 0, :, :], ab[..., 1, :, :]
    # With u = [a b] and j = [0 1; -1 0], a b^T - b a^T is u j u^T = 2 s, and
    # (1 - s)^-1 (1 + s) = 1 + u (1 - j u^T u / 2)^-1 j u^T.
    u = jnp.concatenate([a, b], -1)
    ju = jnp.concatenate([transpose(b), -transpose(a)], -2)
    inner = matmul(ju, u)
    inner = identity_like(inner) - inner / 2
    square = matmul(transpose(inner), inner)
    moved = matmul(u, solve_positive(square, matmul(transpose(inner), ju)))
    return identity_like(moved) + moved
