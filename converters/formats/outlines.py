"""The outline of a file: all of it but the numbers, from which it is written again.

Two files with the same tensors may differ: in the order of their headers, in padding,
in metadata, in how storages are shared. A file written from an outline and the arrays
is the first file, byte for byte.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.archive import renew_checksums
from mda_jax.converters.formats.arrays import row_major_bytes, spec_of, specs_of
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.files import new_file
from mda_jax.converters.formats.header import Entry
from mda_jax.converters.formats.shards import ARCHIVES, format_of


LARGEST_OUTLINE = 1 << 28  # bytes


def outline(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe all of a file but the numbers of its tensors.

    Args:
      path: a file that `open_tensors` reads, no index or folder.

    Returns:
      A description that JSON can hold: `size`, of the file in bytes, and `kept`, pairs
      of an offset and the bytes from there on, a character for each.

    Raises:
      FormatError: the file is damaged, or most of it belongs to no tensor.
    """
    source = Path(path)
    entries = _entries(source)
    size = source.stat().st_size
    holes = list(_between(entries.values(), size))
    if (total := sum(stop - start for start, stop in holes)) > LARGEST_OUTLINE:
        raise FormatError(
            source,
            f"{total} bytes outside of its tensors",
            f"at most {LARGEST_OUTLINE}",
            "Save its tensors again, without what they are a part of.",
        )
    with source.open("rb") as file:
        kept = [
            [start, _read(file, start, stop - start).decode("latin-1")]
            for start, stop in holes
        ]
    return {"size": size, "kept": kept}


def write_outlined(
    path: str | os.PathLike[str],
    outline: Mapping[str, Any],
    tensors: Mapping[str, ArrayLike],
) -> None:
    """Write a file from its outline and its tensors.

    Args:
      path: a file that does not exist yet, of the same suffix as the first.
      outline: what `outline` gave.
      tensors: name -> array, all of those that the first file had. Each is asked for
        when it is written, and once more if it shares numbers with another.

    Raises:
      ValueError: other names, shapes or types; or tensors differ that share numbers.
      FormatError: the outline is not one of such a file.
      FileExistsError: there is a file already.
    """
    _check(Path(path), outline, tensors)
    with new_file(Path(path)) as file:
        file.truncate(outline["size"])
        for start, text in outline["kept"]:
            _write(file, start, text.encode("latin-1"))
        file.flush()
        part = Path(file.name)
        entries = _entries(part)
        if odd := sorted(entries.keys() ^ tensors.keys()):
            one, other = "the outline", "the tensors"
            if odd[0] not in entries:
                one, other = other, one
            raise ValueError(f"{path}: {odd[0]!r} is in {one}, but not in {other}.")
        for name, entry in entries.items():
            _write(file, entry.start, _span(file, name, entry, tensors[name]))
        for name in _sharing(entries):
            if _held(file, entries[name]) != row_major_bytes(tensors[name]):
                raise ValueError(
                    f"{path}: {name!r} shares numbers with others in the outline, but"
                    " differs from them. Write it with a writer of its format."
                )
        file.flush()
        if format_of(part) in ARCHIVES:
            renew_checksums(part)


def _check(
    path: Path, outline: Mapping[str, Any], tensors: Mapping[str, ArrayLike]
) -> None:
    """Raise if an outline asks for more room than its bytes and the tensors need."""
    size, kept = outline["size"], outline["kept"]
    held = sum(spec.nbytes for spec in specs_of(tensors).values())
    fits = 0 <= size <= held + sum(len(text) for _, text in kept)
    inside = all(0 <= start <= size - len(text) for start, text in kept)
    if not (fits and inside):
        found = f"an outline of {size} bytes"
        advice = "Write the tensors without it, with a writer of the format."
        raise FormatError(path, found, "those of its pieces and tensors", advice)


def _entries(path: Path) -> dict[str, Entry]:
    """The tensors of a file, none of which is in pieces."""
    entries = format_of(path).read_header(path).entries
    if pieces := [name for name, entry in entries.items() if entry.jumps]:
        advice = "Write the file with write_msgpack."
        raise FormatError(path, f"{pieces[0]!a} in pieces", "whole tensors", advice)
    return entries


def _between(entries: Iterable[Entry], size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file, from and up to a byte, where no whole tensor is."""
    end = 0
    whole = [(e.start, e.start + _nbytes(e)) for e in entries if _is_whole(e)]
    for start, stop in [*sorted(whole), (size, size)]:
        if start > end:
            yield end, start
        end = max(end, stop)


def _is_whole(entry: Entry) -> bool:
    """Whether the tensor has every entry of its span once, in any order."""
    if entry.strides is None:
        return True
    pairs = zip(entry.strides, entry.spec.shape, strict=True)
    axes = sorted((stride, n) for stride, n in pairs if n > 1)
    return all(
        stride == math.prod(n for _, n in axes[:place])
        for place, (stride, _) in enumerate(axes)
    )


def _sharing(entries: Mapping[str, Entry]) -> set[str]:
    """The tensors that share bytes with others, or with themselves."""
    shared = {name for name, entry in entries.items() if not _is_whole(entry)}
    last, end = "", 0  # the one that reaches furthest so far, and how far
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        stop = entry.start + _nbytes(entry)
        if entry.start < min(stop, end):
            shared |= {last, name}
        if stop > end:
            last, end = name, stop
    return shared


def _nbytes(entry: Entry) -> int:
    """Bytes from the first of the tensor in the file to the last."""
    return entry.span * entry.spec.dtype.itemsize


def _span(file: BinaryIO, name: str, entry: Entry, array: ArrayLike) -> memoryview:
    """The bytes of the file from the first of the tensor to the last."""
    if (got := spec_of(array)) != entry.spec:
        raise ValueError(
            f"write_outlined: {name!r} is {got.dtype} of shape {got.shape}, but the"
            f" outline has {entry.spec.dtype} of shape {entry.spec.shape}."
        )
    if entry.strides is None:
        return row_major_bytes(array)
    span = bytearray(_read(file, entry.start, _nbytes(entry)))
    _view(span, entry)[...] = array
    return memoryview(span)


def _held(file: BinaryIO, entry: Entry) -> bytes:
    """What the file has of the tensor, in row-major order."""
    return _view(_read(file, entry.start, _nbytes(entry)), entry).tobytes()


def _view(span: bytes | bytearray, entry: Entry) -> np.ndarray:
    """The tensor within the bytes from its first to its last."""
    (shape, dtype), _, strides, _ = entry
    steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, span, strides=steps)


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _write(file: BinaryIO, start: int, data: bytes | memoryview) -> None:
    file.seek(start)
    file.write(data)
