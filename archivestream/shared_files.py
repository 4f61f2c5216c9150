"""Files in memory that processes share: without a name, for a process and its children; or with one, for a user's.

Whoever uses a named file holds a shared `flock` on it, which the kernel releases when he dies. Who gets an exclusive
one knows that nobody else uses the file, and only he may fill it (while it is empty) or remove it; so that the name of
a file in use is never given to another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["leave", "make_anonymous", "name_space", "path_of", "use_named"]

_MEMORY = Path("/dev/shm")  # of Linux: tmpfs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# Seconds that another process has to make a file, or to remove it. It may be stopped while it does.
_PATIENCE = 10.0
_POLL = 0.02

_Made = TypeVar("_Made")


def name_space() -> int:
    """Return what tells the numbers of processes that this one sees from those of another container."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # pid_namespaces(7)
    except OSError:
        return 0


def make_anonymous(limit: int) -> int:
    """Make a file that has no name, and is gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("archivestream-cache")
    with tempfile.TemporaryFile(dir=_folder()) as file:
        _check_room(file.fileno(), limit)
        return os.dup(file.fileno())


def path_of(name: str) -> Path:
    """Return where the file of a name lies; `ValueError` for what is no name."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            "the name of a shared cache is 1 to 100 letters, digits, '.', '_' and '-', and begins with a letter or "
            f"digit; not {name!r}"
        )
    return _folder() / f"{_prefix()}{name}"


def use_named(path: Path, limit: int, make: Callable[[int, bool], _Made]) -> _Made:
    """Open the file of a name that others use, or make one.

    Parameters
    ----------
    path : Path
        As `path_of` gave it.
    limit : int
        Bytes that it may come to have.
    make : callable
        Called with a descriptor, which it closes, and whether the file is empty and to be filled. Raises
        `BlockingIOError` where it should be full and is not.

    Raises
    ------
    PermissionError
        If what lies there is not a file that this user alone may use.
    OSError
        If it cannot be made, or there is no room for it; `TimeoutError` where another process makes or removes it all
        the time.
    """
    _sweep(path)
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES):
                raise _not_ours(path) from error
            raise
        try:
            if not _is_ours(os.fstat(file)):
                raise _not_ours(path)
            alone = _lock_alone(file)
            if not alone:
                _lock_shared(file, path)
            if not _is_at(file, path):
                continue  # it was removed meanwhile
            if alone and os.fstat(file).st_size:
                path.unlink()  # nobody uses it any more
                continue
            if alone:
                try:
                    _check_room(file, limit)
                    made = make(os.dup(file), True)
                except BaseException:
                    path.unlink()
                    raise
                # Not in one step: another may take it for abandoned in between, and remove it.
                _lock_shared(file, path)
                if _is_at(file, path):
                    return made
                continue
            with contextlib.suppress(BlockingIOError):  # whoever began to fill it has died
                return make(os.dup(file), False)
        finally:
            with contextlib.suppress(OSError):  # it is closed all the same, and nothing was written to it
                os.close(file)


def leave(path: Path) -> None:
    """Remove a named file that nobody uses any more; call it after the descriptor was closed."""
    with contextlib.suppress(FileNotFoundError), _opened(path) as file:
        if _is_ours(os.fstat(file)) and _lock_alone(file) and _is_at(file, path):
            path.unlink()


def _sweep(but: Path) -> None:
    """Remove what processes have left that were killed."""
    for path in but.parent.glob(f"{_prefix()}*"):
        if path != but:
            with contextlib.suppress(OSError):  # of another user, or gone already
                leave(path)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)


def _folder() -> Path:
    usable = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK)
    return _MEMORY if usable else Path(tempfile.gettempdir())


def _prefix() -> str:
    return f"archivestream-{os.geteuid()}-"


def _is_ours(found: os.stat_result) -> bool:
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_uid == os.geteuid()
        and not found.st_mode & 0o077
        and found.st_nlink <= 1
    )


def _not_ours(path: Path) -> PermissionError:
    return PermissionError(
        errno.EPERM, "not a file that this user alone may read and write; take another name, or remove it", str(path)
    )


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def _lock_alone(file: int) -> bool:
    return _try_lock(file, fcntl.LOCK_EX)


def _lock_shared(file: int, path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not _try_lock(file, fcntl.LOCK_SH):
        if time.monotonic() > end:
            raise TimeoutError(
                errno.ETIMEDOUT,
                f"another process has been making or removing this file for {_PATIENCE:.0f} s, or was stopped while it "
                "did: end it, or take another name",
                str(path),
            )
        time.sleep(_POLL)


def _try_lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_room(file: int, limit: int) -> None:
    """Refuse early what there is no room for: the file grows as it is used."""
    found = os.fstatvfs(file)
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and free < limit:
        raise OSError(errno.ENOSPC, f"a shared cache of {limit} bytes, and only {free} are free where it would lie")
