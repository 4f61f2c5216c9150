"""Sides of a case, and how they are timed: interleaved, best and median of several rounds."""

from __future__ import annotations

import gc
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream import Batch

__all__ = [
    "Batches",
    "Digest",
    "Kind",
    "Side",
    "Timing",
    "compare",
    "idle_cores",
    "processors",
    "reading",
    "take_turns",
    "time_sides",
]

Kind = Literal["ours", "peer", "limit"]
Batches: TypeAlias = Sequence[Sequence[int]] | Sequence[NDArray[np.int64]]


class Digest(NamedTuple):
    """What a side has read: how many bytes, and the CRC-32 of all of them in order."""

    bytes: int
    crc32: int


@dataclass(frozen=True)
class Side:
    """One way to do the work of a case.

    Attributes
    ----------
    name : str
        As the table and the targets call it.
    kind : {"ours", "peer", "limit"}
        What it stands for.
    run : callable
        Does the work once: this is timed. What it returns is dropped after the clock has stopped.
    digest : callable or None
        Does the work once and tells what came out: this is not timed. None: it reads no members.
    """

    name: str
    kind: Kind
    run: Callable[[], object]
    digest: Callable[[], Digest] | None = None


@dataclass(frozen=True)
class Timing:
    """How long a side took, in seconds, in each round."""

    name: str
    kind: Kind
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """The shortest round: the one that the rest of the machine disturbed least."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)


def reading(name: str, kind: Kind, items: Callable[[], Iterable[object]]) -> Side:
    """Make a side that reads members from an iterable, one or a batch at a time.

    The loop holds one item while the next is read, as the loop of a training program does.
    """

    def run() -> None:
        for _ in items():
            pass

    def digest() -> Digest:
        size = crc = 0
        for item in items():
            for part in _parts(item):
                size += part.nbytes
                crc = zlib.crc32(part, crc)
        return Digest(size, crc)

    return Side(name, kind, run, digest)


def _parts(item: Any) -> Iterable[memoryview]:
    if isinstance(item, list):
        return map(memoryview, item)
    if isinstance(item, Batch):
        return (item.data.data,)
    if isinstance(item, np.ndarray):
        return (item.reshape(-1).view(np.uint8).data,)
    return (memoryview(item),)


def time_sides(sides: Sequence[Side], rounds: int) -> tuple[list[Timing], Digest]:
    """Check that all sides that read members read the same, then time all in turn, round by round.

    Returns
    -------
    timings : list of Timing
        In the order of the sides.
    digest : Digest
        What each of those read.

    Raises
    ------
    RuntimeError
        If two sides read different bytes.
    """
    digest = compare(sides)
    return take_turns(sides, rounds), digest


def take_turns(sides: Sequence[Side], rounds: int) -> list[Timing]:
    """Time sides in turn, round by round, whatever they do; in their order."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            gc.collect()  # the garbage of one side is not collected on the clock of another
            started = time.perf_counter()
            result = side.run()
            seconds[side.name].append(time.perf_counter() - started)
            del result
    return [Timing(side.name, side.kind, tuple(seconds[side.name])) for side in sides]


def compare(sides: Sequence[Side]) -> Digest:
    """Return what those sides read that read members.

    Raises
    ------
    RuntimeError
        If two sides read different bytes, or nothing.
    """
    digests = {side.name: side.digest() for side in sides if side.digest is not None}
    found = set(digests.values())
    if len(found) != 1 or Digest(0, 0) in found:
        raise RuntimeError(f"the sides do not read the same: {digests}")
    return found.pop()


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def idle_cores(seconds: float = 0.25) -> float | None:
    """Measure how many processors are idle now; None where the system does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None

    def jiffies() -> tuple[int, int]:
        # cpu user nice system idle iowait irq softirq steal ...: proc(5)
        values = [int(value) for value in stat.read_text().split("\n", 1)[0].split()[1:9]]
        return values[3] + values[4], sum(values)

    idle, total = jiffies()
    time.sleep(seconds)
    idle_later, total_later = jiffies()
    return (os.cpu_count() or 1) * (idle_later - idle) / max(1, total_later - total)
