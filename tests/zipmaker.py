"""A ZIP writer for tests, in which every field can be set, and so can be set wrong.

What is not given is right. Section numbers are those of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

__all__ = [
    "BZIP2",
    "DEFLATE",
    "LZMA",
    "METHODS",
    "STORED",
    "XZ",
    "ZSTD",
    "Entry",
    "Zip",
    "compress",
    "deflate",
    "extra",
    "lzma_without_end_mark",
    "make",
    "padding",
    "unicode_path",
]

STORED, DEFLATE, BZIP2, LZMA, ZSTD, XZ = METHODS = (0, 8, 12, 14, 93, 95)
SENTINEL16, SENTINEL32 = 0xFFFF, 0xFFFFFFFF
DESCRIPTOR, UTF8 = 0x0008, 0x0800  # general purpose bits 3 and 11


@dataclass
class Entry:
    """One member: its central header (4.3.12), local header (4.3.7), data and data descriptor (4.3.9)."""

    name: bytes = b"a.txt"
    data: bytes = b"some text\n"
    method: int = STORED
    payload: bytes | None = None  # the compressed data; default: `data`, compressed

    made_by: int = 0x0314  # Unix, 2.0
    needed: int | None = None  # default: what method and ZIP64 take (4.4.3.2)
    flags: int = 0
    time: int = 0x6000
    date: int = 0x5821
    crc: int | None = None
    compressed_size: int | None = None
    size: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    disk: int = 0
    internal: int = 0
    external: int = 0o100644 << 16
    offset: int | None = None
    # Fields whose central value is the sentinel, with the value itself in a ZIP64 field (4.5.3), which
    # stands in front of `extra`: any of "size", "compressed_size", "offset", "disk".
    zip64: Sequence[str] = ()
    zip64_length: int | None = None  # cut the values short
    extra_in_front: bytes = b""  # of the ZIP64 field

    # In the local header; default: as in the central one, or zeros where there is a data descriptor.
    local_signature: bytes = b"PK\3\4"
    local_name: bytes | None = None
    local_needed: int | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_time: int | None = None
    local_date: int | None = None
    local_crc: int | None = None
    local_compressed_size: int | None = None
    local_size: int | None = None
    local_extra: bytes = b""

    gap: bytes = b""  # in front of the local header
    # The forms of a data descriptor: (with a signature, 64-bit sizes), or its very bytes.
    descriptor: tuple[bool, bool] | bytes | None = None

    def __post_init__(self) -> None:
        if self.payload is None:
            self.payload = compress(self.data, self.method)
        if self.needed is None:
            self.needed = max({12: 46, 14: 63, 93: 63, 95: 63}.get(self.method, 20), 45 * bool(self.zip64))
        if self.crc is None:
            self.crc = zlib.crc32(self.data)
        if self.size is None:
            self.size = len(self.data)
        if self.compressed_size is None:
            self.compressed_size = len(self.payload)
        if self.descriptor is not None:
            self.flags |= DESCRIPTOR

    def local(self) -> bytes:
        """The local header, the data and the data descriptor."""
        streamed = self.descriptor is not None
        name = _or(self.local_name, self.name)
        head = struct.pack(
            "<4s5H3L2H",
            self.local_signature,
            _or(self.local_needed, self.needed),
            _or(self.local_flags, self.flags),
            _or(self.local_method, self.method),
            _or(self.local_time, self.time),
            _or(self.local_date, self.date),
            _or(self.local_crc, 0 if streamed else self.crc),
            _or(self.local_compressed_size, 0 if streamed else min(self.compressed_size, SENTINEL32)),
            _or(self.local_size, 0 if streamed else min(self.size, SENTINEL32)),
            len(name),
            len(self.local_extra),
        )
        return head + name + self.local_extra + self.payload + self._descriptor()

    def _descriptor(self) -> bytes:
        if self.descriptor is None or isinstance(self.descriptor, bytes):
            return self.descriptor or b""
        signature, wide = self.descriptor
        values = struct.pack("<L2Q" if wide else "<3L", self.crc, self.compressed_size, self.size)
        return b"PK\7\x08" * signature + values

    def central(self, offset: int) -> bytes:
        """The central header of a member whose local header is at `offset`."""
        values = {
            "size": self.size,
            "compressed_size": self.compressed_size,
            "offset": _or(self.offset, offset),
            "disk": self.disk,
        }
        zip64 = b"".join(
            struct.pack("<L" if key == "disk" else "<Q", value) for key, value in values.items() if key in self.zip64
        )
        if self.zip64:
            zip64 = extra(0x0001, zip64[: self.zip64_length])
        fields = self.extra_in_front + zip64 + self.extra
        for key in self.zip64:
            values[key] = SENTINEL16 if key == "disk" else SENTINEL32
        head = struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2",
            self.made_by,
            self.needed,
            self.flags,
            self.method,
            self.time,
            self.date,
            self.crc,
            values["compressed_size"],
            values["size"],
            len(self.name),
            len(fields),
            len(self.comment),
            values["disk"],
            self.internal,
            self.external,
            values["offset"],
        )
        return head + self.name + fields + self.comment


@dataclass
class Zip:
    """An archive: members, central directory and end records (4.3.14 to 4.3.16)."""

    entries: Sequence[Entry] = ()
    prefix: bytes = b""  # in front of the archive
    counts_prefix: bool = True  # whether offsets count from the start of the file
    gap: bytes = b""  # in front of the directory
    order: Sequence[int] | None = None  # of the entries, in the directory
    comment: bytes = b""
    trailing: bytes = b""  # after the end of the archive

    disk: int = 0
    directory_disk: int = 0
    count_here: int | None = None
    count: int | None = None
    directory_size: int | None = None
    directory_offset: int | None = None
    comment_length: int | None = None

    zip64: bool = False  # write a ZIP64 end record and its locator
    end64: dict[str, int] = field(default_factory=dict)  # fields of that record that are wrong
    extensible: bytes = b""  # at the end of that record (4.3.14.2)
    locator: dict[str, int] = field(default_factory=dict)  # fields of the locator that are wrong

    def build(self) -> bytes:
        """The bytes of the archive."""
        base = 0 if self.counts_prefix else len(self.prefix)
        body = bytearray(self.prefix)
        places = []
        for entry in self.entries:
            body += entry.gap
            places.append(len(body) - base)
            body += entry.local()
        body += self.gap
        order = range(len(self.entries)) if self.order is None else self.order
        offset = len(body) - base
        directory = b"".join(self.entries[i].central(places[i]) for i in order)
        body += directory
        if self.zip64:
            body += self._end64(len(directory), offset, len(body) - base)
        body += struct.pack(
            "<4s4H2LH",
            b"PK\5\6",
            self.disk,
            self.directory_disk,
            _or(self.count_here, min(len(order), SENTINEL16)),
            _or(self.count, min(len(order), SENTINEL16)),
            _or(self.directory_size, len(directory)),
            _or(self.directory_offset, offset),
            _or(self.comment_length, len(self.comment)),
        )
        return bytes(body + self.comment + self.trailing)

    def _end64(self, directory_size: int, directory_offset: int, at: int) -> bytes:
        count = len(self.entries)
        record = {
            "size": 44 + len(self.extensible),
            "made_by": 45,
            "needed": 45,
            "disk": 0,
            "directory_disk": 0,
            "count_here": count,
            "count": count,
            "directory_size": directory_size,
            "directory_offset": directory_offset,
            **self.end64,
        }
        locator = {"disk": 0, "offset": at, "disks": 1, **self.locator}
        return (
            struct.pack("<4sQ2H2L4Q", b"PK\6\6", *record.values())
            + self.extensible
            + struct.pack("<4sLQL", b"PK\6\7", *locator.values())
        )


def make(*entries: Entry, **options: object) -> bytes:
    """The bytes of an archive of some members."""
    return Zip(entries, **options).build()  # type: ignore[arg-type]


def extra(kind: int, data: bytes) -> bytes:
    """One extra field (4.5.1)."""
    return struct.pack("<2H", kind, len(data)) + data


def padding(size: int) -> bytes:
    """An extra field, of a kind that nobody reads, that takes `size` bytes in all."""
    return extra(0xD935, bytes(size - 4))


def unicode_path(path: bytes, name: bytes, *, version: int = 1, crc: int | None = None) -> bytes:
    """A Unicode Path field (4.6.9)."""
    crc = zlib.crc32(name) if crc is None else crc
    return extra(0x7075, struct.pack("<BL", version, crc) + path)


def deflate(data: bytes, level: int = 6) -> bytes:
    """A raw DEFLATE stream."""
    compressor = zlib.compressobj(level, wbits=-15)
    return compressor.compress(data) + compressor.flush()


def compress(data: bytes, method: int) -> bytes:
    """The payload of a member; of a method that is not read here, the data as they are."""
    if method == DEFLATE:
        return deflate(data)
    if method == BZIP2:
        return bz2.compress(data)
    if method == LZMA:  # 5.8.8: version of the SDK, length of the properties, properties
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 0, "dict_size": 1 << 16}]  # lc 3, lp 0, pb 2
        stream = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
        return _LZMA_HEAD + stream
    if method == ZSTD:
        return zstandard.ZstdCompressor().compress(data)
    if method == XZ:
        return lzma.compress(data, lzma.FORMAT_XZ, preset=0)
    return data


_LZMA_HEAD = struct.pack("<2BHBL", 9, 20, 5, 93, 1 << 16)  # 93: lc 3, lp 0, pb 2


def lzma_without_end_mark(data: bytes) -> bytes:
    """The payload of a method 14 member whose stream has no end mark: literals alone, range-coded.

    The standard library always writes the mark; 7-Zip, and others that know the size before, do not.
    """
    coder = _RangeEncoder()
    is_match = [1024] * 4
    literals = [[1024] * 0x300 for _ in range(8)]  # by the upper three bits of the byte before
    before = 0
    for i, byte in enumerate(data):
        coder.encode(is_match, i & 3, 0)
        context = 1
        for shift in range(7, -1, -1):
            bit = byte >> shift & 1
            coder.encode(literals[before >> 5], context, bit)
            context = context << 1 | bit
        before = byte
    return _LZMA_HEAD + coder.finish()


class _RangeEncoder:
    """The range coder of LZMA (LZMA specification by Igor Pavlov, 2015)."""

    def __init__(self) -> None:
        self.low, self.range, self.cache, self.pending = 0, 0xFFFFFFFF, 0, 1
        self.out = bytearray()

    def encode(self, probabilities: list[int], at: int, bit: int) -> None:
        bound = (self.range >> 11) * probabilities[at]
        if bit:
            self.low += bound
            self.range -= bound
            probabilities[at] -= probabilities[at] >> 5
        else:
            self.range = bound
            probabilities[at] += (2048 - probabilities[at]) >> 5
        while self.range < 1 << 24:
            self.range = self.range << 8 & 0xFFFFFFFF
            self._shift()

    def finish(self) -> bytes:
        for _ in range(5):
            self._shift()
        return bytes(self.out)

    def _shift(self) -> None:
        if self.low < 0xFF000000 or self.low >= 1 << 32:
            carry = self.low >> 32
            self.out.append((self.cache + carry) & 0xFF)
            self.out += bytes([(0xFF + carry) & 0xFF]) * (self.pending - 1)
            self.pending = 0
            self.cache = self.low >> 24 & 0xFF
        self.pending += 1
        self.low = self.low << 8 & 0xFFFFFFFF


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def begins_as_another(data: bytes) -> bool:
    """Whether a file is gzip or zstd by how it begins, and no ZIP then, whatever stands at its end."""
    return data.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")) or data[1:4] == b"\x2a\x4d\x18"
