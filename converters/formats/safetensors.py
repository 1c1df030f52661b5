"""Lazy reading of a safetensors file, or of a folder of them."""

import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mda_jax.converters.formats.dtypes import Spec
from mda_jax.converters.formats.header import Entry
from mda_jax.converters.formats.shards import shards


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name; data is read when an array is used.

    Every access gives a fresh read-only array over the mapped file. Its pages leave
    memory when the array is dropped, so that reading a whole model tensor by tensor
    needs the memory of one tensor.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.metadata: dict[str, str] = {}
        self._where: dict[str, tuple[_Mapped, Entry]] = {}
        for file, header in shards(self.path).items():
            self.metadata |= header.metadata
            mapped = _Mapped(file)
            self._where |= {n: (mapped, e) for n, e in header.entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        mapped, entry = self._where[name]
        return mapped.array(entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __repr__(self) -> str:
        return f"Tensors({os.fspath(self.path)!r}, {len(self)} tensors)"

    def spec(self, name: str) -> Spec:
        """Shape and element type of one tensor, without touching its data."""
        return self._where[name][1].spec


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Open a safetensors file or a Hugging Face folder; reads the headers only.

    Args:
      path: a file, or a folder with `model.safetensors`, or shards with their
        `*.safetensors.index.json`, or a single other `*.safetensors`.

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


class _Mapped:
    """One file, mapped once; arrays over it give their pages back when they die."""

    def __init__(self, file: Path):
        with file.open("rb") as opened:
            self.memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, entry: Entry) -> np.ndarray:
        """The array of one tensor; the file stays mapped as long as it lives."""
        (shape, dtype), start = entry
        array = np.ndarray(shape, dtype, buffer=self.memory, offset=start)
        first = start - start % mmap.PAGESIZE
        length = start + array.nbytes - first
        if array.nbytes and hasattr(self.memory, "madvise"):
            release = (mmap.MADV_DONTNEED, first, length)
            weakref.finalize(array, self.memory.madvise, *release).atexit = False
        return array
