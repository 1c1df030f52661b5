"""TIES's trimming of one expert at a time, in the memory of one float32 copy.

The engine's own selection (`primitives.keep_count`) sees all experts of a weight at
once, which is too much for the token table of a large model. Both keep the same
entries.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


SLICE = 1 << 20  # entries
_NEGLIGIBLE = 1e-7  # an L1 norm below which mergekit does not rescale

Read = Callable[[slice], np.ndarray]  # entries of a flat delta, in float32


class Trim(NamedTuple):
    """What is asked for."""

    densities: tuple[float, ...]  # share of entries that each expert keeps
    rescale: bool  # whether what is kept takes over the L1 norm of all


class Cut(NamedTuple):
    """Which entries of a flat delta stay."""

    magnitude: float  # all that are larger
    last: int  # and those as large, up to this position
    factor: float = 1.0  # of what stays

    def keeps(self, delta: np.ndarray, start: int) -> np.ndarray:
        """Which entries stay, of a flat slice that begins at position `start`."""
        sizes = np.abs(delta)
        keeps = sizes >= self.magnitude
        late = max(0, self.last + 1 - start)
        keeps[late:] &= sizes[late:] != self.magnitude
        return keeps


KEEP_ALL = Cut(-1.0, -1)


def find_cut(read: Read, size: int, density: float, *, rescale: bool) -> Cut:
    """Where to cut a delta so that `int(density * size)` entries stay, at least one.

    Args:
      read: gives any slice of the flat delta.
      size: its number of entries, n >= 1.
      density: share of entries kept, in (0, 1].
      rescale: whether what is kept is to have the L1 norm of all.

    Returns:
      The cut; among equal magnitudes the earlier entries stay.

    >>> delta = np.array([1.0, -3.0, 2.0, 2.0], np.float32)
    >>> cut = find_cut(delta.__getitem__, 4, 0.5, rescale=False)
    >>> cut.keeps(delta, 0).tolist()
    [False, True, True, False]
    """
    keep = max(1, int(density * size))
    if keep >= size:
        return KEEP_ALL
    sizes = np.empty(size, np.float32)
    for part in _slices(size):
        sizes[part] = np.abs(read(part))
    sizes.partition(size - keep)
    kept = sizes[size - keep :]
    magnitude = float(kept[0])
    factor = _l1_ratio(sizes, kept) if rescale else 1.0
    return Cut(magnitude, _last(read, size, magnitude, kept), factor)


def _l1_ratio(every: np.ndarray, kept: np.ndarray) -> float:
    whole, left = (float(x.sum(dtype=np.float64)) for x in (every, kept))
    return 1.0 if min(whole, left) < _NEGLIGIBLE else whole / left


def _last(read: Read, size: int, magnitude: float, kept: np.ndarray) -> int:
    """Position of the last entry as large as the smallest kept one that stays."""
    left = int((kept == magnitude).sum())
    for part in _slices(size):
        tied = np.flatnonzero(np.abs(read(part)) == magnitude)[:left]
        left -= len(tied)
        if left == 0 and len(tied):
            return part.start + int(tied[-1])
    return -1  # NaN is as large as nothing


def _slices(size: int) -> Iterator[slice]:
    return (slice(i, min(i + SLICE, size)) for i in range(0, size, SLICE))
