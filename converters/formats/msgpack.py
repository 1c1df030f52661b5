"""Flax's own files, read where they lie and written leaf by leaf.

`flax.serialization` packs nested dictionaries of arrays with MessagePack. An array is
an extension that holds its shape, the name of its type and its numbers; one of more
than a gibibyte is a dictionary of pieces.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.arrays import nested, row_major_bytes, spec_of
from mda_jax.converters.formats.dtypes import CODES, Spec, are_sizes, fits
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.files import new_file
from mda_jax.converters.formats.header import Entry, Header


LARGEST_PIECE = 1 << 30  # bytes of one array; a larger one is written in pieces
DEEPEST = 64  # dictionaries inside each other
MOST = 1_000_000  # values of a file

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # extensions
_TRUE = b"\xc3"
_PIECES = "__msgpack_chunked_array__"
_TYPES = {dtype.name: dtype for dtype in CODES}
_AGAIN = "Download the file again, or save it again with flax.serialization."


@dataclass(frozen=True)
class _Map:
    count: int


@dataclass(frozen=True)
class _List:
    count: int


@dataclass(frozen=True)
class _Text:
    size: int


@dataclass(frozen=True)
class _Bytes:
    size: int


@dataclass(frozen=True)
class _Extension:
    size: int


@dataclass(frozen=True)
class _Plain:
    value: Any


# First byte -> what it starts, and how the number is written that follows.
_SIZED: dict[int, tuple[type[Any], str]] = {
    0xC4: (_Bytes, ">B"),
    0xC5: (_Bytes, ">H"),
    0xC6: (_Bytes, ">L"),
    0xC7: (_Extension, ">B"),
    0xC8: (_Extension, ">H"),
    0xC9: (_Extension, ">L"),
    0xCC: (_Plain, ">B"),
    0xCD: (_Plain, ">H"),
    0xCE: (_Plain, ">L"),
    0xCF: (_Plain, ">Q"),
    0xCA: (_Plain, ">f"),
    0xCB: (_Plain, ">d"),
    0xD0: (_Plain, ">b"),
    0xD1: (_Plain, ">h"),
    0xD2: (_Plain, ">l"),
    0xD3: (_Plain, ">q"),
    0xD9: (_Text, ">B"),
    0xDA: (_Text, ">H"),
    0xDB: (_Text, ">L"),
    0xDC: (_List, ">H"),
    0xDD: (_List, ">L"),
    0xDE: (_Map, ">H"),
    0xDF: (_Map, ">L"),
}
_Token = _Map | _List | _Text | _Bytes | _Extension | _Plain
_SHORT: Mapping[int, _Token] = (
    {n: _Plain(n) for n in range(0x80)}
    | {0x80 + n: _Map(n) for n in range(16)}
    | {0x90 + n: _List(n) for n in range(16)}
    | {0xA0 + n: _Text(n) for n in range(32)}
    | {0xC0: _Plain(None), 0xC2: _Plain(False), 0xC3: _Plain(True)}
    | {0xD4 + n: _Extension(1 << n) for n in range(5)}
    | {0xE0 + n: _Plain(n - 32) for n in range(32)}
)

_SHORTEST = {token: first for first, token in sorted(_SHORT.items(), reverse=True)}


def read_header(path: Path) -> Header:
    """Read and check what one file holds, without its data.

    Args:
      path: a file by `flax.serialization`.

    Returns:
      Its arrays, under the keys that lead to them, joined by `/`. Plain values are left
      out.

    Raises:
      FormatError: it is another format, damaged, or has more than arrays and values.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        tree = _Reader(path, file).read()
    entries: dict[str, Entry] = {}
    for name, entry in _leaves(tree, ()):
        if name in entries:
            _fail(path, f"two arrays {name!a}", "names that differ")
        entries[name] = entry
    return Header(entries, {})


def header_text(path: Path) -> bytes:
    """The names, types, shapes and places of the arrays, as text."""
    return repr(read_header(path).entries).encode()


def _leaves(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Entry]]:
    if isinstance(tree, Entry):
        yield "/".join(keys), tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*keys, key))


def _list(items: Any) -> list[Any]:
    """What a list is that was written as a dictionary of numbered values."""
    named = items if isinstance(items, dict) else {}
    return [named.get(str(i)) for i in range(len(named))]


class _Reader:
    """A file that is walked through; numbers are skipped."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._end = path.stat().st_size
        self._values = 0

    def read(self) -> dict[str, Any]:
        """The dictionary that the file is."""
        tree = self._value(DEEPEST)
        if not isinstance(tree, dict):
            _fail(self._path, f"a {type(tree).__name__}", "a dictionary of arrays")
        if (rest := self._end - self._file.tell()) != 0:
            _fail(self._path, f"{rest} bytes after the end", "none")
        return tree

    def _value(self, deeper: int) -> Any:
        """A dictionary, the place of an array, or a plain value."""
        self._values += 1
        if self._values > MOST or not deeper:
            found = "too many values" if deeper else "dictionaries inside each other"
            _fail(self._path, found, f"at most {MOST}, {DEEPEST} deep")
        match self._token():
            case _Map(count):
                return self._whole(self._items(count, deeper))
            case _List(count):
                return {str(i): self._value(deeper - 1) for i in range(count)}
            case _Extension(size):
                return self._extension(size)
            case _Text(size) | _Bytes(size):
                self._skip(size)
                return None
            case _Plain(value):
                return value

    def _items(self, count: int, deeper: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for _ in range(count):
            key = self._key()
            if key in items:
                _fail(self._path, f"two keys {key[:80]!a}", "keys that differ")
            items[key] = self._value(deeper - 1)
        return items

    def _key(self) -> str:
        match self._token():
            case _Text(size):
                return self._text(size)
            case _Plain(int(value)) if value is not True and value is not False:
                return str(value)
        _fail(self._path, "a key that is no text", "names")

    def _extension(self, size: int) -> Entry | None:
        code = self._number(">b")
        end = self._file.tell() + size
        if code not in (_ARRAY, _COMPLEX, _SCALAR):
            _fail(self._path, f"an extension of type {code}", "arrays and numbers")
        if code == _COMPLEX:
            self._skip(size)
            return None
        entry = self._array()
        if self._file.tell() != end:
            _fail(self._path, f"an array up to byte {self._file.tell()}", f"{end}")
        return entry

    def _array(self) -> Entry:
        """Where the numbers of an array are, which are skipped."""
        if self._token() != _List(3):
            _fail(self._path, "an array of other parts", "shape, type and numbers")
        shape = self._shape()
        match self._token():
            case _Text(size) | _Bytes(size):
                name = self._text(size)
            case _:
                _fail(self._path, "an array without a type", "its name")
        match self._token():
            case _Text(size) | _Bytes(size):
                start = self._file.tell()
                self._skip(size)
            case _:
                _fail(self._path, "an array without numbers", "its bytes")
        if name not in _TYPES:
            types = ", ".join(_TYPES)
            _fail(self._path, f"an array of type {name[:80]!a}", f"one of {types}")
        spec = Spec(shape, _TYPES[name])
        if spec.nbytes != size:
            found = f"{size} bytes for {name} of shape {shape}"
            _fail(self._path, found, f"{spec.nbytes}")
        return Entry(spec, start)

    def _shape(self) -> tuple[int, ...]:
        match self._token():
            case _List(count) if count <= 64:
                return self._checked_shape([self._size() for _ in range(count)])
        _fail(self._path, "an array without a shape", "at most 64 sizes")

    def _size(self) -> Any:
        match self._token():
            case _Plain(value):
                return value
        _fail(self._path, "a shape of other than numbers", "sizes")

    def _checked_shape(self, sizes: Sequence[Any]) -> tuple[int, ...]:
        if not are_sizes(sizes) or not fits(sizes):
            found = f"the shape {ascii(sizes)[:80]}"
            _fail(self._path, found, "at most 64 sizes >= 0 of < 2**59 entries")
        return tuple(sizes)

    def _whole(self, items: dict[str, Any]) -> dict[str, Any] | Entry:
        """The dictionary, or the one array of whose pieces it is."""
        if _PIECES not in items:
            return items
        sizes, pieces = (_list(items.get(key)) for key in ("shape", "chunks"))
        shape = self._checked_shape(sizes)
        flat = all(isinstance(e, Entry) and len(e.spec.shape) == 1 for e in pieces)
        if not flat or len({each.spec.dtype for each in pieces}) != 1:
            _fail(self._path, "an array in odd pieces", "flat ones of one type")
        *begins, size = accumulate((each.spec.size for each in pieces), initial=0)
        spec = Spec(shape, pieces[0].spec.dtype)
        if spec.size != size:
            _fail(self._path, f"{size} entries of shape {shape}", f"{spec.size}")
        jumps = zip(begins[1:], (each.start for each in pieces[1:]), strict=True)
        return Entry(spec, pieces[0].start, jumps=tuple(jumps))

    def _token(self) -> _Token:
        first = self._number("B")
        if first in _SHORT:
            return _SHORT[first]
        if first not in _SIZED:
            _fail(self._path, f"the byte {first:#x}", "a value")
        kind, layout = _SIZED[first]
        return kind(self._number(layout))

    def _text(self, size: int) -> str:
        held = self._bytes(size)
        try:
            return held.decode()
        except UnicodeDecodeError:
            _fail(self._path, f"the name {held[:80]!r}", "UTF-8")

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def _bytes(self, size: int) -> bytes:
        self._check(size)
        return self._file.read(size)

    def _skip(self, size: int) -> None:
        self._check(size)
        self._file.seek(size, 1)

    def _check(self, size: int) -> None:
        at = self._file.tell()
        if size > self._end - at:
            _fail(self._path, f"{size} bytes at {at} of {self._end}", "the whole file")


def write_msgpack(
    path: str | os.PathLike[str], tensors: Mapping[str, ArrayLike]
) -> None:
    """Write one new file of Flax, such as `flax_model.msgpack`.

    Its bytes are those of `flax.serialization.to_bytes` for the nested dictionaries.
    One array is held at a time.

    Args:
      path: a file that does not exist yet.
      tensors: keys joined by `/` -> array, in the order of the file.

    Raises:
      ValueError: a name leads to an array and to others, or a type is not known.
      FileExistsError: there is a file already.
    """
    tree = nested(tensors)
    with new_file(Path(path)) as file:
        for piece in _packed(tree, tensors):
            file.write(piece)


def _packed(
    tree: Mapping[str, Any] | str, tensors: Mapping[str, ArrayLike]
) -> Iterator[bytes | memoryview]:
    """A dictionary, or the array of this name, in parts."""
    if isinstance(tree, str):
        yield from _packed_array(tree, tensors[tree])
        return
    yield _packed_head(_Map(len(tree)))
    for key, value in tree.items():
        yield _packed_text(key)
        yield from _packed(value, tensors)


def _packed_array(name: str, array: ArrayLike) -> Iterator[bytes | memoryview]:
    spec = spec_of(array)
    if spec.dtype not in CODES:
        raise ValueError(
            f"{name!r} of type {spec.dtype} cannot be stored; the format knows"
            f" {', '.join(_TYPES)}. Cast it."
        )
    code = _SCALAR if isinstance(array, np.generic) else _ARRAY
    data = row_major_bytes(array)
    if spec.nbytes <= LARGEST_PIECE:
        yield from _packed_extension(code, spec, data)
        return
    size = max(1, LARGEST_PIECE // spec.dtype.itemsize)
    starts = range(0, spec.size, size)
    yield _packed_head(_Map(3)) + _packed_text(_PIECES) + _TRUE
    yield _packed_text("shape") + _packed_head(_Map(len(spec.shape)))
    for axis, n in enumerate(spec.shape):
        yield _packed_text(str(axis)) + _packed_head(_Plain(n))
    yield _packed_text("chunks") + _packed_head(_Map(len(starts)))
    for place, start in enumerate(starts):
        count = min(size, spec.size - start)
        piece = slice(
            start * spec.dtype.itemsize, (start + count) * spec.dtype.itemsize
        )
        yield _packed_text(str(place))
        yield from _packed_extension(_ARRAY, Spec((count,), spec.dtype), data[piece])


def _packed_extension(
    code: int, spec: Spec, data: memoryview
) -> Iterator[bytes | memoryview]:
    head = _packed_head(_List(3)) + _packed_head(_List(len(spec.shape)))
    head += b"".join(_packed_head(_Plain(n)) for n in spec.shape)
    head += _packed_text(spec.dtype.name)
    head += _packed_head(_Bytes(data.nbytes))
    yield _packed_head(_Extension(len(head) + data.nbytes)) + bytes([code]) + head
    yield data


def _packed_text(text: str) -> bytes:
    data = text.encode()
    return _packed_head(_Text(len(data))) + data


def _packed_head(token: _Token) -> bytes:
    """The shortest way to start a value."""
    if token in _SHORTEST:
        return bytes([_SHORTEST[token]])
    (number,) = vars(token).values()
    return next(
        bytes([first]) + struct.pack(layout, number)
        for first, (kind, layout) in _SIZED.items()
        if kind is type(token) and number < 256 ** struct.calcsize(layout)
    )


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, _AGAIN)
