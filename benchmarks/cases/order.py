"""Cases of the order of an epoch: what making one costs, and what it has decoded."""

from __future__ import annotations

import itertools
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import archivestream
from archivestream import Archive, ArchiveSampler
from benchmarks import tar_data
from benchmarks.cases.registry import case, save_index
from benchmarks.measure import Digest, Side, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale

_SAMPLES = 10**9
_MAKING = "making an epoch's order, to its first batch"
_RESUMING = "resuming in its middle, to the next batch"
_MEMORY = "peak memory of both"


@case(
    "order_1e9",
    "a global shuffle of 1,000,000,000 samples, batches of 256 for one of 8 ranks",
    FigureTarget(_MAKING, 1, "ms"),
    FigureTarget(_RESUMING, 1, "ms"),
    FigureTarget(_MEMORY, 1, "MB"),
)
def _order_1e9(scale: Scale) -> Measured:
    state: dict[str, Any] = {**_make_sampler().state_dict(), "position": _SAMPLES // 2}

    def make() -> list[int]:
        return next(iter(_make_sampler()))

    def resume() -> list[int]:
        sampler = _make_sampler()
        sampler.load_state_dict(state)
        return next(iter(sampler))

    batches = [make(), resume()]  # which also imports what they need
    seconds = [min(_seconds(work) for _ in range(10 * scale.rounds)) for work in (make, resume)]
    tracemalloc.start()
    make()
    resume()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    figures = [
        Figure(_MAKING, "ours", seconds[0] * 1e3, "ms"),
        Figure(_RESUMING, "ours", seconds[1] * 1e3, "ms"),
        Figure(_MEMORY, "ours", peak / 1e6, "MB"),
        Figure("a permutation of them as an array", "limit", 8 * _SAMPLES / 1e6, "MB"),
    ]
    return Measured(sum(map(len, batches)), 8 * sum(map(len, batches)), figures=figures)


def _make_sampler() -> ArchiveSampler:
    return ArchiveSampler(_SAMPLES, batch_size=256, shuffle="global", seed=1, rank=5, world_size=8)


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


_LAYOUTS = {"frames of 64 KiB": tar_data.framed_texts, "one frame": tar_data.texts_in_one_frame}
_DECODED = "decoded, {}, {}"
_OF_MEMBERS = "% of the bytes of the members"


@case(
    "block_order",
    "an epoch of a .tar.zst of 10 KB members through read_batch, in block order: batches of 256, cache of 64 MiB",
    *(FigureTarget(_DECODED.format("block order", layout), 110, _OF_MEMBERS) for layout in _LAYOUTS),
)
def _block_order(scale: Scale) -> Measured:
    members = 3 * scale.texts
    figures = []
    for layout, make in _LAYOUTS.items():
        path = make(members)
        save_index(path)
        for shuffle, name in (("block", "block order"), ("global", "global order")):
            with archivestream.open(path, index="require") as archive, archive.metered(2) as metered:
                sampler = _sampler(archive, shuffle)
                # Some batches show what a global order costs; of the other one, each block counts.
                size = sum(int(metered.read_batch(b).offsets[-1]) for b in itertools.islice(sampler, _some(shuffle)))
                decoded = 100 * metered.counters.decoded_bytes / size
                mixing = 100 * _sampler(archive, shuffle).report().mixing
                figures += [
                    Figure(_DECODED.format(name, layout), "ours", decoded, _OF_MEMBERS),
                    Figure(f"mixing, {name}, {layout}", "ours", mixing, "% of that of a global shuffle"),
                ]
    path = tar_data.framed_texts(members)
    sides = [_side(name, path, shuffle) for name, shuffle in (("ours", "block"), ("ours, global order", "global"))]
    sides.append(_side("limit", path, False))
    timings, digest = time_sides(sides, scale.slow_rounds)
    notes = [
        "timed: frames of 64 KiB; limit: ours in the order of the file, which shuffles nothing",
        "mixing: see archivestream.OrderReport",
    ]
    return Measured(members, digest.bytes, timings, figures, notes)


def _sampler(archive: Archive, shuffle: Any) -> ArchiveSampler:
    return ArchiveSampler(archive, batch_size=256, shuffle=shuffle, seed=1, rank=0, world_size=1)


def _some(shuffle: Any) -> int | None:
    return None if shuffle == "block" else 16


def _side(name: str, path: Path, shuffle: Any) -> Side:
    """Make the side that reads an epoch; its digest does not depend on the order."""

    def batches() -> Iterator[tuple[list[int], archivestream.Batch]]:
        with archivestream.open(path, index="require", threads=2) as archive:
            for batch in _sampler(archive, shuffle):
                yield batch, archive.read_batch(batch)

    def digest() -> Digest:
        size, found = 0, dict[int, int]()
        for keys, batch in batches():
            size += int(batch.offsets[-1])
            found.update(zip(keys, map(zlib.crc32, batch), strict=True))
        return Digest(size, zlib.crc32(np.array([found[key] for key in sorted(found)], np.uint32).tobytes()))

    return Side(name, "limit" if shuffle is False else "ours", partial(_exhaust, batches), digest)


def _exhaust(items: Any) -> None:
    for _ in items():
        pass
