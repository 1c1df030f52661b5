"""NumPy's archives of arrays, read where they lie.

`np.savez` writes a zip archive with one member for every array: a short header in the
notation of Python, which is matched and never evaluated, and the numbers.
"""

import math
import re
import struct
from pathlib import Path
from typing import BinaryIO, NoReturn

from mda_jax.converters.formats.archive import Archive, Member, read_archive
from mda_jax.converters.formats.dtypes import CODES, NUMPY, Spec, fits
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.header import Entry, Header


_SUFFIX = ".npy"
_LONGEST = 10_000  # bytes of an array's header, as for NumPy itself
_MAGIC = b"\x93NUMPY"
_LENGTHS = {  # version -> how the length of the header is written
    _MAGIC + b"\1\0": struct.Struct("<H"),
    _MAGIC + b"\2\0": struct.Struct("<L"),
    _MAGIC + b"\3\0": struct.Struct("<L"),
}
_DESCRIPTION = re.compile(
    r"\{'descr': '([<>|=]?[a-zA-Z]\d+)', 'fortran_order': (True|False),"
    r" 'shape': \((|\d{1,19},|\d{1,19}(?:, \d{1,19})+)\), \} *\n"
)
# Those of 8-bit floats are all alike, and the width alone tells bfloat16.
_TYPES = {t.str: t for t in CODES if t.kind != "V"}
_TYPES |= dict.fromkeys(("<V2", "|V2"), NUMPY["BF16"])
_EXPECTED = "integers, booleans, or floats of 16 bits or more, little-endian"
_SAVE = "Save plain arrays again, with numpy.savez."


def read_header(path: Path) -> Header:
    """Read and check what one archive holds, without its data.

    Args:
      path: a file by `numpy.savez`, not compressed. Of types that NumPy has not by
        itself only bfloat16 can be told, from its width.

    Returns:
      Its arrays.

    Raises:
      FormatError: it is another format, damaged, or has objects.
      OSError: the file cannot be read.
    """
    archive = _opened(path)
    with path.open("rb") as file:
        return Header(
            {
                name.removesuffix(_SUFFIX): _entry(path, file, name, member)
                for name, member in archive.members.items()
            },
            {},
        )


def header_text(path: Path) -> bytes:
    """The bytes that decide names and places of the arrays, with checksums of them."""
    return _opened(path).directory


def _opened(path: Path) -> Archive:
    archive = read_archive(path)
    others = [name for name in archive.members if not name.endswith(_SUFFIX)]
    if archive.compressed:
        one = f"{len(archive.compressed)} compressed ({archive.compressed[0]!a})"
        _fail(path, one, "members stored as they are")
    if others:
        _fail(path, f"a member {others[0]!a}", f"names that end in {_SUFFIX}")
    return archive


def _entry(path: Path, file: BinaryIO, name: str, member: Member) -> Entry:
    """Where the numbers of one array are."""
    text = _description(path, file, name, member)
    if not (found := _DESCRIPTION.fullmatch(text.decode("latin-1"))):
        _fail(path, f"{name!a}: {text[:80].strip()!r}", "a plain array of numbers")
    code, order, sizes = found.groups()
    shape = tuple(int(n) for n in sizes.split(",") if n)
    if code not in _TYPES or not fits(shape):
        _fail(path, f"{name!a} of type {code} and shape {shape}", _EXPECTED)
    spec, start = Spec(shape, _TYPES[code]), file.tell()
    held = member.start + member.size - start
    if spec.nbytes != held:
        _fail(path, f"{name!a} with {held} bytes", f"{spec.nbytes} for {code}, {shape}")
    strides = tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
    is_turned = order == "True" and len(shape) > 1 and spec.size
    return Entry(spec, start, strides if is_turned else None)


def _description(path: Path, file: BinaryIO, name: str, member: Member) -> bytes:
    """What an array says of itself; the numbers follow in the file."""
    file.seek(member.start)
    version = file.read(min(member.size, len(_MAGIC) + 2))
    length = _LENGTHS.get(version)
    if length is None:
        _fail(path, f"{name!a} that starts with {version!r}", "an array of NumPy")
    (size,) = length.unpack(file.read(length.size))
    if size > min(_LONGEST, member.start + member.size - file.tell()):
        _fail(path, f"{name!a} with a header of {size} bytes", "one that fits")
    return file.read(size)


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, _SAVE)
