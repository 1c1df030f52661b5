"""The element types of safetensors and their NumPy counterparts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np


class Spec(NamedTuple):
    """Shape and element type of a tensor, known without touching its data."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.dtype.itemsize


def are_sizes(values: Sequence[object]) -> bool:
    """Whether all are integers that count or place something in a file."""
    return all(type(n) is int and 0 <= n < 2**63 for n in values)


def fits(shape: Sequence[int]) -> bool:
    """Whether NumPy can address the shape: few axes, and sizes that do not overflow."""
    return len(shape) <= 64 and math.prod(max(n, 1) for n in shape) < 2**59


# From narrow to wide, in the order that the format ranks them: files store the
# highest rank first, so that every tensor is aligned.
NUMPY = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
CODES = {dtype: code for code, dtype in NUMPY.items()}
RANK = {dtype: rank for rank, dtype in enumerate(NUMPY.values())}

# Several entries share a byte here, which no NumPy type can express.
PACKED = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
