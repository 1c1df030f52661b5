"""Exact order statistics of a whole model, from histograms that add up.

Numbers are assigned to the entries in the order of their float32 values. One pass over
the weights counts the upper halves of these numbers; the next counts the lower halves,
within the bin that holds the wanted entry. No pass needs more than one weight.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Shaped, UInt

from mda_jax._types import Deltas


HALF = 16
BINS = 1 << HALF
BASE = 1 << 12  # of the two digits of a count


class Count(NamedTuple):
    """A whole number, `4096 * high + low`.

    Counts are added word by word. 32 bits hold the sum over half a million weights,
    and up to `2**43` entries; each weight has fewer than `2**31`.
    """

    high: Int[Array, "..."]
    low: Int[Array, "..."]


def counted(n: Int[Array, "..."]) -> Count:
    """A count that can be added to those of other weights."""
    return _carried(Count(jnp.zeros_like(n), n))


def sign_of_count(count: Count) -> Int[Array, "..."]:
    """Of a sum of counts: -1, 0 or 1."""
    high, low = _carried(count)
    return jnp.where(high == 0, jnp.sign(low), jnp.sign(high))


def upper_counts(x: Deltas) -> Count:
    """The first of two histograms of each row: `[k, 65536]`, to be added up."""
    return counted(jax.vmap(_histogram)(_flat(x) >> HALF))


def lower_counts(x: Deltas, upper: Count, at: Float[Array, " q"]) -> Count:
    """The second histogram, around the entries looked for: `[k, q, 65536]`.

    Args:
      x: rows of one weight.
      upper: the first histogram, summed over the weights.
      at: places in ascending order of the whole model, counted from 0; fractions are
        cut off, and places beyond the last are the last. In float32, so among `n`
        entries a place is right to within `n * 2**-24`.
    """
    return counted(jax.vmap(jax.vmap(_histogram))(_places_within(x, upper, at)))


def lower_sums(x: Deltas, upper: Count, at: Float[Array, " q"]) -> Float[Array, "..."]:
    """What the entries that `lower_counts` counts add up to: `[k, q, 65536]`."""

    def added(entries: Float[Array, " n"], places: UInt[Array, " n"]) -> Array:
        return jnp.zeros(BINS, x.dtype).at[places].add(entries, mode="drop")

    places = _places_within(x, upper, at)
    return jax.vmap(jax.vmap(added, (None, 0)))(x.reshape(len(x), -1), places)


def order_statistics(
    upper: Count,
    lower: Count,
    at: Float[Array, " q"],
    sums: Float[Array, "k q b"] | None = None,
) -> Float32[Array, "k q"]:
    """The entries of each row that stand at these places of the whole model.

    Args:
      upper: from `upper_counts`, summed over the weights.
      lower: from `lower_counts` with the same `at`, likewise.
      at: as for `lower_counts`.
      sums: from `lower_sums` with the same `at`, likewise: to give the result the
        slope of the entries that it is, of equal ones their mean. None: it has none.
    """
    bins, rest = _found(upper, at)
    low, _ = jax.vmap(jax.vmap(_bin_of))(lower, rest)
    found = _value(bins.astype(jnp.uint32) << HALF | low.astype(jnp.uint32))
    if sums is None:
        return found
    many, few = (_pick(words, low).astype(sums.dtype) for words in lower)
    mean = _pick(sums, low) / jnp.maximum(many * BASE + few, 1)
    return found + (mean - jax.lax.stop_gradient(mean)).astype(found.dtype)


def _pick(x: Shaped[Array, "k q b"], i: Int[Array, "k q"]) -> Shaped[Array, "k q"]:
    return jnp.take_along_axis(x, i[..., None], axis=-1)[..., 0]


def _places_within(
    x: Deltas, upper: Count, at: Float[Array, " q"]
) -> UInt[Array, "k q n"]:
    """Of each entry in the bins that hold these places; `BINS` for all others."""
    bins, _ = _found(upper, at)
    numbers = _flat(x)[:, None]
    inside = (numbers >> HALF).astype(jnp.int32) == bins[..., None]
    return jnp.where(inside, numbers & (BINS - 1), BINS)


def entries(upper: Count) -> Float32[Array, ""]:
    """How many entries each expert has in the whole model, rounded to float32."""
    high, low = (word.astype(jnp.float32) for word in _entries(upper))
    return high * BASE + low


def reaching(x: Deltas, least: Float32[Array, " k"]) -> Bool[Array, " k *d"]:
    """Which entries of each row are `least` or more, in float32, denormals too."""
    return _numbers(x) >= _numbers(least).reshape(-1, *[1] * (x.ndim - 1))


def _flat(x: Deltas) -> UInt[Array, "k n"]:
    return _numbers(x).reshape(len(x), -1)


def _numbers(x: Float[Array, "*s"]) -> UInt[Array, "*s"]:
    """Ordered like the values: a negative float is the larger, the nearer to 0."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _value(numbers: UInt[Array, "*s"]) -> Float32[Array, "*s"]:
    bits = jnp.where(numbers >> 31 == 1, numbers ^ jnp.uint32(1 << 31), ~numbers)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _histogram(places: UInt[Array, " n"]) -> Int[Array, " b"]:
    """How many are at each place below `BINS`."""
    return jnp.zeros(BINS, jnp.int32).at[places].add(1, mode="drop")


def _found(upper: Count, at: Float[Array, " q"]) -> tuple[Int[Array, "k q"], Count]:
    """The bins that hold the entries at these places, and the places within."""
    high, low = _entries(upper)
    last = _carried(Count(high, low - 1))
    at = jnp.clip(at.astype(jnp.float32), 0, BASE * 2.0**30)
    high = jnp.floor(at / BASE)
    place = Count(high.astype(jnp.int32), (at - high * BASE).astype(jnp.int32))
    place = jax.tree.map(partial(jnp.where, _less(last, place)), last, place)
    return jax.vmap(jax.vmap(_bin_of, (None, 0)), (0, None))(upper, place)


def _bin_of(counts: Count, place: Count) -> tuple[Int[Array, ""], Count]:
    """The bin of the entry that has so many before it, and how many of them in it.

    By rows of a square of bins, then within a row: a long cumulative sum is slow.
    """
    side = math.isqrt(BINS)
    square = jax.tree.map(lambda words: words.reshape(side, side), _carried(counts))
    row, place = _passed(_totals(square), place)
    column, place = _passed(jax.tree.map(lambda words: words[row], square), place)
    return row * side + column, place


def _passed(counts: Count, place: Count) -> tuple[Int[Array, ""], Count]:
    counts = _carried(counts)
    through = _carried(jax.tree.map(partial(jnp.cumsum, dtype=jnp.int32), counts))
    bin = jnp.sum(~_less(place, through), dtype=jnp.int32)
    before = jax.tree.map(lambda t, c: t[bin] - c[bin], through, counts)
    return bin, _carried(jax.tree.map(jnp.subtract, place, before))


def _entries(upper: Count) -> Count:
    one = jax.tree.map(lambda words: words[0], upper)
    return _carried(_totals(_carried(one)))


def _totals(counts: Count) -> Count:
    """Over the last axis."""
    return jax.tree.map(partial(jnp.sum, axis=-1, dtype=jnp.int32), counts)


def _less(a: Count, b: Count) -> Bool[Array, "..."]:
    """Of carried counts."""
    return (a.high < b.high) | ((a.high == b.high) & (a.low < b.low))


def _carried(count: Count) -> Count:
    """With a low word in [0, 4096)."""
    return Count(count.high + count.low // BASE, count.low % BASE)
