"""What a case is, what it measured, and whether that reaches its targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import Kind, Timing

__all__ = ["Case", "Check", "Figure", "FigureTarget", "Measured", "Scale", "SpeedTarget"]


@dataclass(frozen=True)
class Scale:
    """How much data the cases use.

    Attributes
    ----------
    rounds, slow_rounds : int
        How often each side is timed; the second where one round takes many seconds.
    large, texts, many_texts, few_texts, images, pictures, tiny, arrays : int
        Members of the archives.
    batch, array_batch : int
        Members of a batch.
    files, packed : int
        Bytes of real files: of those in one frame of zstd, and of those that are packed.
    member : int
        Bytes of one large member.
    places : int
        How many members in such a frame are read.
    blocks, records : int
        Members of 64 KiB, and of 16 KB, that go to a GPU.
    copies : tuple of int
        Bytes of the pieces that are copied there by themselves.
    steps : int
        Batches after which memory is to be as it was after ten.
    pixels : int
        Bytes of the images in all TFRecord files.
    """

    rounds: int
    slow_rounds: int
    large: int
    texts: int
    many_texts: int
    few_texts: int
    images: int
    pictures: int
    tiny: int
    arrays: int
    batch: int
    array_batch: int
    files: int
    packed: int
    member: int
    places: int
    blocks: int
    records: int
    copies: tuple[int, ...]
    steps: int
    pixels: int


@dataclass(frozen=True)
class SpeedTarget:
    """The side `of` is to be at least so many times as fast as the side `than`."""

    of: str
    than: str
    at_least: float

    def __str__(self) -> str:
        return f"{self.of} >= {self.at_least:g} x {self.than}"


@dataclass(frozen=True)
class FigureTarget:
    """A figure is to be at most so large."""

    figure: str
    at_most: float
    unit: str

    def __str__(self) -> str:
        return f"{self.figure} <= {self.at_most:g} {self.unit}"


@dataclass(frozen=True)
class Figure:
    """A measured value that is no time."""

    name: str
    kind: Kind
    value: float
    unit: str


@dataclass(frozen=True)
class Measured:
    """What a case measured.

    Attributes
    ----------
    members, bytes : int
        What each side reads in one round; all sides read the same.
    timings : list of Timing
        One for each side.
    figures : list of Figure
        What else was measured.
    notes : list of str
        What a reader of the figures has to know.
    """

    members: int
    bytes: int
    timings: list[Timing] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def speed(self, of: str, than: str) -> tuple[float, float]:
        """Return how many times as fast one side is as another: by best rounds, by medians."""
        timings = {timing.name: timing for timing in self.timings}
        ours, other = timings[of], timings[than]
        return other.best / ours.best, other.median / ours.median


@dataclass(frozen=True)
class Check:
    """A target, what was reached, and whether that is enough."""

    target: str
    reached: float
    passed: bool


@dataclass(frozen=True)
class Case:
    """A named case: a row of the table of targets."""

    name: str
    title: str
    targets: tuple[SpeedTarget | FigureTarget, ...]
    measure: Callable[[Scale], Measured]

    def checks(self, measured: Measured) -> list[Check]:
        """Compare what was measured with the targets; a side or a figure that is not there is left out."""
        figures = {figure.name: figure.value for figure in measured.figures}
        sides = {timing.name for timing in measured.timings}
        checks = []
        for target in self.targets:
            if isinstance(target, SpeedTarget):
                if not {target.of, target.than} <= sides:
                    continue
                reached, _ = measured.speed(target.of, target.than)
                checks.append(Check(str(target), reached, reached >= target.at_least))
            elif target.figure in figures:
                reached = figures[target.figure]
                checks.append(Check(str(target), reached, reached <= target.at_most))
        return checks

    def as_dict(self, measured: Measured) -> dict[str, Any]:
        """Return all of it in the types of JSON."""
        ratios = {}
        for ours in measured.timings:
            for other in measured.timings:
                if ours.kind == "ours" and ours is not other:
                    best, median = measured.speed(ours.name, other.name)
                    ratios[f"{ours.name} / {other.name}"] = {"best": best, "median": median}
        return {
            "case": self.name,
            "title": self.title,
            "members": measured.members,
            "bytes": measured.bytes,
            "timings": [
                {
                    "side": timing.name,
                    "kind": timing.kind,
                    "best_s": timing.best,
                    "median_s": timing.median,
                    "rounds_s": list(timing.seconds),
                    "members_per_s": measured.members / timing.best,
                    "bytes_per_s": measured.bytes / timing.best,
                }
                for timing in measured.timings
            ],
            "speed_ratios": ratios,
            "figures": [vars(figure) for figure in measured.figures],
            "targets": [vars(check) for check in self.checks(measured)],
            "notes": measured.notes,
        }
