"""File objects of Python that fail, are short, slow or change at the n-th read. Needs no shim."""

from __future__ import annotations

import errno
import io
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import archivestream
from archivestream import Archive, ArchiveError, ArchiveWarning, CorruptArchiveError
from faults.cases import KINDS, READS, is_right, put
from faults.reading import UNCHECKED
from faults.report import Report

__all__ = ["objects"]


class Faulty(io.RawIOBase):
    """A file in memory, something of which goes wrong from one read on, until it is well again."""

    name = "faulty.archive"

    def __init__(self, data: bytes, clock: Clock) -> None:
        self._file = io.BytesIO(data)
        self._clock = clock

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int | None:
        with memoryview(buffer).cast("B") as view:
            if not self._clock.strikes():
                return self._file.readinto(view)
            return getattr(self, f"_{self._clock.fault}")(view)

    def _fails(self, view: memoryview) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def _is_interrupted(self, view: memoryview) -> int:
        raise InterruptedError(errno.EINTR, "Interrupted system call")

    def _is_short(self, view: memoryview) -> int:
        return self._file.readinto(view[: max(1, len(view) // 3)])

    def _is_slow(self, view: memoryview) -> int:
        time.sleep(0.001)
        return self._file.readinto(view)

    def _has_nothing_yet(self, view: memoryview) -> None:
        return None

    def _ends(self, view: memoryview) -> int:
        return 0

    def _changes(self, view: memoryview) -> int:
        got = self._file.readinto(view)
        view[:got] = bytes(byte ^ 0x55 for byte in view[:got])
        return got

    def _is_closed(self, view: memoryview) -> int:
        raise ValueError("I/O operation on closed file")


class Clock:
    """Counts the reads of all files of an archive."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.begin(0)

    def begin(self, number: int) -> None:
        """Have the fault strike from a read on, counted from 1; 0: never."""
        self.number = number
        self.reads = 0

    def strikes(self) -> bool:
        self.reads += 1
        return 0 < self.number <= self.reads


HARMLESS = ("is_short", "is_slow")
FAILURES = ("fails", "is_interrupted", "has_nothing_yet", "is_closed")
FAULTS = (*HARMLESS, *FAILURES, "ends", "changes")


def objects(folder: Path, report: Report) -> None:
    """From the n-th read on something is wrong: an error that names the file; afterwards the same archive is right."""
    for kind in KINDS:
        place = put(kind, folder / "files")
        contents = [path.read_bytes() for path in sorted((folder / "files").iterdir()) if path.suffix != ".asidx"]
        assert contents, place
        for fault in FAULTS:
            if fault == "changes" and kind in UNCHECKED:
                continue
            for how, read in {"open": None, **READS}.items():
                name = f"{how}, file object"
                with report.operation(name, kind, fault.replace("_", " ")) as row, warnings.catch_warnings():
                    warnings.simplefilter("ignore", ArchiveWarning)  # of a seek table that does not fit, say
                    clock = Clock(fault)

                    def opened(clock: Clock = clock, contents: list[bytes] = contents) -> Archive:
                        return archivestream.open([Faulty(data, clock) for data in contents])

                    for number in row.points(partial(_count, opened, clock, read)):
                        _try(opened, clock, read, number)
                        row.add(clock.number <= clock.reads)
        shutil.rmtree(folder / "files")


def _count(opened: Callable[[], Archive], clock: Clock, read: Callable[[Archive], list[bytes]] | None) -> int:
    clock.begin(0)
    with opened() as archive:
        if read is not None:
            clock.begin(0)
            assert is_right(read(archive))
        return clock.reads


def _try(
    opened: Callable[[], Archive], clock: Clock, read: Callable[[Archive], list[bytes]] | None, number: int
) -> None:
    if read is None:
        clock.begin(number)
        try:
            archive = opened()
        except Exception as error:
            _judge(error, clock)
            return
        clock.number = 0
    else:
        clock.begin(0)
        archive = opened()
        clock.begin(number)
        try:
            assert is_right(read(archive)), "wrong bytes"
        except Exception as error:
            _judge(error, clock)
    struck, clock.number = clock.number, 0
    with archive:
        try:
            assert is_right(archive.read_many(range(len(archive)))), "what came afterwards was spoilt"
        except CorruptArchiveError:  # an index of bytes that had no checksum of their own: that of a record, say
            assert (read, clock.fault) == (None, "changes"), "what came afterwards was spoilt"
    clock.number = struck


def _judge(error: Exception, clock: Clock) -> None:
    assert clock.fault not in HARMLESS, f"it was noticed: {error!r}"
    assert isinstance(error, (ArchiveError, OSError)), f"not an error of an archive: {error!r}"
    if clock.fault in FAILURES:
        assert not isinstance(error, CorruptArchiveError), f"the bytes are not what is wrong: {error!r}"
    assert Faulty.name in str(error), f"names no archive: {error!r}"
