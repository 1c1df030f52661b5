"""Random drops, and rules that scale up what they leave."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, UInt

from mda_jax import _check
from mda_jax._types import Deltas, Number
from mda_jax.primitives.averages import Weights


Density: TypeAlias = Number | Float[Array, "..."]  # for all, per expert, per entry


def drop(
    d: Deltas,
    *,
    key: Key[Array, ""],
    density: Density,
    ids: Weights | None = None,
    first_row: int | Int[Array, ""] = 0,
) -> Deltas:
    """Keep every entry with probability `density`, independently of all others.

    Args:
      d: the experts' deltas.
      key: the PRNG key of the weight.
      density: probability in (0, 1], to within `2**-23`; one number, `[k]` with one per
        expert, or `[k, *d]` with one per entry.
      ids: integers, one per expert. Who keeps its id keeps its draws, wherever it
        stands and whoever else is merged. None: 0..k-1.
      first_row: where `d` is some rows of a larger weight of two axes or more, the
        place of the first of them: rows keep their draws.

    Returns:
      The deltas, not rescaled, with entries of 0 in place of the dropped ones.
    """
    ids = jnp.arange(len(d)) if ids is None else jnp.asarray(ids)
    _check.one_per_expert("drop", len(d), ids=ids)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    # Drawn in float32 always, so that a merge in float64 drops the same entries.
    if d.ndim > 2:
        rows = jnp.arange(d.shape[1]) + first_row
        of_each = jax.vmap(jax.random.fold_in, (None, 0))
        keys = jax.vmap(of_each, (0, None))(keys, rows).ravel()
    size = math.prod(d.shape[1:]) * len(d) // len(keys)
    draws = jax.vmap(lambda key: jax.random.uniform(key, (size,), "float32"))(keys)
    chance = _spread(density, d).astype(draws.dtype)
    return jnp.where(draws.reshape(d.shape) < chance, d, 0)


def rank_density(
    d: Deltas,
    *,
    density: Number | Float[Array, " k"],
    epsilon: Number | Float[Array, " k"],
) -> Deltas:
    """Probabilities that rise evenly with the rank of the magnitude in its row.

    Args:
      d: the experts' deltas. A row is a vector, a row of a matrix, or all that shares
        the first index of an array of more axes.
      density: mean of a row's probabilities; one number, or one per expert.
      epsilon: half their spread; one number, or one per expert.

    Returns:
      From `density - epsilon` for the smallest entry to `density + epsilon` for the
      largest, clipped to [0, 1]; `density` where a row is one entry; 1 where `density`
      is 1 or more. Of equal magnitudes the earlier counts as the larger.
    """
    rows = d.reshape(len(d), d.shape[1] if d.ndim > 2 else 1, -1)
    n = rows.shape[2]
    slope = jnp.linspace(1, -1, n, dtype=d.dtype) if n > 1 else jnp.zeros(1, d.dtype)
    falling = jnp.broadcast_to(slope, rows.shape)
    heights = jnp.put_along_axis(
        falling, _falling_order(rows), falling, axis=2, inplace=False
    )
    density, epsilon = _spread(density, d), _spread(epsilon, d)
    sloped = jnp.clip(density + epsilon * heights.reshape(d.shape), 0, 1)
    return jnp.where(density >= 1, jnp.ones_like(d), sloped)


def _falling_order(rows: Float[Array, "k m n"]) -> Int[Array, "k m n"]:
    """Places in the order of falling magnitudes, of equal ones the earlier first.

    By two sorts of plain integers, which on a CPU take half the time of `argsort`: half
    the bits of a magnitude each, and a place.
    """
    magnitudes = jnp.abs(jax.lax.stop_gradient(rows))
    if rows.dtype != jnp.float32 or rows.shape[2] > 1 << 16:
        return jnp.argsort(-magnitudes)
    rising = ~jax.lax.bitcast_convert_type(magnitudes, jnp.uint32)
    by_lower = _order_of_halves(rising & 0xFFFF)
    upper = jnp.take_along_axis(rising >> 16, by_lower, axis=2)
    return jnp.take_along_axis(by_lower, _order_of_halves(upper), axis=2)


def _order_of_halves(halves: UInt[Array, "k m n"]) -> Int[Array, "k m n"]:
    """Places in the order of 16-bit numbers, of equal ones the earlier first."""
    places = jax.lax.broadcasted_iota(jnp.uint32, halves.shape, 2)
    in_order = jax.lax.sort(halves << 16 | places, is_stable=False)
    return (in_order & 0xFFFF).astype(jnp.int32)


class Rescale(NamedTuple):
    """A rule that scales up what a drop left.

    Attributes:
      find: `(kept, deltas) -> tree`, what the rule sums over all entries of a weight;
        None if nothing.
      apply: `(kept, density, found) -> kept`, entry by entry, with what `drop` took.
    """

    find: Callable[[Deltas, Deltas], Any]
    apply: Callable[[Deltas, Density, Any], Deltas]

    def __call__(self, kept: Deltas, d: Deltas, density: Density) -> Deltas:
        """Rescale what a drop left of a whole weight."""
        return self.apply(kept, density, self.find(kept, d))


def _nothing(kept: Deltas, d: Deltas) -> None:
    del kept, d


def _over_chance(kept: Deltas, density: Density, found: None) -> Deltas:
    del found
    chance = _spread(density, kept)
    return kept / jnp.where(chance > 0, chance, 1)


def _l1_norms(kept: Deltas, d: Deltas) -> Float[Array, " 2 k *ones"]:
    axes = tuple(range(1, d.ndim))
    return jnp.stack([jnp.abs(x).sum(axes, keepdims=True) for x in (d, kept)])


def _to_norm(
    kept: Deltas, density: Density, found: Float[Array, " 2 k *ones"]
) -> Deltas:
    del density
    whole, left = found
    tiny = jnp.minimum(whole, left) < 1e-7
    return kept * jnp.where(tiny, 1, whole / jnp.where(tiny, 1, left))


def _unchanged(kept: Deltas, density: Density, found: None) -> Deltas:
    del density, found
    return kept


by_probability = Rescale(_nothing, _over_chance)
"""Divide every entry by the probability to keep it: right on average."""

by_l1_norm = Rescale(_l1_norms, _to_norm)
"""Give each expert its L1 norm back, unless either norm is below 1e-7."""

as_kept = Rescale(_nothing, _unchanged)
"""Leave the rest as it is."""


def _spread(numbers: ArrayLike, d: Deltas) -> Float[Array, "..."]:
    """One number, one per expert, or one per entry, lined up with the deltas."""
    x = jnp.asarray(numbers, d.dtype)
    return x.reshape(*x.shape, *[1] * (d.ndim - x.ndim))
