"""Lazy reading of a checkpoint: a file, or a folder of them."""

import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mda_jax.converters.formats import orbax
from mda_jax.converters.formats.dtypes import Spec
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.header import Entry
from mda_jax.converters.formats.shards import located, shards


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name; data is read when an array is used.

    Every access maps that part of the file alone, and gives a read-only array over it.
    The mapping ends when the array is dropped, so that reading a whole model tensor by
    tensor needs the memory, and the address space, of one tensor. One that the file
    has in another order than row-major is not reordered: its array has strides. One
    that it has in pieces is copied.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self.files: list[Path] = []
        self._where: dict[str, tuple[_File | orbax.Leaf, Entry]] = {}
        if (folder := _of_orbax(self.path)) is not None:
            self.files.append(folder / orbax.METADATA)
            held = orbax.leaves(folder)
            self._where |= {n: (leaf, Entry(leaf.spec, 0)) for n, leaf in held.items()}
            return
        for file, header in shards(self.path).items():
            self.files.append(file)
            self.metadata |= header.metadata
            opened = _File(file)
            self._where |= {n: (opened, e) for n, e in header.entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        file, entry = self._where[name]
        (shape, dtype), start, strides, jumps = entry
        if jumps:
            return self.entries(name, slice(None)).reshape(shape)
        flat = file.mapped(start, entry.span, dtype)
        if strides is None:
            return flat.reshape(shape)
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ndarray(shape, dtype, flat.view(np.uint8), strides=steps)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"Tensors({os.fspath(self.path)!r}, {len(self)} tensors)"

    def spec(self, name: str) -> Spec:
        """Shape and element type of one tensor, without touching its data."""
        return self._where[name][1].spec

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of one tensor, of which little else is read.

        Args:
          name: of the tensor.
          index: a slice for each axis, or for the first ones.
        """
        source, _ = self._where[name]
        if isinstance(source, orbax.Leaf):
            return source.part(index)
        return self[name][index]

    @property
    def ties(self) -> dict[str, str]:
        """Tensors that are the same data under another name -> the first such name."""
        first: dict[tuple[_File | orbax.Leaf, Entry], str] = {}
        held = {name: at for name, at in self._where.items() if at[1].spec.size}
        named = {name: first.setdefault(at, name) for name, at in held.items()}
        return {name: other for name, other in named.items() if other != name}

    def entries(self, name: str, part: slice) -> np.ndarray:
        """Consecutive entries of one tensor laid out flat, in memory of their own."""
        _, entry = self._where[name]
        first, stop, _ = part.indices(entry.spec.size)
        if entry.strides is not None:
            entries = self[name].flat[first:stop]
        else:
            entries = np.empty(stop - first, entry.spec.dtype)
            self.fill(name, first, entries)
        entries.flags.writeable = False
        return entries

    def fill(self, name: str, first: int, out: np.ndarray) -> None:
        """Read as many entries as an array takes, from one on, and cast them to it.

        Args:
          name: of the tensor.
          first: place of the first entry, laid out flat.
          out: contiguous, `[n]`; `first + n` is at most the tensor's size.
        """
        file, entry = self._where[name]
        if entry.strides is None and out.dtype == entry.spec.dtype:
            for start, count in entry.pieces(first, first + out.size):
                file.read(start, out[:count])
                out = out[count:]
        else:
            out[...] = self.entries(name, slice(first, first + out.size))


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Open a checkpoint: safetensors, PyTorch's, Flax's, `.npz` or Orbax's.

    Only the headers are read. Of PyTorch's files no code is run: only tensors and plain
    values are read, and of a training checkpoint the one dictionary that holds tensors
    by name.

    Args:
      path: a file (`.bin`, `.pt`, `.pth` and `.ckpt` are PyTorch's), an index, or a
        folder with `model.safetensors`, or shards with their
        `*.safetensors.index.json`, or a single other `*.safetensors`; else with
        `pytorch_model.bin` and so on, or with one `.npz`, or `flax_model.msgpack`;
        else one by Orbax, of whose steps the latest is read.

    Returns:
      A mapping name -> read-only array, with `.spec(name)`.

    Raises:
      FormatError: there is no such checkpoint, or a file is damaged.

    >>> import tempfile
    >>> from mda_jax.converters.formats import write_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_folder(folder, {"w": np.array([1.0, 2.0], np.float32)})
    ...     tensors = open_tensors(folder)
    ...     tensors.spec("w").shape, tensors["w"].tolist()
    ((2,), [1.0, 2.0])
    """
    return Tensors(path)


def _of_orbax(path: Path) -> Path | None:
    """The folder of Orbax that is meant by a path, unless this has weights itself."""
    if not path.is_dir() or located(path) is not None:
        return None
    return orbax.arrays_in(path)


class _File:
    """One file, open for reading as long as it is used."""

    def __init__(self, file: Path):
        self._path = file
        self._descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor).atexit = False

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill a contiguous array with the bytes from one on."""
        left = out.view(np.uint8).data
        while left:
            done = os.preadv(self._descriptor, [left], start)
            if not done:
                raise FormatError(
                    self._path,
                    "the end of the file",
                    f"data up to byte {start + len(left)}",
                    "It was cut while it was open; fetch it again.",
                )
            left, start = left[done:], start + done

    def mapped(self, start: int, size: int, dtype: np.dtype) -> np.ndarray:
        """So many entries from a byte on; mapped as long as the array lives."""
        first = start - start % mmap.ALLOCATIONGRANULARITY
        length = start - first + size * dtype.itemsize
        if not size:
            return np.empty(0, dtype)
        window = mmap.mmap(
            self._descriptor,
            length,
            flags=mmap.MAP_SHARED,
            prot=mmap.PROT_READ,
            offset=first,
        )
        return np.ndarray((size,), dtype, buffer=window, offset=start - first)
