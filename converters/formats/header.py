"""The header of a safetensors file: parsed with every promise checked, and rendered.

A file is 8 bytes (the header's length, little-endian), the header (JSON, padded with
spaces to a multiple of 8) and the data, without holes.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mda_jax.converters.formats.dtypes import (
    CODES,
    NUMPY,
    PACKED,
    RANK,
    Spec,
    are_sizes,
    fits,
)
from mda_jax.converters.formats.errors import FormatError


PREFIX = struct.Struct("<Q")
LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes
_AGAIN = "Download or export the file again."


class Entry(NamedTuple):
    """One tensor of a file."""

    spec: Spec
    start: int  # offset from the beginning of the file, in bytes
    strides: tuple[int, ...] | None = None  # in entries; None for row-major
    jumps: tuple[tuple[int, int], ...] = ()  # (entry, offset): from it on, they go on

    @property
    def span(self) -> int:
        """Entries from the first in the file to the last."""
        if self.strides is None:
            return self.spec.size
        pairs = zip(self.spec.shape, self.strides, strict=True)
        return 1 + sum((n - 1) * stride for n, stride in pairs)

    def pieces(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Offset and number of the entries, from one up to another, of a flat tensor.

        There are several pairs if the file has the tensor in pieces.
        """
        begins = ((0, self.start), *self.jumps)
        ends = (*(begin for begin, _ in self.jumps), self.spec.size)
        for (begin, offset), end in zip(begins, ends, strict=True):
            low, high = max(first, begin), min(stop, end)
            if low < high:
                yield offset + (low - begin) * self.spec.dtype.itemsize, high - low


class Header(NamedTuple):
    """What a file holds."""

    entries: dict[str, Entry]  # in the order in which the file has them
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of one file.

    Args:
      path: a safetensors file.

    Returns:
      Its tensors and metadata.

    Raises:
      FormatError: the file breaks a rule of the format.
      OSError: the file cannot be read.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            _fail(path, f"{total} bytes", "at least 8 bytes of header length")
        (length,) = PREFIX.unpack(prefix)
        if length > min(LARGEST_HEADER, total - PREFIX.size):
            _fail(
                path,
                f"a header of {length} bytes in a file of {total}",
                f"one that fits the file and {LARGEST_HEADER} bytes",
            )
        text = file.read(length)
    return _checked(path, text, PREFIX.size + length, total)


def header_text(path: Path) -> bytes:
    """The bytes that decide names, types, shapes and places of the tensors."""
    with path.open("rb") as file:
        prefix = file.read(PREFIX.size)
        return prefix + file.read(*PREFIX.unpack(prefix))


def layout(
    specs: Mapping[str, Spec], metadata: Mapping[str, str]
) -> tuple[bytes, Header]:
    """Render the header of a file to be written.

    Args:
      specs: name -> shape and element type.
      metadata: free text stored in the header.

    Returns:
      The first bytes of the file, and where each tensor goes.
    """
    order = sorted(specs, key=lambda n: (-RANK[specs[n].dtype], n.encode()))
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        shape, dtype = specs[name]
        begin, end = end, end + specs[name].nbytes
        table[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = PREFIX.size + len(text)
    entries = {n: Entry(specs[n], start + table[n]["data_offsets"][0]) for n in order}
    return PREFIX.pack(len(text)) + text, Header(entries, dict(metadata))


def _checked(path: Path, text: bytes, start: int, total: int) -> Header:
    table = _parsed(path, text)
    metadata = table.pop("__metadata__", {})
    if not _is_text_map(metadata):
        _fail(path, f"__metadata__ {_short(metadata)}", "a map of strings to strings")
    spans = {name: _span(path, name, entry) for name, entry in table.items()}
    end, entries = 0, {}
    for name, (spec, begin, stop) in sorted(spans.items(), key=lambda s: s[1][1:]):
        if begin != end:
            problem = (
                "overlaps the tensor before it" if begin < end else "leaves a hole"
            )
            _fail(path, f"{name!r} at offset {begin}, which {problem}", f"{end}")
        entries[name], end = Entry(spec, start + begin), stop
    if start + end != total:
        kind = "truncated" if start + end > total else "longer than its header says"
        _fail(path, f"{total} bytes: {kind}", f"exactly {start + end} bytes")
    return Header(entries, metadata)


def _span(path: Path, name: str, entry: object) -> tuple[Spec, int, int]:
    """One header entry -> (spec, begin, end), offsets counted from the data's start."""
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or entry.keys() != keys:
        _fail(
            path,
            f"{name!r}: {_short(entry)}",
            f"an object with the keys {sorted(keys)}",
        )
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in NUMPY.keys() | PACKED:
        _fail(path, f"{name!r} of type {_short(code)}", f"one of {', '.join(NUMPY)}")
    if code in PACKED:
        raise FormatError(
            path,
            f"{name!r} of type {code}",
            "a type that NumPy can hold",
            "Export a dequantised checkpoint (bfloat16, for one).",
        )
    if not _are_sizes(shape) or not fits(shape):
        _fail(
            path,
            f"{name!r} of shape {_short(shape)}",
            "at most 64 sizes >= 0 of < 2**59 entries",
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(path, f"{name!r} at {_short(offsets)}", "two increasing offsets")
    spec, (begin, end) = Spec(tuple(shape), NUMPY[code]), offsets
    if spec.nbytes != end - begin:
        _fail(
            path,
            f"{name!r} with {end - begin} bytes",
            f"{spec.nbytes} bytes for {code} of shape {_short(shape)}",
        )
    return spec, begin, end


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    """JSON object of the header; duplicate keys and NaN are no JSON here."""
    if not text.startswith(b"{"):
        _fail(path, f"a header that starts with {text[:8]!r}", "a JSON object")
    try:
        table = json.loads(
            text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        for name in table:
            name.encode()
    except (ValueError, RecursionError) as e:
        _fail(path, f"a header that is not valid JSON ({_short(str(e))})", "valid JSON")
    return table


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"duplicate key {key!r}")
        table[key] = value
    return table


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"constant {word}")


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and are_sizes(value)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, _AGAIN)
