"""Arrays on their way into a file."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.dtypes import Spec


def spec_of(array: ArrayLike) -> Spec:
    """Shape and element type, in the byte order of files."""
    return Spec(np.shape(array), np.asarray(array).dtype.newbyteorder("<"))


def specs_of(tensors: Mapping[str, ArrayLike]) -> dict[str, Spec]:
    """Those of every tensor; by the mapping's own `spec(name)` if it has this."""
    known = getattr(tensors, "spec", None)
    if known is not None:
        return {name: known(name) for name in tensors}
    return {name: spec_of(array) for name, array in tensors.items()}


def row_major_bytes(array: ArrayLike) -> memoryview:
    """The bytes as files want them: C order, little-endian."""
    rows = np.ascontiguousarray(array).astype(spec_of(array).dtype, copy=False)
    return rows.reshape(-1).view(np.uint8).data
