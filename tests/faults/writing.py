"""Faults while archives, indexes and files are written: each is as it was before, or whole, and the error names it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packtools import has_unnamed_files

import archivestream
from archivestream import ArchiveError, ArchiveWarning
from archivestream.tfrecord import TFRecordWriter
from faults import shim
from faults.cases import CONTENTS, MEMBERS, put, tree
from faults.report import Report
from faults.shim import Calls, Fault, armed

__all__ = ["WRITINGS", "Stage", "Writing", "kill_at_random", "killing", "make_sources", "writing"]

ITEMS = list(MEMBERS.items())
OLD = [(name, data[::-1]) for name, data in ITEMS]
LARGE = [("large", bytes(9 << 20)), ("small", b"1"), ("random", os.urandom(9 << 20))]


@dataclass(frozen=True)
class Writing:
    """Something that writes to a folder.

    Attributes
    ----------
    name : str
        Of the operation.
    write : callable
        Does it, in a folder of outputs; told whether it may write over what an earlier attempt has left.
    target : str
        What errors must name.
    before : callable
        Puts to the folder what is there before.
    in_parts : bool
        Several files get their names one after the other: each of them is as it was, or whole, by itself.
    """

    name: str
    write: Callable[[Path, bool], object]
    target: str
    before: Callable[[Path], object] = lambda folder: None
    in_parts: bool = False


def _pack(folder: Path, overwrite: bool, *, name: str, items: Any = ITEMS, **options: Any) -> None:
    archivestream.pack(items, folder / name, overwrite=overwrite, **options)


def _pack_over(folder: Path, overwrite: bool, **options: Any) -> None:
    _pack(folder, True, **options)


def _append(folder: Path, overwrite: bool) -> None:
    pattern = folder / "t-{:02d}.zip"
    if len(archivestream.open(str(pattern))) < len(ITEMS):
        archivestream.pack(ITEMS[6:], pattern, shards=2, append=True, overwrite=overwrite)


def _repack(folder: Path, overwrite: bool, *, name: str, **options: Any) -> None:
    archivestream.repack(folder.with_name("source.zip"), folder / name, overwrite=overwrite, **options)


def _records(folder: Path, overwrite: bool, **options: Any) -> None:
    with TFRecordWriter(folder / "a.tfrecord", overwrite=overwrite, **options) as writer:
        for data in CONTENTS:
            writer.write(data)


def _extract(folder: Path, overwrite: bool) -> None:
    with archivestream.open(folder.with_name("source.zip")) as archive:
        archive.extract(path=folder, overwrite=overwrite)


def _extract_over(folder: Path, overwrite: bool) -> None:
    _extract(folder, True)


def _index(folder: Path, overwrite: bool) -> None:
    with archivestream.open(folder.with_name("source.tar.zst"), index="memory") as archive:
        archive.save_index(folder / "a.asidx")


def _old_index(folder: Path) -> None:
    (folder / "a.asidx").write_bytes(b"what was there before")


def _old_files(folder: Path) -> None:
    for name, data in OLD:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


SHARDS = "t-{:02d}.zip"
WRITINGS = [
    Writing("pack to ZIP", partial(_pack, name="a.zip"), "a.zip"),
    Writing(
        "pack to ZIP, replaced",
        partial(_pack_over, name="a.zip"),
        "a.zip",
        partial(_pack, overwrite=False, name="a.zip", items=OLD),
    ),
    Writing("pack to ZIP, stored", partial(_pack, name="a.zip", method="stored", align=64), "a.zip"),
    Writing("pack to ZIP, large members", partial(_pack, name="a.zip", items=LARGE), "a.zip"),
    Writing("pack to tar", partial(_pack, name="a.tar"), "a.tar"),
    Writing("pack to .tar.zst", partial(_pack, name="a.tar.zst", frame_size=16 << 10), "a.tar.zst"),
    Writing("pack to shards", partial(_pack, name=SHARDS, shards=3), "t-0", in_parts=True),
    Writing(
        "pack to shards, replaced",
        partial(_pack_over, name=SHARDS, shards=2),
        "t-0",
        partial(_pack, overwrite=False, name=SHARDS, items=OLD, shards=3),
        in_parts=True,
    ),
    Writing(
        "append to shards",
        _append,
        "t-0",
        partial(_pack, overwrite=False, name=SHARDS, items=ITEMS[:6], shards=2),
        in_parts=True,
    ),
    Writing("repack to .tar.zst", partial(_repack, name="a.tar.zst"), "a.tar.zst"),
    Writing("repack to shards", partial(_repack, name=SHARDS, max_shard_bytes=60_000), "t-0", in_parts=True),
    Writing("TFRecordWriter", _records, "a.tfrecord"),
    Writing("TFRecordWriter, gzip", partial(_records, compression="gzip"), "a.tfrecord"),
    Writing("extract", _extract, "files", in_parts=True),
    Writing("extract, replaced", _extract_over, "files", _old_files, in_parts=True),
    Writing("save_index", _index, "a.asidx"),
    Writing("save_index, replaced", _index, "a.asidx", _old_index),
]


class Stage:
    """A folder in which something is written again and again, each time from what was there before."""

    def __init__(self, folder: Path, writing: Writing, *, all_named: bool = False) -> None:
        self.folder = folder / "files"
        self.writing = writing
        self.all_named = all_named or not has_unnamed_files(folder)
        self._begin()
        self.before = tree(self.folder)
        begun = time.monotonic()
        writing.write(self.folder, False)
        self.seconds = time.monotonic() - begun
        self.after = tree(self.folder)

    def _begin(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():  # the folder may be the root of a file system
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.writing.before(self.folder)

    def calls(self, fault: Fault) -> int:
        self._begin()
        with armed(fault, 0, self.folder) as count:
            self.writing.write(self.folder, False)
        return count.calls

    def attempt(self, fault: Fault, number: int, mend: Callable[[], object] = lambda: None) -> int:
        """Write under a fault, check what is there, and write again when all is well; return how often it struck."""
        self._begin()
        with armed(fault, number, self.folder) as count:
            error: Exception | None = None
            try:
                self.writing.write(self.folder, False)
            except Exception as caught:
                error = caught
        if error is None:
            assert tree(self.folder) == self.after, "other bytes were written"
        else:
            assert fault.is_seen, f"{fault.name} was noticed: {error!r}"
            assert isinstance(error, (OSError, ArchiveError)), f"not an error of a file: {error!r}"
            assert self.writing.target in str(error), f"names no file: {error}"
            assert not re.search(r"\.part\b|\.tmp\b", str(error)), f"names a temporary file: {error!r}"
            self._check_files(temporary=False)
            if not self.writing.in_parts:
                assert tree(self.folder) == self.before, "what was there before is not as it was"
        mend()
        self._write_again()
        assert tree(self.folder) == self.after
        return count.hits or error is not None

    def killed(self, fault: Fault, number: int) -> int:
        """Write in a process that is killed."""
        self._begin()
        child = os.fork()
        if child == 0:
            self._die(fault, number)
        return self._bury(child)

    def killed_after(self, seconds: float) -> int:
        """Write in a process that is killed after a time."""
        self._begin()
        child = os.fork()
        if child == 0:
            self._die(shim.KILLED, 0)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        return self._bury(child)

    def _bury(self, child: int) -> int:
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status)
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, f"the process ended with {status}"
        if died:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ArchiveWarning)  # of shards behind a gap, which the set is without
                self._check_files(temporary=True)
                self._check_left()
                self._write_again()
        found = tree(self.folder)
        assert not [name for name in found if name.endswith(".tmp")], "an index does not write over what was left"
        assert {name: data for name, data in found.items() if not _is_temporary(name)} == self.after
        return died

    def _check_left(self) -> None:
        """Hold that nothing is left, but for a whole file that was just to replace another one."""
        if self.all_named:
            return
        left = [(name, data) for name, data in tree(self.folder).items() if name.endswith(".part")]
        assert len(left) <= ("replaced" in self.writing.name), f"{len(left)} temporary files are left"
        assert all(data in self.after.values() for _, data in left), "a half of a file is left"

    def _die(self, fault: Fault, number: int) -> None:
        try:
            with armed(fault, number, self.folder):
                self.writing.write(self.folder, False)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _check_files(self, *, temporary: bool) -> None:
        for name, data in tree(self.folder).items():
            if temporary and _is_temporary(name):
                continue
            assert data in (self.before.get(name), self.after.get(name)), f"{name} is neither as it was nor whole"
        if "shards" in self.writing.name:
            try:
                with archivestream.open(str(self.folder / SHARDS)) as archive:
                    names = set(archive.namelist())
            except FileNotFoundError:
                assert "append" not in self.writing.name, "the set is gone"
                return
            assert names in (_all_names(self.before), _all_names(self.after)), "a part of a set"

    def _write_again(self) -> None:
        try:
            self.writing.write(self.folder, False)
        except FileExistsError:  # what is left of the interrupted write is not written over unless asked
            self.writing.write(self.folder, True)


def _is_temporary(name: str) -> bool:
    base = os.path.basename(name)
    return base.startswith(".") and base.endswith((".part", ".tmp"))


def _all_names(files: dict[str, bytes]) -> set[str]:
    return {name for data in files.values() for name in archivestream.open(data).namelist()}


def make_sources(folder: Path) -> None:
    archivestream.pack(ITEMS, folder / "source.zip")
    shutil.copy(put("tar.zst, frames", folder / "archive"), folder / "source.tar.zst")


def _stages(folder: Path) -> Iterator[tuple[str, Stage]]:
    """Everything that writes, on file systems with files without a name, and without."""
    for one in WRITINGS:
        yield one.name, Stage(folder, one)
        if "index" not in one.name:  # which has a name in any case
            with shim.all_named():
                yield f"{one.name}, named", Stage(folder, one, all_named=True)


def writing(folder: Path, report: Report) -> None:
    """The n-th change of the disk fails."""
    make_sources(folder)
    faults = (
        shim.INTERRUPTED,
        shim.SHORT,
        shim.NO_DESCRIPTOR,
        shim.BAD_DISK,
        shim.DEAD_DISK,
        shim.FULL_DISK,
    )
    for name, stage in _stages(folder):
        for fault in faults:
            with report.operation(name, "", fault.name) as row, warnings.catch_warnings():
                warnings.simplefilter("error")
                for number in row.points(partial(stage.calls, Fault("", fault.calls, 0))):
                    row.add(stage.attempt(fault, number))


def kill_at_random(folder: Path, report: Report) -> None:
    """The process is killed at any moment."""
    make_sources(folder)
    chance = random.Random(1)
    for one in WRITINGS:
        stage = Stage(folder, one)
        with report.operation(one.name, "", "killed at any moment") as row:
            for _ in row.points(lambda: 40):
                row.add(stage.killed_after(chance.uniform(0, 2 * stage.seconds)))


def killing(folder: Path, report: Report) -> None:
    """The process is killed at the n-th change of the disk: before it, after it, or when half is written."""
    make_sources(folder)
    sys.stderr.flush()
    for name, stage in _stages(folder):
        for fault in (shim.KILLED, shim.TORN):
            with report.operation(name, "", fault.name) as row:
                for number in row.points(partial(stage.calls, Fault("", Calls.CHANGES, 0))):
                    row.add(stage.killed(fault, number))
