"""Members as files: seekable, and of bounded memory whatever their size."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import zstandard

from archivestream._native.codecs import Status, crc32
from archivestream.fallback import FALLBACKS
from archivestream.reader import MemberReader

__all__ = ["open_member"]

# Up to this size a member is decoded at once, by the engine; above, piece by piece.
_WHOLE = 16 << 20
_PIECE = 1 << 20
_STORED, _DEFLATE, _ZSTD = 0, 8, 93


def open_member(reader: MemberReader, member: int) -> io.BufferedReader:
    """Open a member for reading: see `archivestream.Archive.open_member`."""
    codec = int(reader.index["codec"][member])
    size = int(reader.index["size"][member])
    if size <= _WHOLE:
        return io.BufferedReader(_WholeMember(reader.read(member)))
    offset = reader.data_offset(member)
    if codec == _STORED:
        return io.BufferedReader(_StoredMember(reader, member, offset), _PIECE)
    return io.BufferedReader(_StreamedMember(reader, member, offset), _PIECE)


class _SeekableRaw(io.RawIOBase):
    """A position, and seeking; subclasses read at it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position


class _WholeMember(_SeekableRaw):
    """A member that is in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data))
        self._data = memoryview(data)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._data[self._position : self._position + len(buffer)]
        memoryview(buffer)[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class _CheckedMember(_SeekableRaw):
    """Follows the checksum as long as the member is read from its start without a gap."""

    def __init__(self, reader: MemberReader, member: int, offset: int) -> None:
        super().__init__(int(reader.index["size"][member]))
        self._reader = reader
        self._member = member
        self._source = reader.sources[reader.index.source_of(member)]
        self._offset = offset
        self._checked = 0
        self._crc = 0

    def _check(self, at: int, data: memoryview) -> None:
        if not self._reader.verify or at != self._checked:
            return
        self._crc = crc32(data, self._crc)
        self._checked += len(data)
        if self._checked == self._size and self._crc != self._reader.index["crc32"][self._member]:
            self._checked = -1
            raise self._reader.error(self._member, Status.BAD_CHECKSUM, 0)


class _StoredMember(_CheckedMember):
    """A member whose bytes lie in the source as they are."""

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        if not view:
            return 0
        got = self._source.readinto_at(self._offset + self._position, view)
        if got < len(view):
            raise self._reader.error(self._member, Status.TRUNCATED, 0)
        self._check(self._position, view)
        self._position += got
        return got


class _StreamedMember(_CheckedMember):
    """A compressed member, decoded as it is read; seeking back begins again."""

    def __init__(self, reader: MemberReader, member: int, offset: int) -> None:
        super().__init__(reader, member, offset)
        self._compressed_size = int(reader.index["compressed_size"][member])
        self._decoded = 0  # bytes before `_piece`
        self._piece = memoryview(b"")
        self._pieces = filter(None, self._decode())

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._position >= self._size:
            return 0
        if self._position < self._decoded:
            self._pieces = filter(None, self._decode())
            self._decoded, self._piece = 0, memoryview(b"")
        while self._position >= self._decoded + len(self._piece):
            self._decoded += len(self._piece)
            self._piece = memoryview(next(self._pieces, b""))
            if not self._piece:
                raise self._reader.error(self._member, Status.TOO_FEW_BYTES, 0)
            if self._decoded + len(self._piece) > self._size:
                raise self._reader.error(self._member, Status.TOO_MANY_BYTES, 0)
            self._check(self._decoded, self._piece)
        start = self._position - self._decoded
        data = self._piece[start : start + len(buffer)]
        memoryview(buffer)[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _compressed(self) -> Iterator[bytes]:
        for at in range(0, self._compressed_size, _PIECE):
            want = min(_PIECE, self._compressed_size - at)
            data = bytes(self._source.read_at(self._offset + at, want))
            if len(data) < want:
                raise self._reader.error(self._member, Status.TRUNCATED, 0)
            yield data

    def _decode(self) -> Iterator[bytes]:
        codec = int(self._reader.index["codec"][self._member])
        try:
            if codec == _DEFLATE:
                yield from _inflate(self._compressed())
            elif codec == _ZSTD:
                yield from _unzstd(self._compressed(), self._reader.limits.max_window_bytes)
            else:
                head = bytes(self._source.read_at(self._offset, 9))
                decompressor, start = FALLBACKS[codec](head, self._size, self._reader.limits.max_window_bytes)
                for data in self._compressed():
                    yield decompressor.decompress(data[start:], _PIECE)
                    start = 0
                    while not (decompressor.needs_input or decompressor.eof):
                        yield decompressor.decompress(b"", _PIECE)
        except (zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
            raise self._reader.error(self._member, Status.BAD_DATA, 0) from error


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    for data in pieces:
        while data:
            yield decompressor.decompress(data, _PIECE)
            data = decompressor.unconsumed_tail
    yield decompressor.flush()


def _unzstd(pieces: Iterator[bytes], max_window: int) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=max_window)
    stream = decompressor.stream_reader(io.BufferedReader(_Readable(pieces)), read_across_frames=True)
    while data := stream.read(_PIECE):
        yield data


class _Readable(io.RawIOBase):
    """An iterator of pieces, as the file object that zstandard reads from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._pieces, b"")
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        memoryview(buffer)[: len(data)] = data
        return len(data)
