"""Looking through big arrays a slice at a time, to spare memory.

Arrays come as functions that give them: each slice is taken from a fresh array, whose
pages leave memory with it if it is mapped from a file.
"""

import math
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


SLICE = 1 << 20  # entries
BLOCK = 1 << 15  # entries whose copies stay in the cache of a core

Read = Callable[[], np.ndarray]


def same_bits(a: Read, b: Read) -> bool:
    """Whether two arrays agree in shape, type and every bit.

    >>> same_bits(lambda: np.array([0.0]), lambda: np.array([-0.0]))
    False
    """
    if a().shape != b().shape or a().dtype != b().dtype:
        return False
    pairs = zip(_slices(a), _slices(b), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def same_values(a: Read, b: Read) -> bool:
    """Whether two arrays of one shape are equal once `b` is cast to the type of `a`.

    >>> same_values(lambda: np.array([0.0]), lambda: np.array([-0.0]))
    True
    """
    pairs = zip(_slices(a), _slices(b), strict=True)
    return all(np.array_equal(x, y.astype(x.dtype, copy=False)) for x, y in pairs)


def is_finite(a: Read) -> bool:
    """Whether no entry is NaN or infinite.

    >>> is_finite(lambda: np.array([1.0, np.inf]))
    False
    """
    return all(all_finite(x) for x in _slices(a))


def all_finite(x: np.ndarray) -> bool:
    """Whether no entry of one array `[n]` is NaN or infinite.

    >>> all_finite(np.array([1.0, np.nan]))
    False
    """
    if x.dtype.itemsize > 4 or x.dtype.kind in "biu":
        return bool(np.isfinite(x).all())
    found = (np.isfinite(x[part].astype(np.float32)) for part in blocks(x.size))
    return all(bool(each.all()) for each in found)


def chosen(where: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`np.where` for contiguous arrays of one type: ten times faster without a pattern.

    >>> chosen(np.array([True, False]), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([1., 4.])
    """
    whole = np.dtype(f"u{a.dtype.itemsize}")
    mask = -where.astype(whole)
    return ((a.view(whole) & mask) | (b.view(whole) & ~mask)).view(a.dtype)


def in_rows(
    entries: Callable[[slice], np.ndarray],
    shape: tuple[int, ...],
    index: tuple[slice, ...],
) -> np.ndarray:
    """Part of an array that is read in consecutive entries: whole rows, then cut.

    Args:
      entries: gives some of the array laid out flat.
      shape: of the array, of one axis or more.
      index: a slice for each axis, or for the first ones.

    >>> in_rows(np.arange(12).__getitem__, (4, 3), (slice(1, 3), slice(2, 3))).tolist()
    [[5], [8]]
    """
    rows, *inner = index or (slice(None),)
    start, stop, _ = rows.indices(shape[0])
    width = math.prod(shape[1:])
    found = entries(slice(start * width, stop * width))
    return found.reshape(stop - start, *shape[1:])[:, *inner]


def blocks(size: int) -> Iterator[slice]:
    """Parts of a flat array, short enough to be worked on without leaving the cache."""
    return (slice(i, min(i + BLOCK, size)) for i in range(0, size, BLOCK))


def sampled(size: int, part: slice) -> Iterator[slice]:
    """The blocks of an array that stand for it, as far as they lie in a part.

    Args:
      size: of the array; of a large one it is every eighth block, else all of them.
      part: any part of it.

    >>> list(sampled(10, slice(3, 7)))
    [slice(3, 7, None)]
    >>> parts = slice(0, 40_000), slice(40_000, 1 << 19)
    >>> [(x.start, x.stop) for part in parts for x in sampled(1 << 19, part)]
    [(0, 32768), (262144, 294912)]
    """
    step = BLOCK if size <= 8 * BLOCK else 8 * BLOCK
    for start in range(part.start // step * step, part.stop, step):
        first, stop = max(start, part.start), min(start + BLOCK, part.stop)
        if first < stop:
            yield slice(first, stop)


def fastest(run: Callable[[], Any], *, trials: int = 3) -> float:
    """Seconds of the fastest of some trials, after one to warm up."""
    run()
    return min(timeit.repeat(run, repeat=trials, number=1))


def _slices(a: Read) -> Iterator[np.ndarray]:
    return (a().reshape(-1)[i : i + SLICE] for i in range(0, a().size, SLICE))
