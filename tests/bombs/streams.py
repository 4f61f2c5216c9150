"""Bombs in zstd, gzip and TFRecord: blocks that expand, frames, members and records of nothing."""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import zstandard
from recordmaker import header as record_header
from recordmaker import record
from zstdmaker import MAGIC, skippable

from archivestream._native.zstdscan import make_seek_table
from bombs.bomb import bomb

_EMPTY_FRAME = MAGIC + b"\x20\x00\x01\x00\x00"  # a single segment of no bytes, and an empty block
_TEXT = zstandard.compress(b"some text")


def _write(path: Path, *parts: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(itertools.chain(*parts))


def _times(one: bytes, n: int) -> Iterable[bytes]:
    return itertools.chain(itertools.repeat(one * 1000, n // 1000), (one * (n % 1000),))


@bomb("zst", full=60_000, small=1500, action="test", factor=2000)
def rle_blocks(path: Path, n: int) -> None:
    """Blocks of 4 bytes that mean 128 KiB each, in one frame of zstd."""
    block = (131_072 << 3 | 1 << 1).to_bytes(3, "little") + b"x"
    last = (131_072 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"
    _write(path, (MAGIC + b"\x00\x38",), _times(block, n - 1), (last,))


@bomb("zst", full=5_000_000, small=200_000, action="test", factor=64)
def empty_blocks(path: Path, n: int) -> None:
    """Blocks of nothing in one frame of zstd."""
    _write(path, (MAGIC + b"\x00\x00",), _times(b"\x00\x00\x00", n), (b"\x01\x00\x00",))


@bomb("zst", full=5_000_000, small=200_000, action="test", factor=32)
def empty_frames(path: Path, n: int) -> None:
    """Frames of nothing."""
    _write(path, _times(_EMPTY_FRAME, n), (_TEXT,))


@bomb("zst", full=5_000_000, small=200_000, action="test", factor=32)
def skippable_frames(path: Path, n: int) -> None:
    """Skippable frames of nothing."""
    _write(path, _times(skippable(b""), n), (_TEXT,))


@bomb("zst", full=5_000_000, small=200_000, action="test", factor=32)
def seek_table(path: Path, n: int) -> None:
    """Frames of nothing, with a seek table of them."""
    rows = [(len(_EMPTY_FRAME), 0)] * n + [(len(_TEXT), 9)]
    _write(path, _times(_EMPTY_FRAME, n), (_TEXT, make_seek_table(rows)))


@bomb("zst", full=0x7FFFFFF, small=0x7FFFFFF, action="test")
def seek_table_that_lies(path: Path, n: int) -> None:
    """Frames that a seek table says that there are."""
    table = bytes(8) + struct.pack("<IBI", n, 0, 0x8F92EAB1)
    _write(path, (_TEXT, struct.pack("<II", 0x184D2A5E, len(table)) + table))


@bomb("zst", full=1 << 60, small=1 << 60, action="test")
def declared_content(path: Path, n: int) -> None:
    """Bytes that a frame says that it has."""
    _write(path, (MAGIC + b"\xe0" + struct.pack("<Q", n) + b"\x01\x00\x00",))


@bomb("zst", full=5, small=4, action="test")
def nested_zstd(path: Path, n: int) -> None:
    """Frames of zstd in one another, around 1 GiB."""
    compressor = zstandard.ZstdCompressor(level=19)
    stream = compressor.compressobj()
    data = b"".join(stream.compress(bytes(1 << 20)) for _ in range(1 << 10)) + stream.flush()
    for _ in range(n):
        data = compressor.compress(data)
    path.write_bytes(data)


@bomb("gz", full=1_000_000, small=50_000, action="test", factor=64)
def gzip_members(path: Path, n: int) -> None:
    """Members of gzip of one byte each."""
    _write(path, _times(gzip.compress(b"y", 1, mtime=0), n))


@bomb("gz", full=4 << 30, small=160 << 20, action="test", factor=600)
def gzip_ratio(path: Path, n: int) -> None:
    """Bytes of zero in gzip, 1032 to 1."""
    compressor = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.writelines(compressor.compress(bytes(1 << 20)) for _ in range(n >> 20))
        file.write(compressor.flush())


@bomb("tfrecord", full=10_000_000, small=500_000, factor=8)
def empty_records(path: Path, n: int) -> None:
    """Records of nothing."""
    _write(path, _times(record(b""), n))


@bomb("tfrecord.gz", full=10_000_000, small=2_500_000, factor=512)  # twice Limits.max_index_ratio, while it grows
def empty_records_gz(path: Path, n: int) -> None:
    """Records of nothing, in gzip."""
    with gzip.open(path, "wb", 1) as file:
        file.writelines(_times(record(b""), n))


@bomb("tfrecord", full=1 << 62, small=1 << 62)
def declared_record(path: Path, n: int) -> None:
    """Bytes that a record says that it has."""
    _write(path, (record(b"fine"), record_header(n), bytes(100)))
