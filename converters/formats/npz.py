"""NumPy's archives of arrays, read where they lie and written array by array.

`np.savez` writes a zip archive with one member for every array: a short header in the
notation of Python, which is matched and never evaluated, and the numbers. NumPy knows
of 8-bit floats only their width; one more member then has the names of their types.
"""

import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.archive import Archive, Member, read_archive
from mda_jax.converters.formats.arrays import spec_of
from mda_jax.converters.formats.dtypes import CODES, NUMPY, Spec, fits
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.files import new_file
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
_ALIKE = ("<V1", "|V1")
_NAMED = {t.name: t for t in CODES if t.isbuiltin == 2 and t.itemsize == 1}
_RECORD = "dtypes.json"  # a member: name -> name of its type
_LARGEST_RECORD = 1 << 24  # bytes
_EXPECTED = "integers, booleans, or floats of 16 bits or more, little-endian"
_SAVE = "Save plain arrays again, with numpy.savez."


def read_header(path: Path) -> Header:
    """Read and check what one archive holds, without its data.

    Args:
      path: a file by `numpy.savez`, not compressed, or by `write_npz`. Of types that
        NumPy has not by itself the first has only bfloat16, told by its width.

    Returns:
      Its arrays.

    Raises:
      FormatError: it is another format, damaged, or has objects.
      OSError: the file cannot be read.
    """
    archive = _opened(path)
    with path.open("rb") as file:
        types = _types(path, file, archive.members.pop(_RECORD, None))
        entries = {}
        for stored, member in archive.members.items():
            name = stored.removesuffix(_SUFFIX)
            noted = types.pop(name, None)
            entries[name] = _entry(path, file, stored, member, noted)
    if types:
        _fail(path, f"the type of {min(types)!a}", "such an array")
    return Header(entries, {})


def header_text(path: Path) -> bytes:
    """The bytes that decide names and places of the arrays, with checksums of them."""
    return _opened(path).directory


def _opened(path: Path) -> Archive:
    archive = read_archive(path)
    others = [
        name
        for name in archive.members
        if not name.endswith(_SUFFIX) and name != _RECORD
    ]
    if archive.compressed:
        one = f"{len(archive.compressed)} compressed ({archive.compressed[0]!a})"
        _fail(path, one, "members stored as they are")
    if others:
        _fail(path, f"a member {others[0]!a}", f"names that end in {_SUFFIX}")
    return archive


def _types(path: Path, file: BinaryIO, record: Member | None) -> dict[str, np.dtype]:
    """The types of arrays of which NumPy knows the width alone."""
    if record is None:
        return {}
    if record.size > _LARGEST_RECORD:
        _fail(path, f"{_RECORD} of {record.size} bytes", f"at most {_LARGEST_RECORD}")
    file.seek(record.start)
    text = file.read(record.size)
    if zlib.crc32(text) != record.crc:
        _fail(path, f"{_RECORD} damaged", f"the checksum {record.crc:08x}")
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    named = held.values() if isinstance(held, dict) else [None]
    if not all(isinstance(name, str) and name in _NAMED for name in named):
        _fail(path, f"{_RECORD} {text[:80]!a}", f"types, each of {', '.join(_NAMED)}")
    return {name: _NAMED[each] for name, each in held.items()}


def _entry(
    path: Path, file: BinaryIO, name: str, member: Member, noted: np.dtype | None
) -> Entry:
    """Where the numbers of one array are, of a type that was noted if there is one."""
    text = _description(path, file, name, member)
    if not (found := _DESCRIPTION.fullmatch(text.decode("latin-1"))):
        _fail(path, f"{name!a}: {text[:80].strip()!r}", "a plain array of numbers")
    code, order, sizes = found.groups()
    shape = tuple(int(n) for n in sizes.split(",") if n)
    known = _TYPES if noted is None else dict.fromkeys(_ALIKE, noted)
    if code not in known or not fits(shape):
        _fail(path, f"{name!a} of type {code} and shape {shape}", _EXPECTED)
    spec, start = Spec(shape, known[code]), file.tell()
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


def write_npz(path: str | os.PathLike[str], tensors: Mapping[str, ArrayLike]) -> None:
    """Write one new archive that NumPy reads; one array is held at a time.

    NumPy gives bfloat16 as two bytes without a type, and 8-bit floats as one; the types
    of the latter are in a member of their own.

    Args:
      path: a file that does not exist yet.
      tensors: name -> array.

    Raises:
      ValueError: a name or type that the format cannot store.
      FileExistsError: there is a file already.
    """
    noted: dict[str, str] = {}
    with new_file(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for name in tensors:
            array = np.asarray(tensors[name])
            dtype = spec_of(array).dtype
            if dtype not in CODES or "\0" in name:
                raise ValueError(
                    f"{os.fspath(path)}: {name!r} of type {dtype} cannot be stored; the"
                    f" format knows {', '.join(map(str, CODES))}. Cast or rename it."
                )
            array = array.astype(dtype, copy=False)
            if dtype.name in _NAMED:
                noted[name] = dtype.name
                array = array.view("V1")
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        if noted:
            archive.writestr(zipfile.ZipInfo(_RECORD), json.dumps(noted))


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, _SAVE)
