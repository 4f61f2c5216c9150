"""What formats have in common: how a scanner of headers gets at the bytes of a source, and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from archivestream.errors import CorruptArchiveError
from archivestream.sources import Source

__all__ = ["NO_TIME", "REGULAR_FILE", "Scanner", "scan"]

# What is said of a member whose format says nothing.
NO_TIME = (1 << 5 | 1) << 16  # MS-DOS: 1980-01-01, the first that there is
REGULAR_FILE = 0o100644 << 16

_LARGEST_READ = 256 << 10  # as in native code
_BUDGET = 64 << 20  # bytes read between two reports of progress


class Scanner(Protocol):
    """Native code that skips from header to header in a stream. What it returns is a fault, or 0."""

    @property
    def wanted(self) -> int:
        """The next place in the stream whose bytes it needs."""

    @property
    def window(self) -> int:
        """How many bytes it would take at once."""

    @property
    def count(self) -> int:
        """How many members it has found."""

    def feed(self, data: memoryview, offset: int, /) -> int:
        """Take a piece of the stream."""

    def scan(self, descriptor: int, size: int, budget: int, /) -> int:
        """Read a file itself, up to about `budget` bytes."""


def scan(
    source: Source,
    scanner: Scanner,
    check: Callable[[int], object],
    progress: Callable[[int, int], object] | None,
) -> None:
    """Let a scanner have what it wants of a source; `check` raises what its faults mean."""
    size = source.size
    chunk = memoryview(bytearray(0 if source.is_native else _LARGEST_READ))
    reported = 0
    while scanner.wanted < size:
        if source.memory is not None:
            check(scanner.feed(source.memory, 0))
        elif source.descriptor >= 0:
            check(scanner.scan(source.descriptor, size, _BUDGET))
        else:
            at = scanner.wanted
            piece = chunk[: min(scanner.window, size - at)]
            if source.readinto_at(at, piece) < len(piece):
                raise CorruptArchiveError("the file became shorter while it was read", archive=source.name)
            check(scanner.feed(piece, at))
        if progress is not None and min(scanner.wanted, size) - reported >= _BUDGET:
            reported = min(scanner.wanted, size)
            progress(reported, size)
    if progress is not None:
        progress(size, size)
