"""Files of the operating system."""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from typing import Any, BinaryIO

from archivestream._native.files import Descriptor
from archivestream.sources.base import Source

__all__ = ["LocalSource", "OpenFileSource"]


class LocalSource(Source):
    """A regular file, read by offset: nothing is shared that a fork or a thread could disturb.

    Parameters
    ----------
    path : str or os.PathLike
        The file. It is held open until the source is closed or forgotten.

    Raises
    ------
    OSError
        `FileNotFoundError`, `IsADirectoryError`, `PermissionError` and the like, as `open` raises them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A FIFO would block here until somebody writes to it.
        self._adopt(os.fspath(path), os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))

    def _adopt(self, path: str, descriptor: int) -> None:
        self.path = os.path.abspath(path)
        self.name = path
        self.held = Descriptor(descriptor)
        self.descriptor = descriptor
        self._opened = os.fstat(self.descriptor)
        if not stat.S_ISREG(self._opened.st_mode):
            self.close()
            code = errno.EISDIR if stat.S_ISDIR(self._opened.st_mode) else errno.ESPIPE
            raise OSError(code, os.strerror(code), self.name)
        self.size = self._opened.st_size
        self.state = (self.size, self._opened.st_mtime_ns)

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset; return how many bytes there were."""
        held, descriptor = self.held, self.descriptor  # it is not closed, and its number another's, before this returns
        if held is None:
            raise OSError(errno.EBADF, "the source is closed", self.name)
        done = 0
        while done < len(buffer):
            got = os.preadv(descriptor, [buffer[done : done + (1 << 30)]], offset + done)
            if got == 0:
                break
            done += got
        return done

    def change(self) -> str | None:
        """Say how the file differs from when it was opened: what is open, and what stands at its path."""
        before = self._opened
        try:
            now = os.fstat(self.descriptor)
        except OSError as error:  # on a network file system: ESTALE, EIO
            return f"it cannot be asked for its state any more: {error.strerror}"
        if now.st_size != before.st_size:
            return f"its size went from {before.st_size} to {now.st_size} bytes"
        if now.st_mtime_ns != before.st_mtime_ns:
            return "it was written to"
        try:
            there = os.stat(self.path)
        except OSError:
            return None  # deleted, or never had a path: what is open is still whole
        if (there.st_dev, there.st_ino) != (before.st_dev, before.st_ino):
            return "another file stands at its path now"
        return None

    def close(self) -> None:
        """Let go of the descriptor: it closes when the last read is done with it."""
        self.descriptor = -1
        self.held = None


class OpenFileSource(LocalSource):
    """A regular file that somebody has opened already, read by offset, too.

    Parameters
    ----------
    file : binary file object
        As `open` makes them. It stays the property of the caller, who may close it.
    """

    def __init__(self, file: BinaryIO) -> None:
        if file.writable():
            file.flush()
        name = file.name if isinstance(file.name, str) else f"<descriptor {file.fileno()}>"
        self._adopt(name, os.dup(file.fileno()))

    @staticmethod
    def fits(file: object) -> bool:
        """Whether a file object is one of the operating system's, and nothing that decodes one."""
        if isinstance(file, tempfile._TemporaryFileWrapper):  # closes it, and does nothing else
            file = file.file
        if type(file) in (io.BufferedReader, io.BufferedRandom):
            file = getattr(file, "raw", None)
        return type(file) is io.FileIO and file.seekable()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"an archive opened from a file object ({self.name}) cannot be sent to another process; "
            "open it by its path, or from bytes"
        )
