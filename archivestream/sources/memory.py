"""Bytes in memory, and file objects of Python."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import Any, BinaryIO

from archivestream.sources.base import Source

__all__ = ["FileObjectSource", "MemorySource"]


class MemorySource(Source):
    """An archive that is in memory already; nothing is copied.

    Parameters
    ----------
    data : bytes-like
        The whole archive. It must not change while the source is used.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.name = f"<{len(memoryview(data).cast('B'))} bytes>"
        self.memory = memoryview(data).cast("B")
        self.held = self.memory.obj
        self.size = len(self.memory)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset; return how many bytes there were."""
        assert self.memory is not None
        data = self.memory[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return MemorySource, (bytes(self.memory or b""),)


class FileObjectSource(Source):
    """A seekable binary file object of any kind: one read at a time, under a lock.

    Files of the operating system are better read by `OpenFileSource`. A forked process may read from `io.BytesIO`
    alone, as two processes share the position of a descriptor.

    Parameters
    ----------
    file : file object
        Must offer ``read``, ``seek`` and ``tell``, in binary mode. It stays open when the source is closed, and
        belongs to its maker.

    Raises
    ------
    TypeError
        If it cannot be read, is in text mode, or is not seekable.
    """

    def __init__(self, file: BinaryIO) -> None:
        if isinstance(file, io.TextIOBase):
            raise TypeError(f"{file!r} is in text mode; open it with mode 'rb'")
        if not (hasattr(file, "read") and hasattr(file, "seek")):
            raise TypeError(f"{type(file).__name__} is neither a path nor a binary file object")
        if hasattr(file, "seekable") and not file.seekable():
            raise TypeError(f"{file!r} is not seekable; read it into memory and pass the bytes")
        self.name = str(getattr(file, "name", f"<{type(file).__name__}>"))
        self._file = file
        self._locks = {os.getpid(): threading.Lock()}
        file.seek(0, io.SEEK_END)
        self.size = file.tell()

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset; return how many bytes there were."""
        done = 0
        with self._here():
            try:
                self._file.seek(offset)
                while done < len(buffer):
                    data: Any = self._file.read(len(buffer) - done)
                    if data is None:  # no end of the file
                        raise BlockingIOError(errno.EAGAIN, "the file object has nothing to read yet")
                    if not data:
                        break
                    if isinstance(data, str):  # a wrapper that does not say so
                        raise TypeError(f"{self._file!r} is in text mode; open it in binary mode")
                    buffer[done : done + len(data)] = data
                    done += len(data)
            except ValueError as error:
                raise OSError(errno.EBADF, str(error)) from error  # its owner has closed it
        return done

    def _here(self) -> threading.Lock:
        """Find the lock of this process: that of the parent may have been held when it forked."""
        process = os.getpid()
        if process not in self._locks and not isinstance(self._file, io.BytesIO):
            raise OSError(
                errno.ENOTSUP,
                "a file object may share its position with the process that this one was forked from; "
                "open the archive by its path, or from bytes",
            )
        return self._locks.setdefault(process, threading.Lock())

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"an archive opened from a file object ({self.name}) cannot be sent to another process; "
            "open it by its path, or from bytes"
        )
