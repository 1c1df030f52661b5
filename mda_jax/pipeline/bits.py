"""Looking through big arrays a slice at a time, to spare memory.

Arrays come as functions that give them: each slice is taken from a fresh array, whose
pages leave memory with it if it is mapped from a file.
"""

from collections.abc import Callable, Iterator

import numpy as np


SLICE = 1 << 20  # entries

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
    return all(bool(np.isfinite(x).all()) for x in _slices(a))


def _slices(a: Read) -> Iterator[np.ndarray]:
    return (a().reshape(-1)[i : i + SLICE] for i in range(0, a().size, SLICE))
