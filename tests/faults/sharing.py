"""A cache that processes share, while one of them has no room, or is killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import archivestream
from archivestream import ArchiveError, ArchiveWarning, Cache, shared_files
from faults import shim
from faults.cases import READS, is_right, put
from faults.report import Report
from faults.shim import Calls, Fault, armed

__all__ = ["sharing"]

_KINDS = ("zip", "zip, LZMA", "tar", "tar.zst, frames", "tar.gz", "tfrecord")
_POLICIES: tuple[Literal["keep", "lru"], ...] = ("keep", "lru")
_CALLS = Calls.READ | Calls.OPEN | Calls.MAP | Calls.ROOM | Calls.CLOSE
_FAULTS = (
    Fault("ENOSPC from then on", Calls.ROOM, shim.FULL_DISK.code, lasts=True),
    Fault("EINTR of growing", Calls.ROOM, shim.INTERRUPTED.code, is_seen=False),
    Fault("EIO", _CALLS, shim.EIO.code),
    Fault("EMFILE", Calls.OPEN, shim.NO_DESCRIPTOR.code),
    Fault("ENOMEM of mmap", Calls.MAP, shim.NO_MAPPING.code),
)
_KILLED = (Fault("killed before", _CALLS, shim.KILLED.code), Fault("killed after a half", _CALLS, shim.TORN.code))


def _use(place: str, policy: Literal["keep", "lru"]) -> None:
    """Read all twice, through a cache that has room for about a half, or with "keep", for all."""
    with (
        Cache(1 << 20 if policy == "keep" else 256 << 10, shared=True, name="faults", policy=policy) as cache,
        archivestream.open(place, cache=cache) as archive,
    ):
        for how in ("read_batch", "a[i]"):
            assert is_right(READS[how](archive)), "wrong bytes"


def sharing(folder: Path, report: Report) -> None:
    """One of the processes that share a cache fails or dies at the n-th call: the others never get wrong bytes."""
    memory, shared_files._MEMORY = shared_files._MEMORY, folder / "memory"  # where the faults strike
    try:
        for kind, policy in itertools.product(_KINDS, _POLICIES):
            shutil.rmtree(folder / "memory", ignore_errors=True)
            (folder / "memory").mkdir()
            place = put(kind, folder / "files")
            archivestream.open(place).close()
            for fault in _FAULTS:
                with report.operation(f"shared cache, {policy}", kind, fault.name) as row, warnings.catch_warnings():
                    warnings.simplefilter("ignore", ArchiveWarning)  # that it cannot grow
                    for number in row.points(partial(_count, folder, fault, place, policy)):
                        row.add(_fail(folder, fault, number, place, policy))
            for fault in _KILLED:
                with report.operation(f"shared cache, {policy}", kind, fault.name) as row:
                    for number in row.points(partial(_count, folder, fault, place, policy)):
                        row.add(_die(folder, fault, number, place, policy))
            shutil.rmtree(folder / "files")
    finally:
        shared_files._MEMORY = memory


def _count(folder: Path, fault: Fault, place: str, policy: Literal["keep", "lru"]) -> int:
    with armed(fault, 0, folder) as count:
        _use(place, policy)
    return count.calls


def _fail(folder: Path, fault: Fault, number: int, place: str, policy: Literal["keep", "lru"]) -> int:
    with armed(fault, number, folder) as count:
        try:
            _use(place, policy)
        except (OSError, ArchiveError) as error:
            assert fault.is_seen, f"{fault.name} was noticed: {error!r}"
    _use(place, policy)
    assert not os.listdir(folder / "memory"), "the file of a cache that nobody uses is left"
    return count.hits


def _die(folder: Path, fault: Fault, number: int, place: str, policy: Literal["keep", "lru"]) -> int:
    """Kill a process that shares a cache with this one."""
    with Cache(1 << 20 if policy == "keep" else 256 << 10, shared=True, name="faults", policy=policy) as cache:
        child = os.fork()
        if child == 0:
            try:
                with armed(fault, number, folder):
                    _use(place, policy)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        with archivestream.open(place, cache=cache) as archive:
            assert is_right(archive.read_many(range(len(archive)))), "wrong bytes"
        _use(place, policy)
    assert not os.listdir(folder / "memory"), "the file of a cache that nobody uses is left"
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
