"""Cases of the cache of decoded members."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import numpy as np

import archivestream
from archivestream import Archive, Cache
from benchmarks import data
from benchmarks.cases.registry import case
from benchmarks.limit import Payloads
from benchmarks.measure import reading, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget

_ROOM = 1 << 30  # for all members, with room to spare
_TURNS = 20  # a hit is so short that one epoch of them is too


@case(
    "cached_getitem",
    "a[i] in random order, 10 KB of text, all of them in a cache",
    SpeedTarget("ours", "cdmltrain", 2),
)
def _cached_getitem(scale: Scale) -> Measured:
    path = data.text(scale.few_texts)
    order = np.random.default_rng(5).permutation(scale.few_texts).tolist() * _TURNS
    notes = ["limit: a list of the members, asked by position", "a hit in shared memory is a copy"]
    with (
        Cache(_ROOM, policy="lru") as private,
        Cache(_ROOM, shared=True) as shared,
        archivestream.open(path, cache=private) as ours,
        archivestream.open(path, cache=shared) as among_processes,
    ):
        members = ours.read_many(range(len(ours)))
        among_processes.read_many(range(len(ours)))
        sides = [
            reading("ours", "ours", lambda: map(ours.__getitem__, order)),
            reading("ours, shared by processes", "ours", lambda: map(among_processes.__getitem__, order)),
            reading("limit", "limit", lambda: map(members.__getitem__, order)),
        ]
        if find_spec("cdmltrain"):
            engine = import_module("cdmltrain.core").CoreStreamEngine(str(path), max_cache_mb=_ROOM >> 20)
            for i in range(len(ours)):
                engine.get_by_index(i)
            sides.append(reading("cdmltrain", "peer", lambda: map(engine.get_by_index, order)))
        else:
            notes.append("cdmltrain: not installed")
        timings, digest = time_sides(sides, scale.rounds)
        if find_spec("cdmltrain"):
            engine.close()
    return Measured(len(order), digest.bytes, timings, notes=notes)


_EPOCHS = 4
_MISSES = "ours, misses from the second epoch"


@case(
    "keep_cache",
    "hits of a cache of half the data set, shuffled epochs",
    FigureTarget(_MISSES, 51, "%"),
    FigureTarget(f"{_MISSES}, shared by processes", 51, "%"),
)
def _keep_cache(scale: Scale) -> Measured:
    path = data.text(scale.few_texts)
    size = int(Payloads.of(path).size.sum())
    figures = [Figure("limit, misses", "limit", 50.0, "%")]
    kinds: list[tuple[str, Literal["keep", "lru"], bool]] = [
        (_MISSES, "keep", False),
        (f"{_MISSES}, shared by processes", "keep", True),
        ("policy lru, misses from the second epoch", "lru", False),
    ]
    for name, policy, shared in kinds:
        with Cache(size // 2, policy=policy, shared=shared) as cache, archivestream.open(path, cache=cache) as archive:
            misses = _misses(archive, cache, scale.batch)
        figures.append(Figure(name, "ours" if policy == "keep" else "peer", 100 * misses, "%"))
    notes = ["target: 49 % of hits or more; the limit is what half of the data would be without any entry or table"]
    return Measured(scale.few_texts * _EPOCHS, size * _EPOCHS, figures=figures, notes=notes)


def _misses(archive: Archive, cache: Cache, batch: int) -> float:
    """Read shuffled epochs, and return the share of misses in all but the first."""
    first = 0
    for epoch in range(_EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(archive))
        for members in np.split(order, range(batch, len(order), batch)):
            archive.read_batch(members)
        first = first or cache.stats.misses
    return (cache.stats.misses - first) / (len(archive) * (_EPOCHS - 1))
