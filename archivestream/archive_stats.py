"""What an archive holds and how fast it is read: sizes, types, classes, speed; behind ``archivestream stats``."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from archivestream.archive import Archive, Progress
from archivestream.summary import Summary

__all__ = ["ArchiveStats", "Bin", "ReadSpeed", "Sizes", "TypeStats", "collect_stats"]

# Members that are read before the clock is looked at: so many, and of so many bytes, unless one has more.
_MOST_MEMBERS = 4096
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram: how many files have at least `low` bytes and fewer than `high`."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of files in bytes, decoded.

    Attributes
    ----------
    smallest, largest : int
        Of all.
    mean, median : float
        Of all.
    histogram : list of Bin
        From the smallest to the largest, without a gap: empty files, then between powers of two.
    """

    smallest: int
    largest: int
    mean: float
    median: float
    histogram: list[Bin]


@dataclass(frozen=True)
class TypeStats:
    """How many files there are of a type, and their bytes, decoded."""

    count: int
    size: int


@dataclass(frozen=True)
class ReadSpeed:
    """How fast files were read, from the first on: fetched, decoded and verified by all threads, and not kept.

    Attributes
    ----------
    members, bytes : int
        How many were read.
    seconds : float
        How long that took.
    complete : bool
        Whether all files were read; else the time was over.
    errors : list of Exception
        What was wrong with bad members.
    """

    members: int
    bytes: int
    seconds: float
    complete: bool
    errors: list[Exception]

    @property
    def members_per_second(self) -> float:
        """Members, divided by seconds."""
        return self.members / self.seconds if self.seconds else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Bytes, divided by seconds."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class ArchiveStats:
    """What `collect_stats` finds.

    Attributes
    ----------
    summary : Summary
        As from `archivestream.Archive.summary`.
    sizes : Sizes or None
        Of the files; None where there are none.
    types : dict of str to TypeStats
        Of the files of each type (`archivestream.Archive.by_type`), the most frequent first.
    classes : dict of str to int
        Files in each folder: the classes of ``labels="folder"``, by name. Of folders in folders, the innermost counts;
        the empty name stands for files that lie in none.
    speed : ReadSpeed or None
        None where it was not measured.
    """

    summary: Summary
    sizes: Sizes | None
    types: dict[str, TypeStats]
    classes: dict[str, int]
    speed: ReadSpeed | None


def collect_stats(archive: Archive, *, seconds: float = 2.0, progress: Progress | None = None) -> ArchiveStats:
    """Say what an archive or a view holds, from its index alone, and how fast it is read.

    Parameters
    ----------
    archive : Archive
        What is asked about.
    seconds : float
        Read files for about so long; 0 reads none.
    progress : callable, optional
        Called with (bytes read, bytes in all).
    """
    files = archive.select(archive.files())
    number, folders = files.names.folders()
    counts = np.bincount(number, minlength=len(folders)).tolist()
    return ArchiveStats(
        summary=archive.summary(),
        sizes=_sizes(files),
        types={name: TypeStats(len(view), _total(view)) for name, view in archive.by_type().items()},
        classes=dict(sorted(zip(folders, counts, strict=True))),
        speed=_read(files, seconds, progress) if seconds and len(files) else None,
    )


def _total(archive: Archive) -> int:
    return sum(archive.sizes.tolist())  # what a hostile archive declares may be more than 64 bits can count


def _sizes(files: Archive) -> Sizes | None:
    sizes = files.sizes
    if not len(sizes):
        return None
    smallest, largest = int(sizes.min()), int(sizes.max())
    # A size of b bits lies between 2**(b - 1) and 2**b; of 0 bits is that of an empty file.
    edges = np.array([1 << bits for bits in range(63)], np.int64)
    bits = np.searchsorted(edges, sizes, "right")
    counts = np.bincount(bits, minlength=64).tolist()
    shown = range(smallest.bit_length(), largest.bit_length() + 1)
    histogram = [Bin(1 << b >> 1, 1 << b, counts[b]) for b in shown]
    return Sizes(smallest, largest, _total(files) / len(sizes), float(np.median(sizes)), histogram)


def _read(archive: Archive, seconds: float, progress: Progress | None) -> ReadSpeed:
    ends = np.cumsum(archive.sizes, dtype=np.float64)
    members = size = 0
    errors: list[Exception] = []
    started = time.perf_counter()
    while members < len(archive):
        limit = (ends[members - 1] if members else 0.0) + _MOST_BYTES
        end = max(members + 1, min(members + _MOST_MEMBERS, int(np.searchsorted(ends, limit, "right"))))
        report = archive.select(slice(members, end)).verify()
        members, size = end, size + report.bytes
        errors += report.errors
        if progress is not None:
            progress(int(ends[end - 1]), int(ends[-1]))
        if time.perf_counter() - started >= seconds:
            break
    taken = time.perf_counter() - started
    return ReadSpeed(members, size, taken, members == len(archive), errors)
