"""The case over TFRecord files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import archivestream
from archivestream._native.tfscan import frame
from archivestream.tfrecord import ExampleParser, FixedLenFeature, encode_example
from benchmarks.cases.registry import QUICK, case, note_threads, save_index
from benchmarks.data import cached
from benchmarks.measure import Digest, Side, idle_cores, reading, time_sides
from benchmarks.python38 import dareblopy_side
from benchmarks.record_limit import RecordLoop
from benchmarks.results import Measured, Scale, SpeedTarget

_THREADS = 2
_SIDES = (32, 64, 128, 256)  # of the images in each file


@case(
    "tfrecord",
    "TFRecords with images from 3 x 32 x 32 to 3 x 256 x 256 to batched arrays, 2 threads",
    SpeedTarget("ours", "limit", 0.8),
    SpeedTarget("ours", "tfrecord", 10),
    SpeedTarget("ours", "DareBlopy", 1.5),
)
def _tfrecord(scale: Scale) -> Measured:
    files = [(_images(side, scale.pixels // len(_SIDES)), side) for side in _SIDES]
    for path, _ in files:
        save_index(path)
    idle = idle_cores()
    # Ones, not zeros: every page is there before the clock starts, as it is for the limit.
    memory = np.ones(scale.batch * 3 * max(_SIDES) ** 2, np.uint8)
    sides = [
        reading("ours", "ours", partial(_ours, files, scale.batch, memory)),
        reading("ours, new memory", "ours", partial(_ours, files, scale.batch)),
        *(_limit(files, scale.batch, name, **how) for name, how in _LIMITS.items()),
    ]
    notes = [
        f"batches of {scale.batch}; limit: pread, CRC-32C and a copy of the pixels; mapped: without the pread",
        "ours opens each file with its saved index, checks each record and message, and reuses the memory of batches",
    ]
    if find_spec("tfrecord"):
        sides.append(reading("tfrecord", "peer", partial(_pypi, files, scale.batch)))
    else:
        notes.append("tfrecord: not installed")
    arguments = [argument for file in files for argument in file]
    peer = dareblopy_side("records", scale.batch, *arguments, install=scale != QUICK)
    if isinstance(peer, str):
        notes.append(peer)
    else:
        sides.append(peer)
    timings, digest = time_sides(sides, scale.rounds)
    members = sum(scale.pixels // len(_SIDES) // (3 * side * side) for side in _SIDES)
    measured = Measured(members, digest.bytes, timings, notes=notes)
    note_threads(measured, idle, ("limit", "limit, 1 thread"))
    return measured


_LIMITS: dict[str, dict[str, Any]] = {
    "limit": {"threads": _THREADS},
    "limit, 1 thread": {"threads": 1},
    "limit, mapped": {"threads": _THREADS, "mapped": True},
}


def _images(side: int, size: int) -> Path:
    """Make a file of images of random bytes, and of about that size."""

    def write(file: IO[bytes]) -> None:
        rng = np.random.default_rng(side)
        for _ in range(size // (3 * side * side)):
            pixels = rng.integers(0, 256, (3, side, side), np.uint8)
            # The pixels last, where the limit expects them.
            example = encode_example({"shape": np.array(pixels.shape), "data": pixels})
            header, footer = frame(example)
            file.write(header + example + footer)

    return cached(f"images-{side}-{size}.tfrecord", write)


def _ours(
    files: list[tuple[Path, int]], batch: int, memory: NDArray[np.uint8] | None = None
) -> Iterator[NDArray[np.uint8]]:
    for path, side in files:
        parser = ExampleParser({"data": FixedLenFeature([3, side, side], "uint8")}, threads=_THREADS)
        with archivestream.open(path, index="require", threads=_THREADS) as archive:
            for begin in range(0, len(archive), batch):
                rows = range(begin, min(begin + batch, len(archive)))
                out = None
                if memory is not None:
                    out = {"data": memory[: len(rows) * 3 * side * side].reshape(-1, 3, side, side)}
                yield parser.read(archive, rows, out)["data"]


def _pypi(files: list[tuple[Path, int]], batch: int) -> Iterable[NDArray[np.uint8]]:
    load: Callable[..., Iterator[dict[str, Any]]] = import_module("tfrecord.reader").tfrecord_loader
    for path, side in files:
        images: list[NDArray[np.uint8]] = []
        for example in load(str(path), None, {"data": "byte"}):
            images.append(np.frombuffer(example["data"], np.uint8).reshape(3, side, side))
            if len(images) == batch:
                yield np.stack(images)
                images = []
        if images:
            yield np.stack(images)


def _limit(files: list[tuple[Path, int]], batch: int, name: str, **how: Any) -> Side:
    loops = [RecordLoop(path, 3 * side * side, batch=batch, **how) for path, side in files]

    def run() -> None:
        for loop in loops:
            loop.run()

    def digest() -> Digest:
        found = Digest(0, 0)
        for loop in loops:
            found = loop.digest(found)
        return found

    return Side(name, "limit", run, digest)
