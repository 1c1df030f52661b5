"""Writing safetensors: headers first, then tensors in any order at their offsets."""

import json
import os
from collections.abc import Collection, Container, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.arrays import row_major_bytes, spec_of, specs_of
from mda_jax.converters.formats.dtypes import CODES, Spec
from mda_jax.converters.formats.header import Header, layout
from mda_jax.converters.formats.shards import INDEX, SINGLE


SHARD_SIZE = 5_000_000_000
METADATA = {"format": "pt"}  # readers refuse or warn without it


class SafetensorsWriter:
    """A checkpoint folder being written; no tensor needs to be held in memory.

    All shapes and types are stated first, which fixes the place of each tensor; the
    data may then come in any order. `close` refuses an incomplete checkpoint.
    Existing files are never touched.

    >>> import tempfile
    >>> from mda_jax.converters.formats import open_tensors
    >>> spec = Spec((2,), np.dtype(np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SafetensorsWriter(folder, {"a": spec, "b": spec}) as writer:
    ...         writer.write("b", np.zeros(2, np.float32))
    ...         writer.write("a", np.ones(2, np.float32))
    ...     open_tensors(folder)["a"].tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        specs: Mapping[str, Spec],
        *,
        shard_size: int = SHARD_SIZE,
        metadata: Mapping[str, str] = METADATA,
        finished: Container[str] = (),
    ):
        """Create the files and write their headers.

        Args:
          folder: an existing folder without these files.
          specs: name -> shape and element type, in the order of the shards.
          shard_size: bytes of data per file; a larger tensor gets its own file.
          metadata: free text for the headers.
          finished: names of files that are there already, and stay as they are.

        Raises:
          ValueError: an element type or a name that the format cannot store.
          FileExistsError: another file is there already.
        """
        files = split(specs, shard_size)
        self.folder = Path(folder)
        self._files: list[_File] = []
        with ExitStack() as undo:
            undo.callback(self.abandon)
            for file, held in files.items():
                if file not in finished:
                    self._files.append(_File(self.folder / file, held, metadata))
            if len(files) > 1 and INDEX not in finished:
                self._write_index(specs, files)
            undo.pop_all()
        self._place = {n: file for file in self._files for n in file.missing}

    @property
    def files(self) -> dict[str, list[str]]:
        """The tensors of every file."""
        return {f.path.name: list(f.header.entries) for f in self._files}

    def write(self, name: str, array: ArrayLike) -> None:
        """Write one tensor.

        Args:
          name: one of the names stated at the start, not yet written.
          array: of the stated shape and type, in any memory order.

        Raises:
          ValueError: unknown or already written name; another shape or type.
        """
        self._file(name).write(name, array)

    def write_part(self, name: str, entries: np.ndarray) -> None:
        """Write the next entries of one tensor.

        Args:
          name: one of the names stated at the start, not yet complete.
          entries: `[n]`, in row-major order, of the stated type.

        Raises:
          ValueError: unknown name, too many entries, another type.
        """
        self._file(name).write_part(name, entries)

    def flush(self, file: str) -> None:
        """Make the data of one file last.

        Raises:
          ValueError: one of its tensors is not complete.
        """
        (one,) = (each for each in self._files if each.path.name == file)
        _check_complete(self.folder, one.missing)
        one.flush()

    def _file(self, name: str) -> "_File":
        if name not in self._place:
            raise ValueError(
                f"{self.folder}: {name!r} was not announced to the writer."
            )
        return self._place[name]

    def close(self) -> None:
        """Flush the files to disk.

        Raises:
          ValueError: a tensor is not complete.
        """
        try:
            _check_complete(self.folder, [n for f in self._files for n in f.missing])
            for file in self._files:
                file.flush()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files, complete or not."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "SafetensorsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close() if error is None else self.abandon()

    def _write_index(
        self, specs: Mapping[str, Spec], files: Mapping[str, Mapping[str, Spec]]
    ) -> None:
        index = {
            "metadata": {
                "total_parameters": sum(s.size for s in specs.values()),
                "total_size": sum(s.nbytes for s in specs.values()),
            },
            "weight_map": {n: file for file, held in files.items() for n in held},
        }
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        with (self.folder / INDEX).open("x", encoding="utf-8") as file:
            file.write(text)


def split(specs: Mapping[str, Spec], shard_size: int) -> dict[str, dict[str, Spec]]:
    """Distribute tensors over files, filling each in turn.

    Args:
      specs: name -> spec, in order.
      shard_size: bytes of data per file, >= 1; a larger tensor gets its own file.

    Returns:
      File name -> its tensors, named as Hugging Face does.
    """
    files: list[dict[str, Spec]] = []
    current: dict[str, Spec] = {}
    held = 0
    for name, spec in specs.items():
        if spec.nbytes > shard_size:
            files.append({name: spec})
            continue
        if held + spec.nbytes > shard_size:
            files.append(current)
            current, held = {}, 0
        current[name] = spec
        held += spec.nbytes
    if current or not files:
        files.append(current)
    if len(files) == 1:
        return {SINGLE: files[0]}
    total = len(files)
    return {
        f"model-{i:05d}-of-{total:05d}.safetensors": tensors
        for i, tensors in enumerate(files, start=1)
    }


def write_folder(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike],
    *,
    shard_size: int = SHARD_SIZE,
) -> None:
    """Write a whole checkpoint into an existing folder.

    Args:
      folder: an existing folder without weight files.
      tensors: name -> array, in any memory order.
      shard_size: bytes of data per file.
    """
    specs = specs_of(tensors)
    with SafetensorsWriter(folder, specs, shard_size=shard_size) as writer:
        for name in tensors:
            writer.write(name, tensors[name])


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike],
    *,
    metadata: Mapping[str, str] = METADATA,
) -> None:
    """Write one new safetensors file.

    Args:
      path: a file that does not exist yet.
      tensors: name -> array, in any memory order.
      metadata: free text for the header.
    """
    specs = specs_of(tensors)
    file = _File(Path(path), specs, metadata)
    with closing(file):
        for name in tensors:
            file.write(name, tensors[name])
        file.flush()


class _File:
    """One file being written."""

    def __init__(
        self, path: Path, specs: Mapping[str, Spec], metadata: Mapping[str, str]
    ):
        for name, spec in specs.items():
            if spec.dtype not in CODES or name == "__metadata__":
                raise ValueError(
                    f"{path}: {name!r} of type {spec.dtype} cannot be stored; the"
                    f" format knows {', '.join(map(str, CODES))}. Cast or rename it."
                )
        head, header = layout(specs, metadata)
        self.path = path
        self.header: Header = header
        self.missing = {name: spec.size for name, spec in specs.items()}
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._put(memoryview(head), 0)

    def write(self, name: str, array: ArrayLike) -> None:
        spec, start, *_ = self.header.entries[name]
        self._check(name, spec_of(array), spec)
        del self.missing[name]
        self._put(row_major_bytes(array), start)

    def write_part(self, name: str, entries: np.ndarray) -> None:
        spec, start, *_ = self.header.entries[name]
        left = self.missing.get(name, 0)
        size = min(entries.size, left)
        self._check(name, spec_of(entries), Spec((size,), spec.dtype))
        done = (spec.size - left) * spec.dtype.itemsize
        self._put(row_major_bytes(entries), start + done)
        self.missing[name] = left - size
        if left == size:
            del self.missing[name]

    def _check(self, name: str, got: Spec, announced: Spec) -> None:
        if name not in self.missing:
            raise ValueError(f"{self.path}: {name!r} was written already.")
        if got != announced:
            raise ValueError(
                f"{self.path}: {name!r} is {got.dtype} of shape {got.shape}, but"
                f" {announced.dtype} of shape {announced.shape} was announced."
            )

    def flush(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            try:
                done = os.pwrite(self._descriptor, data, offset)
            except OSError as e:
                e.filename = self.path
                raise
            data, offset = data[done:], offset + done


def _check_complete(folder: Path, missing: Collection[str]) -> None:
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} tensors were never written,"
            f" {min(missing)!r} first; the checkpoint is incomplete."
        )
