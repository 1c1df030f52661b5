"""Trimming of one expert at a time, in the memory of a few slices.

The engine's own selection (`primitives.keep_count`, `keep_band`) sees all experts of a
weight at once, which is too much for the token table of a large model. Both keep the
same entries.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from mda_jax.pipeline.bits import blocks, chosen, fastest


_RUN, _RUNS = 1 << 10, 1 << 8  # entries in a row, and how often, of a sample
_MARGINS = (8.0, 64.0, np.inf)  # of a bracket, in root sample sizes
_NEGLIGIBLE = 1e-7  # an L1 norm below which mergekit does not rescale

Read = Callable[[slice], np.ndarray]  # entries of a flat delta, in float32


class Trim(NamedTuple):
    """What is asked for."""

    densities: tuple[float, ...]  # share of entries that each expert keeps
    rescale: bool  # whether what is kept takes over the L1 norm of all
    outliers: tuple[float, ...] = ()  # share of the largest dropped, if any


class Bound(NamedTuple):
    """Which entries of a flat delta are among the largest."""

    magnitude: float  # all that are larger
    last: int  # and those as large, up to this position
    total: float  # of their magnitudes

    def reached(self, delta: np.ndarray, start: int) -> np.ndarray:
        """Which entries are, of a flat slice that begins at position `start`."""
        sizes = np.abs(delta)
        keeps = sizes >= self.magnitude
        late = max(0, self.last + 1 - start)
        keeps[late:] &= sizes[late:] != self.magnitude
        return keeps


_NONE = Bound(np.inf, -1, 0.0)


class Cut(NamedTuple):
    """Which entries of a flat delta stay: those between two bounds."""

    least: Bound
    most: Bound = _NONE
    factor: float = 1.0  # of what stays

    def keeps(self, delta: np.ndarray, start: int) -> np.ndarray:
        """Which entries stay, of a flat slice that begins at position `start`."""
        keeps = self.least.reached(delta, start)
        if self.most != _NONE:
            keeps &= ~self.most.reached(delta, start)
        return keeps


KEEP_ALL = Cut(Bound(-1.0, -1, np.inf))


def find_cut(
    read: Read, size: int, density: float, *, rescale: bool, outliers: float = 0.0
) -> Cut:
    """Where to cut a delta so that `int(density * size)` entries stay, at least one.

    Args:
      read: gives any slice of the flat delta.
      size: its number of entries, n >= 1.
      density: share of entries kept, in (0, 1].
      rescale: whether what is kept is to have the L1 norm of all.
      outliers: share of the largest entries that are dropped first, in [0, 1]; less
        where the rest would not do.

    Returns:
      The cut; among equal magnitudes the earlier counts as the larger.

    >>> delta = np.array([1.0, -3.0, 2.0, 2.0], np.float32)
    >>> cut = find_cut(delta.__getitem__, 4, 0.5, rescale=False)
    >>> cut.keeps(delta, 0).tolist()
    [False, True, True, False]
    """
    keep = max(1, int(density * size))
    if keep >= size:
        return KEEP_ALL
    top = min(int(outliers * size), size - keep)
    sample = _sample(read, size)
    find = partial(_bound, read, size, sample, rescale=rescale)
    least, total = find(keep + top)
    most, _ = find(top) if top else (_NONE, total)
    factor = _ratio(total, least.total - most.total) if rescale else 1.0
    return Cut(least, most, factor)


def _bound(
    read: Read, size: int, sample: np.ndarray, count: int, *, rescale: bool
) -> tuple[Bound, float]:
    """What the `count` largest entries of a delta reach, and the sum of all."""
    brackets = (_bracket(sample, count / size, margin) for margin in _MARGINS)
    attempts = (_between(read, size, *each, rescale=rescale) for each in brackets)
    fits = (f for f in attempts if f.above < count <= f.above + f.inside.size)
    found = next(fits)
    place = found.above + found.inside.size - count  # from the smallest inside
    if found.inside.flags.writeable:
        found.inside.partition(place)
    magnitude, kept = float(found.inside[place]), found.inside[place:]
    left = int(np.count_nonzero(kept == magnitude))
    last = _last(read, size, magnitude, left)
    return Bound(magnitude, last, found.total_above + _sum(kept)), found.total


def held(size: int) -> int:
    """Bytes that `find_cut` most likely holds of a delta of so many entries."""
    margin = _MARGINS[0] / max(1, min(size, _RUN * _RUNS)) ** 0.5
    bracket = 4 * min(1.0, 2 * margin) * size
    return int(2 * bracket)  # in parts, and joined


@cache
def seconds_per_entry() -> float:
    """What it takes to find where to cut, and to cut, an entry; from a trial."""
    delta = np.random.default_rng(0).standard_normal(1 << 20, np.float32)

    def trial() -> None:
        cut = find_cut(delta.__getitem__, delta.size, 0.5, rescale=False)
        for part in blocks(delta.size):
            chosen(cut.keeps(delta[part], part.start), delta[part], delta[part])

    return fastest(trial) / delta.size


class _Found(NamedTuple):
    """Magnitudes of a delta, by where they lie to a bracket."""

    above: int  # how many
    inside: np.ndarray
    total: float  # of all magnitudes, where it was asked for
    total_above: float


def _sample(read: Read, size: int) -> np.ndarray:
    """Magnitudes from all over the delta, sorted; all of them if there are few."""
    starts = np.zeros(1, int)
    if size > _RUN * _RUNS:
        starts = np.random.default_rng(0).integers(0, size - _RUN, _RUNS)
    runs = [read(slice(i, min(size, i + _RUN))) for i in starts.tolist()]
    if len(runs) == 1:
        runs = [read(part) for part in blocks(size)]
    return np.sort(np.abs(np.concatenate(runs)))


def _bracket(sample: np.ndarray, kept: float, margin: float) -> tuple[float, float]:
    """Two magnitudes between which the last kept one lies, most likely.

    The quantiles of m independent draws are off by about `sqrt(m) / 2` places.
    """
    place, margin = sample.size * (1 - kept), margin * sample.size**0.5
    low, high = place - margin, place + margin
    return (
        float(sample[int(low)]) if low >= 0 else 0.0,
        float(sample[int(high)]) if high < sample.size else np.inf,
    )


def _between(
    read: Read, size: int, low: float, high: float, *, rescale: bool
) -> _Found:
    """One pass: counts (and sums) what is above, keeps what is inside.

    Where the bracket is one magnitude, as in a delta of zeros, it is kept once.
    """
    above, equal, total, total_above = 0, 0, 0.0, 0.0
    inside: list[np.ndarray] = []
    for part in blocks(size):
        sizes = np.abs(read(part))
        larger = sizes > high
        above += int(np.count_nonzero(larger))
        if rescale:
            total += _sum(sizes)
            total_above += _sum(sizes * larger)
        within = (sizes >= low) & ~larger
        if low == high:
            equal += int(np.count_nonzero(within))
        else:
            inside.append(sizes[np.flatnonzero(within)])
    same = np.broadcast_to(np.float32(low), (equal,))
    held = np.concatenate(inside) if inside else same
    return _Found(above, held, total, total_above)


def _sum(sizes: np.ndarray) -> float:
    return float(sizes.sum(dtype=np.float64))


def _ratio(whole: float, left: float) -> float:
    return 1.0 if min(whole, left) < _NEGLIGIBLE else whole / left


def _last(read: Read, size: int, magnitude: float, left: int) -> int:
    """Position of the last of the first `left` entries of a magnitude."""
    for part in blocks(size):
        tied = np.flatnonzero(np.abs(read(part)) == magnitude)[:left]
        left -= len(tied)
        if left == 0 and len(tied):
            return part.start + int(tied[-1])
    return -1  # NaN is as large as nothing
