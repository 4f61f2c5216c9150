"""Members as files: seekable, and of bounded memory whatever their size."""

from __future__ import annotations

import io
import lzma
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from copy import copy

import numpy as np
import zstandard

from archivestream._native.checksums import crc32c
from archivestream._native.codecs import Codec, Status, crc32
from archivestream._native.columns import Layout, MemberFlag
from archivestream.errors import ArchiveError, SourceError
from archivestream.fallback import FALLBACKS, BadHeader, WindowTooLarge
from archivestream.reader import MemberReader

__all__ = ["open_member"]

# Up to this size a member is decoded at once, by the engine; above, piece by piece.
_WHOLE = 16 << 20
_PIECE = 1 << 20
_SMALL_PIECE = 1024  # 32 MiB at the most
_MOST_WINDOW = 1 << 31  # of zstd, on 64 bits


def open_member(reader: MemberReader, member: int, *, verify: bool | None = None) -> io.BufferedReader:
    """Open a member for reading: see `archivestream.Archive.open_member`.

    Whether a large member is checked is for `verify` to say; default: as the reader does.
    """
    codec = int(reader.index["codec"][member])
    size = int(reader.index["size"][member])
    if size <= _WHOLE or codec == Codec.LZ4:  # which has no decoder that goes piece by piece
        if verify and not reader.verify:
            for error in reader.check(np.array([member], np.int64)).values():
                raise error
        return io.BufferedReader(_WholeMember(reader.read(member)))
    if reader.layout(member) != Layout.ENTRIES:
        if int(reader.index["flags"][member]) & MemberFlag.CRC32C_BIT:
            return io.BufferedReader(_Record(reader, member, verify), _PIECE)
        return io.BufferedReader(_RangeMember(reader, member), _PIECE)
    offset = reader.data_offset(member)
    if codec == Codec.STORED:
        return io.BufferedReader(_StoredMember(reader, member, offset, verify), _PIECE)
    return io.BufferedReader(_StreamedMember(reader, member, offset, verify), _PIECE)


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
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError(f"whence is 0, 1 or 2, not {whence}")
        base = bases[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_PIECE), b""))  # the inherited one asks for 8 KiB at a time


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


class _RangeMember(_SeekableRaw):
    """A member that is a range of a stream: read anywhere. What has checksums are the blocks of the stream."""

    def __init__(self, reader: MemberReader, member: int) -> None:
        super().__init__(int(reader.index["size"][member]))
        _check_range(reader, member)
        self._reader = reader
        self._member = member

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        if view:
            self._reader.read_range(self._member, self._position, view)
        self._position += len(view)
        return len(view)


def _check_range(reader: MemberReader, member: int) -> None:
    """Raise what is known to be wrong with a member that is a range of a stream."""
    if reader.refused(np.array([member], np.int64))[0]:
        reader.read(member)


class _CheckedMember(_SeekableRaw):
    """Follows the checksum as long as the member is read from its start without a gap.

    What is once known to be bad is not handed out again: each later read raises the same error.
    """

    _checksum = staticmethod(crc32)

    def __init__(self, reader: MemberReader, member: int, offset: int, verify: bool | None) -> None:
        super().__init__(int(reader.index["size"][member]))
        self._verify = reader.verify if verify is None else verify
        self._failure: ArchiveError | None = None
        self._reader = reader
        self._member = member
        self._offset = offset
        self._checked = 0
        self._crc = 0

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        if self._failure is not None:
            raise copy(self._failure)  # a new one, as its traceback would keep the archive open
        try:
            got = self._fill(view) if view else 0
        except SourceError:
            raise  # it may come through the next time
        except ArchiveError as error:
            self._failure = copy(error)
            raise
        self._position += got
        return got

    @abstractmethod
    def _fill(self, view: memoryview) -> int:
        """Read some bytes, at least one, from the position on."""

    def _check(self, at: int, data: memoryview) -> None:
        if at == 0:
            self._crc = self._checked = 0
        if not self._verify or at != self._checked:
            return
        self._crc = self._checksum(data, self._crc)
        self._checked += len(data)
        if self._checked == self._size and self._crc != self._reader.index["crc32"][self._member]:
            raise self._reader.error(self._member, Status.BAD_CHECKSUM, 0)


class _StoredMember(_CheckedMember):
    """A member whose bytes lie in the source as they are."""

    def _fill(self, view: memoryview) -> int:
        self._reader.read_source(self._member, self._offset + self._position, view)
        self._check(self._position, view)
        return len(view)


class _Record(_CheckedMember):
    """A range of a stream that has a CRC-32C."""

    _checksum = staticmethod(crc32c)

    def __init__(self, reader: MemberReader, member: int, verify: bool | None) -> None:
        _check_range(reader, member)
        super().__init__(reader, member, int(reader.index["offset"][member]), verify)

    def _fill(self, view: memoryview) -> int:
        self._reader.read_range(self._member, self._position, view)
        self._check(self._position, view)
        return len(view)


class _StreamedMember(_CheckedMember):
    """A compressed member, decoded as it is read; seeking back begins again."""

    def __init__(self, reader: MemberReader, member: int, offset: int, verify: bool | None) -> None:
        super().__init__(reader, member, offset, verify)
        self._compressed_size = int(reader.index["compressed_size"][member])
        self._begin()

    def _begin(self) -> None:
        self._decoded = 0  # bytes before `_piece`
        self._piece = memoryview(b"")
        self._pieces = self._decode()

    def _fill(self, view: memoryview) -> int:
        if self._position < self._decoded:
            self._begin()
        try:
            while self._position >= self._decoded + len(self._piece):
                self._advance()
        except BaseException:
            self._begin()  # a generator that has raised goes no further
            raise
        start = self._position - self._decoded
        data = self._piece[start : start + len(view)]
        view[: len(data)] = data
        return len(data)

    def _advance(self) -> None:
        """Decode the next piece, and the end of the stream with the last one."""
        self._decoded += len(self._piece)
        self._piece = memoryview(next(self._pieces, b""))
        end = self._decoded + len(self._piece)
        if not self._piece:
            raise self._error(Status.TOO_FEW_BYTES)
        if end > self._size or (end == self._size and next(self._pieces, b"")):
            raise self._error(Status.TOO_MANY_BYTES)
        self._check(self._decoded, self._piece)

    def _error(self, status: Status) -> Exception:
        return self._reader.error(self._member, status, 0)

    def _compressed(self) -> Iterator[bytes]:
        for at in range(0, self._compressed_size, _PIECE):
            data = bytearray(min(_PIECE, self._compressed_size - at))
            self._reader.read_source(self._member, self._offset + at, memoryview(data))
            yield bytes(data)

    def _decode(self) -> Iterator[bytes]:
        """Decode piece by piece, none of them empty; what the libraries raise becomes an `ArchiveError`."""
        codec = int(self._reader.index["codec"][self._member])
        window = self._reader.limits.max_window_bytes
        strict = self._reader.strict
        try:
            if codec == Codec.DEFLATE:
                pieces = _inflate(self._compressed(), strict)
            elif codec == Codec.ZSTD:
                pieces = _unzstd(self._compressed(), self._size, window, strict)
            else:
                pieces = _fall_back(codec, self._compressed(), self._size, window, strict)
            yield from filter(None, pieces)
        except ArchiveError:
            raise
        except _Bad as error:
            raise self._error(error.status) from error
        except MemoryError as error:
            raise self._error(Status.NO_MEMORY) from error
        except WindowTooLarge as error:
            raise self._error(Status.WINDOW_TOO_LARGE) from error
        except (lzma.LZMAError, zstandard.ZstdError) as error:
            text = str(error).lower()
            if "dictionary" in text:
                raise self._error(Status.DICTIONARY_REQUIRED) from error
            over = "limit" in text or "too much memory" in text
            raise self._error(Status.WINDOW_TOO_LARGE if over else Status.BAD_DATA) from error
        except (BadHeader, zlib.error, OSError, EOFError, ValueError) as error:
            raise self._error(Status.BAD_DATA) from error


class _Bad(Exception):
    """A stream ends otherwise than it should."""

    def __init__(self, status: Status) -> None:
        self.status = status


def _inflate(pieces: Iterator[bytes], strict: bool) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    for data in pieces:
        while data and not decompressor.eof:
            yield decompressor.decompress(data, _PIECE)
            data = decompressor.unconsumed_tail
        if strict and (decompressor.unused_data or (data and decompressor.eof)):
            raise _Bad(Status.TRAILING_BYTES)
    if not decompressor.eof:
        yield decompressor.flush()
    if not decompressor.eof:
        raise _Bad(Status.BAD_DATA)


def _unzstd(pieces: Iterator[bytes], size: int, max_window: int, strict: bool) -> Iterator[bytes]:
    # A window is filled as the member is decoded, and never beyond its size.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW if size <= max_window else max_window)
    decoded = begin = 0  # of all frames, and of those before this one
    frame = decompressor.decompressobj()
    finished = True
    for data in _small(pieces):
        while data:
            finished = False
            try:
                piece = frame.decompress(data)
            except zstandard.ZstdError as error:
                if begin != size:
                    raise
                if strict:
                    raise _Bad(Status.TRAILING_BYTES) from error
                return
            decoded += len(piece)
            yield piece
            data = frame.unused_data
            if frame.eof:
                frame, finished, begin = decompressor.decompressobj(), True, decoded
    if not finished and begin != size:
        raise _Bad(Status.BAD_DATA)
    if not finished and strict:
        raise _Bad(Status.TRAILING_BYTES)  # fewer than the header of a frame has


def _small(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Cut pieces up, for a decoder that cannot be stopped: 4 bytes of zstd can stand for 128 KiB."""
    for piece in pieces:
        for at in range(0, len(piece), _SMALL_PIECE):
            yield piece[at : at + _SMALL_PIECE]


def _fall_back(codec: int, pieces: Iterator[bytes], size: int, max_window: int, strict: bool) -> Iterator[bytes]:
    data = next(pieces, b"")
    decompressor, start = FALLBACKS[codec](data[:9], size, max_window)
    data = data[start:]
    left = size if codec == Codec.LZMA else size + 1  # see `archivestream.fallback.decode`
    while left and not decompressor.eof:
        if not data and decompressor.needs_input:
            data = next(pieces, b"")
            if not data:
                break
        piece = decompressor.decompress(data, min(left, _PIECE))
        data = b""
        left -= len(piece)
        yield piece
    if codec != Codec.LZMA and not decompressor.eof:
        raise _Bad(Status.BAD_DATA)
    if strict and decompressor.eof and (decompressor.unused_data or next(pieces, b"")):
        raise _Bad(Status.TRAILING_BYTES)
