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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from archivestream._native.codecs import crc32
from archivestream.errors import CorruptArchiveError
from archivestream.sources.address_space import is_limited, take_room
from archivestream.sources.apart import call_apart, end_apart
from archivestream.sources.base import Source
from archivestream.sources.local import LocalSource

__all__ = ["GzipDecoder", "GzipSource"]

# Compressed bytes between two places where decoding can begin: an index of 1.4 % of the file, 2 ms to read somewhere,
# and less than 300 MiB a thread for what expands as far as deflate can (a "bomb").
_SPACING = 1 << 20
# Two or three threads are slower than one: to decode from where the window is not known takes three times the work.
_FEWEST_THREADS = 4
_MOST_THREADS = 8
_PIECE = 1 << 20  # decoded at a time for the main thread: 2 to 3 ms, of which handing it over takes 0.1
_MOST_READERS = 8  # in a process; each takes some 20 MiB, and the index
_EXIT_SECONDS = 5.0  # that the interpreter waits for what daemon threads decode when it exits
_POLL = 0.005

T = TypeVar("T")


class GzipDecoder:
    """A gzip file as rapidgzip reads it, from one thread at a time. Close it: it may have threads.

    `Ctrl-C` leaves it with a call under way, so that whoever had it closes it: the thread of that call ends it then.

    Parameters
    ----------
    base : Source
        The file.
    end : int
        Where its last member ends.
    index : bytes-like, optional
        As `export` gave it.
    threads : int
        That decode. One decodes in the thread that asks, or in one that does that for the main thread.

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
        self._reader: Any = None
        self._use = threading.Lock()  # of the thread that calls rapidgzip; the one that closes it keeps it
        self._is_unwanted = self._is_closed = False
        self._piece = bytearray()
        self.position = 0  # how far it has come in the file, in bytes
        _living[id(self)] = self
        weakref.finalize(self, self._file.let_go).atexit = False  # where an interrupt let it be forgotten
        try:
            self._call(self._begin, rapidgzip.RapidgzipFile, base, end, index)
        except BaseException:
            self.close()
            raise

    def _begin(self, open_file: Any, base: Source, end: int, index: memoryview | None) -> None:
        self._reader = self._open(open_file, base, end)
        if index is not None:
            with io.BytesIO(index) as saved:
                self._reader.import_index(saved)

    def _open(self, open_file: Any, base: Source, end: int) -> Any:
        if self._threads > 1 and base.descriptor >= 0 and end == base.size:
            try:  # to have it read without the GIL
                return open_file(f"/dev/fd/{base.descriptor}", parallelization=self._threads, chunk_size=_SPACING)
            except Exception:  # it has a descriptor of its own there, and no more of them may be left
                pass
        return open_file(self._file, parallelization=self._threads, chunk_size=_SPACING)

    def size(self) -> int:
        """Return the number of decoded bytes, once that is known."""
        return int(self._call(lambda: self._reader.size()))

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Decode from a place; return how many bytes there were (fewer only at the end)."""
        if threading.current_thread() is not threading.main_thread():
            return self._call(self._decode, offset, buffer)
        # What is the caller's is not written to when an interrupt has given it back.
        size = min(_PIECE, len(buffer))
        if len(self._piece) < size:
            self._piece = bytearray(size)
        done = 0
        with memoryview(self._piece) as piece:
            while room := min(len(piece), len(buffer) - done):
                got = self._call(self._decode, offset + done, piece[:room])
                buffer[done : done + got] = piece[:got]
                done += got
                if got < room:
                    break
        return done

    def _decode(self, offset: int, buffer: memoryview) -> int:
        done = 0
        if self._reader.tell() != offset:
            self._reader.seek(offset)
        while done < len(buffer) and (got := self._reader.readinto(buffer[done:])):
            done += got
        self.position = int(self._reader.tell_compressed()) // 8
        return done

    def export(self) -> bytes:
        """Return the index, once all has been read."""
        return self._call(self._export)

    def _export(self) -> bytes:
        with io.BytesIO() as index:
            self._reader.export_index(index, self._format)
            return index.getvalue()

    @property
    def base_crc32(self) -> int | None:
        """The CRC-32 of the file, where all of it has gone through one thread."""
        return self._file.crc32 if self._file.checked == self._file.size else None

    def close(self, *, wait: bool = True) -> None:
        """End its threads; or have the call end them that is under way, for want of the file."""
        self._is_unwanted = True
        self._file.let_go()
        if not self._use.locked():
            end_apart(self._end_unwanted, wait=wait)

    def close_at_exit(self, end: float) -> None:
        """Close it, once nobody decodes with it; or not at all, if that takes longer than until `end`."""
        if self._process != os.getpid() and (self._threads > 1 or self._use.locked()):
            return  # it has no threads here, and whoever was using it is not here, either
        self._is_unwanted = True
        self._end_unwanted()
        while not self._is_closed and time.monotonic() < end:  # another thread decodes with it, and will close it
            time.sleep(_POLL)

    def _end_unwanted(self) -> None:
        if self._is_unwanted and self._use.acquire(blocking=False):
            if self._reader is not None:
                self._reader.close()
            self._file.let_go()
            self._is_closed = True

    def _check_room(self) -> None:
        take_room(self._name)

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        if _is_over:  # no more threads can be begun
            raise self._refusal()
        result: T = call_apart(self._check_room, self._call_here, function, *arguments)
        return result

    def _call_here(self, function: Callable[..., T], *arguments: Any) -> T:
        # C++ exceptions become RuntimeError, and ValueError, IndexError and the like; those of the file object, too,
        # where they come through another thread.
        self._check_room()
        if not self._use.acquire(blocking=False):
            raise self._refusal()
        try:
            if _is_over:  # who closes it says that it is over first, and then looks
                raise self._refusal()
            return self._translated(function, *arguments)
        finally:
            self._use.release()
            self._end_unwanted()  # who wanted that found it in use

    def _translated(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(*arguments)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if self._is_unwanted:  # and whoever called has been interrupted, or the interpreter exits
                raise self._refusal() from None
            if self._file.error is not None:
                raise self._file.error from None
            if os.strerror(errno.EAGAIN) in str(error):  # std::system_error: no thread can be started
                raise OSError(errno.EAGAIN, f"rapidgzip has no threads: {error}", self._name) from error
            raise CorruptArchiveError(f"its gzip data cannot be decoded: {error}", archive=self._name) from error

    def _refusal(self) -> RuntimeError:
        why = "the interpreter exits" if _is_over else "its decoder is closed"
        return RuntimeError(f"{self._name}: gzip cannot be read any more: {why}")


_living: weakref.WeakValueDictionary[int, GzipDecoder] = weakref.WeakValueDictionary()
_is_over = False


@atexit.register
def _close_all() -> None:
    global _is_over
    _is_over = True
    end = time.monotonic() + _EXIT_SECONDS
    for reference in _living.valuerefs():
        decoder = reference()
        if decoder is not None:
            decoder.close_at_exit(end)


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
            except BaseException as error:
                self.error = error
                raise
            if self._at <= self.checked < self._at + got:
                self.crc32 = crc32(room[self.checked - self._at : got], self.crc32)
                self.checked = self._at + got
        self._at += got
        return got


class _Loan:
    """Of a decoder: held by whoever has that, and forgotten with it."""


class _Loans:
    """Counts the loans that live: an interrupt may come wherever one ends, and take it from whoever had it."""

    def __init__(self) -> None:
        self._living: weakref.WeakSet[_Loan] = weakref.WeakSet()
        self._lock = threading.Lock()  # which an interrupt leaves in good order, unlike conditions and semaphores

    def begin(self) -> _Loan:
        """Wait until there may be one more."""
        while True:
            with self._lock:
                if len(self._living) < _MOST_READERS:
                    loan = _Loan()
                    self._living.add(loan)
                    return loan
            time.sleep(_POLL)

    def end(self, loan: _Loan) -> None:
        with self._lock:
            self._living.discard(loan)


class _Decoders:
    """Decoders of one file, for as many threads as ask. A forked process makes its own."""

    def __init__(self, base: Source, size: int, index: memoryview, end: int) -> None:
        self._base, self._size, self._index, self._end = base, size, index, end
        self._free: dict[int, list[GzipDecoder]] = {}
        self._loans: dict[int, _Loans] = {}
        self._closed = False

    @contextmanager
    def one(self, *, fresh: bool = False) -> Iterator[GzipDecoder]:
        """Lend a decoder; with `fresh`, one that has not read anything."""
        process = os.getpid()
        free = self._free.setdefault(process, [])
        loans = self._loans.setdefault(process, _Loans())
        loan = loans.begin()
        try:
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
        finally:
            loans.end(loan)
        if self._closed:
            self.close()

    def _open(self) -> GzipDecoder:
        decoder = GzipDecoder(self._base, self._end, self._index)
        try:
            if (size := decoder.size()) != self._size:
                message = f"its index is of {size} bytes, not of {self._size}; delete the saved index"
                raise CorruptArchiveError(message, archive=self._base.name)
        except BaseException:
            decoder.close()
            raise
        return decoder

    def close(self, *, wait: bool = True) -> None:
        """Close those that nobody uses, and the others when they are given back."""
        self._closed = True
        for free in list(self._free.values()):  # those of the process that this one was forked from have no threads
            while free:
                free.pop().close(wait=wait)


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
        weakref.finalize(self, self._decoders.close, wait=False)  # when it is forgotten, and before Python ends

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
