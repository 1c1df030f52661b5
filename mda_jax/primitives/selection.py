"""Exact selection of the largest entries, without a sort.

Non-negative floats are ordered like the integers with the same bits, so the k-th
largest magnitude is found bit by bit from the top: one pass of comparisons per bit.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from mda_jax._types import Deltas, Number


def keep_largest(d: Deltas, *, density: Number | Float[Array, " k"]) -> Deltas:
    """Zero all but the `round(density * n)`, at least 1, largest entries of each row.

    Args:
      d: the experts' deltas; `n` entries each.
      density: fraction kept, in (0, 1]; one number, or one per row.

    Returns:
      The deltas with exactly that many entries kept. Among equal magnitudes the
      earlier entry is kept. The count is computed in float32: to within
      `n * 2**-24` entries.
    """
    n = math.prod(d.shape[1:])
    return keep_count(d, count=_count(jnp.round(_share(density, n)), n))


def keep_count(d: Deltas, *, count: Number | Int[Array, " k"]) -> Deltas:
    """Zero all but the `count` largest entries of each row.

    Args:
      d: the experts' deltas; `n` entries each.
      count: entries kept, clipped to 1..n; one number, or one per row.

    Returns:
      The deltas with exactly that many entries kept. Among equal magnitudes the
      earlier entry is kept.
    """
    count = jnp.clip(jnp.asarray(count, jnp.int32), 1, math.prod(d.shape[1:]))
    return jnp.where(_largest_of_each(d, count), d, 0)


def keep_band(
    d: Deltas,
    *,
    density: Number | Float[Array, " k"],
    outliers: Number | Float[Array, " k"],
) -> Deltas:
    """Zero the largest entries of each row, and the smallest ones.

    Args:
      d: the experts' deltas; `n` entries each.
      density: fraction kept, in (0, 1]; one number, or one per row.
      outliers: fraction of the largest dropped, in [0, 1]; one number, or one per row.

    Returns:
      The deltas with exactly `floor(density * n)` entries kept, at least 1: those that
      follow on the `floor(outliers * n)` largest, or on fewer where the rest would not
      do. Among equal magnitudes the earlier counts as the larger. The counts are
      computed in float32: to within one entry, or `n * 2**-24`.
    """
    n = math.prod(d.shape[1:])
    kept = jnp.clip(_count(jnp.floor(_share(density, n)), n), 1, n)
    top = jnp.minimum(_count(jnp.floor(_share(outliers, n)), n), n - kept)
    band = _largest_of_each(d, top + kept) & ~_largest_of_each(d, top)
    return jnp.where(band, d, 0)


def _share(part: Number | Float[Array, " k"], n: int) -> Float[Array, "..."]:
    return jnp.asarray(part, jnp.float32) * n


def _count(share: Float[Array, "..."], n: int) -> Int[Array, "..."]:
    return jnp.clip(share, 0, min(n, 2**31 - 128)).astype(jnp.int32)


def _largest_of_each(d: Deltas, count: Int[Array, "..."]) -> Bool[Array, " k *d"]:
    bits = _magnitude_bits(d.reshape(len(d), -1))
    mask = jax.vmap(_largest)(bits, jnp.broadcast_to(count, (len(d),)))
    return mask.reshape(d.shape)


def _magnitude_bits(d: Deltas) -> UInt[Array, "k n"]:
    x = jax.lax.stop_gradient(jnp.abs(d))
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))


def _largest(bits: UInt[Array, " n"], count: Int[Array, ""]) -> Bool[Array, " n"]:
    """The `count` largest of one row, the earlier ones where they tie."""
    cut = _kth_largest(bits, count)
    above, tied = bits > cut, bits == cut
    return above | (tied & _first(tied, count - _number(above)))


def _kth_largest(bits: UInt[Array, " n"], count: Int[Array, ""]) -> UInt[Array, ""]:
    """The largest number that at least `count` entries reach."""
    top = 8 * bits.dtype.itemsize - 2  # the sign bit of a magnitude is 0

    def settle(i: Array, cut: Array) -> Array:
        bit = jnp.left_shift(jnp.ones_like(cut), (top - i).astype(cut.dtype))
        reached = _number(bits >= cut | bit) >= count
        return jnp.where(reached, cut | bit, cut)

    nothing = (bits[0] ^ bits[0]) | (count ^ count).astype(bits.dtype)  # varies as both
    return jax.lax.fori_loop(0, top + 1, settle, nothing)


def _first(mask: Bool[Array, " n"], count: Int[Array, ""]) -> Bool[Array, " n"]:
    """The positions up to the `count`-th true one: bisection, skipped where all fit."""
    places = jnp.arange(mask.size, dtype=jnp.int32)

    def unsettled(bounds: tuple[Array, Array]) -> Array:
        low, high = bounds
        return low < high

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = _number(mask & (places <= middle)) >= count
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    low = jnp.where(_number(mask) == count, places[-1], 0)
    high = jnp.full_like(low, mask.size - 1)
    return places <= jax.lax.while_loop(unsettled, halve, (low, high))[0]


def _number(mask: Bool[Array, " n"]) -> Int[Array, ""]:
    """How many entries are true.

    Folded onto itself in int8 first: a plain sum is ten times slower on a CPU.
    """
    counts = jnp.pad(mask.astype(jnp.int8), (0, -mask.size % 64)).reshape(64, -1)
    while len(counts) > 1:
        upper, lower = jnp.split(counts, 2)
        counts = upper + lower
    return counts.sum(dtype=jnp.int32)


def kth_smallest(x: Float[Array, "*n"], k: int) -> Float[Array, ""]:
    """The entry that stands at place `k`, from 0, of all magnitudes in rising order."""
    (bits,) = _magnitude_bits(x.reshape(1, -1))
    found = _kth_largest(bits, jnp.int32(bits.size - k))
    return jax.lax.bitcast_convert_type(found, x.dtype)
