"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from archivestream.errors import ArchiveError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["is_there", "named", "rename_new", "replace_file", "sync_folder", "there_already"]

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


def rename_new(temporary: str | Path, path: str | Path, folder: int | None = None) -> None:
    """Rename a file, unless something has come to stand there meanwhile: `FileExistsError`.

    Paths that are not absolute begin at `folder`, a descriptor, where that is given.
    """
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
