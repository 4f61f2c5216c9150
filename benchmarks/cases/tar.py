"""Cases over plain tars."""

from __future__ import annotations

import tarfile
import zlib

import archivestream
from archivestream import Archive
from benchmarks import tar_data
from benchmarks.cases.registry import case, save_index
from benchmarks.limit import TarLoop
from benchmarks.measure import Digest, Side, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget

_SAVED = "ours, index saved"


@case(
    "tar_1m",
    "open a plain tar of 1,000,000 small members: scanned, and with a saved index",
    SpeedTarget("ours", "tarfile", 20),
    SpeedTarget(_SAVED, "tarfile", 50),
    FigureTarget("opening with a saved index", 20, "ms"),
)
def _tar_1m(scale: Scale) -> Measured:
    path = tar_data.large(scale.large)
    index = save_index(path)
    loop = TarLoop(path, scale.large)

    def read(archive: Archive) -> Digest:
        with archive:
            # Reads every member, so that each row of the index is known to be right.
            size = archive.read_batch(range(len(archive))).data.nbytes
            return Digest(size, zlib.crc32("".join(archive.names).encode()))

    def scan() -> Archive:
        return archivestream.open(path, index="memory")

    def load() -> Archive:
        return archivestream.open(path, index="require")

    def peer() -> list[tarfile.TarInfo]:
        with tarfile.open(path) as archive:
            return archive.getmembers()

    def digest() -> Digest:
        infos = peer()
        names = "".join([info.name for info in infos])
        return Digest(sum(info.size for info in infos), zlib.crc32(names.encode()))

    timings, _ = time_sides(
        [
            Side("ours", "ours", scan, lambda: read(scan())),
            Side(_SAVED, "ours", load, lambda: read(load())),
            Side("tarfile", "peer", peer, digest),
            Side("limit", "limit", loop.run, loop.digest),
        ],
        scale.slow_rounds,
    )
    saved = next(timing for timing in timings if timing.name == _SAVED)
    figures = [
        Figure("opening with a saved index", "ours", saved.best * 1e3, "ms"),
        Figure("the saved index", "ours", index.stat().st_size / scale.large, "B/member"),
    ]
    notes = ["limit: fills columns from the headers, in memory that is used again; checks nothing"]
    # The bytes that scanning reads: those of the members only prove that it read them right.
    return Measured(scale.large, path.stat().st_size, timings, figures, notes)
