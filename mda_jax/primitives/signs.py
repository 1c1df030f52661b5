"""Sign election, and means over the experts that agree with the elected sign."""

from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mda_jax._types import Deltas
from mda_jax.primitives.averages import total, weighted


Row = Float[Array, " 1 *d"]


def sign_of_sum(d: Deltas) -> Row:
    """The sign that carries more magnitude; 0 where the sum is 0."""
    return jnp.sign(total(d))


def nonnegative_sign_of_sum(d: Deltas) -> Row:
    """+1 where the sum is at least 0, else -1."""
    return jnp.where(total(d) >= 0, 1, -1).astype(d.dtype)


def positive_sign_of_sum(d: Deltas) -> Row:
    """+1 where the sum is above 0, else -1."""
    return jnp.where(total(d) > 0, 1, -1).astype(d.dtype)


def agreeing(d: Deltas, *, sign: Row) -> Bool[Array, " k *d"]:
    """Which entries carry the elected sign; an entry of 0 never agrees."""
    return (jnp.sign(d) == sign) & (d != 0)


def agreeing_mean(d: Deltas, *, sign: Row) -> Row:
    """Mean over the agreeing experts of each entry; 0 where none agrees."""
    agree = agreeing(d, sign=sign)
    count = total(agree.astype(d.dtype))
    return _sum_where(agree, d) / jnp.maximum(count, 1)


def agreeing_sum(d: Deltas, *, sign: Row) -> Row:
    """Sum over the agreeing experts of each entry."""
    return _sum_where(agreeing(d, sign=sign), d)


def agreeing_largest(d: Deltas, *, sign: Row) -> Row:
    """The largest magnitude among the agreeing experts of each entry, signed."""
    sizes = jnp.where(agreeing(d, sign=sign), jnp.abs(d), 0)
    return sign * reduce(jnp.maximum, jnp.unstack(sizes))[None]


def agreeing_weighted_mean(
    d: Deltas, *, sign: Row, weights: Float[Array, "..."]
) -> Row:
    """Sum of agreeing rows over the sum of their weights (over 1 where that is 0).

    Args:
      d: the experts' deltas, already multiplied by their weights.
      sign: the elected sign of every entry.
      weights: the weights they were multiplied by.
    """
    agree = agreeing(d, sign=sign)
    shares = _sum_where(agree, weighted(jnp.ones_like(d), weights=weights))
    return _sum_where(agree, d) / jnp.where(shares == 0, 1, shares)


def _sum_where(mask: Bool[Array, " k *d"], d: Deltas) -> Row:
    return total(jnp.where(mask, d, 0))
