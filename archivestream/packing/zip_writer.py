"""Writing ZIP archives. Section numbers are those of PKWARE's APPNOTE.TXT 6.3.10.

What is written is as plain as it can be: no data descriptors, ZIP64 fields only where a value needs them, names in
UTF-8 (bit 11), Unix modes. Beside the ZIP64 field there are three extra fields:

- the time in UTC (Info-ZIP's 0x5455), where the time of a file is known: the MS-DOS one has no time zone;
- padding in front of stored data that are to be aligned (0xD935, as Android's zipalign has it);
- where the segments of large deflated members lie (0x5341): see `archivestream.formats.zip_segments`.
"""

from __future__ import annotations

import stat
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from archivestream._native.codecs import Codec
from archivestream._native.storing import move, store
from archivestream.packing.entries import Entry
from archivestream.packing.output import OutputFile
from archivestream.reader import empty_bytes

__all__ = ["Headers", "PackedMember", "PackedMembers", "StoredMembers", "ZipWriter", "overhead", "store_members"]

_LOCAL = struct.Struct("<4s5H3L2H")  # 4.3.7
_CENTRAL = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_MADE_BY = 3 << 8 | 63  # Unix, 6.3
_NEEDED = {Codec.STORED: 10, Codec.DEFLATE: 20, Codec.ZSTD: 63}
_NEEDED_ZIP64 = 45
_UTF8_BIT = 0x0800
_SENTINEL16, _SENTINEL32 = 0xFFFF, 0xFFFFFFFF
_LARGEST32 = 0xFFFFFFFE  # what a field can hold, as the sentinel cannot stand for itself
_MSDOS_FOLDER = 0x10
_END_RECORDS = 56 + 20 + 22  # 4.3.14 to 4.3.16

_ALIGNMENT_EXTRA = 0xD935
_TIME_EXTRA = 0x5455
_OFFSET_EXTRA = 12  # bytes of a ZIP64 field with an offset alone
_EXTRA = 28 + 9  # bytes of the ZIP64 field and of that one
# A member that is longer must have room for sizes in ZIP64 fields before they are known.
_WIDE_FROM = 0xF0000000


class PackedMember(NamedTuple):
    """A member, compressed."""

    entry: Entry
    codec: Codec
    crc: int
    compressed_size: int
    payload: Sequence[bytes | bytearray | memoryview]
    segments: bytes = b""  # the extra field
    align: int = 1

    @property
    def cost(self) -> int:
        """See `archivestream.packing.packer.Unit`."""
        return self.compressed_size + overhead(self.entry, self.align) + len(self.segments)


class PackedMembers(NamedTuple):
    """Members, compressed, that are written together."""

    members: Sequence[PackedMember]

    @property
    def cost(self) -> int:
        """See `archivestream.packing.packer.Unit`."""
        return sum(member.cost for member in self.members)


class StoredMembers(NamedTuple):
    """Stored members with headers of the plainest kind, one behind the other, and their directory."""

    entries: Sequence[Entry]
    data: NDArray[np.uint8]
    directory: NDArray[np.uint8]
    crcs: NDArray[np.uint32]

    @property
    def cost(self) -> int:
        """See `archivestream.packing.packer.Unit`."""
        return len(self.data) + len(self.directory) + _OFFSET_EXTRA * len(self.entries)


def store_members(entries: Sequence[Entry], contents: Sequence[memoryview]) -> StoredMembers | None:
    """Put small members one behind the other; None where one of them needs more than the plainest headers."""
    if not all(entry.mtime is None and entry.name.isascii() for entry in entries):
        return None
    names = [entry.name.encode() for entry in entries]
    n, names_size = len(names), sum(map(len, names))
    data = empty_bytes(_LOCAL.size * n + names_size + sum(map(len, contents)))
    directory = empty_bytes(_CENTRAL.size * n + names_size)
    crcs = np.empty(n, np.uint32)
    times = np.array([entry.timestamp for entry in entries], np.uint32)
    attributes = np.array([_attributes(entry) for entry in entries], np.uint32)
    store(names, list(contents), times, attributes, data, directory, crcs)
    return StoredMembers(entries, data, directory, crcs)


def _attributes(entry: Entry) -> int:
    return (entry.mode << 16 & _SENTINEL32) | (_MSDOS_FOLDER if stat.S_ISDIR(entry.mode) else 0)


def overhead(entry: Entry, align: int) -> int:
    """Bytes of the headers of a member, at the most."""
    name = len(entry.name.encode("utf-8", "surrogateescape"))
    padding = align + 5 if align > 1 else 0
    return _LOCAL.size + _CENTRAL.size + 2 * (name + _EXTRA) + padding


class ZipWriter:
    """Writes a ZIP, member by member."""

    def __init__(self, file: OutputFile, align: int) -> None:
        self.file = file
        self._align = align
        self._directory = bytearray()
        self._count = 0

    @property
    def final_size(self) -> int:
        """See `archivestream.packing.packer.Writer`."""
        return self.file.size + len(self._directory) + _END_RECORDS

    def write(self, unit: PackedMembers | StoredMembers) -> None:
        """Append members."""
        if isinstance(unit, StoredMembers):
            self._write_stored(unit)
        else:
            for member in unit.members:
                self._write_one(member)

    def _write_stored(self, members: StoredMembers) -> None:
        base = self.file.size
        self.file.write_behind(members.data.data)
        if move(members.directory, base):
            self._directory += members.directory.data
        else:  # so far behind that the offsets need fields of ZIP64
            for entry, crc in zip(members.entries, members.crcs.tolist(), strict=True):
                header = Headers(entry, base, Codec.STORED, 1)
                self._directory += header.central(crc, entry.size, b"")
                base += _LOCAL.size + len(entry.name) + entry.size
        self._count += len(members.entries)

    def _write_one(self, member: PackedMember) -> None:
        headers = Headers(member.entry, self.file.size, member.codec, self._align)
        headers.wide = max(member.entry.size, member.compressed_size) > _LARGEST32
        self.file.write(headers.local(member.crc, member.compressed_size))
        for data in member.payload:
            self.file.write(data)
        self.add_to_directory(headers.central(member.crc, member.compressed_size, member.segments))

    def begin(self, entry: Entry, codec: Codec) -> Headers:
        """Write a local header whose sizes are not known yet."""
        headers = Headers(entry, self.file.size, codec, self._align)
        headers.wide = entry.size >= _WIDE_FROM
        self.file.write(headers.local(0, 0))
        return headers

    def add_to_directory(self, header: bytes) -> None:
        """Append a central header."""
        self._directory += header
        self._count += 1

    def finish(self) -> None:
        """Append the directory and what ends the archive."""
        offset, size, count = self.file.size, len(self._directory), self._count
        self.file.write(self._directory)
        if count >= _SENTINEL16 or max(offset, size) > _LARGEST32:
            at = self.file.size
            self.file.write(
                struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, _MADE_BY, _NEEDED_ZIP64, 0, 0, count, count, size, offset)
                + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
            )
        counted = min(count, _SENTINEL16)
        self.file.write(
            struct.pack(
                "<4s4H2LH",
                b"PK\5\6",
                *(0, 0, counted, counted),
                *(size if size <= _LARGEST32 else _SENTINEL32, offset if offset <= _LARGEST32 else _SENTINEL32, 0),
            )
        )


class Headers:
    """The two headers of a member."""

    def __init__(self, entry: Entry, offset: int, codec: Codec, align: int) -> None:
        self.offset = offset
        self.codec = codec
        self.wide = False  # whether its sizes are in ZIP64 fields
        self._entry = entry
        self._align = align if codec == Codec.STORED and entry.size else 1
        self._name = entry.name.encode("utf-8", "surrogateescape")
        self._flags = 0 if entry.name.isascii() or not _is_utf8(entry.name) else _UTF8_BIT
        self._timestamp = entry.timestamp
        self._time = b""
        if entry.mtime is not None:
            self._timestamp = _msdos(entry.mtime)
            if -(1 << 31) <= entry.mtime < 1 << 31:
                self._time = struct.pack("<2HBl", _TIME_EXTRA, 5, 1, entry.mtime)

    def local(self, crc: int, compressed_size: int) -> bytes:
        """Make the local header, up to where the data begin."""
        size = self._entry.size
        extra = self._time
        if self.wide:
            extra = struct.pack("<2H2Q", 1, 16, size, compressed_size) + extra  # 4.5.3
        extra += self._padding(_LOCAL.size + len(self._name) + len(extra))
        return (
            _LOCAL.pack(
                b"PK\3\4",
                _NEEDED_ZIP64 if self.wide and self.codec != Codec.ZSTD else _NEEDED[self.codec],
                self._flags,
                self.codec,
                self._timestamp & 0xFFFF,
                self._timestamp >> 16,
                crc,
                _SENTINEL32 if self.wide else compressed_size,
                _SENTINEL32 if self.wide else size,
                len(self._name),
                len(extra),
            )
            + self._name
            + extra
        )

    def _padding(self, before: int) -> bytes:
        """Move the data to a multiple of the alignment."""
        missing = -(self.offset + before) % self._align
        if missing == 0:
            return b""
        while missing < 6:  # what the field takes by itself
            missing += self._align
        return struct.pack("<3H", _ALIGNMENT_EXTRA, missing - 4, self._align) + bytes(missing - 6)

    def central(self, crc: int, compressed_size: int, segments: bytes) -> bytes:
        """Make the header in the directory."""
        entry = self._entry
        values = [entry.size, compressed_size] if self.wide else []
        far = self.offset > _LARGEST32
        if far:
            values.append(self.offset)
        extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
        needed = _NEEDED[self.codec]
        extra += self._time + segments
        return (
            _CENTRAL.pack(
                b"PK\1\2",
                _MADE_BY,
                max(needed, _NEEDED_ZIP64) if values else needed,
                self._flags,
                self.codec,
                self._timestamp & 0xFFFF,
                self._timestamp >> 16,
                crc,
                _SENTINEL32 if self.wide else compressed_size,
                _SENTINEL32 if self.wide else entry.size,
                len(self._name),
                len(extra),
                *(0, 0, 0),  # comment, disk, internal attributes
                _attributes(entry),
                _SENTINEL32 if far else self.offset,
            )
            + self._name
            + extra
        )


def _is_utf8(name: str) -> bool:
    """Whether a name has no bytes that came through as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _msdos(seconds: int) -> int:
    """Make an MS-DOS date and time (4.4.6) of seconds since 1970, in UTC."""
    try:
        year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    except (OverflowError, ValueError, OSError):
        year = 0 if seconds < 0 else 9999
    if year < 1980:
        return (1 << 5 | 1) << 16
    if year > 2107:
        return ((127 << 9 | 12 << 5 | 31) << 16) | (23 << 11 | 59 << 5 | 29)
    return ((year - 1980) << 9 | month << 5 | day) << 16 | hour << 11 | minute << 5 | second // 2
