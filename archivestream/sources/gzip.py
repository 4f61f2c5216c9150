"""What a gzip file decodes to, as a source: through rapidgzip, which seeks in it with an index of its own.

As rapidgzip 0.16.1 was found to work: it checks the CRC-32 of each member (RFC 1952, 2.3.1) where it decodes from the
beginning to the end, but not ISIZE, and nothing where it decodes from a place in between; it takes zeros behind the
last member for damage; a reader that is left open when Python ends aborts the process, so that all are closed before;
and one that is closed never lets go of its file objects (references to their methods are not given back), so that
they let go of what they hold, which leaves a KiB.
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from archivestream._native.codecs import crc32
from archivestream.errors import CorruptArchiveError
from archivestream.sources.address_space import is_limited, take_room
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
_EXIT_SECONDS = 5.0  # that the interpreter waits for what daemon threads decode when it exits
_POLL = 0.005


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
    MemoryError
        Here and from every method, if there is no memory, or no address space: rapidgzip would end the process.
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
        self._threads = 1 if threads < _FEWEST_THREADS or is_limited() else min(threads, _MOST_THREADS)
        self._process = os.getpid()
        self._is_busy = False
        self._reader: Any = None
        self._end = threading.Lock()  # for good: of the thread that closes it
        self._is_closed = False
        _living[id(self)] = self
        with self._translated():
            self._reader = self._open(rapidgzip.RapidgzipFile, base, end)
        if index is not None:
            try:
                with self._translated(), io.BytesIO(index) as saved:
                    self._reader.import_index(saved)
            except BaseException:
                self.close()
                raise

    def _open(self, open_file: Any, base: Source, end: int) -> Any:
        if self._threads > 1 and base.descriptor >= 0 and end == base.size:
            try:  # to have it read without the GIL
                return open_file(f"/dev/fd/{base.descriptor}", parallelization=self._threads, chunk_size=_SPACING)
            except Exception:  # it has a descriptor of its own there, and no more of them may be left
                pass
        return open_file(self._file, parallelization=self._threads, chunk_size=_SPACING)

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
        with self._translated(), io.BytesIO() as index:
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
        if self._reader is not None and self._end.acquire(blocking=False):
            self._reader.close()
            self._file.let_go()
            self._is_closed = True

    def close_at_exit(self, end: float) -> None:
        """Close it, once nobody decodes with it; or not at all, if that takes longer than until `end`."""
        if self._process != os.getpid():  # it has no threads here, and whoever was using it is not here, either
            if self._threads == 1 and not self._is_busy:
                self.close()
            return
        while not self._is_closed and (self._is_busy or self._reader is not None) and time.monotonic() < end:
            if not self._is_busy:
                self.close()
            if not self._is_closed:  # another thread decodes with it, or closes it
                time.sleep(_POLL)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        # C++ exceptions become RuntimeError, and ValueError, IndexError and the like; those of the file object, too,
        # where they come through another thread.
        take_room(self._name)
        self._is_busy = True  # first: who closes it says that it is over, and then looks
        try:
            if _is_over:
                raise _InterpreterExits
            yield
        except _InterpreterExits:
            raise RuntimeError(f"{self._name}: gzip cannot be read any more: the interpreter exits") from None
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if self._file.error is not None:
                raise self._file.error from None
            interrupt = _find_interrupt(error)
            if interrupt is not None:
                raise interrupt from None
            if os.strerror(errno.EAGAIN) in str(error):  # std::system_error: no thread can be started
                raise OSError(errno.EAGAIN, f"rapidgzip has no threads: {error}", self._name) from error
            raise CorruptArchiveError(f"its gzip data cannot be decoded: {error}", archive=self._name) from error
        finally:
            self._is_busy = False


_living: weakref.WeakValueDictionary[int, GzipDecoder] = weakref.WeakValueDictionary()
_is_over = False


class _InterpreterExits(Exception):
    """Nothing can be decoded any more."""


@atexit.register
def _close_all() -> None:
    global _is_over
    _is_over = True
    end = time.monotonic() + _EXIT_SECONDS
    for reference in _living.valuerefs():
        decoder = reference()
        if decoder is not None:
            decoder.close_at_exit(end)


def _find_interrupt(error: BaseException | None) -> BaseException | None:
    """Find Ctrl-C, or another end, behind what became of it in native code that had called Python's."""
    while error is not None and isinstance(error, Exception):
        error = error.__cause__ or error.__context__
    return error


class _RangeFile(io.RawIOBase):
    """The first bytes of a source as the file object that rapidgzip wants, with a position of its own."""

    def __init__(self, base: Source, size: int) -> None:
        self._base: Source | None = base
        self.size = size
        self._at = 0
        self.error: BaseException | None = None
        self.checked = 0  # bytes that `crc32` is of: read one after the other, some of them more than once
        self.crc32 = 0

    def let_go(self) -> None:
        """Keep neither the source nor an error alive: rapidgzip keeps this object for ever."""
        self._base = self.error = None

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
        if self._base is None:
            raise ValueError("the decoder is closed")
        with memoryview(buffer).cast("B") as view, view[: max(0, self.size - self._at)] as room:
            try:
                got = self._base.readinto_at(self._at, room)
            except BaseException as error:  # Ctrl-C, too
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
