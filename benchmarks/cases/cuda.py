"""Cases of the loader that sends batches to a GPU: ``python -m benchmarks --case cuda``.

They take a few minutes, make their data on the spot, and need no network. To a machine without one, which has a C
compiler, PyTorch with CUDA, NumPy, Cython and setuptools, bring a folder DIR with the two source distributions that
``setup.py`` pins, and with wheels of what else is not there (platformdirs, rich, zstandard; spdl-core and spdl-io, to
compare with SPDL). Then, in the root of the repository::

    pip install --no-index --find-links DIR platformdirs rich zstandard
    ARCHIVESTREAM_SOURCES=DIR python setup.py build_ext --inplace
    python -m benchmarks --case cuda --json cuda.json

Without a GPU the same code fills ordinary memory, and the notes say why; ``--quick`` does so with tiny data.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import cuda_device, data
from benchmarks.cases.registry import case, random_batches
from benchmarks.limit import CopyLoop, Payloads
from benchmarks.measure import Digest, Side, Timing, processors, take_turns, time_sides
from benchmarks.results import Figure, FigureTarget, Measured, Scale, SpeedTarget

if TYPE_CHECKING:
    from benchmarks.cuda_loading import Stream

_OURS = "ours, on the GPU"
_HOST = "limit, the same to the host alone"
_SLOWER = "limit, the slower of the two"
_INFLATE = "limit, inflate alone"
_TORCH = "DataLoader + zipfile"
_BLOCK = 64 << 10


@case("cuda_copy", "the ceilings: copies of page-locked memory to the GPU, and memcpy on the host")
def _cuda_copy(scale: Scale) -> Measured:
    device = cuda_device.find()
    room = max(scale.copies)
    size = 8 * room
    sides = [
        Side(_memcpy(threads), "limit", CopyLoop(room, size // room, threads).run)
        for threads in sorted({1, 4, 8, 16, processors()})
    ]
    if device.is_gpu:
        sides += [Side(_pinned(piece), "limit", device.copies(piece, room, size)) for piece in scale.copies]
    timings = take_turns(sides, scale.slow_rounds)
    rates = {timing.name: size / timing.best / 1e9 for timing in timings}
    figures = [Figure(name, "limit", rate, "GB/s") for name, rate in rates.items()]
    if device.is_gpu:
        ceiling = min(rates[_pinned(room)], rates[_memcpy(processors())])
        figures.append(Figure(f"the lower of the two, {processors()} threads", "limit", ceiling, "GB/s"))
    notes = [*device.notes, "GB/s: 10**9 bytes that arrive in a second; each thread copies an equal run of the memory"]
    return Measured(size // room, size, figures=figures, notes=notes)


def _memcpy(threads: int) -> str:
    return f"memcpy, {_count(threads)}"


def _pinned(piece: int) -> str:
    return f"page-locked memory to the GPU, {piece >> 20} MiB a copy"


@case(
    "cuda_stored",
    "64 KiB members, stored, from the page cache -> packed uint8 tensors on the GPU, a thread for each processor",
    SpeedTarget(_OURS, _SLOWER, 0.85),
)
def _cuda_stored(scale: Scale) -> Measured:
    stream = _stream(scale, data.stored(scale.blocks, _BLOCK, _BLOCK))
    sides = [
        stream.side(stream.device.ours, "ours", stream.device.name),
        stream.copy("limit, a copy for each batch"),
        stream.memcpy(f"limit, {_memcpy(stream.threads)}"),
    ]
    timings, digest = time_sides(sides, scale.rounds)
    timings.append(_slower(*timings[1:]))
    return _measured(stream, digest, timings)


@case(
    "cuda_deflate",
    "64 KiB of text, deflated -> packed uint8 tensors on the GPU, a thread for each processor",
    SpeedTarget(_OURS, _HOST, 0.90),
    SpeedTarget(_OURS, _INFLATE, 0.90),
)
def _cuda_deflate(scale: Scale) -> Measured:
    stream = _stream(scale, data.text(scale.blocks, (_BLOCK, _BLOCK)))
    sides = [
        stream.side(stream.device.ours, "ours", stream.device.name),
        stream.side(_HOST, "limit", None),
        stream.inflate(_INFLATE),
    ]
    timings, digest = time_sides(sides, scale.rounds)
    return _measured(stream, digest, timings)


def _stream(scale: Scale, path: Path) -> Stream:
    from benchmarks.cuda_loading import Stream

    batch = min(scale.batch, scale.blocks)
    return Stream(path, scale.blocks, _BLOCK, batch, processors(), cuda_device.find())


def _slower(one: Timing, other: Timing) -> Timing:
    """Make the timing of what takes as long as the longer of two in each round."""
    return Timing(_SLOWER, "limit", tuple(map(max, one.seconds, other.seconds)))


def _measured(stream: Stream, digest: Digest, timings: list[Timing]) -> Measured:
    if digest.bytes * stream.repeats != stream.bytes:
        raise RuntimeError(f"{stream.path}: not all of it was read")
    notes = [
        *stream.device.notes,
        f"{_count(stream.threads)}; an epoch goes through the archive {stream.repeats} times",
    ]
    return Measured(stream.members * stream.repeats, stream.bytes, timings, notes=notes)


def _count(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


_STEPS = (0.5, 1.0, 2.0)  # by the time of loading a batch


def _step(ours: str, share: float) -> str:
    return f"{ours}, a step of {share:g} x the load"


@case(
    "cuda_overlap",
    "a training loop over that: the time of a step against the longer of the step on the GPU and its load",
    *(FigureTarget(_step(_OURS, share), 105, "%") for share in _STEPS),
)
def _cuda_overlap(scale: Scale) -> Measured:
    stream = _stream(scale, data.text(scale.blocks, (_BLOCK, _BLOCK)))
    device, loader = stream.device, stream.loader(stream.device.name)
    loading = Side("load", "limit", partial(stream.take, loader))
    (first,) = take_turns([loading], scale.slow_rounds)
    sides = [loading]
    for share in _STEPS:
        step = device.step(share * first.best / stream.batches)
        sides.append(Side(f"{share:g}", "limit", partial(stream.take, range(stream.batches), step)))
        sides.append(Side(_step(device.ours, share), "ours", partial(stream.take, loader, step)))
    load, *others = take_turns(sides, scale.slow_rounds)
    each = 1e3 / stream.batches
    figures = [Figure("limit, the load of a batch", "limit", load.best * each, "ms")]
    for steps, ours in zip(others[::2], others[1::2], strict=True):
        figures.append(Figure(f"limit, a step of {steps.name} x the load", "limit", steps.best * each, "ms"))
        figures.append(Figure(ours.name, "ours", 100 * ours.best / max(load.best, steps.best), "%"))
    notes = [
        *device.notes,
        f"{_count(stream.threads)}, {stream.batches} steps; 100 %: the shorter of the two is hidden",
    ]
    return Measured(stream.members * stream.repeats, stream.bytes, figures=figures, notes=notes)


_WORKERS = 8


@case(
    "cuda_peers",
    f"256 x 16 KB deflated text -> padded uint8 tensor on the GPU, {_WORKERS} workers on all sides",
    SpeedTarget(_OURS, _TORCH, 3),
)
def _cuda_peers(scale: Scale) -> Measured:
    from benchmarks import loading

    device = cuda_device.find()
    path = data.text(scale.records, (14_000, 18_000))
    batches = random_batches(scale.records, scale.batch)
    work = loading.Work(path, batches, workers=_WORKERS, device=device.name)
    sides = [
        replace(loading.ours(work), name=device.ours),
        loading.torch_zipfile(work),
        loading.limit(work, _WORKERS),
    ]
    notes = [
        *device.notes,
        f"{_WORKERS} workers on {processors()} processors: threads of ours and of SPDL, processes of the other",
    ]
    try:
        sides.append(loading.spdl(work))
    except ImportError as error:
        notes.append(f"SPDL: left out: {str(error).partition('.')[0]}")
    timings, digest = time_sides(sides, scale.rounds)
    notes.append("batches of the peers come from page-locked memory, too")
    return Measured(scale.records, digest.bytes, timings, notes=notes)


_WRONG = "ours, members that differ"


@case(
    "cuda_exact",
    "members of 0 to 150,000 bytes on the GPU against those of zlib, byte by byte, in memory full of poison",
    FigureTarget(_WRONG, 0, "members"),
)
def _cuda_exact(scale: Scale) -> Measured:
    from benchmarks import cuda_checks

    device = cuda_device.find()
    batch = min(64, scale.batch)
    good, poison = cuda_checks.poisoned(scale.records // 4, batch)
    ways = [(keep, how) for keep in cuda_checks.KEEP for how in (None, "packed")]
    wrong = sum(cuda_checks.wrong_members(good, poison, batch, device, keep, how) for keep, how in ways)
    size = int(Payloads.of(good).size.sum())
    notes = [*device.notes, "padded and packed, in batches of their own memory and in the memory of the slots"]
    figures = [Figure(_WRONG, "ours", wrong, "members")]
    return Measured(len(ways) * (scale.records // 4), len(ways) * size, figures=figures, notes=notes)


_ALLOCATIONS = "ours, page-locked allocations"
_PINNED = "ours, page-locked memory"
_PEAK = "ours, peak of the device"
_RESERVED = "ours, what PyTorch has reserved on the device"


@case(
    "cuda_flat",
    "what 1000 batches of 64 x 16 KiB add after the first 10, with steps that are longer than their loading",
    *(
        FigureTarget(f"{name}, keep={keep!r}", 0, unit)
        for keep in ("batches", "slots")
        for name, unit in ((_ALLOCATIONS, "blocks"), (_PINNED, "MB"), (_PEAK, "MB"))
    ),
)
def _cuda_flat(scale: Scale) -> Measured:
    from benchmarks import cuda_checks

    device = cuda_device.find()
    batch = min(64, scale.records // 4)
    path = data.stored(scale.records // 4, 16 << 10, 16 << 10)
    figures = []
    for keep in cuda_checks.KEEP:
        added = cuda_checks.growth(path, batch, device, keep, scale.steps)
        figures.append(Figure(f"{_ALLOCATIONS}, keep={keep!r}", "ours", added.allocations, "blocks"))
        figures.append(Figure(f"{_PINNED}, keep={keep!r}", "ours", added.pinned / 1e6, "MB"))
        if device.is_gpu:
            figures.append(Figure(f"{_PEAK}, keep={keep!r}", "ours", added.peak / 1e6, "MB"))
            figures.append(Figure(f"{_RESERVED}, keep={keep!r}", "ours", added.reserved / 1e6, "MB"))
    members = len(cuda_checks.KEEP) * scale.steps * batch
    return Measured(members, members * (16 << 10), figures=figures, notes=device.notes)


_DIFFERENT = "ours, batches that differ"


@case(
    "cuda_resume",
    "batches before and after stops at random places, resumed in new loaders, against those without a device",
    FigureTarget(_DIFFERENT, 0, "batches"),
)
def _cuda_resume(scale: Scale) -> Measured:
    from benchmarks import cuda_checks

    device = cuda_device.find()
    batch = min(64, scale.batch // 2)
    path = data.text(scale.texts)
    stops = scale.rounds
    compared, different = cuda_checks.different_after_resume(path, batch, device, stops)
    size = int(Payloads.of(path).size.sum())
    notes = [*device.notes, f"{compared} batches were compared, around {stops} stops"]
    return Measured(
        compared * batch, stops * size, figures=[Figure(_DIFFERENT, "ours", different, "batches")], notes=notes
    )
