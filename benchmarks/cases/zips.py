"""Cases over ZIPs."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import archivestream
from benchmarks import data, memory
from benchmarks.cases.registry import QUICK, case, limit_side, note_threads, ours_threads, random_batches
from benchmarks.limit import BatchLoop, DirectoryLoop, Payloads
from benchmarks.measure import (
    Batches,
    Digest,
    Kind,
    Side,
    idle_cores,
    reading,
    time_sides,
)
from benchmarks.python38 import dareblopy_side
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget


def _zipfile(path: Path, batches: Batches) -> Side:
    """Make the side that reads the members of each batch one by one, by name, to a list."""
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    wanted = [[names[i] for i in batch] for batch in batches]
    return reading("zipfile", "peer", lambda: ([*map(archive.read, batch)] for batch in wanted))


_KINDS: dict[str, Kind] = {"ours": "ours", "zipfile": "peer"}
_BEYOND_NAMES = "ours, resident beyond the names"


@case(
    "open_1m",
    "open a ZIP64 of 1,000,000 members",
    SpeedTarget("ours", "zipfile", 40),
    FigureTarget(_BEYOND_NAMES, 64, "B/member"),
)
def _open_1m(scale: Scale) -> Measured:
    large = data.large(scale.large)
    loop = DirectoryLoop(large.path, large.directory_offset, large.directory_size, large.members)

    def ours() -> Digest:
        with archivestream.open(large.path) as archive:
            # Reads every member, so that each row of the index is known to be right.
            size = archive.read_batch(range(len(archive))).data.nbytes
            return Digest(size, zlib.crc32("".join(archive.names).encode()))

    def peer() -> Digest:
        with zipfile.ZipFile(large.path) as archive:
            infos = archive.infolist()
            names = "".join([info.filename for info in infos])
            return Digest(sum(info.file_size for info in infos), zlib.crc32(names.encode()))

    def limit() -> Digest:
        loop.run()
        return Digest(loop.total_size(), zlib.crc32(loop.names()))

    timings, _ = time_sides(
        [
            Side("ours", "ours", lambda: archivestream.open(large.path), ours),
            Side("zipfile", "peer", lambda: zipfile.ZipFile(large.path), peer),
            Side("limit", "limit", loop.run, limit),
        ],
        scale.slow_rounds,
    )
    figures = [Figure("the names alone", "limit", large.mean_name_size, "B/member")]
    notes = ["limit: fills columns from the directory, in memory that is used again; checks nothing"]
    if memory.is_measurable():
        for side, kind in _KINDS.items():
            used = memory.measure("open", side, large.path)
            resident = (used["after"] - used["before"]) / large.members - large.mean_name_size
            peak = (used["peak"] - used["before"]) / large.members
            figures.append(Figure(f"{side}, resident beyond the names", kind, resident, "B/member"))
            figures.append(Figure(f"{side}, peak while opening", kind, peak, "B/member"))
    else:
        notes.append("memory: not measured on this system")
    # The bytes that opening reads: those of the members only prove that it read them right.
    return Measured(large.members, large.directory_size, timings, figures, notes)


@case(
    "getitem_10k",
    "a[i] in random order, 10 KB deflated text",
    SpeedTarget("ours", "limit", 0.85),
    SpeedTarget("ours", "zipfile", 3),
)
def _getitem_10k(scale: Scale) -> Measured:
    path = data.text(scale.texts)
    order = np.random.default_rng(5).permutation(scale.texts).tolist()
    singles = [[i] for i in order]
    peer = zipfile.ZipFile(path)
    names = peer.namelist()
    wanted = [names[i] for i in order]
    with peer, archivestream.open(path) as archive:
        sides = [
            reading("ours", "ours", lambda: map(archive.__getitem__, order)),
            reading("zipfile", "peer", lambda: map(peer.read, wanted)),
            limit_side(BatchLoop(Payloads.of(path), singles)),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    return Measured(len(order), digest.bytes, timings)


@case(
    "read_batch_10k",
    "read_batch, 256 x 10 KB deflated text, one thread",
    SpeedTarget("ours, out=", "limit", 0.95),
    SpeedTarget("ours, new memory", "limit", 0.95),
)
def _read_batch_10k(scale: Scale) -> Measured:
    path = data.text(scale.texts)
    batches = random_batches(scale.texts, scale.batch)
    out = np.ones(scale.batch * 12_000, np.uint8)
    with archivestream.open(path, threads=1) as archive:
        sides = [
            reading("ours, out=", "ours", lambda: (archive.read_batch(b, out) for b in batches)),
            reading("ours, new memory", "ours", lambda: map(archive.read_batch, batches)),
            _zipfile(path, batches),
            limit_side(BatchLoop(Payloads.of(path), batches)),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    return Measured(len(batches) * scale.batch, digest.bytes, timings)


@case(
    "read_batch_10k_2t",
    "the same with two threads",
    SpeedTarget("ours, 2 threads", "ours, 1 thread", 1.8),
)
def _read_batch_10k_2t(scale: Scale) -> Measured:
    path = data.text(scale.texts)
    batches = random_batches(scale.texts, scale.batch)
    out = np.ones(scale.batch * 12_000, np.uint8)
    payloads = Payloads.of(path)
    idle = idle_cores()
    with archivestream.open(path, threads=1) as one, archivestream.open(path, threads=2) as two:
        sides = [
            reading("ours, 1 thread", "ours", lambda: (one.read_batch(b, out) for b in batches)),
            reading("ours, 2 threads", "ours", lambda: (two.read_batch(b, out) for b in batches)),
            _zipfile(path, batches),
            limit_side(BatchLoop(payloads, batches)),
            limit_side(BatchLoop(payloads, batches, threads=2), "limit, 2 threads"),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    measured = Measured(len(batches) * scale.batch, digest.bytes, timings)
    note_threads(measured, idle, ("limit, 2 threads", "limit"))
    return measured


@case(
    "stored_110k",
    "stored 110 KB members, read_many",
    SpeedTarget("ours, 1 thread", "limit", 0.90),
    SpeedTarget("ours", "zipfile", 4),
)
def _stored_110k(scale: Scale) -> Measured:
    path = data.stored(scale.images, 100_000, 120_000)
    batches = random_batches(scale.images, min(scale.batch, scale.images))
    payloads = Payloads.of(path)
    singles = [[i] for batch in batches for i in batch.tolist()]
    with archivestream.open(path) as archive, archivestream.open(path, threads=1) as one:
        sides = [
            reading("ours", "ours", lambda: map(archive.read_many, batches)),
            reading("ours, 1 thread", "ours", lambda: map(one.read_many, batches)),
            _zipfile(path, batches),
            limit_side(BatchLoop(payloads, batches)),
            limit_side(BatchLoop(payloads, singles), "limit, memory of one member"),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    notes = [
        ours_threads(),
        "read_many makes new bytes objects; the limit fills memory of one batch, used again",
    ]
    return Measured(len(singles), digest.bytes, timings, notes=notes)


@case(
    "stored_30k",
    "stored 30 KB members, read_many, batches in the order of the file",
    SpeedTarget("ours, 1 thread", "limit", 0.90),
    SpeedTarget("ours", "zipfile", 4),
    SpeedTarget("ours, one by one", "DareBlopy", 1),
)
def _stored_30k(scale: Scale) -> Measured:
    members = 2 * scale.images
    path = data.stored(members, 30_000, 30_000)
    batches = np.split(np.arange(members), members // min(scale.batch, members))
    singles = [[i] for i in range(members)]
    with archivestream.open(path) as archive, archivestream.open(path, threads=1) as one:
        sides = [
            reading("ours", "ours", lambda: map(archive.read_many, batches)),
            reading("ours, 1 thread", "ours", lambda: map(one.read_many, batches)),
            reading("ours, one by one", "ours", lambda: map(one.__getitem__, range(members))),
            _zipfile(path, batches),
            limit_side(BatchLoop(Payloads.of(path), batches)),
            limit_side(BatchLoop(Payloads.of(path), singles), "limit, memory of one member"),
        ]
        notes = [ours_threads(), "read_many makes new bytes objects; the limit fills memory of one batch, used again"]
        peer = dareblopy_side("members", path, install=scale != QUICK)
        if isinstance(peer, str):
            notes.append(peer)
        else:
            sides.append(peer)
            notes.append("DareBlopy reads one by one, and checks nothing")
        timings, digest = time_sides(sides, scale.rounds)
    return Measured(members, digest.bytes, timings, notes=notes)


@case(
    "stored_200b",
    "stored 200-byte members, read_many, batches in the order of the file",
    SpeedTarget("ours", "zipfile", 30),
)
def _stored_200b(scale: Scale) -> Measured:
    batches = np.split(np.arange(scale.tiny), scale.tiny // scale.batch)
    measured = _tiny(scale, batches)
    measured.notes.append("the limit has one pread for each member; ours, one for neighbours")
    return measured


@case("stored_200b_random", "the same in random order")
def _stored_200b_random(scale: Scale) -> Measured:
    return _tiny(scale, random_batches(scale.tiny, scale.batch))


def _tiny(scale: Scale, batches: list[NDArray[np.int64]]) -> Measured:
    path = data.stored(scale.tiny, 200, 200)
    with archivestream.open(path) as archive, archivestream.open(path, threads=1) as one:
        sides = [
            reading("ours", "ours", lambda: map(archive.read_many, batches)),
            reading("ours, 1 thread", "ours", lambda: map(one.read_many, batches)),
            _zipfile(path, batches),
            limit_side(BatchLoop(Payloads.of(path), batches)),
        ]
        timings, digest = time_sides(sides, scale.rounds)
    return Measured(scale.tiny, digest.bytes, timings, notes=[ours_threads()])


@case(
    "read_arrays_224",
    "read_arrays, 224 x 224 x 3 uint8 .npy, deflated, out= reused",
    SpeedTarget("ours, 1 thread", "limit", 0.90),
)
def _read_arrays_224(scale: Scale) -> Measured:
    path = data.arrays(scale.arrays)
    batches = random_batches(scale.arrays, scale.array_batch)
    out = np.ones((scale.array_batch, 224, 224, 3), np.uint8)
    with zipfile.ZipFile(path) as peer, archivestream.open(path) as archive:
        names = peer.namelist()
        header = peer.getinfo(names[0]).file_size - out[0].nbytes

        def load(read: Callable[[str], NDArray[Any]]) -> Iterable[object]:
            for batch in batches:
                for place, member in enumerate(batch.tolist()):
                    out[place] = read(names[member])
                yield out

        one = archivestream.open(path, threads=1)
        sides = [
            reading("ours", "ours", lambda: (archive.read_arrays(b, out) for b in batches)),
            reading("ours, 1 thread", "ours", lambda: (one.read_arrays(b, out) for b in batches)),
            reading("zipfile", "peer", lambda: load(lambda n: np.load(io.BytesIO(peer.read(n))))),
            limit_side(BatchLoop(Payloads.of(path), batches, skip=header)),
        ]
        notes = [ours_threads()]
        if find_spec("spdl") and find_spec("spdl.io"):
            # It reads an archive that is in memory: that costs it no system call, and is not timed.
            load_npz = import_module("spdl.io").load_npz
            npz = load_npz(path.read_bytes(), max_uncompressed_bytes=1 << 40)
            sides.append(reading("SPDL", "peer", lambda: load(npz.__getitem__)))
            notes.append("SPDL reads from an archive in memory")
        else:
            notes.append("SPDL: not installed")
        timings, digest = time_sides(sides, scale.rounds)
        one.close()
    return Measured(len(batches) * scale.array_batch, digest.bytes, timings, notes=notes)


@case(
    "dataloader_10k",
    "DataLoader(ArchiveDataset), 256 x 10 KB, num_workers=0, bytes",
    SpeedTarget("ours", "zipfile", 3),
)
def _dataloader_10k(scale: Scale) -> Measured:
    from benchmarks.datasets import shuffled

    path = data.text(scale.texts)
    order = [batch.tolist() for batch in shuffled("order", range(scale.texts), scale.batch)()]
    sides = [
        reading("ours", "ours", shuffled("ours", path, scale.batch)),
        reading("zipfile", "peer", shuffled("zipfile", path, scale.batch)),
        limit_side(BatchLoop(Payloads.of(path), order)),
    ]
    timings, digest = time_sides(sides, scale.rounds)
    notes = ["the same DataLoader on both sides, with the same seed", ours_threads()]
    return Measured(scale.texts, digest.bytes, timings, notes=notes)


_GROWTH = "ours, growth of the peak beyond the index"


@case(
    "epoch_memory",
    "peak memory of one epoch of a DataLoader, over two archives",
    FigureTarget(_GROWTH, 4, "MB"),
)
def _epoch_memory(scale: Scale) -> Measured:
    few, many = data.text(scale.few_texts), data.text(scale.texts)
    with zipfile.ZipFile(many) as archive:
        sizes = np.array([info.file_size for info in archive.infolist()])
        names = sum(len(name) for name in archive.namelist())
    batch = 256 * float(sizes.mean())
    figures = [Figure("the bytes of a batch", "limit", batch / 1e6, "MB")]
    measured = Measured(scale.texts, int(sizes.sum()), figures=figures)
    if not memory.is_measurable():
        measured.notes.append("memory: not measured on this system")
        return measured
    added = scale.texts - scale.few_texts
    index = added * (64 + names / scale.texts)
    for side, kind in _KINDS.items():
        peaks = []
        for path, members in ((few, scale.few_texts), (many, scale.texts)):
            used = memory.measure("epoch", side, path)
            if path == many and used["total"] != measured.bytes:
                raise RuntimeError(f"{side} reads {used['total']} bytes, not {measured.bytes}")
            peaks.append(used["peak"])
            figures.append(Figure(f"{side}, {members:,} members", kind, peaks[-1] / 1e6, "MB"))
        growth = peaks[1] - peaks[0] - (index if side == "ours" else 0)
        name = _GROWTH if side == "ours" else f"{side}, growth of the peak"
        figures.append(Figure(name, kind, growth / 1e6, "MB"))
    return measured
