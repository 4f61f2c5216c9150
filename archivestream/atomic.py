"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["rename_new", "replace_file", "there_already"]


def replace_file(path: Path, parts: Iterable[Buffer], *, like: int = -1, check: Callable[[], object]) -> None:
    """Write a file under another name, and rename it: at any time, whatever happens, the old file or the new one.

    Of several that write the same file one after the other does, and the last one wins.

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
        If it cannot be written. Nothing of it is left, unless the process was killed: the next one that writes
        the same file writes over that.
    """
    temporary = path.with_name(f".asidx-{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.tmp")
    descriptor = _lock(temporary)
    try:
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
        os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(temporary: Path) -> int:
    """Open a temporary file that one process at a time writes, empty.

    It has one name, so that what a killed process leaves is written over by the next one. The lock goes with
    the process, and with the file when that is renamed: whoever has waited for it looks again.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    while True:
        descriptor = os.open(temporary, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(temporary, descriptor):
                status = os.fstat(descriptor)
                # Nobody else may go on writing to it, and nothing else of the user's may be written over.
                if status.st_uid != os.geteuid() or status.st_nlink != 1 or not stat.S_ISREG(status.st_mode):
                    raise PermissionError(errno.EPERM, "somebody else has made this file", str(temporary))
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _share(descriptor: int, like: int) -> None:
    """Let those read a file who may read another one."""
    if like < 0:
        return
    status = os.fstat(like)
    mode = stat.S_IMODE(status.st_mode) & 0o666 | 0o600
    try:
        os.fchown(descriptor, status.st_uid if os.geteuid() == 0 else -1, status.st_gid)
    except PermissionError:
        mode &= ~0o060  # its group is another one
    os.fchmod(descriptor, mode)


def rename_new(temporary: Path, path: Path) -> None:
    """Rename a file, unless something has come to stand there meanwhile: `FileExistsError`."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise there_already(path) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise there_already(path) from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def there_already(path: Path) -> FileExistsError:
    """Make the exception for a file that is not to be replaced."""
    return FileExistsError(errno.EEXIST, "the file is there already; overwrite=True replaces it", str(path))
