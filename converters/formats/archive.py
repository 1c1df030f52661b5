"""Zip archives whose members are stored as they are, so that they can be mapped."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from mda_jax.converters.formats.errors import FormatError


_AT_ONCE = 1 << 24  # bytes
LARGEST_DIRECTORY = 1 << 25  # bytes, of the list of members: about 400,000 of them

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LISTED = struct.Struct("<4s4x2H4x3L4H6xL")
_LISTED_CRC = 16  # where it has the checksum
_LOCAL = struct.Struct("<4s2x2H16x2H")
_LOCAL_CRC = 14
_EXTRA = struct.Struct("<2H")
_ENCRYPTED = 0x2041  # bits of the flags: the data, strongly, or the list of members
_COPIED = 0x8  # a bit of the flags: checksum and sizes follow the data once more
_COPIES = (16, 24)  # their bytes, without or with 64 bits
_ELSEWHERE = 0xFFFFFFFF  # the number is in the extra field, with 64 bits


class Member(NamedTuple):
    """One file of an archive."""

    start: int  # offset of its data from the beginning of the archive, in bytes
    size: int  # in bytes
    crc: int  # checksum of the data; 0 where the writer did not compute it
    checksums: tuple[int, ...]  # offsets of where the archive has it, in bytes


class Archive(NamedTuple):
    """What an archive holds."""

    members: dict[str, Member]  # that are stored as they are; in the order of the data
    compressed: tuple[str, ...]  # the names of the others
    directory: bytes  # the list of members, with their checksums


class _Listed(NamedTuple):
    """A member as the list at the end of the archive has it."""

    name: bytes
    offset: int  # of its local header
    method: int  # of compression; 0 for none
    size: int  # in the archive
    crc: int
    place: int  # of this checksum in the list


def read_archive(path: Path) -> Archive:
    """Read and check the list of members of one archive; no data is read.

    Args:
      path: a zip archive.

    Returns:
      Its members, none of which is encrypted; they overlap nowhere and leave no hole.

    Raises:
      FormatError: the file breaks a rule of the format, or one of these.
      OSError: the file cannot be read.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        start, size, count = _directory(path, file, total)
        file.seek(start)
        directory = file.read(size)
        listed = sorted(_entries(path, directory), key=lambda each: each.offset)
        if len(listed) != count or not count or listed[0].offset:
            found = f"{len(listed)} members listed"
            _fail(path, found, f"{count or 'some'}, the first at the start")
        members: dict[str, Member] = {}
        methods: dict[str, int] = {}
        ends = [*(each.offset for each in listed[1:]), start]
        for each, end in zip(listed, ends, strict=True):
            name = _text(path, each.name)
            if name in members:
                _fail(path, f"two members {name!a}", "names that differ")
            first, copy = _data(path, file, each, end)
            checksums = (start + each.place, copy)
            members[name] = Member(first, each.size, each.crc, checksums)
            methods[name] = each.method
    compressed = tuple(name for name, method in methods.items() if method)
    plain = {name: member for name, member in members.items() if not methods[name]}
    return Archive(plain, compressed, directory)


def renew_checksums(path: Path) -> None:
    """Compute the checksums of an archive again, where it has some."""
    members = read_archive(path).members.values()
    with path.open("r+b") as file:
        for member in members:
            if member.crc:
                crc = struct.pack("<L", _crc(file, member))
                for place in member.checksums:
                    file.seek(place)
                    file.write(crc)


def _crc(file: BinaryIO, member: Member) -> int:
    """The checksum of the data that a member has."""
    file.seek(member.start)
    crc, left = 0, member.size
    while left:
        data = file.read(min(left, _AT_ONCE))
        crc, left = zlib.crc32(data, crc), left - len(data)
    return crc


def _directory(path: Path, file: BinaryIO, total: int) -> tuple[int, int, int]:
    """Where the list of members is, how long, and the number of members."""
    file.seek(max(0, total - _END.size - _LOCATOR.size - _END_64.size))
    tail = file.read()
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\5\6"):
        _fail(path, "no end of a zip archive", "one: the file may be truncated")
    _, disk, _, _, count, size, start, comment = _END.unpack(tail[-_END.size :])
    end, before = total - _END.size, tail[: -_END.size]
    if before[-_LOCATOR.size :].startswith(b"PK\6\7"):
        end -= _LOCATOR.size + _END_64.size
        if len(before) != _LOCATOR.size + _END_64.size:
            _fail(path, f"{total} bytes", "room for the end of a 64-bit archive")
        signature, *_, disk, _, _, count, size, start = _END_64.unpack_from(before)
        if signature != b"PK\6\6":
            _fail(path, "no end of a 64-bit archive", "one before its locator")
    if disk or comment or start + size != end:
        _fail(
            path,
            f"a list of {size} bytes at {start}",
            f"one archive without a comment, whose list ends at {end}",
        )
    if size > LARGEST_DIRECTORY:
        _fail(path, f"a list of {size} bytes", f"at most {LARGEST_DIRECTORY}")
    return start, size, count


def _entries(path: Path, directory: bytes) -> Iterator[_Listed]:
    """The members as the list has them."""
    at = 0
    while at < len(directory):
        if (
            not directory.startswith(b"PK\1\2", at)
            or len(directory) - at < _LISTED.size
        ):
            _fail(path, f"no member at byte {at} of the list", "one")
        fields, place = _LISTED.unpack_from(directory, at), at + _LISTED_CRC
        _, flags, method, crc, packed, size, named, extra, noted, disk, offset = fields
        at += _LISTED.size
        name = directory[at : at + named]
        more = directory[at + named : at + named + extra]
        at += named + extra + noted
        if at > len(directory):
            _fail(path, f"{name!r} beyond the end of the list", "it inside")
        wide = _wide(path, more)
        size, packed, offset = (
            next(wide, n) if n == _ELSEWHERE else n for n in (size, packed, offset)
        )
        if flags & _ENCRYPTED:
            _fail(path, f"{name!r} encrypted", "members without a password")
        if disk or (size != packed and not method):
            _fail(path, f"{name!r} of {size} bytes in {packed}", "as many, here")
        yield _Listed(name, offset, method, packed, crc, place)


def _wide(path: Path, extra: bytes) -> Iterator[int]:
    """The 64-bit numbers of an extra field."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == 1:
            held = extra[at : at + length]
            yield from (n for (n,) in struct.iter_unpack("<Q", held[: length // 8 * 8]))
        at += length


def _data(path: Path, file: BinaryIO, listed: _Listed, end: int) -> tuple[int, int]:
    """Where the data of a member begin, and where their checksum is besides the list.

    The data follow a local header, which is checked. They, and a copy of their checksum
    and size if the header says so, reach to `end`.
    """
    file.seek(listed.offset)
    head = file.read(_LOCAL.size + len(listed.name))
    if not head.startswith(b"PK\3\4") or len(head) != _LOCAL.size + len(listed.name):
        _fail(path, f"no header of {listed.name!r} at {listed.offset}", "one")
    _, flags, method, named, extra = _LOCAL.unpack_from(head)
    same = named == len(listed.name) and head[_LOCAL.size :] == listed.name
    if not same or flags & _ENCRYPTED or method != listed.method:
        _fail(path, f"another header of {listed.name!r}", "the one that is listed")
    start = listed.offset + _LOCAL.size + named + extra
    copied = bool(flags & _COPIED)
    file.seek(start + listed.size)
    lost = copied and file.read(4) != b"PK\7\x08"
    if lost or end - start - listed.size not in (_COPIES if copied else (0,)):
        _fail(
            path,
            f"{listed.name!r} up to byte {start + listed.size}",
            f"its end, and no hole, before {end}",
        )
    return start, start + listed.size + 4 if copied else listed.offset + _LOCAL_CRC


def _text(path: Path, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        _fail(path, f"a member named {name[:80]!r}", "UTF-8")


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(
        path, found, expected, "Download the file again, or save it again."
    )
