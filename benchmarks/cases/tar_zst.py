"""Cases over ``.tar.zst``: many frames with a seek table, and one frame."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import archivestream
from archivestream import Archive
from archivestream.indexing import IndexMode
from benchmarks import memory, tar_data
from benchmarks.cases.registry import case, note_threads, random_batches, save_index
from benchmarks.measure import Digest, Side, compare, idle_cores, reading, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget
from benchmarks.zstd_limit import FrameLoop, StreamLoop, TarMembers

_NO_CDMLTRAIN = "cdmltrain: not installed"


@case(
    "zst_batch",
    "read_batch, 256 x 10 KB of random members of a seekable .tar.zst, frames of 64 KiB, no cache",
    SpeedTarget("ours", "limit", 0.90),
)
def _zst_batch(scale: Scale) -> Measured:
    path = tar_data.framed_texts(scale.texts)
    batches = random_batches(scale.texts, scale.batch)
    out = np.ones(scale.batch * 12_000, np.uint8)
    loop = FrameLoop(TarMembers.of(path), batches)

    def read(threads: int) -> Archive:
        return archivestream.open(path, index="memory", threads=threads, cache=0)

    with read(1) as one, read(2) as two:
        sides = [
            reading("ours", "ours", lambda: (one.read_batch(b, out) for b in batches)),
            reading("ours, 2 threads", "ours", lambda: (two.read_batch(b, out) for b in batches)),
            Side("limit", "limit", loop.run, loop.digest),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    notes = [
        "limit: each frame that a batch needs is read and decoded once, and its checksum compared",
        f"its frames hold {loop.decoded_bytes / digest.bytes:.2f} x the bytes of the members",
    ]
    return Measured(len(batches) * scale.batch, digest.bytes, timings, notes=notes)


_SAVED = "ours, index saved"


@case(
    "zst_cdml",
    "open and read all of 200 x 10 KB of text, .tar.zst in one frame",
    SpeedTarget("ours", "cdmltrain", 5),
    SpeedTarget(_SAVED, "cdmltrain", 5),
)
def _zst_cdml(scale: Scale) -> Measured:
    return _open_and_read_all(scale, tar_data.texts_in_one_frame(200))


@case(
    "zst_cdml_images",
    "the same of bytes that are compressed already",
    SpeedTarget("ours", "cdmltrain", 5),
    SpeedTarget(_SAVED, "cdmltrain", 5),
)
def _zst_cdml_images(scale: Scale) -> Measured:
    return _open_and_read_all(scale, tar_data.images_in_one_frame(200))


def _open_and_read_all(scale: Scale, path: Path) -> Measured:
    save_index(path)
    members = TarMembers.of(path)
    loop = StreamLoop(members)

    def ours(index: IndexMode) -> Iterable[object]:
        with archivestream.open(path, index=index) as archive:
            return archive.read_many(range(len(archive)))

    sides = [
        reading("ours", "ours", lambda: ours("memory")),
        reading(_SAVED, "ours", lambda: ours("require")),
        Side("limit", "limit", loop.run, loop.digest),
    ]
    notes = ["limit: decodes the file on one thread, and copies nothing out"]
    if find_spec("cdmltrain"):
        engine = import_module("cdmltrain.zstd_engine").ZSTDStreamEngine

        def peer() -> Iterable[object]:
            with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
                opened = engine(str(path))
            return [opened.get_by_index(i) for i in range(len(opened))]

        sides.append(reading("cdmltrain", "peer", peer))
    else:
        notes.append(_NO_CDMLTRAIN)
    timings, digest = time_sides(sides, scale.rounds)
    return Measured(len(members.size), digest.bytes, timings, notes=notes)


@case(
    "zst_index",
    "index a .tar.zst of real files in one frame, level 3",
    SpeedTarget("ours", "limit", 1 / 3.5),
    FigureTarget("ours, saved index", 5, "% of the file"),
)
def _zst_index(scale: Scale) -> Measured:
    path = tar_data.files(scale.files)
    members = TarMembers.of(path)
    loop = StreamLoop(members)

    def ours() -> Digest:
        with archivestream.open(path, index="memory") as archive:
            # Reads every member, so that each row of the index is known to be right.
            return compare([reading("", "ours", lambda: _in_order(archive, members))])

    sides = [
        Side("ours", "ours", lambda: archivestream.open(path, index="memory"), ours),
        Side("limit", "limit", loop.run, loop.digest),
    ]
    timings, digest = time_sides(sides, scale.slow_rounds)
    size, index = path.stat().st_size, save_index(path).stat().st_size
    figures = [
        Figure("the file", "limit", size / 1e6, "MB"),
        Figure("ours, saved index", "ours", 100 * index / size, "% of the file"),
    ]
    notes = ["limit: decodes the file once, into memory that is used again; keeps nothing"]
    return Measured(len(members.size), digest.bytes, timings, figures, notes)


def _in_order(archive: Archive, members: TarMembers) -> Iterable[object]:
    """Read all members, about 32 MiB at a time."""
    ends = np.searchsorted(np.cumsum(members.size), np.arange(32 << 20, members.size.sum(), 32 << 20))
    for batch in np.split(np.arange(len(members.size)), np.unique(ends)):
        yield archive.read_batch(batch)


@case(
    "zst_read_all",
    "read everything from the same file, in order",
    SpeedTarget("ours, 2 threads", "ours, 1 thread", 1.7),
)
def _zst_read_all(scale: Scale) -> Measured:
    path = tar_data.files(scale.files)
    save_index(path)
    members = TarMembers.of(path)
    loop = StreamLoop(members)
    idle = idle_cores()

    def read(threads: int) -> Archive:
        return archivestream.open(path, index="require", threads=threads)

    with read(1) as one, read(2) as two:
        sides = [
            reading("ours, 1 thread", "ours", lambda: _in_order(one, members)),
            reading("ours, 2 threads", "ours", lambda: _in_order(two, members)),
            Side("limit", "limit", loop.run, loop.digest),
        ]
        timings, digest = time_sides(sides, scale.slow_rounds)
    measured = Measured(len(members.size), digest.bytes, timings)
    measured.notes.append("limit: decodes the file on one thread, and copies nothing out")
    note_threads(measured, idle)
    return measured


_WHOLE, _QUARTER = "ours, mean", "ours, mean, in a file a quarter as large"


@case(
    "zst_member",
    "random members of about 100 KB of the same file, no cache",
    FigureTarget(_WHOLE, 4, "ms"),
    FigureTarget(_QUARTER, 4, "ms"),
)
def _zst_member(scale: Scale) -> Measured:
    figures = []
    total = 0
    for suffix, size in (("", scale.files), (_QUARTER.removeprefix(_WHOLE), scale.files // 4)):
        members = TarMembers.of(tar_data.files(size))
        save_index(members.path)
        places = np.sort(np.argsort(np.abs(members.size - 100_000), kind="stable")[: scale.places])
        loop = StreamLoop(members)
        total += _check_members(loop, places)
        each, from_start = _time_members(loop, places, scale.rounds)
        figures += [
            Figure(_WHOLE + suffix, "ours", float(each.mean()), "ms"),
            Figure(f"ours, 95 of 100{suffix}", "ours", float(np.quantile(each, 0.95)), "ms"),
            Figure(f"limit, from the start of the frame{suffix}", "limit", from_start, "ms"),
        ]
    notes = ["limit: decodes what stands before the member; a few of them"]
    return Measured(scale.places, total, figures=figures, notes=notes)


def _open_uncached(loop: StreamLoop) -> Archive:
    return archivestream.open(loop.members.path, index="require", cache=0)


def _check_members(loop: StreamLoop, places: NDArray[np.int64]) -> int:
    """Compare some members with what the limit decodes, and return their size."""
    with _open_uncached(loop) as archive:
        ours = reading("ours", "ours", lambda: map(archive.read, places.tolist()))
        return compare([ours, Side("limit", "limit", loop.run, lambda: loop.digest(places))]).bytes


def _time_members(loop: StreamLoop, places: NDArray[np.int64], rounds: int) -> tuple[NDArray[np.float64], float]:
    """Read members in random order: tell how many milliseconds each takes, and the mean of the limit."""
    order = np.random.default_rng(9).permutation(places).tolist()
    ends = (loop.members.offset + loop.members.size)[order[:4]].tolist()
    with _open_uncached(loop) as archive:
        ours = [_milliseconds(archive.read, order) for _ in range(rounds)]
    limit = [_milliseconds(loop.run, ends) for _ in range(rounds)]
    return np.min(ours, axis=0), float(np.min(limit, axis=0).mean())


def _milliseconds(call: Callable[[int], object], arguments: list[int]) -> NDArray[np.float64]:
    clock = [time.perf_counter()]
    for argument in arguments:
        call(argument)
        clock.append(time.perf_counter())
    return np.diff(clock) * 1e3


_SPACING = 4 << 20  # between the places in a frame where decoding can begin
_BEYOND = "ours, beyond index + cache + threads x block, {}"
_GROWTH = "ours, growth of that, {}"
# Layouts, with what a thread needs for a block: as it is stored (random bytes do not shrink), and decoded.
_LAYOUTS = {
    "one frame": (tar_data.images_in_one_frame, 2 * _SPACING),
    "frames of 64 KiB": (tar_data.framed_texts, 2 * (64 << 10)),
}


@case(
    "memory_blocks",
    "peak memory of one epoch of random batches over a .tar.zst, and over one four times as large",
    *(FigureTarget(name.format(layout), 4, "MB") for layout in _LAYOUTS for name in (_BEYOND, _GROWTH)),
)
def _memory_blocks(scale: Scale) -> Measured:
    size = int(TarMembers.of(tar_data.images_in_one_frame(scale.texts)).size.sum())
    measured = Measured(scale.texts, size, notes=[f"cache: {memory.CACHE / 1e6:.1f} MB, threads: {memory.THREADS}"])
    if not memory.is_measurable():
        measured.notes.append("memory: not measured on this system")
        return measured
    figures = measured.figures
    for layout, (make, block) in _LAYOUTS.items():
        beyond = []
        for members in (scale.texts // 4, scale.texts):
            path = make(members)
            allowed = save_index(path).stat().st_size + memory.CACHE + memory.THREADS * block
            peak = _peak("ours", path)
            beyond.append((peak - allowed) / 1e6)
            which = f"{layout}, {members:,} members"
            figures.append(Figure(f"index + cache + threads x block, {which}", "limit", allowed / 1e6, "MB"))
            figures.append(Figure(f"ours, {which}", "ours", peak / 1e6, "MB"))
        figures.append(Figure(_BEYOND.format(layout), "ours", max(beyond), "MB"))
        figures.append(Figure(_GROWTH.format(layout), "ours", beyond[1] - beyond[0], "MB"))
    if find_spec("cdmltrain"):
        for members in (scale.texts // 4, scale.texts):
            peak = _peak("cdmltrain", tar_data.images_in_one_frame(members))
            figures.append(Figure(f"cdmltrain, one frame, {members:,} members", "peer", peak / 1e6, "MB"))
    else:
        measured.notes.append(_NO_CDMLTRAIN)
    return measured


def _peak(side: str, path: Path) -> int:
    """Measure an epoch in a process of its own; see that it reads what it should."""
    used = memory.measure("blocks", side, path)
    expected = int(TarMembers.of(path).size.sum())
    if used["total"] != expected:
        raise RuntimeError(f"{side} reads {used['total']} bytes, not {expected}")
    return used["peak"] - used["before"]
