"""Has the n-th system call of this process, or the n-th allocation of the package, fail. Linux with glibc only.

`shim.c` is compiled, and the process begins anew with it in LD_PRELOAD. Only calls on files below one folder count, and
only while faults are armed.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Calls", "Count", "Fault", "all_named", "armed", "begin_anew", "why_not"]


class Calls(enum.IntFlag):
    """What is counted, as `shim.c` has it."""

    READ = 1
    WRITE = 2
    SYNC = 4
    OPEN = 8
    NAME = 16
    ROOM = 32
    MAP = 64
    CLOSE = 128
    MEMORY = 256
    THREAD = 512

    CHANGES = WRITE | SYNC | OPEN | NAME | ROOM | CLOSE  # what a writer does


_SHORT, _KILL, _TORN, _ACTION = -1, -2, -3, -4


@dataclass(frozen=True)
class Fault:
    """What happens at a call: an errno, or something else by its number in `shim.c`."""

    name: str
    calls: Calls
    code: int
    lasts: bool = False  # from that call on
    is_seen: bool = True  # else nobody may notice


EIO = Fault("EIO", Calls.READ, errno.EIO)
INTERRUPTED = Fault("EINTR", Calls.READ | Calls.WRITE | Calls.OPEN, errno.EINTR, is_seen=False)
SHORT = Fault("short", Calls.READ | Calls.WRITE, _SHORT, is_seen=False)
NO_DESCRIPTOR = Fault("EMFILE", Calls.OPEN, errno.EMFILE)
NO_MAPPING = Fault("ENOMEM of mmap", Calls.MAP, errno.ENOMEM)
NO_THREAD = Fault("no thread", Calls.THREAD, errno.EAGAIN, lasts=True)
BAD_DISK = Fault("EIO of a change", Calls.CHANGES, errno.EIO)
DEAD_DISK = Fault("EIO from then on", Calls.CHANGES, errno.EIO, lasts=True)
FULL_DISK = Fault("ENOSPC from then on", Calls.CHANGES & ~Calls.CLOSE, errno.ENOSPC, lasts=True)
KILLED = Fault("killed before", Calls.CHANGES, _KILL)
TORN = Fault("killed after a half", Calls.CHANGES, _TORN)
NO_MEMORY = Fault("no memory", Calls.MEMORY, errno.ENOMEM)
NO_MEMORY_LEFT = Fault("no memory from then on", Calls.MEMORY, errno.ENOMEM, lasts=True)


def on(calls: Calls) -> Fault:
    """Run an action, and then the call."""
    return Fault("action", calls, _ACTION)


class Count:
    """How many calls there were, and how many of them were struck; known at the end."""

    calls = 0
    hits = 0


_EVER = 1 << 60
_Action = ctypes.CFUNCTYPE(None)


@contextmanager
def armed(
    fault: Fault, number: int, folder: str | os.PathLike[str], action: Callable[[], object] = lambda: None
) -> Iterator[Count]:
    """Have a call fail, counted from 1 (0: none does), if it is on a file below a folder."""
    shim = ctypes.CDLL(None)
    count = Count()
    calls, hits = ctypes.c_long(), ctypes.c_long()
    call = _Action(action)
    last = _EVER if fault.lasts and number else number
    below = os.fsencode(os.path.realpath(folder))
    shim.faults_arm(int(fault.calls), ctypes.c_long(number), ctypes.c_long(last), fault.code, below, call)
    try:
        yield count
    finally:
        shim.faults_disarm(ctypes.byref(calls), ctypes.byref(hits))
        count.calls, count.hits = calls.value, hits.value


@contextmanager
def all_named() -> Iterator[None]:
    """Have the file systems know no files without a name, below the folder of the faults."""
    shim = ctypes.CDLL(None)
    shim.faults_name_all(1)
    try:
        yield
    finally:
        shim.faults_name_all(0)


def why_not() -> str | None:
    """Say why there can be no shim here; None where there can."""
    if not sys.platform.startswith("linux") or not os.confstr("CS_GNU_LIBC_VERSION"):
        return "the shim is for Linux with glibc"
    if shutil.which("cc") is None:
        return "there is no C compiler"
    return None


def begin_anew() -> None:
    """Become the same process with the shim, unless it is that already."""
    if hasattr(ctypes.CDLL(None), "faults_arm"):
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "faults.so")
        source = Path(__file__).with_name("shim.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-pthread"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        sys.exit(subprocess.run([sys.executable, *sys.orig_argv[1:]], env=environment).returncode)
