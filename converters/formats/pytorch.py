"""PyTorch's own files, read and written without PyTorch; nothing of them is run.

Since version 1.6 `torch.save` writes a zip archive: `data.pkl`, a pickle of the object
in which storages are references, and one member of raw numbers for every storage.
"""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from mda_jax.converters.formats.archive import Archive, Member, read_archive
from mda_jax.converters.formats.arrays import row_major_bytes, specs_of
from mda_jax.converters.formats.dtypes import CODES, NUMPY, Spec, are_sizes, fits
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.files import new_file
from mda_jax.converters.formats.header import Entry, Header
from mda_jax.converters.formats.pickles import (
    Filled,
    Made,
    Name,
    Outside,
    Refused,
    pickled,
    unpickled,
)


LARGEST_PICKLE = 1 << 24  # bytes: the names and places of about 100,000 tensors
DEEPEST = 8  # dictionaries inside each other, in which tensors are looked for

_PROGRAM = "data.pkl"
_MAGIC = b"PK\3\4"
_LOADED = "torch.load(file, weights_only=True)"
_AGAIN = "Download the file again, or save it again."
_RESAVE = f"Save it once more, with PyTorch: torch.save({_LOADED}, file)."
_BY_NAME = (
    "Save the weights by name, with PyTorch: torch.save(model.state_dict(), file)."
)
_ALONE = "Nothing was run. Save the state dict alone, or ask for safetensors."

_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
_STORAGES = {
    "torch.BoolStorage": "BOOL",
    "torch.ByteStorage": "U8",
    "torch.CharStorage": "I8",
    "torch.ShortStorage": "I16",
    "torch.IntStorage": "I32",
    "torch.LongStorage": "I64",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.FloatStorage": "F32",
    "torch.DoubleStorage": "F64",
    "torch.ComplexFloatStorage": "C64",
}
_DTYPE_OF = {code: name for name, code in _DTYPES.items()}
_UNTYPED = Name("torch.storage", "UntypedStorage")
_STORAGE_OF = {code: Name(*name.split(".")) for name, code in _STORAGES.items()}
_ORDERED = Name("collections", "OrderedDict")
_REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_OF_TYPE = Name("torch._utils", "_rebuild_tensor_v3")
_ALIGNED = 64  # bytes
_MEMBER = 30 + 20  # bytes of a member's header without name and padding, of 64 bits


class _Storage(NamedTuple):
    """A member of raw numbers."""

    dtype: np.dtype
    start: int  # offset from the beginning of the file, in bytes
    nbytes: int


def read_header(path: Path) -> Header:
    """Read and check what one file holds, without its data.

    Args:
      path: a file by `torch.save`, of tensors by name or of a dictionary in which one
        dictionary of tensors by name is.

    Returns:
      Its tensors.

    Raises:
      FormatError: it is another format, damaged, or asks for more than tensors and
        plain values; there is no dictionary of tensors, or are several.
      OSError: the file cannot be read.
    """
    archive, folder = _opened(path)
    members = archive.members
    order = members.get(f"{folder}byteorder")
    if order is not None and _content(path, order) != b"little":
        _fail(path, "numbers that are not little-endian", "little-endian", _RESAVE)
    program = _content(path, members[folder + _PROGRAM])
    try:
        root = unpickled(program, _NAMES, partial(_storage, members, folder))
    except Refused as e:
        raise FormatError(path, e.found, e.expected, _ALONE) from e
    return Header(_tensors(path, root), {})


def header_text(path: Path) -> bytes:
    """The bytes that decide names, types, shapes and places of the tensors.

    The list of members is among them, with the checksums of the data.
    """
    archive, folder = _opened(path)
    return _content(path, archive.members[folder + _PROGRAM]) + archive.directory


def _opened(path: Path) -> tuple[Archive, str]:
    """The archive, and the folder in it that everything is in."""
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic[:1] == b"\x80":
        _fail(path, "a bare pickle", "the zip archive of torch >= 1.6", _RESAVE)
    if magic != _MAGIC:
        _fail(path, f"no zip archive (it starts with {magic!r})", "one", _AGAIN)
    archive = read_archive(path)
    folders = [
        name.removesuffix(_PROGRAM)
        for name in archive.members
        if name.count("/") == 1 and name.endswith(f"/{_PROGRAM}")
    ]
    if len(folders) != 1:
        _fail(path, f"{len(folders)} members */{_PROGRAM}", "one", _RESAVE)
    if f"{folders[0]}constants.pkl" in archive.members:
        weights = "torch.save(torch.jit.load(file).state_dict(), 'pytorch_model.bin')"
        advice = f"Save its weights, with PyTorch: {weights}."
        _fail(path, "a TorchScript program", "tensors by name", advice)
    if archive.compressed:
        one = f"{len(archive.compressed)} compressed ({archive.compressed[0]!a})"
        _fail(path, one, "members stored as they are", _RESAVE)
    return archive, folders[0]


def _content(path: Path, member: Member) -> bytes:
    if member.size > LARGEST_PICKLE:
        most = f"at most {LARGEST_PICKLE}"
        _fail(path, f"a pickle of {member.size} bytes", most, _RESAVE)
    with path.open("rb") as file:
        file.seek(member.start)
        content = file.read(member.size)
    if member.crc not in (0, zlib.crc32(content)):
        _fail(path, "a damaged pickle", f"the checksum {member.crc:08x}", _AGAIN)
    return content


def _tensors(path: Path, root: Any) -> dict[str, Entry]:
    """The tensors by name, of the one dictionary that has some."""
    found = dict(_dictionaries(path, root))
    if len(found) > 1:
        keys = "".join(f"[{ascii(key)[:40]}]" for key in max(found, key=len))
        _fail(
            path,
            f"{len(found)} dictionaries of tensors: {', '.join(_shown(found))}",
            "one",
            "Save the one that you mean alone, with PyTorch:"
            f" torch.save({_LOADED}{keys}, 'pytorch_model.bin').",
        )
    if not found:
        _fail(path, "no dictionary of tensors", "tensors by name", _BY_NAME)
    (held,) = found.values()
    for name, value in held.items():
        if isinstance(value, Entry):
            if not isinstance(name, str):
                kind = f"a tensor under a key of type {type(name).__name__}"
                _fail(path, kind, "a name", _BY_NAME)
        elif isinstance(value, list | tuple) and any(map(_is_tensor, value)):
            kind = f"tensors in a {type(value).__name__}"
            _fail(path, kind, "each under its name", _BY_NAME)
    return {name: value for name, value in held.items() if isinstance(value, Entry)}


def _dictionaries(
    path: Path, root: Any
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Those that hold tensors, with the strings that lead to them."""
    level: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen = set()
    for _ in range(DEEPEST + 1):
        below = []
        for keys, node in level:
            if not isinstance(node, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            if any(map(_is_tensor, node.values())):
                yield keys, node
            below += [((*keys, k), v) for k, v in node.items() if isinstance(k, str)]
        level = below
    if level:
        _fail(path, "dictionaries inside each other", f"at most {DEEPEST}", _BY_NAME)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Entry)


def _shown(found: Mapping[tuple[str, ...], Mapping[Any, Any]]) -> Iterator[str]:
    """Some of the places, with their number of tensors."""
    for keys, held in islice(found.items(), 4):
        yield f"{ascii('.'.join(keys))[:40]} ({sum(map(_is_tensor, held.values()))})"


def _storage(members: Mapping[str, Member], folder: str, identity: Any) -> _Storage:
    """What a reference in the pickle stands for."""
    match identity:
        case ("storage", np.dtype() as dtype, str(key), str(), int(count)):
            member = members.get(f"{folder}data/{key}")
            if member is None:
                raise Refused(f"no numbers {ascii(key)[:40]}", "a member with them")
            if member.size != count * dtype.itemsize:
                raise Refused(
                    f"{member.size} bytes of numbers {ascii(key)[:40]}",
                    f"as many as its number of entries of {dtype} takes",
                )
            return _Storage(dtype, member.start, member.size)
    raise Refused("a reference to what is no storage", "one to a storage")


def _tensor(arguments: tuple[Any, ...]) -> Entry:
    match arguments:
        case (_Storage() as storage, offset, size, stride, _, _, *flags):
            return _view(storage, storage.dtype, offset, size, stride, flags)
    raise Refused("a tensor without a storage", "one with it")


def _tensor_of_type(arguments: tuple[Any, ...]) -> Entry:
    match arguments:
        case (_Storage() as storage, offset, size, stride, _, _, dtype, *flags):
            if isinstance(dtype, np.dtype):
                return _view(storage, dtype, offset, size, stride, flags)
    raise Refused("a tensor without a storage or type", "one with both")


def _view(
    storage: _Storage,
    dtype: np.dtype,
    offset: Any,
    size: Any,
    stride: Any,
    flags: list[Any],
) -> Entry:
    """The entries of a storage that a tensor shows, all of them inside."""
    if any(flags):
        raise Refused("a conjugated or negated view", "tensors with .resolve_conj()")
    pair = isinstance(size, tuple) and isinstance(stride, tuple)
    if not pair or len(size) != len(stride) or not are_sizes((offset, *size, *stride)):
        raise Refused("a tensor without shape", "sizes, strides and an offset >= 0")
    if not fits(size):
        raise Refused("a tensor of too large a shape", "< 2**59 entries on 64 axes")
    if 0 in size:
        return Entry(Spec(size, dtype), storage.start)  # its offset may be anywhere
    steps = tuple(s if n > 1 else 0 for n, s in zip(size, stride, strict=True))
    plain = all(
        n == 1 or s == c for n, s, c in zip(size, stride, _row_major(size), strict=True)
    )
    start = storage.start + offset * dtype.itemsize
    entry = Entry(Spec(size, dtype), start, None if plain else steps)
    if (offset + entry.span) * dtype.itemsize > storage.nbytes:
        raise Refused(
            f"a tensor up to byte {(offset + entry.span) * dtype.itemsize}",
            f"one inside of its {storage.nbytes} bytes",
        )
    return entry


def _row_major(shape: tuple[int, ...]) -> list[int]:
    """The strides of an array without gaps, in entries."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _parameter(arguments: tuple[Any, ...]) -> Entry:
    match arguments:
        case (Entry() as tensor, *_):
            return tensor
    raise Refused("a parameter that is no tensor", "a tensor")


def _with_attributes(arguments: tuple[Any, ...]) -> Entry:
    match arguments:
        case (function, kind, tuple(inner), _) if kind is _TENSOR:
            if function in (_tensor, _tensor_of_type):
                return function(inner)
    raise Refused("a tensor of a class of its own", "plain tensors")


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise Refused("an OrderedDict with arguments", "an empty one that is filled")
    return {}


def _plain(arguments: tuple[Any, ...]) -> None:
    """A value that holds no tensor and is not looked at."""


_TENSOR = object()
_NAMES: dict[str, Any] = {
    "collections.OrderedDict": _dictionary,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Tensor": _TENSOR,
    "torch.nn.parameter.Parameter": _TENSOR,
    **{f"torch.{name}": NUMPY[code] for name, code in _DTYPES.items()},
    **{name: NUMPY[code] for name, code in _STORAGES.items()},
    ".".join(_UNTYPED): NUMPY["U8"],
    **dict.fromkeys(
        (
            "torch.Size",
            "torch.device",
            "collections.Counter",
            "_codecs.encode",
            "__builtin__.bytearray",
            "__builtin__.complex",
            "__builtin__.set",
        ),
        _plain,
    ),
}


def write_pytorch(
    path: str | os.PathLike[str],
    tensors: Mapping[str, ArrayLike],
    *,
    ties: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write one new file that `torch.load` reads, also with `mmap=True`.

    One array is held at a time; of those that are tied, two.

    Args:
      path: a file that does not exist yet.
      tensors: name -> array, in the order of the file.
      ties: name -> another name, of the same tensor; stored once.

    Raises:
      ValueError: a type that PyTorch has not, or tied tensors that differ.
      FileExistsError: there is a file already.
    """
    specs = specs_of(tensors)
    _check_storable(path, specs, ties)
    keys = {name: str(i) for i, name in enumerate(n for n in specs if n not in ties)}
    state = {
        name: _rebuilt(spec, keys[ties.get(name, name)]) for name, spec in specs.items()
    }
    with new_file(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        _store(file, archive, _PROGRAM, pickled(Filled(Made(_ORDERED, ()), state)))
        _store(file, archive, ".format_version", b"1")
        _store(file, archive, ".storage_alignment", str(_ALIGNED).encode())
        _store(file, archive, "byteorder", b"little")
        for name, key in keys.items():
            data = row_major_bytes(tensors[name])
            _check_alike(path, name, data, tensors, ties)
            _store(file, archive, f"data/{key}", data)
        _store(file, archive, "version", b"3\n")


def _check_storable(
    path: str | os.PathLike[str], specs: Mapping[str, Spec], ties: Mapping[str, str]
) -> None:
    for name, spec in specs.items():
        if spec.dtype not in CODES:
            raise ValueError(
                f"{os.fspath(path)}: {name!r} of type {spec.dtype} cannot be stored;"
                f" PyTorch has {', '.join(_DTYPES)}. Cast it."
            )
    for name, first in ties.items():
        if first in ties or specs.get(name, name) != specs.get(first):
            raise ValueError(
                f"{os.fspath(path)}: {name!r} cannot be tied to {first!r}; tie tensors"
                " of one shape and type, each to one that is not tied itself."
            )


def _rebuilt(spec: Spec, key: str) -> Made:
    """How PyTorch makes a tensor of a storage."""
    code = CODES[spec.dtype]
    strides = tuple(_row_major(tuple(max(n, 1) for n in spec.shape)))
    view = (0, spec.shape, strides, False, Made(_ORDERED, ()))
    if code in _STORAGE_OF:
        storage = Outside(("storage", _STORAGE_OF[code], key, "cpu", spec.size))
        return Made(_REBUILD, (storage, *view))
    storage = Outside(("storage", _UNTYPED, key, "cpu", spec.nbytes))
    return Made(_REBUILD_OF_TYPE, (storage, *view, Name("torch", _DTYPE_OF[code])))


def _check_alike(
    path: str | os.PathLike[str],
    name: str,
    data: memoryview,
    tensors: Mapping[str, ArrayLike],
    ties: Mapping[str, str],
) -> None:
    """Refuse tensors of other data than that to which they are tied."""
    for other, first in ties.items():
        if first == name and row_major_bytes(tensors[other]) != data:
            raise ValueError(
                f"{os.fspath(path)}: {other!r} differs from {name!r}; it can be stored,"
                " but not tied to it."
            )


def _store(
    file: BinaryIO, archive: zipfile.ZipFile, name: str, data: bytes | memoryview
) -> None:
    """Write one member, whose data begin where they are aligned."""
    member = zipfile.ZipInfo(f"archive/{name}")
    start = file.tell() + _MEMBER + len(member.filename) + len(_padding(0))
    member.extra = _padding(-start % _ALIGNED)
    with archive.open(member, "w", force_zip64=True) as stored:
        stored.write(data)


def _padding(size: int) -> bytes:
    """A field of a member's header that is passed over."""
    return struct.pack("<2sH", b"FB", size) + b"Z" * size


def _fail(path: Path, found: str, expected: str, advice: str) -> NoReturn:
    raise FormatError(path, found, expected, advice)
