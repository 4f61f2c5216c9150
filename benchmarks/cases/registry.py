"""Where cases enter themselves, and what several of them do alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import archivestream
from benchmarks.limit import BatchLoop
from benchmarks.measure import Side, processors
from benchmarks.results import Case, FigureTarget, Measured, Scale, SpeedTarget

__all__ = [
    "CASES",
    "FULL",
    "QUICK",
    "case",
    "limit_side",
    "note_threads",
    "ours_threads",
    "random_batches",
    "save_index",
]

FULL = Scale(
    rounds=7,
    slow_rounds=3,
    large=1_000_000,
    texts=8192,
    many_texts=32_768,
    few_texts=1024,
    images=1024,
    pictures=2048,
    tiny=65_536,
    arrays=384,
    batch=256,
    array_batch=64,
    files=512 << 20,
    packed=200 << 20,
    member=64 << 20,
    places=256,
    blocks=4096,
    records=16_384,
    copies=(4 << 20, 64 << 20, 256 << 20),
    steps=1000,
    pixels=236_000_000,
)
QUICK = Scale(
    rounds=2,
    slow_rounds=2,
    large=5000,
    texts=128,
    many_texts=128,
    few_texts=16,
    images=16,
    pictures=64,
    tiny=512,
    arrays=6,
    batch=32,
    array_batch=3,
    files=12 << 20,
    packed=2 << 20,
    member=8 << 20,
    places=8,
    blocks=64,
    records=128,
    copies=(4 << 20,),
    steps=24,
    pixels=2_000_000,
)

CASES: dict[str, Case] = {}


def case(
    name: str, title: str, *targets: SpeedTarget | FigureTarget
) -> Callable[[Callable[[Scale], Measured]], Callable[[Scale], Measured]]:
    """Enter what is decorated as a case."""

    def register(function: Callable[[Scale], Measured]) -> Callable[[Scale], Measured]:
        CASES[name] = Case(name, title, targets, function)
        return function

    return register


def random_batches(members: int, batch: int) -> list[NDArray[np.int64]]:
    """Deal all members out to full batches, in a random order that is always the same."""
    order = np.random.default_rng(7).permutation(members)
    return np.split(order[: members // batch * batch], members // batch)


def limit_side(loop: BatchLoop, name: str = "limit") -> Side:
    """Make the side of a C loop."""
    return Side(name, "limit", loop.run, loop.digest)


def ours_threads() -> str:
    """Say how many threads there are."""
    return f"threads: {processors()} for ours and one for the limit, unless it says otherwise"


def save_index(path: Path) -> Path:
    """Index an archive anew, and return where that is saved."""
    with archivestream.open(path, index="memory") as archive:
        (saved,) = archive.save_index()
    return saved


def note_threads(measured: Measured, idle: float | None, limits: tuple[str, str] | None = None) -> None:
    """Note what a comparison of one thread with two depends on.

    Parameters
    ----------
    idle : float or None
        What `idle_cores` has found beforehand.
    limits : (str, str), optional
        The sides of the limit with two threads and with one.
    """
    if limits is not None:
        scaling, _ = measured.speed(*limits)
        measured.notes.append(f"two threads make the limit {scaling:.2f} x as fast, here and now")
    if processors() < 2:
        measured.notes.append("one processor for this process: the target cannot be reached")
    if idle is None:
        measured.notes.append("it is not known how many cores were idle")
    elif idle < 1.9:
        measured.notes.append(f"fewer than two cores were idle: {idle:.1f}; the figures say little")
