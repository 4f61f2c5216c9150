"""Cases of records in shards, and of arrays with metadata."""

from __future__ import annotations

import contextlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import archivestream
from benchmarks import BUILD
from benchmarks.cases.registry import case, random_batches
from benchmarks.measure import Digest, Kind, Side, processors, reading, time_sides
from benchmarks.results import Measured, Scale, SpeedTarget

_RECORD = 10_000  # bytes
_SHARDS = 128
_WINDOW = 1 << 20
_MEMORY = Path("/dev/shm")
_SHAPE = (50, 50)  # of float32: 10 KB


@contextlib.contextmanager
def _scratch(size: int) -> Iterator[Path]:
    """Make a folder in memory, where there is room for so many bytes, so that no disk is what is measured."""
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2 * size
    with TemporaryDirectory(dir=_MEMORY if in_memory else BUILD) as folder:
        yield Path(folder)


def _notes(folder: Path) -> list[str]:
    where = "in memory" if folder.is_relative_to(_MEMORY) else "on a disk, for which only ours waits"
    return [f"{_SHARDS} shards on a file system {where}; threads: {processors()} for ours, which checks CRC-32"]


def _records(count: int) -> list[bytes]:
    rng = np.random.default_rng(3)
    return [rng.bytes(_RECORD) for _ in range(count)]


def _total(records: Iterable[bytes]) -> Digest:
    """Add up sizes and CRC-32 of records in any order."""
    size = crc = 0
    for record in records:
        size += len(record)
        crc += zlib.crc32(record)
    return Digest(size, crc % (1 << 32))


def _in_any_order(name: str, kind: Kind, batches: Callable[[], Iterable[list[bytes]]]) -> Side:
    def run() -> None:
        for _ in batches():
            pass

    return Side(name, kind, run, lambda: _total(record for batch in batches() for record in batch))


def _write_ours(records: Iterable[bytes], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    archivestream.pack(records, folder / "part-{:05d}.zip", shards=_SHARDS, method="stored")
    return folder / "part-{:05d}.zip"


def _write_peer(records: Iterable[bytes], folder: Path) -> Path:
    import_module("splitdataloader").write_split_data(str(folder), records, splits=_SHARDS, start_clean=True)
    return folder


@case(
    "shards_write",
    "write records of 10 KB, of an iterator, to 128 shards",
    SpeedTarget("ours", "splitdataloader", 4),
)
def _shards_write(scale: Scale) -> Measured:
    records = _records(scale.texts)
    with _scratch(2 * len(records) * _RECORD) as folder:

        def digest_ours() -> Digest:
            with archivestream.open(_write_ours(iter(records), folder / "ours")) as archive:
                return _total(archive)

        def digest_peer() -> Digest:
            with archivestream.open(_write_peer(iter(records), folder / "peer")) as archive:
                return _total(archive)

        sides = [Side("ours", "ours", lambda: _write_ours(iter(records), folder / "ours"), digest_ours)]
        if find_spec("splitdataloader"):
            sides.append(
                Side("splitdataloader", "peer", lambda: _write_peer(iter(records), folder / "peer"), digest_peer)
            )
        timings, digest = time_sides(sides, scale.rounds)
        return Measured(len(records), digest.bytes, timings, notes=_notes(folder))


@case(
    "shards_random",
    "records of 10 KB at random from 128 shards",
    SpeedTarget("ours, one by one", "splitdataloader", 4),
    SpeedTarget("ours, read_many", "splitdataloader", 4),
)
def _shards_random(scale: Scale) -> Measured:
    records = _records(scale.texts)
    batches = random_batches(len(records), scale.batch)
    order = np.concatenate(batches).tolist()
    with _scratch(2 * len(records) * _RECORD) as folder:
        with archivestream.open(_write_ours(records, folder / "ours")) as archive:
            sides = [
                reading("ours, one by one", "ours", lambda: map(archive.__getitem__, order)),
                reading("ours, read_many", "ours", lambda: map(archive.read_many, batches)),
            ]
            if find_spec("splitdataloader"):
                loader = import_module("splitdataloader").SplitDataLoader(str(_write_peer(records, folder / "peer")))
                bins = archivestream.open(folder / "peer")
                sides += [
                    reading("splitdataloader", "peer", lambda: map(loader.__getitem__, order)),
                    reading("ours, read_many of its bins", "ours", lambda: map(bins.read_many, batches)),
                ]
            timings, digest = time_sides(sides, scale.rounds)
        return Measured(len(order), digest.bytes, timings, notes=_notes(folder))


@case(
    "shards_blocks",
    "records of 10 KB from 128 shards in block-wise shuffled order",
    SpeedTarget("ours", "splitdataloader", 4),
)
def _shards_blocks(scale: Scale) -> Measured:
    records = _records(scale.texts)
    with _scratch(2 * len(records) * _RECORD) as folder:
        with archivestream.open(_write_ours(iter(records), folder / "ours")) as archive:
            sampler = archivestream.ArchiveSampler(archive, batch_size=scale.batch, shuffle="block", window=_WINDOW)
            sides = [_in_any_order("ours", "ours", lambda: map(archive.read_many, sampler))]
            if find_spec("splitdataloader"):
                loader = import_module("splitdataloader").SplitDataLoader(str(_write_peer(records, folder / "peer")))
                sides.append(
                    _in_any_order("splitdataloader", "peer", lambda: ([one] for one in loader.iterate_binwise(True)))
                )
            timings, digest = time_sides(sides, scale.rounds)
        notes = [*_notes(folder), "ours mixes over windows of 1 MiB, splitdataloader within a bin, which is smaller"]
        return Measured(len(records), digest.bytes, timings, notes=notes)


@case(
    "arrays_10k",
    "arrays of 10 KB with metadata at random",
    SpeedTarget("ours, read_arrays", "AcumenIndexer", 10),
    SpeedTarget("ours, map_arrays", "AcumenIndexer, mapped", 10),
)
def _arrays_10k(scale: Scale) -> Measured:
    rng = np.random.default_rng(4)
    samples = [(rng.random(_SHAPE, np.float32), {"label": i % 10, "name": f"n{i}"}) for i in range(scale.texts)]
    batches = random_batches(len(samples), scale.batch)
    order = np.concatenate(batches).tolist()
    with _scratch(2 * len(samples) * _RECORD) as folder:
        archivestream.pack(samples, folder / "ours.zip", method="stored", align=64)
        with archivestream.open(folder / "ours.zip") as archive:
            table = archive.metadata

            def read(batch: Any) -> Any:
                return archive.read_arrays(batch), table.take(batch)

            def view(batch: Any) -> Any:
                return archive.map_arrays(batch), table.take(batch)

            sides = [
                reading("ours, read_arrays", "ours", lambda: (read(batch)[0] for batch in batches)),
                reading("ours, map_arrays", "ours", lambda: (view(batch)[0] for batch in batches)),
            ]
            if find_spec("acumenindexer"):
                acumen = import_module("acumenindexer")
                with contextlib.redirect_stdout(None):
                    acumen.split_into_chunks(samples, str(folder / "peer"), n_jobs=1, dtype=np.float32)
                index = acumen.load_index(folder / "peer/index.csv")
                for name, mapped in (("AcumenIndexer", False), ("AcumenIndexer, mapped", True)):
                    get = acumen.read_from_index(index, np.float32, chunk_paths=str(folder / "peer"), in_memory=mapped)
                    sides.append(reading(name, "peer", lambda get=get: (get(i)[0] for i in order)))  # type: ignore[misc]
            timings, digest = time_sides(sides, scale.rounds)
        notes = ["with the metadata of each: a table of those of a batch for ours, a dict of each for AcumenIndexer"]
        return Measured(len(order), digest.bytes, timings, notes=notes)
