"""Packing to ZIP: which method a member gets, and how it is compressed."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import BinaryIO, Literal, TypeAlias

import zstandard

from archivestream._native.codecs import Codec, crc32
from archivestream._native.deflating import deflate
from archivestream.formats.zip_segments import MOST_SEGMENTS, field_of
from archivestream.packing.entries import Entry
from archivestream.packing.output import OutputFile
from archivestream.packing.packer import Packer, Piece, cut
from archivestream.packing.zip_writer import (
    PackedMember,
    PackedMembers,
    StoredMembers,
    ZipWriter,
    overhead,
    store_members,
)
from archivestream.session import Progress

__all__ = ["Method", "ZipFormat", "ZipPacker"]

Method: TypeAlias = Literal["auto", "stored", "deflate", "zstd"]
_DEFLATE_LEVELS = range(1, 13)
_ZSTD_LEVELS = range(1, zstandard.MAX_COMPRESSION_LEVEL + 1)

_CODECS = {"deflate": Codec.DEFLATE, "zstd": Codec.ZSTD}

# By default a member of this size is cut into segments of that one: it costs less than 1 % of its compressed size.
_SEGMENTED_FROM = 4 << 20
_SEGMENT = 1 << 20
_SMALLEST_SEGMENT = 4096
_LARGEST_SEGMENT = 1 << 30
# "auto" keeps what compression makes at least so much smaller.
_PAYS = 0.97
# Stored members are written about so many bytes at a time.
_STORED = 256 << 10
# Of a member that is not read whole, what one thread compresses at a time.
_PIECE = 1 << 20
_ZSTD_THREADS = 4


class ZipFormat:
    """How members are written to a ZIP; see `ZipPacker` for the parameters."""

    def __init__(
        self,
        *,
        method: Method = "auto",
        level: int | None = None,
        align: int | None = None,
        segment_size: int | None = None,
    ) -> None:
        if method not in ("auto", "stored", "deflate", "zstd"):
            raise ValueError(f"method is 'auto', 'stored', 'deflate' or 'zstd', not {method!r}")
        levels = _ZSTD_LEVELS if method == "zstd" else _DEFLATE_LEVELS
        if level is not None and (level not in levels or method == "stored"):
            possible = f"{levels[0]} to {levels[-1]}" if method != "stored" else "not given"
            raise ValueError(f"level of method {method!r} is {possible}, not {level}")
        if align is not None and not (1 <= align <= 32768 and align & (align - 1) == 0):
            raise ValueError(f"align is a power of two up to 32768, not {align}")
        if segment_size is not None and not _SMALLEST_SEGMENT <= segment_size <= _LARGEST_SEGMENT:
            raise ValueError(
                f"segment_size is from {_SMALLEST_SEGMENT} to {_LARGEST_SEGMENT} bytes, not {segment_size}"
            )
        if segment_size is not None and method in ("stored", "zstd"):
            raise ValueError("segment_size is for deflated members")
        # Where nothing is compressed or aligned, members are written many at a time; else each by itself.
        self.unit_bytes = _STORED if method == "stored" and (align or 1) == 1 else 0
        self.method = method
        self.level = level or (3 if method == "zstd" else 6)
        self.align = align or 1
        self._segment_size = segment_size
        self._of_thread = threading.local()

    def footprint(self, entry: Entry) -> int:
        """See `archivestream.packing.packer.Format`."""
        return entry.size

    def pack(self, entries: Sequence[Entry], contents: Sequence[memoryview]) -> PackedMembers | StoredMembers:
        """Compress one member, or store several."""
        stored = store_members(entries, contents) if self.unit_bytes else None
        return stored or PackedMembers([self._pack_one(*one) for one in zip(entries, contents, strict=True)])

    def _pack_one(self, entry: Entry, data: memoryview) -> PackedMember:
        crc = crc32(data)
        member = PackedMember(entry, Codec.STORED, crc, len(data), [data], align=self.align)
        if not len(data) or self.method == "stored" or not stat.S_ISREG(entry.mode):
            return member
        packed = self._compress(entry, data, crc)
        pays = packed.compressed_size < len(data) * (_PAYS if self.method == "auto" else 1)
        return packed if pays else member

    def _compress(self, entry: Entry, data: memoryview, crc: int) -> PackedMember:
        if self.method == "zstd":
            frame = self._zstd.compress(data)
            return PackedMember(entry, Codec.ZSTD, crc, len(frame), [frame])
        size = self.segment_size(entry)
        if len(data) <= size:
            compressed = deflate(data, self.level)
            return PackedMember(entry, Codec.DEFLATE, crc, len(compressed), [compressed])
        segments = [
            deflate(data[at : at + size], self.level, at + size >= len(data)) for at in range(0, len(data), size)
        ]
        sizes = [len(segment) for segment in segments]
        return PackedMember(entry, Codec.DEFLATE, crc, sum(sizes), segments, field_of(size, sizes))

    @property
    def _zstd(self) -> zstandard.ZstdCompressor:
        if not hasattr(self._of_thread, "zstd"):
            self._of_thread.zstd = zstandard.ZstdCompressor(self.level)  # with the size of the contents
        compressor: zstandard.ZstdCompressor = self._of_thread.zstd
        return compressor

    def segment_size(self, entry: Entry) -> int:
        """Say into what a member is cut for deflate, if it is larger than that."""
        size = self._segment_size or (_SEGMENT if entry.size >= _SEGMENTED_FROM else _SEGMENTED_FROM)
        while entry.size > size * MOST_SEGMENTS:
            size *= 2
        return size

    def stream(self, entry: Entry, contents: BinaryIO) -> _MemberStream:
        """See `archivestream.packing.packer.Format`."""
        return _MemberStream(self, entry, contents)

    def writer(self, file: OutputFile) -> ZipWriter:
        """See `archivestream.packing.packer.Format`."""
        return ZipWriter(file, self.align)


class _MemberStream:
    """Writes a large member: segments of deflate in threads; one frame of zstd, which has threads of its own."""

    def __init__(self, container: ZipFormat, entry: Entry, contents: BinaryIO) -> None:
        self._entry = entry
        self._level = container.level
        self._segment_size = size = container.segment_size(entry)
        pieces = cut(entry, contents, size if size >= _PIECE else _PIECE // size * size)
        first = next(pieces)
        self._pieces = itertools.chain([first], pieces)
        self._codec = _CODECS.get(container.method, Codec.STORED)
        # What the beginning gains stands for all.
        if container.method == "auto" and len(deflate(first, self._level)) < _PAYS * len(first):
            self._codec = Codec.DEFLATE
        self.cost = entry.size + (entry.size >> 8) + overhead(entry, container.align) + 4 * MOST_SEGMENTS
        self._crc = 0
        self._compressed_size = 0
        self._segments: list[int] = []

    def pieces(self) -> Iterator[Piece]:
        """See `archivestream.packing.packer.Stream`."""
        left = self._entry.size
        for piece in self._pieces:
            left -= len(piece)
            yield 2 * len(piece), partial(self._compress, piece, left == 0)

    def _compress(self, piece: memoryview, last: bool) -> tuple[memoryview, Sequence[bytes | bytearray | memoryview]]:
        if self._codec != Codec.DEFLATE:
            return piece, [piece]
        size, end = self._segment_size, len(piece)
        return piece, [
            deflate(piece[at : at + size], self._level, last and at + size >= end) for at in range(0, end, size)
        ]

    def begin(self, writer: ZipWriter) -> None:
        """See `archivestream.packing.packer.Stream`."""
        self._writer = writer
        self._headers = writer.begin(self._entry, self._codec)
        if self._codec == Codec.ZSTD:
            # The number of threads does not show in what they make, as long as there are any.
            compressor = zstandard.ZstdCompressor(self._level, threads=_ZSTD_THREADS)
            self._zstd = compressor.compressobj(self._entry.size)

    def add(self, piece: tuple[memoryview, Sequence[bytes | bytearray | memoryview]]) -> None:
        """See `archivestream.packing.packer.Stream`."""
        data, segments = piece
        self._crc = crc32(data, self._crc)
        if self._codec == Codec.ZSTD:
            segments = [self._zstd.compress(data)]
        for segment in segments:
            self._append(segment)

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.file.write(data)
        self._compressed_size += len(data)
        self._segments.append(len(data))

    def end(self) -> None:
        """See `archivestream.packing.packer.Stream`."""
        if self._codec == Codec.ZSTD:
            self._append(self._zstd.flush())
        segmented = self._codec == Codec.DEFLATE and len(self._segments) > 1
        field = field_of(self._segment_size, self._segments) if segmented else b""
        self._writer.file.patch(self._headers.offset, self._headers.local(self._crc, self._compressed_size))
        self._writer.add_to_directory(self._headers.central(self._crc, self._compressed_size, field))


class ZipPacker(Packer):
    """Writes a ZIP, whose members are compressed in threads; a context manager.

    Parameters
    ----------
    target : path
        Where the archive will stand, once it is whole.
    method : {"auto", "stored", "deflate", "zstd"}
        How members are compressed: "auto" deflates those that become at least 3 % smaller, and stores the others.
        With "deflate" and "zstd", too, a member that would become larger is stored. zstd (method 93) is read by
        this package, 7-Zip and Python 3.14; everything reads the others.
    level : int, optional
        1 to 12 for deflate (libdeflate's levels; default 6), 1 to 22 for zstd (default 3).
    align : int, optional
        Place the data of stored members at multiples of this power of two, such as 4096.
    segment_size : int, optional
        Deflate members larger than this in segments of so many bytes, which are then read in parallel and at random;
        any other reader sees one ordinary stream. Default: segments of 1 MiB in members of at least 4 MiB.
    threads : int, optional
        Default: as many as there are processors. The archive does not depend on it.
    overwrite : bool
        Replace what stands at the target.
    progress : callable, optional
        Called with (bytes packed, bytes in all, or 0 where that is not known).

    Examples
    --------
    >>> with archivestream.ZipPacker("arrays.zip", align=4096) as packer:
    ...     packer.add("first", np.zeros((3, 4)))  # first.npy
    ...     packer.add("readme.txt", b"some text")
    ...     packer.add_file("cat/1.jpg", "/data/cat/1.jpg")
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        method: Method = "auto",
        level: int | None = None,
        align: int | None = None,
        segment_size: int | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        container = ZipFormat(method=method, level=level, align=align, segment_size=segment_size)
        super().__init__(container, target, threads=threads, overwrite=overwrite, progress=progress)
