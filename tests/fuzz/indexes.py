"""Target: saved indexes that were made to mislead."""

from __future__ import annotations

import atexit
import functools
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from recordmaker import records
from samples import as_seekable, tar_of, text
from zstdmaker import NO_BUDGET, library

import archivestream
from archivestream import ArchiveError
from archivestream._native.frameindex import FrameIndexer
from archivestream.formats import zstd

from .reading import opened, read_all
from .target import Data, chance, require

__all__ = ["run_sidecar", "sidecar_seeds"]

TIME = 1_700_000_000
MEMBERS = {"a": text(700), "folder/b": b"", "c" * 60: random.Random(1).randbytes(300), "d": text(3000, 2)}


def _archives() -> Mapping[str, bytes]:
    """Archives of every layout; each has another size, by which the index of one is told from that of another."""
    return {
        "a.tar": tar_of(MEMBERS),
        "a.tar.zst": library(tar_of(MEMBERS), window_log=10),  # which makes blocks of a KiB
        "frames.tar.zst": as_seekable(tar_of(MEMBERS), 700),
        "a.zst": library(text(5000)),
        "a.tfrecord": records([b"one", b"", text(100)]),
    }


@functools.cache
def _folder() -> Path:
    """Write the archives where no disk is needed, if there is such a place."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, data in _archives().items():
        (folder / name).write_bytes(data)
        os.utime(folder / name, (TIME, TIME))
    return folder


@functools.cache
def _by_size() -> Mapping[int, Path]:
    found = {path.stat().st_size: path for path in sorted(_folder().iterdir()) if path.suffix != ".asidx"}
    require(len(found) == len(_archives()), "two archives have the same size")
    return found


def _index_often(**options: Any) -> FrameIndexer:
    return FrameIndexer(**{**options, "spacing": 1000, "budget": NO_BUDGET})


@functools.cache
def _saved() -> Mapping[bytes, list[bytes]]:
    """Return the saved index of each archive, with many checkpoints, and the members."""
    found = {}
    for path in _by_size().values():
        with mock.patch.object(zstd, "FrameIndexer", _index_often), archivestream.open(path) as archive:
            [beside] = map(Path, archive.summary().saved_indexes)
            members = list(archive)
        require(members, "an empty archive")
        found[beside.read_bytes()] = members
        beside.unlink()
    return found


def sidecar_seeds() -> list[bytes]:
    """Return the saved index of each archive."""
    return list(_saved())


def run_sidecar(data: Data) -> None:
    """Open the archive that a saved index names, by that index. Its checksums may hold, whatever it says."""
    rng = chance(data)
    index = bytes(data)
    named = re.search(rb'"archive_size":"(\d{1,9})"', index)
    sizes, saved = _by_size(), _saved()
    path = sizes.get(int(named[1]) if named else 0, next(iter(sizes.values())))
    beside = path.with_name(f"{path.name}.asidx")
    partial = path.with_name(f"{path.name}.asidx.part")
    beside.write_bytes(index)
    members = _read(path, rng)
    require(index not in saved or members == saved[index], "other members by the index that was saved")
    if members is not None:
        changed = bytearray(index)
        changed[rng.randrange(len(index))] ^= 1 << rng.randrange(8)
        beside.write_bytes(changed)
        require(_read(path, rng) is None, "a flipped bit went unnoticed")
    beside.unlink()
    if b'"kind":"partial"' in index and path.suffix == ".zst":
        partial.write_bytes(index)
        with opened(path, index="auto") as archive:
            if archive is not None:
                read_all(archive, rng)
        for left in (beside, partial):
            left.unlink(missing_ok=True)


def _read(path: Path, rng: random.Random) -> list[bytes | ArchiveError] | None:
    """Read all by the saved index; None where it is refused."""
    try:
        with opened(path, index="require", threads=rng.choice((1, 2)), cache=rng.choice((0, None))) as archive:
            return None if archive is None else [member for _, member in read_all(archive, rng)]
    except FileNotFoundError:
        raise AssertionError("there is an index, and it was not found") from None
