"""Weighted sums and means over experts."""

from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mda_jax import _check
from mda_jax._types import Deltas, Number, Rows


Weights: TypeAlias = ArrayLike | Sequence[Number]


def per_expert(weights: Weights) -> Float[Array, "..."]:
    """Numbers given one per expert, as an array: one leaf of a stage."""
    return jnp.asarray(weights, float)


def scaled(d: Rows, *, by: Number) -> Rows:
    """Multiply by the dimensionless number `by`."""
    return jnp.asarray(by, d.dtype) * d


def weighted(d: Deltas, *, weights: Float[Array, "..."]) -> Deltas:
    """Multiply each expert's row by its weight."""
    return _column(weights, d) * d


def total(d: Rows) -> Float[Array, " 1 *d"]:
    """Sum over the rows, one after the other, in their order.

    One reduction over the short leading axis takes XLA many times longer on a CPU.
    """
    return reduce(jnp.add, jnp.unstack(d))[None]


def mean(d: Rows) -> Float[Array, " 1 *d"]:
    """Mean over the rows."""
    return total(d) / len(d)


def weighted_sum(d: Deltas, *, weights: Float[Array, "..."]) -> Float[Array, " 1 *d"]:
    """Sum of weighted rows, whatever the sum of the weights."""
    return total(weighted(d, weights=weights))


def weighted_mean(d: Deltas, *, weights: Float[Array, "..."]) -> Float[Array, " 1 *d"]:
    """Sum of weighted rows over the sum of weights, or over 1 where that is tiny."""
    column = _column(weights, d)
    return total(column * d) / _guarded(column.sum())


def _column(weights: Float[Array, "..."], d: Deltas) -> Float[Array, " k *ones"]:
    _check.one_per_expert("weighted", len(d), weights=weights)
    return jnp.asarray(weights, d.dtype).reshape(-1, *[1] * (d.ndim - 1))


def _guarded(total: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(jnp.abs(total) < 1e-8, jnp.ones_like(total), total)
