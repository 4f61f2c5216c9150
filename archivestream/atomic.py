"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import resource
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from archivestream._native.files import open_unnamed
from archivestream.errors import ArchiveError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PendingFile", "is_there", "named", "replace_file", "sync_folder", "there_already"]

# Seconds that another process has to write the same file. It may be stopped, or hang, while it has the lock.
_PATIENCE = 2.0
_POLL = 0.02


def replace_file(path: Path, parts: Iterable[Buffer], *, like: int = -1, check: Callable[[], object]) -> None:
    """Write a file under another name, and rename it: at any time, whatever happens, the old file or the new one.

    Of several that write the same file one after the other does, and the last one wins; who waits too long gives up.

    Parameters
    ----------
    path : Path
        The file; its folder must be there.
    parts : iterable of buffer
        What to write, in order.
    like : int
        A descriptor of a file; whoever may read that may read the new one. Default: its owner alone may.
    check : callable
        Called right before the file is renamed; what it raises calls that off.

    Raises
    ------
    OSError
        If it cannot be written; `BlockingIOError` where another process is at it all the time. Nothing of it is
        left, unless the process was killed: the next one that writes the same file writes over that.
    """
    try:
        _replace(path, parts, like, check)
    except ArchiveError:
        raise
    except OSError as error:
        raise named(error, path) from error
    sync_folder(path.parent)


def _replace(path: Path, parts: Iterable[Buffer], like: int, check: Callable[[], object]) -> None:
    temporary = path.with_name(f".asidx-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.tmp")
    descriptor = _lock(temporary)
    try:
        os.ftruncate(descriptor, 0)
        for part in parts:
            with memoryview(part) as view:
                left = view.cast("B") if view.nbytes else memoryview(b"")
                while left:
                    left = left[os.write(descriptor, left[: 1 << 30]) :]
        _share(descriptor, like)
        os.fsync(descriptor)
        check()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):  # all of it is on the disk, or nothing is left
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a crash of the machine, where the folder can be opened and its system can."""
    with contextlib.suppress(OSError):  # what was renamed stands there all the same
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def named(error: OSError, path: Path) -> OSError:
    """Make the exception that names a file, where one names its temporary file, or none: a full disk does not."""
    return OSError(error.errno, error.strerror, str(path))


def _lock(temporary: Path) -> int:
    """Open a temporary file that one process at a time writes.

    It has one name, so that what a killed process leaves is written over by the next one. The lock goes with
    the process, and with the file when that is renamed: whoever has waited for it looks again.
    """
    end = time.monotonic() + _PATIENCE
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            status = os.fstat(descriptor)
            # Nobody else may have the lock, or go on writing, and nothing else of the user's may be written over.
            if status.st_uid != os.geteuid() or status.st_nlink > 1 or not stat.S_ISREG(status.st_mode):
                raise PermissionError(errno.EPERM, f"somebody else has made its {temporary.name}", str(temporary))
            if _try_lock(descriptor):
                if _is_at(temporary, descriptor):
                    return descriptor
            elif time.monotonic() > end:
                raise BlockingIOError(errno.EAGAIN, "another process is writing this file", str(temporary))
            else:
                time.sleep(_POLL)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _share(descriptor: int, like: int) -> None:
    """Let those read a file who may read another one; nobody else writes to it: it is replaced."""
    if like < 0:
        return
    status = os.fstat(like)
    mode = stat.S_IMODE(status.st_mode) & 0o444 | 0o600
    try:
        os.fchown(descriptor, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    except PermissionError:
        mode &= ~0o060  # its group is another one
    os.fchmod(descriptor, mode)


class PendingFile:
    """A file that comes to stand under its name whole: at any time, whatever happens, nothing new stands there, or it.

    On Linux it has no name until then, and goes with the process that is killed. To replace another file it needs a
    temporary name beside that for a moment, between two system calls, as a link replaces nothing. Where the file
    system has no such files, and on other systems, it has that name from the beginning: a killed process leaves it.

    Parameters
    ----------
    path : path
        The name that it will have.
    folder : int, optional
        A descriptor of the folder where the path begins, if that is relative; open until the file has its name.
    buffer_size : int
        Of what is written, in bytes.

    Attributes
    ----------
    file : BufferedWriter
        To write to, once it has begun.
    """

    file: io.BufferedWriter

    def __init__(
        self, path: str | os.PathLike[str], folder: int | None = None, buffer_size: int = io.DEFAULT_BUFFER_SIZE
    ) -> None:
        self.path = Path(path)
        self._folder = folder
        self._buffer_size = buffer_size
        self._temporary: Path | None = None

    def begin(self) -> None:
        """Open it. `discard` it, if this, or anything from here on, raises."""
        self.file = io.BufferedWriter(self._open_unnamed() or self._open_temporary(), self._buffer_size)

    def _open_unnamed(self) -> io.FileIO | None:
        opener = partial(open_unnamed, above=-1 if self._folder is None else self._folder)
        try:
            file = io.FileIO(str(self.path.parent), "w", opener=opener)
        except OSError:  # there are no such files; or something is wrong that a file with a name brings up, too
            return None
        if _can_be_named(file.fileno()):
            return file
        file.close()
        return None

    def _open_temporary(self) -> io.FileIO:
        self._temporary = self._beside()
        try:
            return io.FileIO(str(self._temporary), "x", opener=partial(os.open, mode=0o666, dir_fd=self._folder))
        except OSError as error:
            raise named(error, self.path) from error

    def _beside(self) -> Path:
        return self.path.with_name(f".{secrets.token_hex(8)}.part")

    def finish(self, *, sync: bool) -> None:
        """Write what is buffered, and have it on the disk if `sync`: what cannot be written is known afterwards.

        A file without a name remains open. Where half of the descriptors of the process are in use, it gets a
        temporary one, and is closed: a packer may have any number of files that wait for the last one.
        """
        try:
            self.file.flush()
            if sync:
                os.fsync(self.file.fileno())
            if self._temporary is None and _few_descriptors(self.file.fileno()):
                self._link_temporary()
            if self._temporary is not None:
                self.file.close()
        except OSError as error:
            raise named(error, self.path) from error

    def place(self, *, overwrite: bool) -> None:
        """Give it its name, once it is finished.

        Raises
        ------
        FileExistsError
            If something stands there, and `overwrite` is False.
        OSError
            If it cannot have that name.
        """
        try:
            if self._temporary is None and not self._link(overwrite):
                self._link_temporary()
            if self._temporary is not None:
                if overwrite:  # also a link, which is not written through
                    os.replace(self._temporary, self.path, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                else:
                    _rename_new(self._temporary, self.path, self._folder)
                self._temporary = None
        except OSError as error:
            raise named(error, self.path) from error
        with contextlib.suppress(OSError):  # nothing is left to be written
            self.file.close()

    def _link(self, overwrite: bool) -> bool:
        """Give a file without a name its own, unless something stands there that it replaces."""
        try:
            self._link_to(self.path)
        except FileExistsError:
            if not overwrite:
                raise there_already(self.path) from None
            return False
        return True

    def _link_temporary(self) -> None:
        self._temporary = self._beside()
        self._link_to(self._temporary)

    def _link_to(self, path: Path) -> None:
        # With a descriptor of a folder, which is not used: else Python calls link, which links the link in /proc.
        unused = self.file.fileno()
        os.link(_in_proc(self.file.fileno()), path, src_dir_fd=unused, dst_dir_fd=self._folder)

    def discard(self) -> None:
        """Remove it, unless it has its name already; nothing happens if it has not begun."""
        self.let_go()
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder)

    def let_go(self) -> None:
        """Close it, and write nothing that is buffered, as in a fork of the process that writes it."""
        if hasattr(self, "file"):
            with contextlib.suppress(OSError):
                self.file.raw.close()


def _in_proc(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _can_be_named(descriptor: int) -> bool:
    """Whether a file without a name can get one, and may be read and written by whom the umask says.

    Before Linux 6.0 they are made without regard to that, on file systems without access control lists.
    """
    try:
        return stat.S_IMODE(os.stat(_in_proc(descriptor)).st_mode) != 0o666
    except OSError:
        return False


def _few_descriptors(descriptor: int) -> bool:
    """Whether half of what may be open is: the lowest number that is free is given first."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most != resource.RLIM_INFINITY and descriptor >= most // 2


def _rename_new(temporary: Path, path: Path, folder: int | None) -> None:
    """Rename a file, unless something has come to stand there meanwhile: `FileExistsError`."""
    try:
        os.link(temporary, path, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise there_already(path) from None
    except OSError:  # a file system without hard links
        if is_there(path, folder):
            raise there_already(path) from None
        os.replace(temporary, path, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(temporary, dir_fd=folder)


def is_there(path: str | Path, folder: int | None = None) -> bool:
    """Whether anything stands at a path, be it a link that leads nowhere."""
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def there_already(path: str | Path) -> FileExistsError:
    """Make the exception for a file that is not to be replaced."""
    return FileExistsError(errno.EEXIST, "the file is there already; overwrite=True replaces it", str(path))
