"""Arrays on their way into a file."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.dtypes import Spec


@runtime_checkable
class InParts(Protocol):
    """Tensors by name of which a part can be read alone."""

    def spec(self, name: str) -> Spec:
        """Shape and element type of one tensor."""

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of one tensor: a slice for each axis, or for the first ones."""


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


def nested(names: Iterable[str]) -> dict[str, Any]:
    """Names that are keys joined by `/`, as dictionaries inside each other.

    Raises:
      ValueError: a name is the beginning of another.

    >>> nested(["a/b", "c", "a/d"])
    {'a': {'b': 'a/b', 'd': 'a/d'}, 'c': 'c'}
    """
    tree: dict[str, Any] = {}
    for name in names:
        *keys, last = name.split("/")
        node = tree
        for key in keys:
            node = node.setdefault(key, {})
            if isinstance(node, str):
                raise ValueError(f"{node!r} is a tensor, and so is {name!r} below it.")
        if last in node:
            raise ValueError(f"{name!r} is a tensor, and so are others below it.")
        node[last] = name
    return tree
