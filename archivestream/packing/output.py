"""Files that come to stand under their names only once they are whole."""

from __future__ import annotations

import errno
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeAlias

from archivestream.atomic import PendingFile, named, sync_folder, there_already

__all__ = ["OutputFile", "commit"]

Behind: TypeAlias = Callable[[int, Callable[[], None]], "Future[None]"]

_BUFFER = 128 << 10  # of each file, of which there may be many


class OutputFile:
    """A file that is written from its beginning to its end, but for what is patched: see `PendingFile`.

    Parameters
    ----------
    path : path
        Where it will stand.
    overwrite : bool
        Whether it may replace what stands there.
    behind : callable, optional
        Runs a call of so many bytes later, in another thread: see `archivestream.packing.pipeline.Pipeline.behind`.

    Raises
    ------
    FileExistsError
        If there is something, and `overwrite` is False.
    OSError
        If the folder is not there or cannot be written to.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool, behind: Behind | None = None) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        if not overwrite and os.path.lexists(self.path):
            raise there_already(self.path)
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        pending = PendingFile(self.path, buffer_size=_BUFFER)
        # Also where nobody closes it: when it is dropped, or the interpreter ends.
        self._abandon = weakref.finalize(self, _discard, pending, os.getpid())
        pending.begin()
        self._pending = pending
        self._file = pending.file
        self.size = 0
        self._behind = behind
        self._under_way: deque[Future[None]] = deque()
        self._out_of_order = False  # whether the file's own position is behind

    def write_behind(self, data: memoryview) -> None:
        """Append bytes that nobody changes any more; they are written later, and by `sync` at the latest."""
        if self._behind is None:
            self.write(data)
            return
        while self._under_way and self._under_way[0].done():
            self._under_way.popleft().result()
        self._under_way.append(self._behind(len(data), partial(self._write_at, self.size, data)))
        self._out_of_order = True
        self.size += len(data)

    def _write_at(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                done = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[done:], offset + done
        except OSError as error:
            raise named(error, self.path) from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        try:
            if self._out_of_order:
                self._file.seek(self.size)
                self._out_of_order = False
            self._file.write(data)
        except OSError as error:
            raise named(error, self.path) from error
        self.size += len(data)

    def patch(self, offset: int, data: bytes) -> None:
        """Replace bytes that were written before."""
        try:
            self._file.seek(offset)
            self._file.write(data)
            self._file.seek(self.size)
        except OSError as error:
            raise named(error, self.path) from error

    def sync(self) -> None:
        """Have all of the file on the disk."""
        while self._under_way:
            self._under_way.popleft().result()
        self._pending.finish(sync=True)

    def rename(self) -> None:
        """Give the file its name."""
        self._pending.place(overwrite=self.overwrite)
        self._abandon.detach()

    def abandon(self) -> None:
        """Remove what was written, unless it has its name already."""
        self._abandon()


def commit(files: Sequence[OutputFile], replaced: Sequence[Path] = ()) -> None:
    """Give several files, which are on the disk, their names.

    The first one comes last: numbered files are a set up to the first number that is not there, so that all of them
    belong to it at once. What they replace is removed before, in order.
    """
    for path in replaced:
        path.unlink(missing_ok=True)
    for done, file in enumerate(reversed(files)):
        try:
            file.rename()
        except OSError:
            for renamed in files[len(files) - done :]:
                if not renamed.overwrite:  # else what was there is gone already
                    renamed.path.unlink()
            raise
    for folder in {file.path.parent for file in files}:
        sync_folder(folder)


def _discard(pending: PendingFile, process: int) -> None:
    if os.getpid() == process:
        pending.discard()
    else:
        pending.let_go()
