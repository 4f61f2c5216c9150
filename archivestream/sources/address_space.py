"""How much address space is left, for a library that ends the process where it gets none."""

from __future__ import annotations

import resource
import threading

__all__ = ["is_limited", "take_room"]

# What setrlimit(2) may limit, and where proc(5), /proc/pid/statm, says how many pages of that there are.
_LIMITS = ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5))
# As rapidgzip 0.16.1 was found to work: its allocator reserves so much in each thread when that first comes there, and
# does not look whether it got it.
_FIRST = 1536 << 20
_MORE = 512 << 20  # what the largest chunk takes, and some more

_here = threading.local()


def is_limited() -> bool:
    """Whether address space is limited for this process."""
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind, _ in _LIMITS)


def take_room(name: str) -> None:
    """Raise `MemoryError` unless this thread can call rapidgzip, for the sake of an archive of that name."""
    if not is_limited():
        return
    room = _room()
    need = _MORE if getattr(_here, "was_here", False) else _FIRST
    if room is not None and room < need:
        raise MemoryError(
            f"{name}: rapidgzip reserves {need >> 20} MiB of address space in this thread, and a limit (ulimit -v, "
            f"ulimit -d) leaves {room >> 20} MiB"
        )
    _here.was_here = True


def _room() -> int | None:
    """Bytes that are left of the scarcer; None where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            used = [int(field) * resource.getpagesize() for field in file.read().split()]
    except OSError:
        return None
    limits = ((resource.getrlimit(kind)[0], used[field]) for kind, field in _LIMITS)
    return min(max(0, limit - taken) for limit, taken in limits if limit != resource.RLIM_INFINITY)
