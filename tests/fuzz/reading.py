"""Read an archive in every way, and compare: what the targets of containers have in common."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import archivestream
from archivestream import Archive, ArchiveError, Limits

from .target import Data, require

__all__ = ["LIMITS", "Outcome", "arrays", "opened", "read_all"]

# An input has some KiB: what asks for more memory than these let it have is a find.
LIMITS = Limits(max_member_bytes=1 << 20, max_members=1 << 16, max_index_bytes=4 << 20, max_window_bytes=8 << 20)
MOST_TOGETHER = 16 << 20  # bytes of all members, to be read with one call

Outcome = list[tuple[str, "bytes | ArchiveError"]]


@contextlib.contextmanager
def opened(data: Any, **options: Any) -> Iterator[Archive | None]:
    """Open an archive; None where that is an error that is documented."""
    options = {"threads": 1, "index": "memory", "limits": LIMITS, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", archivestream.ArchiveWarning)  # of a seek table, which is not used then
        try:
            archive = archivestream.open(data, **options)
        except ArchiveError as error:
            require(error.archive, "an error names no archive", error)
            archive = None
    if archive is None:
        yield None
        return
    with archive:
        yield archive


def read_all(archive: Archive, rng: random.Random) -> Outcome:
    """Read every member, by itself and together, to bytes, to a batch and as a file, and compare."""
    found: Outcome = []
    names = list(archive.names)
    for i, name in enumerate(names):
        data: bytes | ArchiveError
        try:
            data = archive[i]
        except ArchiveError as error:
            require(error.archive and error.member == name, "an error names no member", error)
            data = error
        else:
            require(len(data) == archive.info(i).size, "another size than that of the index", i)
        found.append((name, data))
    good = [i for i, (_, data) in enumerate(found) if isinstance(data, bytes)]
    report = archive.verify()
    require(len(report.errors) == len(found) - len(good), "verify() and reading differ", report, found)
    if sum(len(found[i][1]) for i in good) > MOST_TOGETHER:  # type: ignore[arg-type]
        return found
    rng.shuffle(good)
    expected: list[Any] = [found[i][1] for i in good]
    require(archive.read_many(good) == expected, "read_many() differs")
    batch = archive.read_batch(good)
    require([bytes(member) for member in batch] == expected, "read_batch() differs")
    for i, data in list(zip(good, expected, strict=True))[:3]:
        at = rng.randrange(len(data) + 1)
        with archive.open_member(i) as member:
            member.seek(at)
            require(member.read(100) == data[at : at + 100], "open_member() differs", i, at)
            require(member.seek(0) == 0 and member.read() == data, "open_member() differs", i)
        require(archive.names[i] in archive, "a name is not found", i)
    bad = [i for i in range(len(found)) if i not in set(good)]
    if bad:
        errors: dict[int, Exception] = {}
        archive.read_many(bad, errors=errors)
        require(len(errors) == len(bad), "read_many() differs in errors", errors)
    return found


def strict_agrees(data: Data, found: Outcome) -> None:
    """What strict mode reads is what the default reads."""
    with opened(data, strict=True) as archive:
        if archive is None:
            return
        require([name for name, _ in found] == list(archive.names), "strict mode has other names")
        for i, (_, expected) in enumerate(found):
            try:
                member = archive[i]
            except ArchiveError:
                continue
            require(member == expected, "strict mode reads other bytes", i)


def arrays(columns: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the bytes of columns, to be compared."""
    return {name: bytes(memoryview(data)) for name, data in columns.items()}


def pieces(data: Data, rng: random.Random) -> Iterator[tuple[int, Data]]:
    """Cut into pieces, most of them small: (offset, piece)."""
    at = 0
    while at < len(data):
        size = rng.choice((1, 2, 3, 7, 30, 100, 511, 512, 513, 4096))
        yield at, data[at : at + size]
        at += size


def as_array(data: Data) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return bytes as an array, without a copy."""
    return np.frombuffer(data, np.uint8)
