"""A disk that is full: a tmpfs of every size up to that which is needed, mounted where nobody else sees it."""

from __future__ import annotations

import ctypes
import os
from functools import partial
from pathlib import Path

from faults.child import in_child
from faults.report import Report
from faults.shim import Calls, Fault
from faults.writing import WRITINGS, Stage, make_sources

__all__ = ["full_disk", "why_not"]

_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_REMOUNT, _RECURSIVE, _PRIVATE = 32, 16384, 1 << 18  # MS_...
_PAGE = 4096
_SIZES = 60
_NOTHING = Fault("full disk", Calls(0), 0)


def _mount(kind: str, at: str | os.PathLike[str], flags: int = 0, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind.encode(), os.fsencode(at), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount a {kind}", os.fspath(at))


def _own_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "cannot have mounts of its own")
    _mount("none", "/", _RECURSIVE | _PRIVATE)


def why_not(folder: Path) -> str | None:
    """Say why nothing can be mounted here; None where it can."""

    def attempt() -> None:
        _own_mounts()
        _mount("tmpfs", folder)

    try:
        in_child(attempt)
    except AssertionError as error:
        return str(error).splitlines()[-1]
    return None


def full_disk(folder: Path, report: Report) -> None:
    """There is room for a part: an error that names the file, all as it was; and with more room it works."""
    make_sources(folder)
    reason = why_not(folder)
    if reason is not None:
        print(f"a full disk: not tried, {reason}")
        return
    for one in WRITINGS:
        stage = Stage(folder, one)
        before = sum(map(_pages, stage.before.values()))
        need = before + sum(map(_pages, stage.after.values()))
        with report.operation(one.name, "", _NOTHING.name) as row:
            for number in row.points(lambda: _SIZES):
                pages = before + 4 + (need - before) * number // _SIZES  # and some for folders
                row.add(_attempt(stage, pages))


def _attempt(stage: Stage, pages: int) -> bool:
    """Write to a tmpfs of so many pages; return whether they were too few."""
    found, tell = os.pipe()

    def write() -> None:
        _own_mounts()
        _mount("tmpfs", stage.folder, 0, f"size={pages * _PAGE}")
        mend = partial(_mount, "tmpfs", stage.folder, _REMOUNT, f"size={256 << 20}")
        os.write(tell, b"%d" % bool(stage.attempt(_NOTHING, 0, mend)))

    try:
        assert in_child(write) == 0
    finally:
        os.close(tell)
        with os.fdopen(found) as pipe:
            said = pipe.read()
    return said == "1"


def _pages(data: bytes) -> int:
    return -(-len(data) // _PAGE) + 1
