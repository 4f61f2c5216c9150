"""Cases of the loader: batches as tensors, made by two workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import data, first_batch
from benchmarks.cases.registry import case, note_threads, random_batches, save_index
from benchmarks.measure import Kind, Side, idle_cores, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget

if TYPE_CHECKING:
    from benchmarks.loading import Work

_LIMIT = "limit, 2 threads"
_TURBO = "libjpeg-turbo, 2 threads"
_TORCH = "DataLoader + zipfile"


@case(
    "loader_raw",
    "ArchiveLoader, 256 x 10 KB deflated text -> padded uint8 tensor, two workers on all sides",
    SpeedTarget("ours", _TORCH, 5),
    SpeedTarget("ours", _LIMIT, 0.85),
    SpeedTarget("ours", "WebDataset", 1),
    SpeedTarget("ours, plain tar", "WebDataset", 1),
    SpeedTarget("ours", "SPDL", 1),
)
def _loader_raw(scale: Scale) -> Measured:
    from benchmarks.loading import Work

    return _load(scale, Work(data.text(scale.many_texts), random_batches(scale.many_texts, scale.batch)))


@case(
    "loader_arrays",
    "the same, 224 x 224 x 3 uint8 .npy, deflated -> (256, 224, 224, 3) tensor",
    SpeedTarget("ours", _TORCH, 1),
    SpeedTarget("ours", _LIMIT, 0.90),
    SpeedTarget("ours, plain tar", "WebDataset", 1),
    SpeedTarget("ours", "SPDL", 1),
)
def _loader_arrays(scale: Scale) -> Measured:
    from benchmarks.loading import Work

    return _load(scale, Work(data.arrays(scale.pictures), random_batches(scale.pictures, scale.batch), "numpy"))


@case(
    "loader_jpeg",
    "the same, JPEG 256 x 256, stored -> (256, 256, 256, 3) tensor",
    SpeedTarget("ours", _TORCH, 2),
    SpeedTarget("ours", _TURBO, 0.90),
    SpeedTarget("ours", "WebDataset", 1),
    SpeedTarget("ours, plain tar", "WebDataset", 1),
    SpeedTarget("ours", "SPDL", 1),
)
def _loader_jpeg(scale: Scale) -> Measured:
    from benchmarks.loading import Work

    return _load(scale, Work(data.jpegs(scale.pictures), random_batches(scale.pictures, scale.batch), "image"))


def _load(scale: Scale, work: Work) -> Measured:
    from benchmarks import loading

    limit = loading.turbo if work.decode == "image" else loading.limit
    limits = [limit(work, threads) for threads in (1, loading.WORKERS)]
    sides = [loading.ours(work), loading.ours_from_tars(work), loading.torch_zipfile(work), *limits]
    notes = [
        f"{loading.WORKERS} workers: threads of ours and of SPDL, processes of the others, kept from epoch to epoch"
    ]
    peers: dict[str, Callable[[Work], Side]] = {"WebDataset": loading.webdataset, "SPDL": loading.spdl}
    for name, make in peers.items():
        try:
            sides.append(make(work))
        except (ImportError, RuntimeError) as error:  # SPDL raises the latter where it does not find FFmpeg
            notes.append(f"{name}: left out: {str(error).partition('.')[0]}")
    idle = idle_cores()
    timings, digest = time_sides(sides, scale.rounds)
    notes.append(
        "WebDataset reads plain tars, one for each worker, in their order; all others in a random order. A plain tar "
        "needs no decompression, and has no checksums"
    )
    if work.decode == "image":
        notes.append("libjpeg-turbo: decodes JPEGs in memory, one after the other, into memory that is used again")
        notes.append("SPDL decodes with FFmpeg, whose pixels differ by a level or so")
    measured = Measured(len(work.batches) * work.batch, digest.bytes, timings, notes=notes)
    note_threads(measured, idle, (limits[1].name, limits[0].name))
    return measured


_FIRST = "ours, first batch"
_PROCESSES = 4
_BEYOND = f"ours, index in {_PROCESSES} processes, beyond that in one"


@case(
    "first_batch_1m",
    "the first batch of an ArchiveLoader over 1,000,000 members with a saved index, in a fresh process",
    FigureTarget(_FIRST, 200, "ms"),
    FigureTarget(_BEYOND, 4, "MB"),
)
def _first_batch_1m(scale: Scale) -> Measured:
    large = data.large(scale.large)
    saved = save_index(large.path).stat().st_size
    measured = Measured(large.members, saved)
    sides: dict[str, tuple[str, Kind]] = {"ours": (_FIRST, "ours"), "zipfile": (f"{_TORCH}, first batch", "peer")}
    for side, (name, kind) in sides.items():
        seconds = min(first_batch.seconds(side, large.path) for _ in range(scale.slow_rounds))
        measured.figures.append(Figure(name, kind, seconds * 1e3, "ms"))
    measured.figures.append(Figure("the saved index", "limit", saved / 1e6, "MB"))
    if first_batch.is_measurable():
        for after in ("index", "epoch"):
            what = {"index": "index", "epoch": "index, look-up of names and an epoch"}[after]
            one, all_of_them = (
                first_batch.index_memory(after, large.path, processes) / 1e6 for processes in (1, _PROCESSES)
            )
            measured.figures.append(Figure(f"ours, {what} in one process", "ours", one, "MB"))
            beyond = f"ours, {what} in {_PROCESSES} processes, beyond that in one"
            measured.figures.append(Figure(beyond, "ours", all_of_them - one, "MB"))
    else:
        measured.notes.append("memory: not measured on this system")
    measured.notes.append("from opening the archive on, when all is imported; the best of several processes")
    return measured
