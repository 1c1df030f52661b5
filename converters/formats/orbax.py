"""What Orbax saved: a folder of arrays in the format Zarr, read and written in parts.

`_METADATA` lists the arrays by the keys that lead to them. The arrays are in folders of
their own or together in one database, which TensorStore opens either way.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.arrays import nested, spec_of
from mda_jax.converters.formats.dtypes import CODES, Spec, fits
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.files import new_folder


METADATA = "_METADATA"
LARGEST_METADATA = 1 << 27  # bytes
DENSEST = 1000  # bytes of arrays for each byte of files, beyond the first gibibyte
CHUNK = 1 << 22  # bytes that are read or written at once

_ARRAYS = ("jax.Array", "np.ndarray")  # kinds of values; others are plain
_HANDLER = (
    "orbax.checkpoint._src.handlers.standard_checkpoint_handler"
    ".StandardCheckpointHandler"
)


class Leaf:
    """One array, read as it is asked for."""

    def __init__(self, folder: Path, store: Any):
        self._folder, self._store = folder, store
        self.spec = Spec(tuple(store.shape), store.dtype.numpy_dtype)
        chunk = store.chunk_layout.read_chunk.shape or (1,)
        self._rows = max(1, chunk[0])

    def part(self, index: tuple[slice, ...]) -> np.ndarray:
        """A part of the array; only the chunks that hold it are read."""
        try:
            return self._store[index].read().result()
        except ValueError as e:
            _fail(self._folder, f"damaged data ({_short(e)})", "whole chunks")

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill an array with the entries from a byte on, laid out flat."""
        shape = self.spec.shape or (1,)
        width = max(1, math.prod(shape[1:]))  # of a row, in entries
        step = self._rows * width
        first = start // out.dtype.itemsize
        while out.size:
            stop = min(first - first % step + step, first + out.size)
            rows = slice(first // width, -(-stop // width))
            held = self.part((rows,)[: len(self.spec.shape)]).reshape(-1)
            begin = first - rows.start * width
            out[: stop - first] = held[begin : begin + stop - first]
            first, out = stop, out[stop - first :]

    def mapped(self, start: int, size: int, dtype: np.dtype) -> np.ndarray:
        """So many entries from a byte on, in memory of their own."""
        out = np.empty(size, dtype)
        self.read(start, out)
        out.flags.writeable = False
        return out


def arrays_in(path: Path) -> Path | None:
    """The folder with the arrays in what Orbax saved.

    Args:
      path: a folder: what a checkpointer saved; or that of a manager, of which the
        latest step is meant; or a step.

    Returns:
      The folder that has the metadata, or None if `path` is not of Orbax.

    Raises:
      FormatError: it has several trees of arrays.
    """
    if (path / METADATA).is_file():
        return path
    folders = sorted(child for child in path.iterdir() if child.is_dir())
    trees = [child for child in folders if (child / METADATA).is_file()]
    if len(trees) > 1:
        names = ", ".join(tree.name for tree in trees[:4])
        found = f"{len(trees)} trees of arrays: {names}"
        raise FormatError(path, found, "one", "Give the path of the one that you mean.")
    if trees:
        return trees[0]
    steps = [child for child in folders if child.name.isdecimal()]
    return arrays_in(max(steps, key=lambda step: int(step.name))) if steps else None


def leaves(folder: Path) -> dict[str, Leaf]:
    """The arrays of a folder; their data are not read.

    Args:
      folder: one that has the metadata.

    Returns:
      The keys that lead to it, joined by `/` -> array. Plain values are left out. The
      last key of all is left out if it is `value` for each, as in the state of NNX.

    Raises:
      FormatError: the folder is damaged, or has arrays of another type.
    """
    import tensorstore

    metadata = _metadata(folder)
    paths = list(_paths(folder, metadata))
    context = tensorstore.Context()
    opened = [
        tensorstore.open(_spec(folder, keys, metadata), read=True, context=context)
        for keys in paths
    ]
    inner = (
        -1 if paths and all(len(k) > 1 and k[-1] == "value" for k in paths) else None
    )
    found: dict[str, Leaf] = {}
    for keys, future in zip(paths, opened, strict=True):
        name = "/".join(keys[:inner])
        if name in found:
            _fail(folder, f"two arrays {name[:80]!a}", "names that differ")
        found[name] = _checked(folder, name, future)
    _check_density(folder, found.values())
    return found


def header_text(metadata: Path) -> bytes:
    """The bytes that decide names and places of the arrays."""
    database = metadata.with_name("manifest.ocdbt")
    return metadata.read_bytes() + (database.read_bytes() if database.exists() else b"")


def write_orbax(path: str | os.PathLike[str], tensors: Mapping[str, ArrayLike]) -> None:
    """Write a new folder that Orbax restores; one array is held at a time.

    It is that of `StandardCheckpointer`, with an array in a folder of its own. Arrays
    that are spread over processes are for Orbax itself to save.

    Args:
      path: a folder that does not exist yet.
      tensors: keys joined by `/` -> array.

    Raises:
      ValueError: a name leads to an array and to others, or a type is not known.
      FileExistsError: there is a folder already.
    """
    tree = {}
    nested(tensors)  # raises if they cannot be
    with new_folder(Path(path)) as folder:
        for name in tensors:
            keys = name.split("/")
            _store(folder / ".".join(keys), name, np.asarray(tensors[name]))
            tree[str(tuple(keys))] = {
                "key_metadata": [{"key": key, "key_type": 2} for key in keys],
                "value_metadata": {
                    "value_type": "np.ndarray",
                    "skip_deserialize": False,
                },
            }
        held = {
            "tree_metadata": tree,
            "use_ocdbt": False,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        (folder / METADATA).write_text(json.dumps(held))
        handler = json.dumps({"item_handlers": _HANDLER})
        (folder / "_CHECKPOINT_METADATA").write_text(handler)


def _store(place: Path, name: str, array: np.ndarray) -> None:
    import tensorstore

    spec = spec_of(array)
    if spec.dtype not in CODES or place.exists():
        raise ValueError(
            f"{name!r} of type {spec.dtype} cannot be stored; the format knows"
            f" {', '.join(map(str, CODES))}, each name once with dots for slashes."
            " Cast or rename it."
        )
    count, *inner = spec.shape or (1,)
    rows = max(1, min(count, CHUNK * count // max(1, spec.nbytes)))
    chunk = (rows, *(max(1, n) for n in inner))
    opened = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": os.path.abspath(place)},
            "metadata": {"compressor": {"id": "zstd", "level": 1}},
        },
        create=True,
        dtype=tensorstore.dtype(spec.dtype),
        shape=spec.shape,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=chunk[: array.ndim]),
    )
    store = opened.result()
    for first in range(0, count, rows):
        part = (slice(first, min(first + rows, count)),)[: array.ndim]
        store[part].write(array[part]).result()


def _metadata(folder: Path) -> dict[str, Any]:
    file = folder / METADATA
    if file.stat().st_size > LARGEST_METADATA:
        _fail(file, "too much metadata", f"at most {LARGEST_METADATA} bytes")
    try:
        held = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as e:
        _fail(file, f"no valid JSON ({_short(e)})", "a JSON object")
    if not isinstance(held, dict) or not isinstance(held.get("tree_metadata"), dict):
        _fail(file, "no tree_metadata", "a list of arrays")
    return held


def _paths(folder: Path, metadata: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each array."""
    for node in metadata["tree_metadata"].values():
        match node:
            case {"key_metadata": [*parts], "value_metadata": {"value_type": kind}}:
                if kind in _ARRAYS:
                    yield tuple(_key(folder, part) for part in parts)
            case _:
                _fail(folder, f"{_short(node)} in the metadata", "keys and a value")


def _key(folder: Path, part: Any) -> str:
    match part:
        case {"key": str(key)} if key:
            return key
    _fail(folder, f"the key {_short(part)}", "a name")


def _spec(
    folder: Path, keys: Sequence[str], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """What TensorStore is to open."""
    name, place = ".".join(keys), os.path.abspath(folder)
    files = {"driver": "file", "path": f"{place}/"}
    store: dict[str, Any]
    if not (folder / "manifest.ocdbt").exists():
        if "/" in name:
            _fail(folder, f"the name {name[:80]!a}", "no slash in it")
        store = files | {"path": f"{place}/{name}/"}
    else:
        store = {"driver": "ocdbt", "base": files, "path": f"{name}/"}
    return {
        "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
        "kvstore": store,
        "fill_missing_data_reads": not metadata.get(
            "store_array_data_equal_to_fill_value"
        ),
    }


def _checked(folder: Path, name: str, future: Any) -> Leaf:
    """An array whose type is known, in chunks that are no larger than itself."""
    try:
        store = future.result()
    except ValueError as e:
        _fail(folder, f"no array {name[:80]!a} ({_short(e)})", "one")
    shape = store.shape
    chunk = store.chunk_layout.read_chunk.shape or shape
    if not fits(shape) or any(c > max(1, n) for c, n in zip(chunk, shape, strict=True)):
        found = f"{name[:80]!a} of shape {shape} in chunks of {chunk}"
        _fail(folder, found, "chunks within the array, of < 2**59 entries")
    if store.dtype.numpy_dtype not in CODES:
        types = ", ".join(map(str, CODES))
        _fail(folder, f"{name[:80]!a} of type {store.dtype.name}", f"one of {types}")
    return Leaf(folder, store)


def _check_density(folder: Path, arrays: Iterable[Leaf]) -> None:
    """Refuse arrays that would take far more memory than their files."""
    size = sum(leaf.spec.nbytes for leaf in arrays)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > DENSEST * max(held, 1 << 20):
        _fail(folder, f"{size} bytes in {held}", f"at most {DENSEST} times as many")


def _short(value: object) -> str:
    return ascii(str(value))[:200]


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, "Save the checkpoint again with Orbax.")
