"""Faults while archives are opened and read."""

from __future__ import annotations

import itertools
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import archivestream
from archivestream import Archive, ArchiveError, ArchiveWarning, Cache
from archivestream.indexing import IndexMode
from faults import shim
from faults.cases import KINDS, READS, basename, is_right, put
from faults.report import Report
from faults.shim import Calls, Fault, armed

__all__ = ["changes", "opening", "reading"]


def judge(error: Exception, place: str, *more: type[Exception]) -> None:
    """Hold that an error is a clear one: of the kinds that users catch, and names the archive."""
    assert isinstance(error, (ArchiveError, OSError, *more)), f"not an error of an archive: {error!r}"
    assert basename(place) in str(error), f"names no archive: {error!r}"


def _variants() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "", dict
    yield ", cache=0", lambda: {"cache": 0}
    yield ", Cache", lambda: {"cache": Cache(1 << 20)}
    yield ", shared Cache", lambda: {"cache": Cache(1 << 20, shared=True)}


def reading(folder: Path, report: Report) -> None:
    """The n-th read fails, is interrupted, or short: an error that names the archive, and the next call is right."""
    for kind, (variant, options) in itertools.product(KINDS, report.some(_variants())):
        place = put(kind, folder / "files")
        archivestream.open(place).close()  # saves the index
        for how, fault in itertools.product(READS, (shim.EIO, shim.INTERRUPTED, shim.SHORT)):
            fault = Fault(fault.name, Calls.READ, fault.code, is_seen=fault.is_seen)
            with report.operation(f"{how}{variant}", kind, fault.name) as row:
                for number in row.points(partial(_count, place, options, how, folder)):
                    with archivestream.open(place, **options()) as archive:
                        with armed(fault, number, folder) as count:
                            _attempt(READS[how], archive, fault, place)
                        row.add(count.hits)
                        assert is_right(READS[how](archive)), "what came afterwards was spoilt"
        shutil.rmtree(folder / "files")


def _count(place: str, options: Callable[[], dict[str, Any]], how: str, folder: Path) -> int:
    with archivestream.open(place, **options()) as archive, armed(shim.EIO, 0, folder) as count:
        assert is_right(READS[how](archive))
    return count.calls


def _attempt(call: Callable[[Archive], list[bytes]], archive: Archive, fault: Fault, place: str) -> None:
    try:
        found = call(archive)
    except Exception as error:
        assert fault.is_seen, f"{fault.name} was noticed: {error!r}"
        judge(error, place)
    else:
        assert is_right(found), "wrong bytes"


_WAYS_TO_OPEN: dict[str, dict[str, Any]] = {
    "open, no index": {},
    "open, saved index": {},
    "open, index='require'": {"index": "require"},
    "open, index='memory'": {"index": "memory"},
    "open, four threads": {"index": "memory", "threads": 4},
    "open, strict": {"index": "memory", "strict": True},
}


def opening(folder: Path, report: Report) -> None:
    """The n-th call of opening fails: an error that names the archive, or the archive; and the next time it opens."""
    faults = (
        shim.EIO,
        shim.INTERRUPTED,
        shim.SHORT,
        shim.NO_DESCRIPTOR,
        shim.NO_MAPPING,
        shim.NO_THREAD,
        shim.BAD_DISK,
        shim.DEAD_DISK,
        shim.FULL_DISK,
    )
    for kind, (how, options) in itertools.product(KINDS, _WAYS_TO_OPEN.items()):
        place = put(kind, folder / "files")
        saved = "saved" in how or "require" in how

        def prepare(place: str = place, saved: bool = saved, options: dict[str, Any] = options) -> None:
            _forget_indexes(folder)
            if saved:
                archivestream.open(place).close()
                for path in _files(place) if options.get("index") == "require" else ():
                    if not Path(f"{path}.asidx").exists():
                        archivestream.open(path).save_index()

        def attempt(fault: Fault, number: int, place: str = place, options: dict[str, Any] = options) -> shim.Count:
            with armed(fault, number, folder) as count, warnings.catch_warnings():
                warnings.simplefilter("ignore", ArchiveWarning)  # that the index could not be saved
                try:
                    archive = archivestream.open(place, **options)
                except Exception as error:
                    assert fault.is_seen, f"{fault.name} was noticed: {error!r}"
                    judge(error, place)
                    return count
            with archive:
                assert is_right(archive.read_many(range(len(archive)))), "wrong bytes"
            return count

        for fault in faults:
            with report.operation(how, kind, fault.name) as row:

                def total(fault: Fault = fault) -> int:
                    prepare()
                    return attempt(Fault("", fault.calls, 0), 0).calls

                for number in row.points(total):
                    prepare()
                    row.add(attempt(fault, number).hits)
                    with archivestream.open(place) as archive:
                        assert is_right(archive.read_many(range(len(archive)))), "what came afterwards was spoilt"
                    assert not [path for path in (folder / "files").iterdir() if path.name.endswith(".tmp")]
        shutil.rmtree(folder / "files")


def _files(place: str) -> list[str]:
    return [place.replace("{0..1}", str(i)) for i in range(2)] if "{" in place else [place]


def _forget_indexes(folder: Path) -> None:
    for path in [*folder.rglob("*.asidx*")]:
        path.unlink()


def _other(data: bytes) -> bytes:
    """Another file of the same size, and of no format: of zeros it would be a tar without members."""
    return b"\xa5" * len(data)


def _change(how: str, path: Path, data: bytes) -> None:
    if how == "truncated":
        os.truncate(path, len(data) // 3)
    elif how == "emptied":
        os.truncate(path, 0)
    elif how == "grown":
        with path.open("ab") as file:
            file.write(data)
    elif how == "deleted":
        path.unlink()
    elif how == "replaced":
        other = path.with_name("other")
        other.write_bytes(_other(data))
        os.replace(other, path)
    elif how == "overwritten":
        with path.open("r+b") as file:
            file.write(_other(data))


CHANGES = ("truncated", "emptied", "grown", "deleted", "replaced", "overwritten")
# Nothing but headers has a checksum in a plain tar, so that bytes that change in place can only be taken as they are.
UNCHECKED = ("tar", "shards of tar")


def changes(folder: Path, report: Report) -> None:
    """The file changes just before the n-th read: the members as they were, or an error that names the archive."""
    for kind, change in itertools.product(KINDS, CHANGES):
        if kind in UNCHECKED and change == "overwritten":
            continue
        place = put(kind, folder / "files")
        archivestream.open(place).close()
        path = Path(_files(place)[-1])
        data = path.read_bytes()
        status = path.stat()

        def restore(path: Path = path, data: bytes = data, status: os.stat_result = status) -> None:
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

        def act(how: str = change, path: Path = path, data: bytes = data) -> None:
            _change(how, path, data)

        ways = {"open": None, "open, index='memory'": None, **READS}
        for how, read in ways.items():
            fault = shim.on(Calls.READ | Calls.MAP)
            with report.operation(how, kind, change) as row:

                def total(how: str = how, place: str = place, fault: Fault = fault) -> int:
                    if how not in READS:
                        with armed(fault, 0, folder) as count:
                            archivestream.open(place, index=_mode(how)).close()
                        return count.calls
                    return _count(place, dict, how, folder)

                for number in row.points(total):
                    if read is None:
                        with armed(fault, number, folder, act) as count:
                            _try_to_open(place, _mode(how))
                    else:
                        with archivestream.open(place, cache=0) as archive:
                            with armed(fault, number, folder, act) as count:
                                _try_to_read(read, archive, place)
                            for again in report.some(READS.values()):
                                _try_to_read(again, archive, place)
                    row.add(count.hits)
                    restore()
                    with archivestream.open(place) as archive:
                        assert is_right(archive.read_many(range(len(archive)))), "what came afterwards was spoilt"
        shutil.rmtree(folder / "files")


def _mode(how: str) -> IndexMode:
    return "memory" if "memory" in how else "auto"


def _try_to_open(place: str, index: IndexMode) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArchiveWarning)
        try:
            archive = archivestream.open(place, index=index)
        except Exception as error:
            judge(error, place)
            return
    with archive:
        _try_to_read(READS["read_many"], archive, place)


def _try_to_read(read: Callable[[Archive], list[bytes]], archive: Archive, place: str) -> None:
    try:
        found = read(archive)
    except Exception as error:
        judge(error, place)
    else:
        assert is_right(found), "wrong bytes"
