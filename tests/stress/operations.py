"""16 threads, each way to read, on one archive of each kind, while other threads open and close archives."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import itertools
import os
import pickle
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import archivestream
from archivestream import Archive, ArchiveDataset, ArchiveError, Cache, ZipPacker
from archivestream.tfrecord import ExampleParser, FixedLenFeature, VarLenFeature
from stress import Outcome, main, progress
from stress.archives import ARRAYS, EXAMPLES, IMAGES, LARGE, ORDERED, PLAIN, Sample, make_all

THREADS = 16
OPENERS = 2
# Arrays and pixels of the members that have them, in the order of these.
STACKS = {
    ARRAYS: np.stack([np.load(io.BytesIO(ORDERED[key])) for key in ARRAYS]),
    IMAGES: np.stack([np.asarray(Image.open(io.BytesIO(ORDERED[key]))) for key in IMAGES]),
}


class Turn:
    """One operation: an archive, what it must hold, and what is chosen by chance."""

    def __init__(self, sample: Sample, archive: Archive, chance: random.Random, folder: Path) -> None:
        self.sample, self.archive, self.chance, self.folder = sample, archive, chance, folder

    def keys(self, among: range = range(LARGE), least: int = 0) -> list[int]:
        return self.chance.choices(among, k=max(least, self.chance.choice([0, 1, 2, 7, 30])))

    def key(self) -> int:
        return self.chance.randrange(LARGE)

    def named(self, keys: list[int]) -> list[int] | list[str] | list[bytes] | np.ndarray:
        """The same keys in one of the forms that they may have."""
        names = self.sample.names
        match self.chance.randrange(5):
            case 0:
                return [names[key] for key in keys]
            case 1:
                return [names[key].encode() for key in keys]
            case 2:
                return np.array(keys, np.int64)
            case 3:
                return [key - len(ORDERED) for key in keys]
        return keys


def contents(keys: list[int]) -> list[bytes]:
    return [ORDERED[key] for key in keys]


def read(turn: Turn) -> None:
    key = turn.key()
    assert turn.archive.read(turn.named([key])[0]) == ORDERED[key]
    assert turn.archive[turn.sample.names[key]] == ORDERED[key]
    assert turn.archive[key] == ORDERED[key]


def iterate(turn: Turn) -> None:
    begin = turn.key()
    assert list(turn.archive[begin : begin + 5]) == ORDERED[begin : begin + 5]
    found = list(itertools.islice(turn.archive, 8))
    assert found == ORDERED[:8]


def read_many(turn: Turn) -> None:
    keys, errors = turn.keys(), {}
    assert turn.archive.read_many(turn.named(keys), errors=turn.chance.choice([None, errors])) == contents(keys)
    assert not errors


def read_batch(turn: Turn) -> None:
    keys = turn.keys()
    batch = turn.archive.read_batch(turn.named(keys))
    assert [bytes(member) for member in batch] == contents(keys)


def read_batch_into(turn: Turn) -> None:
    keys = turn.keys()
    size = sum(map(len, contents(keys)))
    make = turn.chance.choice([bytearray, lambda n: np.full(n, 0xAA, np.uint8), lambda n: memoryview(bytearray(n))])
    out = make(size + 9)
    batch = turn.archive.read_batch(turn.named(keys), out=out)
    assert batch.data.tobytes() == b"".join(contents(keys)) == bytes(out)[:size]
    assert len(set(bytes(out)[size:])) == 1


def read_padded(turn: Turn) -> None:
    keys = turn.keys()
    rows, lengths = turn.archive.read_padded(turn.named(keys))
    for row, length, data in zip(rows, lengths.tolist(), contents(keys), strict=True):
        assert row[:length].tobytes() == data
        assert not row[length:].any()


def read_packed(turn: Turn) -> None:
    keys, align = turn.keys(), turn.chance.choice([1, 16, 24, 4096])
    data, offsets, lengths = turn.archive.read_packed(turn.named(keys), align=align)
    for offset, length, expected in zip(offsets.tolist(), lengths.tolist(), contents(keys), strict=True):
        assert offset % align == 0
        assert data[offset : offset + length].tobytes() == expected


def submit(turn: Turn) -> None:
    """Several at once, asked for in another order, some polled, some dropped."""
    wanted = [turn.keys() for _ in range(3)]
    outs = [None, bytearray(sum(map(len, contents(wanted[1])))), None]
    pending = [turn.archive.submit(turn.named(keys), out=out) for keys, out in zip(wanted, outs, strict=True)]
    turn.archive.submit(turn.keys())
    for i in turn.chance.sample(range(3), turn.chance.randrange(4)):
        end = time.monotonic() + turn.chance.choice([0, 0.01])
        while not pending[i].done() and time.monotonic() < end:
            time.sleep(0)
        assert pending[i].result().data.tobytes() == b"".join(contents(wanted[i]))
        assert pending[i].done()


def read_arrays(turn: Turn) -> None:
    keys = turn.keys(ARRAYS, least=1)
    expected = STACKS[ARRAYS][[key - ARRAYS.start for key in keys]]
    out = np.empty_like(expected) if turn.chance.random() < 0.5 else None
    assert np.array_equal(turn.archive.read_arrays(turn.named(keys), out=out), expected)


def map_arrays(turn: Turn) -> None:
    keys = turn.keys(ARRAYS, least=1)
    if turn.sample.maps_arrays:
        for key, array in zip(keys, turn.archive.map_arrays(keys), strict=True):
            assert np.array_equal(array, STACKS[ARRAYS][key - ARRAYS.start])
    else:
        try:
            turn.archive.map_arrays(keys)
        except archivestream.UnsupportedFeatureError:
            return
        # A few members of a ZIP of all methods are stored.
        assert turn.sample.kind == "all-methods.zip"


def read_images(turn: Turn) -> None:
    keys = turn.keys(IMAGES, least=1)
    found = turn.archive.read_images(turn.named(keys))
    assert np.array_equal(found, STACKS[IMAGES][[key - IMAGES.start for key in keys]])


def feed(turn: Turn) -> None:
    keys = turn.keys(EXAMPLES, least=1)
    parser = ExampleParser({"label": FixedLenFeature([], "int64"), "text": VarLenFeature("bytes")})
    found = parser.read(turn.archive, np.array(keys))
    assert found["label"].tolist() == keys


def open_member(turn: Turn) -> None:
    key = LARGE if turn.chance.random() < 0.1 else turn.key()
    data = ORDERED[key]
    with turn.archive.open_member(key) as file:
        for _ in range(turn.chance.randrange(5)):
            at, size = turn.chance.randrange(len(data) + 1), turn.chance.choice([0, 1, 100, 5000])
            if key == LARGE and "zip" in turn.sample.kind:
                at //= 16  # it is decoded from its start
            assert file.seek(at) == at
            assert file.read(size) == data[at : at + size]
            assert file.tell() == min(at + size, len(data))
        if key != LARGE:
            file.seek(0)
            assert file.read() == data


def select(turn: Turn) -> None:
    """A view of a view, by any kind of key."""
    archive, chance = turn.archive, turn.chance
    match chance.randrange(4):
        case 0:
            pattern = chance.choice(["plain/1*", "1?", "*npy", "none"])
            keys = [i for i, name in enumerate(turn.sample.names) if fnmatch.fnmatchcase(name, pattern)]
            view = archive.select(pattern)
        case 1:
            mask = np.arange(len(ORDERED)) % chance.randrange(2, 9) == 1
            mask[LARGE] = False
            keys, view = np.flatnonzero(mask).tolist(), archive.select(mask)
        case 2:
            keys = turn.keys(PLAIN)
            view = archive.select(turn.named(keys))
        case _:
            keys, view = list(range(LARGE))[:: -chance.randrange(1, 5)], None
            view = archive[slice(LARGE - 1, None, -1 * (keys[0] - keys[1]))]
    assert len(view) == len(keys)
    order = chance.sample(range(len(keys)), min(len(keys), 12))
    narrow = view.select(order)
    expected = [ORDERED[keys[i]] for i in order]
    assert narrow.read_many(range(len(order))) == expected
    assert (narrow + narrow).read_many(range(len(order), 2 * len(order))) == expected
    assert narrow.namelist() == [turn.sample.names[keys[i]] for i in order]


def verify(turn: Turn) -> None:
    keys = turn.keys()
    report = turn.archive.select(keys).verify()
    assert report.ok, report.errors
    assert (report.members, report.bytes) == (len(keys), sum(map(len, contents(keys))))
    assert turn.archive.select(keys).testzip() is None


def verify_all(turn: Turn) -> None:
    if turn.chance.random() < 0.05:  # it takes as long as hundreds of others
        assert turn.archive.verify().ok


def describe(turn: Turn) -> None:
    archive, names, key = turn.archive, turn.sample.names, turn.key()
    info = archive.info(names[key])
    assert (info.position, info.name, info.size) == (key, names[key], len(ORDERED[key]))
    assert archive.getinfo(names[key]) == info
    assert (archive.names[key], len(archive), "nothing" in archive) == (names[key], len(names), False)
    assert archive.sizes.tolist() == list(map(len, ORDERED))
    assert archive.files().all()
    summary = archive.summary()
    assert summary.members == len(names)
    assert len(archive.fingerprint) == 32
    assert sum(map(len, archive.by_type().values())) == len(names)
    assert archive.origin(key) == str(turn.sample.path)
    repr(archive)


def pickled(turn: Turn) -> None:
    keys = turn.keys(least=1)
    with pickle.loads(pickle.dumps(turn.archive.select(keys))) as again:
        assert again.read_many(range(len(keys))) == contents(keys)


def metered(turn: Turn) -> None:
    keys = turn.keys(least=1)
    with turn.archive.metered(turn.chance.choice([None, 1, 3])) as archive:
        assert archive.read_many(keys) == contents(keys)
        assert archive.counters.decoded_bytes >= 0
        assert archive.placement() is not None


def dataset(turn: Turn) -> None:
    keys = turn.keys(ARRAYS, least=1)
    found = ArchiveDataset(turn.archive, decode="numpy" if "tfrecord" in turn.sample.kind else "auto").__getitems__(
        keys
    )
    assert np.array_equal(np.stack(found), STACKS[ARRAYS][keys])


def extract(turn: Turn) -> None:
    keys = turn.keys(PLAIN)
    with tempfile.TemporaryDirectory(dir=turn.folder) as folder:
        turn.archive.extract(keys, folder, overwrite=True)
        for key in keys:
            assert Path(folder, turn.sample.names[key]).read_bytes() == ORDERED[key]


def empty_the_cache(turn: Turn) -> None:
    cache = turn.archive.cache
    if cache is not None:
        stats = cache.stats
        assert 0 <= stats.bytes <= stats.limit
        if turn.chance.random() < 0.1:
            cache.clear()


def wrong_keys(turn: Turn) -> None:
    for key in (len(ORDERED), -len(ORDERED) - 1):
        with _raises(IndexError):
            turn.archive.read_many([0, key])
    with _raises(KeyError):
        turn.archive.submit(["nothing"])
    with _raises(ValueError):
        turn.archive.read_batch([*PLAIN], out=bytearray(3))


@contextlib.contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


OPERATIONS: tuple[Callable[[Turn], None], ...] = (
    read,
    iterate,
    read_many,
    read_batch,
    read_batch_into,
    read_padded,
    read_packed,
    submit,
    read_arrays,
    map_arrays,
    read_images,
    feed,
    open_member,
    select,
    verify,
    verify_all,
    describe,
    pickled,
    metered,
    dataset,
    extract,
    empty_the_cache,
    wrong_keys,
)


def open_and_close(samples: list[Sample], chance: random.Random, folder: Path) -> str:
    """Open and close an archive of any kind, good or damaged, or write one."""
    sample = chance.choice(samples)
    match chance.randrange(4):
        case 0:
            with contextlib.suppress(ArchiveError), archivestream.open(sample.damaged, index="memory") as archive:
                # What lies before the damage, and far from it, is whole.
                archive.read_many(range(10), errors={})
            return "open a damaged one"
        case 1:
            path = folder / f"new-{threading.get_ident()}.zip"
            with ZipPacker(path, overwrite=True) as packer:
                for key in PLAIN[:20]:
                    packer.add(str(key), ORDERED[key])
            with archivestream.open(path) as archive:
                assert archive.read_many(range(20)) == contents(list(PLAIN[:20]))
            return "pack and open"
        case _:
            options = {"threads": chance.choice([None, 1, 5]), "cache": chance.choice([None, 0, 1 << 20])}
            with archivestream.open(sample.path, **options) as archive:  # type: ignore[arg-type]
                assert archive.read_many([0, 77]) == contents([0, 77])
                archive.submit(range(50))
            return "open and close"


CACHES: dict[str, Callable[[], Cache | int | None]] = {
    "blocks": lambda: None,
    "nothing": lambda: 0,
    "keep": lambda: Cache(1 << 20),
    "lru": lambda: Cache(1 << 20, policy="lru"),
    # One without a name cannot be pickled.
    "shared": lambda: Cache(1 << 20, policy="lru", shared=True, name=f"stress-{os.getpid()}"),
}


def on_one_archive(
    sample: Sample, cache: Cache | int | None, samples: list[Sample], seconds: float, outcome: Outcome, seed: int
) -> None:
    """Have the threads work on one archive for a while."""
    end = time.monotonic() + seconds
    lock = threading.Lock()

    def work(number: int, one: Callable[[random.Random], str]) -> None:
        chance = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            try:
                what = one(chance)
                with lock:
                    outcome.done[what] += 1
            except BaseException as error:
                with lock:
                    outcome.errors.append(f"{sample.kind}, {cache}: {what_failed(error)}")
                return

    def operate(chance: random.Random) -> str:
        operation = chance.choice(OPERATIONS)
        operation(Turn(sample, archive, chance, folder))
        return operation.__name__

    folder = Path(tempfile.mkdtemp(dir=sample.path.parent))
    with archivestream.open(sample.path, cache=cache) as archive:
        threads = [threading.Thread(target=work, args=(i, operate)) for i in range(THREADS)]
        threads += [
            threading.Thread(target=work, args=(-1 - i, lambda chance: open_and_close(samples, chance, folder)))
            for i in range(OPENERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shutil.rmtree(folder)


def what_failed(error: BaseException) -> str:
    """Where an error was raised, and what it says."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        last = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{last}: {error!r:.500}"


def operations(seconds: float, outcome: Outcome) -> None:
    """Go through all archives and caches."""
    with tempfile.TemporaryDirectory() as name:
        samples = make_all(Path(name))
        for sample in samples:
            sample.damaged  # noqa: B018  # made once
        rounds = list(itertools.product(samples, CACHES))
        random.Random(1).shuffle(rounds)
        for i, (sample, kind) in enumerate(rounds):
            cache = CACHES[kind]()
            on_one_archive(sample, cache, samples, seconds / len(rounds), outcome, i)
            if isinstance(cache, Cache):
                cache.close()
            progress(f"{i + 1}/{len(rounds)} {sample.kind}, cache: {kind}; {sum(outcome.done.values()):,} operations")
    missing = {operation.__name__ for operation in OPERATIONS} - set(outcome.done)
    if missing:
        outcome.notes["not come to"] = sorted(missing)


if __name__ == "__main__":
    main(operations)
