"""What a gzip file decodes to, as a source: through rapidgzip, which seeks in it with an index of its own.

As rapidgzip 0.16.1 was found to work: it checks the CRC-32 of each member (RFC 1952, 2.3.1) where it decodes from the
beginning to the end, but not ISIZE, and nothing where it decodes from a place in between; it takes zeros behind the
last member for damage; and a reader that is left open when Python ends aborts the process.
"""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from archivestream._native.codecs import crc32
from archivestream.errors import CorruptArchiveError
from archivestream.sources.base import Source
from archivestream.sources.local import LocalSource

__all__ = ["GzipDecoder", "GzipSource"]

# Compressed bytes between two places where decoding can begin: an index of 1.4 % of the file, 2 ms to read somewhere,
# and less than 300 MiB a thread for what expands as far as deflate can (a "bomb").
_SPACING = 1 << 20
# Two or three threads are slower than one: to decode from where the window is not known takes three times the work.
_FEWEST_THREADS = 4
_MOST_THREADS = 8
_MOST_READERS = 8  # in a process; each takes some 20 MiB, and the index


class GzipDecoder:
    """A gzip file as rapidgzip reads it, from one thread at a time. Close it: it may have threads.

    Parameters
    ----------
    base : Source
        The file.
    end : int
        Where its last member ends.
    index : bytes-like, optional
        As `export` gave it.
    threads : int
        That decode. One decodes in the thread that asks.

    Raises
    ------
    ImportError
        If rapidgzip is not installed.
    CorruptArchiveError
        Here and from every method, if the file or the index is damaged.
    OSError
        Here and from every method, if reading the file fails.
    """

    def __init__(self, base: Source, end: int, index: memoryview | None = None, threads: int = 1) -> None:
        try:
            import rapidgzip
        except ImportError as error:
            raise ImportError(
                f"{base.name}: reading gzip needs the package rapidgzip ({error}); pip install 'archivestream[gzip]'"
            ) from error
        self._name = base.name
        self._file = _RangeFile(base, end)
        self._format = rapidgzip.IndexFormat.GZTOOL  # whose windows are compressed
        threads = 1 if threads < _FEWEST_THREADS else min(threads, _MOST_THREADS)
        file: Any = self._file
        if threads > 1 and base.descriptor >= 0 and end == base.size:
            file = f"/dev/fd/{base.descriptor}"  # read without the GIL
        with self._translated():
            self._reader = rapidgzip.RapidgzipFile(file, parallelization=threads, chunk_size=_SPACING)
        if index is not None:
            try:
                with self._translated():
                    self._reader.import_index(io.BytesIO(index))
            except BaseException:
                self.close()
                raise

    def size(self) -> int:
        """Return the number of decoded bytes, once that is known."""
        with self._translated():
            return int(self._reader.size())

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Decode from a place; return how many bytes there were (fewer only at the end)."""
        done = 0
        with self._translated():
            if self._reader.tell() != offset:
                self._reader.seek(offset)
            while done < len(buffer) and (got := self._reader.readinto(buffer[done:])):
                done += got
        return done

    def export(self) -> bytes:
        """Return the index, once all has been read."""
        index = io.BytesIO()
        with self._translated():
            self._reader.export_index(index, self._format)
        return index.getvalue()

    @property
    def position(self) -> int:
        """How far it has come in the file, in bytes."""
        with self._translated():
            return int(self._reader.tell_compressed()) // 8

    @property
    def base_crc32(self) -> int | None:
        """The CRC-32 of the file, where all of it has gone through one thread."""
        return self._file.crc32 if self._file.checked == self._file.size else None

    def close(self) -> None:
        """End its threads."""
        self._reader.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # C++ exceptions become RuntimeError, and ValueError, IndexError and the like; those of the file object, too,
        # where they come through another thread.
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            if self._file.error is not None:
                raise self._file.error from None
            raise CorruptArchiveError(f"its gzip data cannot be decoded: {error}", archive=self._name) from error


class _RangeFile(io.RawIOBase):
    """The first bytes of a source as the file object that rapidgzip wants, with a position of its own."""

    def __init__(self, base: Source, size: int) -> None:
        self._base = base
        self.size = size
        self._at = 0
        self.error: Exception | None = None
        self.checked = 0  # bytes that `crc32` is of: read one after the other, some of them more than once
        self.crc32 = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        with memoryview(buffer).cast("B") as view, view[: max(0, self.size - self._at)] as room:
            try:
                got = self._base.readinto_at(self._at, room)
            except Exception as error:
                self.error = error
                raise
            if self._at <= self.checked < self._at + got:
                self.crc32 = crc32(room[self.checked - self._at : got], self.crc32)
                self.checked = self._at + got
        self._at += got
        return got


class _Decoders:
    """Decoders of one file, for as many threads as ask. A forked process makes its own."""

    def __init__(self, base: Source, size: int, index: memoryview, end: int) -> None:
        self._base, self._size, self._index, self._end = base, size, index, end
        self._free: dict[int, list[GzipDecoder]] = {}
        self._room: dict[int, threading.BoundedSemaphore] = {}
        self._closed = False

    @contextmanager
    def one(self, *, fresh: bool = False) -> Iterator[GzipDecoder]:
        """Lend a decoder; with `fresh`, one that has not read anything."""
        process = os.getpid()
        free = self._free.setdefault(process, [])
        with self._room.setdefault(process, threading.BoundedSemaphore(_MOST_READERS)):
            try:
                decoder = self._open() if fresh else free.pop()
            except IndexError:
                decoder = self._open()
            try:
                yield decoder
            except BaseException:  # where it is now, nobody knows
                decoder.close()
                raise
            free.append(decoder)
        if self._closed:
            self.close()

    def _open(self) -> GzipDecoder:
        decoder = GzipDecoder(self._base, self._end, self._index)
        if decoder.size() != self._size:
            decoder.close()
            raise CorruptArchiveError(
                f"its index is of {decoder.size()} bytes, not of {self._size}; delete the saved index",
                archive=self._base.name,
            )
        return decoder

    def close(self) -> None:
        """Close those that nobody uses, and the others when they are given back."""
        self._closed = True
        for free in list(self._free.values()):  # those of the process that this one was forked from have no threads
            while free:
                free.pop().close()


class GzipSource(Source):
    """The decoded bytes of a gzip file, read at any place.

    Each read decodes from the last place of the index before it; several threads decode side by side. Nothing is
    checked here: whoever reads has a CRC of what comes.

    Parameters
    ----------
    base : Source
        The gzip file; it is closed with this one.
    size : int
        Of what it decodes to.
    index : bytes-like
        Of rapidgzip, as `archivestream.formats.gzip` makes it.
    end : int, optional
        Where the last member of the file ends. Default: where the file does.
    """

    def __init__(self, base: Source, size: int, index: Any, end: int | None = None) -> None:
        self.base = base
        self.name = base.name
        self.size = size
        self._index = memoryview(index).cast("B") if len(index) else memoryview(b"")
        self._end = base.size if end is None else end
        self._decoders = _Decoders(base, size, self._index, self._end)
        weakref.finalize(self, self._decoders.close)  # when it is forgotten, and before Python ends

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Decode from a place; return how many bytes there were.

        Raises
        ------
        CorruptArchiveError
            If it cannot be decoded.
        OSError
            If reading the file fails.
        """
        room = buffer[: max(0, self.size - offset)]
        if not room:
            return 0
        try:
            with self._decoders.one() as decoder:
                return decoder.readinto_at(offset, room)
        except CorruptArchiveError:
            # It may have come from the beginning to the end, and mind what is damaged elsewhere.
            with self._decoders.one(fresh=True) as decoder:
                return decoder.readinto_at(offset, room)

    def change(self) -> str | None:
        """Say how the file differs from when it was opened."""
        return self.base.change()

    def close(self) -> None:
        """Let go of the decoders and of the file."""
        self._decoders.close()
        self.base.close()

    def __reduce__(self) -> tuple[Any, ...]:
        base = self.base.path if type(self.base) is LocalSource else self.base
        return _reopen, (base, self.size, bytes(self._index), self._end)


def _reopen(base: str | Source, size: int, index: bytes, end: int) -> GzipSource:
    return GzipSource(LocalSource(base) if isinstance(base, str) else base, size, index, end)
