"""``strict=True``: everything that a ZIP says twice must be said the same way, and nothing may be hidden in it.

Reads the local header and the data descriptor of every member, when the archive is opened. Sections are
those of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archivestream.errors import CorruptArchiveError
from archivestream.formats.names import objection
from archivestream.index import Index
from archivestream.sources import Source

__all__ = ["check"]

_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075
_SENTINEL = 0xFFFFFFFF
_GAP_PIECE = 1 << 20
_ENCRYPTED, _DESCRIPTOR, _UTF8, _MASKED = 0x0001, 0x0008, 0x0800, 0x2000
# 4.4.4: bits 7 to 10 are unused; bits 12, 14 and 15 are reserved.
_RESERVED_FLAGS = 0xD780
# 4.4.4: bits 1 and 2 are the level of the compressor, of no consequence; bit 3 concerns the local header alone.
_FREE_FLAGS = 0x000E


# 4.4.3.2: the version that each method needs, where that is above 4.5, which ZIP64 needs.
_VERSIONS = {12: 46, 14: 63, 93: 63, 95: 63, 98: 63}


class _Contradiction(Exception):
    """What strict mode minds in one member."""


@dataclass(frozen=True)
class _Header:
    """What a local and a central header have in common."""

    version: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    compressed_size: int
    size: int
    name: bytes
    extra: bytes


def check(source: Source, index: Index, start: int, size: int, disagreements: Sequence[str]) -> None:
    """Raise `CorruptArchiveError` for the first thing in the archive that strict mode minds.

    Parameters
    ----------
    source, index : Source, Index
        The archive, and what was read of it.
    start, size : int
        Where its central directory lies.
    disagreements : sequence of str
        What the end records say that strict mode minds.
    """
    if disagreements:
        raise CorruptArchiveError(f"strict: {disagreements[0]}", archive=source.name)
    changed = CorruptArchiveError("the central directory changed while it was read", archive=source.name)
    ends = []
    for member, record in enumerate(_central_records(source, start, size)):
        if record is None or member == len(index):
            raise changed
        try:
            ends.append(_check_member(source, index, member, record, start))
        except _Contradiction as error:
            raise CorruptArchiveError(f"strict: {error}", archive=source.name, member=index.name(member)) from None
    if len(ends) != len(index):
        raise changed
    _check_gaps(source, index, ends, start)
    table = index.table_of(None)
    if table.duplicates:
        raise CorruptArchiveError(
            "strict: two members have this name",
            archive=source.name,
            member=next(index.name(i) for i in range(len(index)) if table.find(index.name(i)) != i),
        )


def _central_records(source: Source, start: int, size: int) -> Iterator[bytes | None]:
    """Read the directory anew, entry by entry; the last is None where one runs past the end."""
    at, end = start, start + size
    chunk, base = b"", at
    while at < end:
        record = _cut_record(chunk, at - base)
        if record is None:
            chunk, base = bytes(source.read_at(at, min(1 << 20, end - at))), at
            record = _cut_record(chunk, 0)
        yield record
        at = at + len(record) if record else end


def _cut_record(chunk: bytes, place: int) -> bytes | None:
    """Return the entry that begins at a place, or None where it goes on behind the chunk."""
    if len(chunk) - place < _CENTRAL.size:
        return None
    end = place + _CENTRAL.size + sum(struct.unpack_from("<3H", chunk, place + 28))
    return chunk[place:end] if end <= len(chunk) else None


def _check_gaps(source: Source, index: Index, ends: Sequence[int], data_end: int) -> None:
    """See that between the members, and before the first, there is no member that the directory does not list."""
    offsets = index["offset"].tolist()
    begin = 0
    for offset, end in sorted([*zip(offsets, ends, strict=True), (data_end, data_end)]):
        hidden = _find_member(source, begin, offset) if offset - begin > _LOCAL.size else -1
        if hidden >= 0:
            raise CorruptArchiveError(
                f"strict: at offset {hidden} there is a member that the central directory does not list",
                archive=source.name,
            )
        begin = max(begin, end)


def _find_member(source: Source, begin: int, end: int) -> int:
    """Find a local header with room for its data in a part of the file; -1 if there is none."""
    for at in range(begin, end, _GAP_PIECE):
        # A header that begins in one piece ends in the next.
        piece = source.read_at(at, min(_GAP_PIECE + _LOCAL.size - 1, end - at))
        place = piece.find(b"PK\3\4")
        while 0 <= place <= len(piece) - _LOCAL.size:
            _, needed, flags, _, _, _, _, size, _, name, extra = _LOCAL.unpack_from(piece, place)
            size = 0 if flags & _DESCRIPTOR or size == _SENTINEL else size
            if name and needed & 0xFF <= 63 and _LOCAL.size + name + extra + size <= end - at - place:
                return at + place
            place = piece.find(b"PK\3\4", place + 1)
    return -1


def _check_member(source: Source, index: Index, member: int, record: bytes, data_end: int) -> int:
    """Check one member, and return where it ends in the file."""
    _, _, needed, flags, method, time, date, *numbers = _CENTRAL.unpack_from(record)
    crc, compressed_size, size, name_length, extra_length, _, disk, internal, _, _ = numbers
    name = record[_CENTRAL.size : _CENTRAL.size + name_length]
    extra = record[_CENTRAL.size + name_length :][:extra_length]
    central = _Header(needed, flags, method, time, date, crc, compressed_size, size, name, extra)
    if needed & 0xFF > (63 if flags & _ENCRYPTED else _VERSIONS.get(method, 45)):
        raise _Contradiction(f"it asks for version {(needed & 0xFF) / 10} of the specification")
    if disk not in (0, 0xFFFF):
        raise _Contradiction(f"it begins on disk {disk}")
    if flags & _RESERVED_FLAGS:
        raise _Contradiction(f"reserved flags are set ({flags:#06x})")
    if internal & ~0x0003:
        raise _Contradiction(f"reserved internal attributes are set ({internal:#06x})")
    _check_name(index.name(member), name, flags)
    real_size = int(index["size"][member])
    if name.endswith(b"/") and real_size:
        raise _Contradiction("it is a directory, and has contents")
    fields = _check_extra(extra, name, "central")
    path = _unicode_path(fields, name)
    if path is None and b"\0" in name:
        raise _Contradiction("its name contains a NUL")
    return _check_local(source, index, member, central, path, data_end)


def _check_name(name: str, raw: bytes, flags: int) -> None:
    if not raw or name == ".":
        raise _Contradiction("its name is empty or refers to a directory itself")
    reason = objection(name)
    if reason is not None:
        raise _Contradiction(reason)
    if flags & _UTF8:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise _Contradiction("its name is not UTF-8, though its header says so") from None


def _check_extra(extra: bytes, name: bytes, where: str) -> list[tuple[int, bytes]]:
    """Walk the extra fields (4.5.1): (id, data) of each, which must be whole."""
    fields: list[tuple[int, bytes]] = []
    at = 0
    while len(extra) - at >= 4:
        kind, length = struct.unpack_from("<2H", extra, at)
        if len(extra) - at - 4 < length:
            raise _Contradiction(f"an extra field in its {where} header runs past the end")
        fields.append((kind, extra[at + 4 : at + 4 + length]))
        at += 4 + length
    if sum(kind == _ZIP64 for kind, _ in fields) > 1:
        raise _Contradiction(f"there are two ZIP64 fields in its {where} header")
    return fields


def _zip64(fields: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the first ZIP64 field (4.5.3), or nothing."""
    return next((data for kind, data in fields if kind == _ZIP64), b"")


def _unicode_path(fields: Sequence[tuple[int, bytes]], name: bytes) -> bytes | None:
    """Return the name in the Unicode Path field (4.6.9), if there is a valid one; two are one too many."""
    paths = [data for kind, data in fields if kind == _UNICODE_PATH and len(data) > 5]
    begin = paths and struct.pack("<BL", 1, zlib.crc32(name))  # the CRC of a long name but once
    valid = [data[5:] for data in paths if data[:5] == begin]
    if len(valid) > 1:
        raise _Contradiction("it has two Unicode Path fields")
    if valid and b"\0" in valid[0]:
        raise _Contradiction("its Unicode Path contains a NUL")
    return valid[0] if valid else None


def _check_local(source: Source, index: Index, member: int, central: _Header, path: bytes | None, data_end: int) -> int:
    """Compare a local header with the central one, and return where the member ends in the file."""
    offset = int(index["offset"][member])
    head = bytes(source.read_at(offset, _LOCAL.size)) if offset < data_end else b""
    if len(head) < _LOCAL.size or head[:4] != b"PK\3\4":
        raise _Contradiction("its local header is not where the central directory says")
    version, flags, method, time, date, *numbers = _LOCAL.unpack(head)[1:]
    crc, compressed_size, size, name_length, extra_length = map(int, numbers)
    rest = bytes(source.read_at(offset + _LOCAL.size, name_length + extra_length))
    name, extra = rest[:name_length], rest[name_length:]
    local = _Header(version, flags, method, time, date, crc, compressed_size, size, name, extra)
    if local.name != central.name:
        raise _Contradiction(f"its local header names it {local.name!r}")
    fields = _check_extra(local.extra, local.name, "local")
    if _unicode_path(fields, name) != path:
        raise _Contradiction("its local and central header differ in their Unicode Path")
    # 4.4.3.2: a central header may ask for a later version than the local one, for its ZIP64 fields.
    if version > central.version or central.version > max(version, 45):
        raise _Contradiction(f"version {version} in its local header, {central.version} in the central directory")
    for what, here, there in (
        ("flags", flags & ~_FREE_FLAGS, central.flags & ~_FREE_FLAGS),
        ("compression method", local.method, central.method),
        ("time", local.time, central.time),
        ("date", local.date, central.date),
    ):
        if here != there:
            raise _Contradiction(f"{what} {here} in its local header, {there} in the central directory")
    if _SENTINEL in (size, compressed_size):
        # 4.5.3: a local header must hold both sizes, though some writers put in only what they need.
        zip64 = _zip64(fields)
        if len(zip64) >= 16:
            size, compressed_size = struct.unpack_from("<2Q", zip64)
        elif len(zip64) >= 8 and (size == _SENTINEL) != (compressed_size == _SENTINEL):
            value = struct.unpack_from("<Q", zip64)[0]
            size, compressed_size = (value, compressed_size) if size == _SENTINEL else (size, value)
        else:
            raise _Contradiction("the ZIP64 extra field of its local header is too short")
    expected = int(index["size"][member]), int(index["compressed_size"][member]), central.crc32
    data = offset + _LOCAL.size + name_length + extra_length
    end = data + expected[1]
    if end > data_end:
        raise _Contradiction("its data run into the central directory")
    if flags & _MASKED:
        return end  # 4.4.4, bit 13: the values in the local header are masked
    if not flags & _DESCRIPTOR:
        if (size, compressed_size, crc) != expected:
            raise _Contradiction("size or CRC-32 in its local header differ from the central directory")
        return end
    # 4.4.4, bit 3: zeros here, or the values already.
    for here, there in zip((size, compressed_size, crc), expected, strict=True):
        if here not in (0, there):
            raise _Contradiction("size or CRC-32 in its local header differ from the central directory")
    return end + _check_descriptor(source, end, expected, data_end)


def _check_descriptor(source: Source, at: int, expected: tuple[int, int, int], data_end: int) -> int:
    """Find the data descriptor (4.3.9) in one of its four forms, and return its length."""
    size, compressed_size, crc = expected
    found = bytes(source.read_at(at, min(24, max(0, data_end - at))))
    for signature in (b"PK\7\x08", b""):
        for layout in ("<3L", "<L2Q"):
            if layout == "<3L" and max(size, compressed_size) > _SENTINEL:
                continue
            wanted = signature + struct.pack(layout, crc, compressed_size, size)
            if found.startswith(wanted):
                return len(wanted)
    raise _Contradiction("its data descriptor is missing, or differs from the central directory")
