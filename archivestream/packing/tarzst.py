"""Writing tar archives, plain and as seekable ``.tar.zst``.

A ``.tar.zst`` is cut into zstd frames that can each be decoded alone: whole members together, up to about the size of
a frame, or equal parts of a larger member. Each frame has its content size and a checksum. The file ends with a seek
table, of the seekable format in zstd's ``contrib/seekable_format`` (all little-endian), which other readers skip::

     0  u32 magic 0x184D2A5E, a skippable frame       for each frame:
     4  u32 bytes that follow                          0  u32 bytes, compressed
     8  entries                                        4  u32 bytes, decoded
        u32 number of frames                           8  u32 lower half of the XXH64 of the decoded bytes
        u8  0x80: entries have checksums
        u32 magic 0x8F92EAB1

A trained dictionary, where one is asked for, stands in a skippable frame (magic 0x184D2A50) at the beginning, and is
the first entry of the table, with no decoded bytes. ``zstd -d`` needs it as a file then (``-D``).
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import zstandard

from archivestream._native.zstdscan import make_seek_table
from archivestream.packing.entries import Entry
from archivestream.packing.output import OutputFile
from archivestream.packing.packer import Packer, Piece, cut
from archivestream.session import Progress

__all__ = ["SAMPLE_BYTES", "SAMPLE_PIECE", "TarFormat", "TarZstFormat", "TarZstPacker", "train_dictionary"]

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_FRAME_SIZE = 256 << 10
_SMALLEST_FRAME, _LARGEST_FRAME = 4096, 1 << 30
_LEVELS = range(1, zstandard.MAX_COMPRESSION_LEVEL + 1)

_TRAINED = b"\x37\xa4\x30\xec"
_DICTIONARY_MAGIC = 0x184D2A50
_EMPTY_CHECKSUM = 0x51D8E999  # lower half of the XXH64 of no bytes

_DICTIONARY_SIZE = 112_640  # zstd's default
SAMPLE_BYTES = 100 * _DICTIONARY_SIZE  # as many as its manual advises
SAMPLE_PIECE = 128 << 10  # what a dictionary is used for is the beginning of a frame


class Frame(NamedTuple):
    """A piece of the stream, compressed."""

    data: bytes
    size: int
    checksum: int


class Frames(NamedTuple):
    """Frames that hold whole members."""

    frames: Sequence[Frame]

    @property
    def cost(self) -> int:
        """See `archivestream.packing.packer.Unit`."""
        return sum(len(frame.data) + 12 for frame in self.frames)


class TarFormat:
    """How members are written to a plain tar: the frames are as they are."""

    unit_bytes = 0  # each member by itself
    frame_size = 1 << 20

    def footprint(self, entry: Entry) -> int:
        """See `archivestream.packing.packer.Format`."""
        return _BLOCK + entry.size + _BLOCK - 1 & -_BLOCK

    def pack(self, entries: Sequence[Entry], contents: Sequence[memoryview]) -> Frames:
        """Make frames of whole members."""
        parts: list[Any] = []
        for entry, data in zip(entries, contents, strict=True):
            parts += _member(entry, data)
        data = memoryview(b"".join(parts))
        size = self.piece_size(len(data))
        return Frames([self.compress(data[at : at + size]) for at in range(0, len(data), size)])

    def piece_size(self, size: int) -> int:
        """Cut what is larger than a frame into equal frames."""
        count = max(1, round(size / self.frame_size))
        return -(-size // count)

    def compress(self, data: bytes | memoryview) -> Frame:
        """Make one frame."""
        return Frame(bytes(data), len(data), 0)

    def stream(self, entry: Entry, contents: BinaryIO) -> _MemberStream:
        """See `archivestream.packing.packer.Format`."""
        return _MemberStream(self, entry, contents)

    def writer(self, file: OutputFile) -> TarWriter:
        """See `archivestream.packing.packer.Format`."""
        return TarWriter(file)


class TarZstFormat(TarFormat):
    """How members are written to a ``.tar.zst``; see `TarZstPacker` for the parameters."""

    def __init__(
        self, *, level: int | None = None, frame_size: int | None = None, dictionary: bytes | None = None
    ) -> None:
        if level is not None and level not in _LEVELS:
            raise ValueError(f"level is from {_LEVELS[0]} to {_LEVELS[-1]}, not {level}")
        if frame_size is not None and not _SMALLEST_FRAME <= frame_size <= _LARGEST_FRAME:
            raise ValueError(f"frame_size is from {_SMALLEST_FRAME} to {_LARGEST_FRAME} bytes, not {frame_size}")
        if dictionary is not None and not dictionary.startswith(_TRAINED):
            raise ValueError("dictionary is no trained zstd dictionary, which begins with 37 A4 30 EC")
        self.unit_bytes = self.frame_size = frame_size or _FRAME_SIZE
        self.dictionary = dictionary
        self._level = level or 3
        self._shared: zstandard.ZstdCompressionDict | None = None
        if dictionary is not None:
            self._shared = zstandard.ZstdCompressionDict(dictionary, zstandard.DICT_TYPE_FULLDICT)
            self._shared.precompute_compress(level=self._level)
        self._of_thread = threading.local()

    def compress(self, data: bytes | memoryview) -> Frame:
        """Make one frame."""
        if not hasattr(self._of_thread, "zstd"):
            self._of_thread.zstd = zstandard.ZstdCompressor(
                self._level, dict_data=self._shared, write_checksum=True, write_content_size=True
            )
        compressed: bytes = self._of_thread.zstd.compress(data)
        # A frame ends with the lower half of the XXH64 of its contents: what the table wants, too.
        return Frame(compressed, len(data), int.from_bytes(compressed[-4:], "little"))

    def writer(self, file: OutputFile) -> TarWriter:
        """See `archivestream.packing.packer.Format`."""
        return TarZstWriter(file, self)


class TarWriter:
    """Writes a plain tar."""

    def __init__(self, file: OutputFile) -> None:
        self.file = file

    @property
    def final_size(self) -> int:
        """See `archivestream.packing.packer.Writer`."""
        return self.file.size + len(_END)

    def write(self, unit: Frames) -> None:
        """Append members."""
        for frame in unit.frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        """Append a frame."""
        self.file.write(frame.data)

    def finish(self) -> None:
        """Append what ends a tar."""
        self.file.write(_END)


class TarZstWriter(TarWriter):
    """Writes a ``.tar.zst`` with its seek table."""

    def __init__(self, file: OutputFile, container: TarZstFormat) -> None:
        super().__init__(file)
        self._compress = container.compress
        self._table = array("I")  # of each frame: bytes, compressed and decoded, and the checksum
        if container.dictionary is not None:
            head = struct.pack("<2L", _DICTIONARY_MAGIC, len(container.dictionary))
            self.add(Frame(head + container.dictionary, 0, _EMPTY_CHECKSUM))

    @property
    def final_size(self) -> int:
        """See `archivestream.packing.packer.Writer`."""
        return self.file.size + len(_END) + 4 * len(self._table) + 64

    def add(self, frame: Frame) -> None:
        """Append a frame."""
        super().add(frame)
        self._table.extend((len(frame.data), frame.size, frame.checksum))

    def finish(self) -> None:
        """Append what ends a tar, and the seek table."""
        self.add(self._compress(_END))
        try:
            table = make_seek_table(zip(self._table[::3], self._table[1::3], strict=True), self._table[2::3])
        except ValueError as error:
            raise ValueError(f"{self.file.path}: {error}; use a larger frame_size") from error
        self.file.write(table)


def _member(entry: Entry, data: memoryview) -> list[Any]:
    """Make the blocks of a member: its header, its data, and zeros up to the next block."""
    kind = _KINDS.get(stat.S_IFMT(entry.mode), tarfile.REGTYPE)
    if kind == tarfile.SYMTYPE and b"\0" not in (target := bytes(data)):  # which ends a target
        return [_header(entry, kind, target=target)]
    if kind == tarfile.DIRTYPE and not len(data):
        return [_header(entry, kind)]
    return [_header(entry, size=len(data)), data, bytes(-len(data) % _BLOCK)]


def _header(entry: Entry, kind: bytes = tarfile.REGTYPE, *, size: int = 0, target: bytes = b"") -> bytes:
    """Make the header of a member (POSIX.1-1988 ustar), in PAX format where that does not hold its values.

    The type and the size are those of what is written behind it.
    """
    name, mode, seconds = entry.name, stat.S_IMODE(entry.mode), entry.seconds
    if len(name) < 100 and name.isascii() and 0 <= seconds < 1 << 33 and size < 1 << 33 and not target:
        # What nearly every member has; `tarfile` takes five times as long.
        path = name.encode().ljust(100, b"\0")
        fields = b"%b%07o\0%b%011o\0%011o\0        %b%b" % (path, mode, _ROOT, size, seconds, kind, _REST)
        return b"%b%06o\0%b" % (fields[:148], sum(fields), fields[155:])
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.size, info.type = mode, seconds, size, kind
    info.linkname = target.decode("utf-8", "surrogateescape")
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_KINDS = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
_ROOT = b"0000000\0" * 2  # user and group
_REST = b"\0" * 100 + tarfile.POSIX_MAGIC + b"\0" * 247  # no link, no names of user and group


class _MemberStream:
    """Writes a large member as frames of its own."""

    def __init__(self, container: TarFormat, entry: Entry, contents: BinaryIO) -> None:
        self._container = container
        self._entry = entry
        self._contents = contents
        self._header = _header(entry, size=entry.size)  # only files are large
        self._size = container.piece_size(entry.size)
        self.cost = container.footprint(entry) + (entry.size >> 8) + 32 * (entry.size // self._size + 1)

    def pieces(self) -> Iterator[Piece]:
        """See `archivestream.packing.packer.Stream`."""
        left = self._entry.size
        head: bytes = self._header
        for piece in cut(self._entry, self._contents, self._size):
            left -= len(piece)
            tail = bytes(-self._entry.size % _BLOCK) if left == 0 else b""
            data = b"".join([head, piece, tail]) if head or tail else piece
            yield 2 * len(data), partial(self._container.compress, data)
            head = b""

    def begin(self, writer: TarWriter) -> None:
        """See `archivestream.packing.packer.Stream`."""
        self._writer = writer

    def add(self, piece: Frame) -> None:
        """See `archivestream.packing.packer.Stream`."""
        self._writer.add(piece)

    def end(self) -> None:
        """See `archivestream.packing.packer.Stream`."""


def train_dictionary(samples: Sequence[bytes | memoryview], level: int) -> bytes:
    """Train a dictionary for members that resemble each other.

    Raises
    ------
    ValueError
        If the samples are too few, or have nothing in common.
    """
    pieces: list[Any] = [bytes(sample) for sample in samples if len(sample)]
    try:
        return zstandard.train_dictionary(_DICTIONARY_SIZE, pieces, level=level).as_bytes()
    except zstandard.ZstdError as error:
        raise ValueError(f"no dictionary can be trained from {len(pieces)} samples: {error}") from error


class TarZstPacker(Packer):
    """Writes a seekable ``.tar.zst``, compressed in threads; a context manager.

    Any program that reads ``.tar.zst`` reads it; this one finds each member without decoding what stands before it.

    Parameters
    ----------
    target : path
        Where the archive will stand, once it is whole.
    level : int
        1 to 22.
    frame_size : int
        About how many bytes are compressed together, and so decoded together: whole members, or equal parts of a
        larger one. Smaller frames make random access to small members faster, and the archive larger.
    dictionary : bytes, optional
        A trained zstd dictionary, which is kept in the archive. ``zstd -d`` and ``tar`` do not find it there: leave it
        out where other programs are to read the archive.
    threads, overwrite, progress
        As for `ZipPacker`.

    Examples
    --------
    >>> with archivestream.TarZstPacker("texts.tar.zst", frame_size=64 << 10) as packer:
    ...     packer.add("a.txt", b"some text")
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        level: int = 3,
        frame_size: int = _FRAME_SIZE,
        dictionary: bytes | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        container = TarZstFormat(level=level, frame_size=frame_size, dictionary=dictionary)
        super().__init__(container, target, threads=threads, overwrite=overwrite, progress=progress)
