"""A fork at each stage of a pending batch, a loader, a background iterator: child and parent go on right, and end.

Children end in turns by `os._exit`, as those of multiprocessing do, and as a program does, with all its finalizers.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import archivestream
from archivestream import Archive, Cache, PendingBatch
from stress import Outcome, main, progress
from stress.archives import LARGE, ORDERED, PLAIN, Sample, make

KEYS = list(PLAIN)[::4]
WHOLE = b"".join(ORDERED[key] for key in KEYS)
KINDS = ("all-methods.zip", "frame.tar.zst", "plain.tar.gz", "plain.tfrecord")
# Seconds for a child to end: far beyond what it needs.
PATIENCE = 60
# What must hold where a fork has gone on, in the parent and in the child alike.
Check: TypeAlias = Callable[[], object]
Stage: TypeAlias = Callable[[Archive, random.Random], contextlib.AbstractContextManager[Check]]


def reads_right(archive: Archive, chance: random.Random) -> None:
    keys = chance.choices(KEYS, k=20)
    assert archive.read_many(keys) == [ORDERED[key] for key in keys]
    assert archive.submit(keys).result().data.tobytes() == b"".join(ORDERED[key] for key in keys)


def result_right(pending: PendingBatch) -> None:
    for _ in range(2):
        assert pending.result().data.tobytes() == WHOLE
    assert pending.done()


# The stages: each brings an archive to a state, and yields what can be checked after the fork.


@contextlib.contextmanager
def before_a_batch(archive: Archive, chance: random.Random) -> Iterator[Check]:
    yield lambda: result_right(archive.submit(KEYS))


@contextlib.contextmanager
def not_begun(archive: Archive, chance: random.Random) -> Iterator[Check]:
    busy = [archive.submit([LARGE]) for _ in range(4)]  # all threads have work for a while
    pending = archive.submit(KEYS)
    yield lambda: [result_right(pending), busy.clear()]


@contextlib.contextmanager
def in_the_middle(archive: Archive, chance: random.Random) -> Iterator[Check]:
    pending = archive.submit(KEYS)
    time.sleep(chance.random() * 0.01)
    yield lambda: result_right(pending)


@contextlib.contextmanager
def done_and_not_fetched(archive: Archive, chance: random.Random) -> Iterator[Check]:
    pending = archive.submit(KEYS)
    _until(pending.done)
    yield lambda: result_right(pending)


@contextlib.contextmanager
def while_it_is_fetched(archive: Archive, chance: random.Random) -> Iterator[Check]:
    pending = archive.submit(KEYS)
    threads = [threading.Thread(target=pending.result) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(chance.random() * 0.005)
    parent = os.getpid()
    yield lambda: [result_right(pending), [thread.join() for thread in threads if os.getpid() == parent]]


@contextlib.contextmanager
def fetched(archive: Archive, chance: random.Random) -> Iterator[Check]:
    pending = archive.submit(KEYS)
    pending.result()
    yield lambda: result_right(pending)


@contextlib.contextmanager
def dropped(archive: Archive, chance: random.Random) -> Iterator[Check]:
    pending = [archive.submit(KEYS, out=bytearray(len(WHOLE))) for _ in range(3)]
    time.sleep(chance.random() * 0.002)
    yield pending.clear


@contextlib.contextmanager
def while_threads_read(archive: Archive, chance: random.Random) -> Iterator[Check]:
    """Every lock of ours is likely held by one of them."""
    stop = threading.Event()
    wrong: list[object] = []

    def read(number: int) -> None:
        own = random.Random(number)
        while not stop.is_set():
            try:
                reads_right(archive, own)
                with archivestream.open(archive.origin(0)) as another, another.open_member(KEYS[3]) as file:
                    assert file.read() == ORDERED[KEYS[3]]
            except BaseException as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(chance.random() * 0.02)
    parent = os.getpid()

    def check() -> None:
        stop.set()
        if os.getpid() == parent:
            for thread in threads:
                thread.join()
        assert not wrong, wrong

    yield check


def _loader(archive: Archive, **options: object) -> archivestream.ArchiveLoader:
    return archivestream.ArchiveLoader(archive.select(KEYS), 8, **options)  # type: ignore[arg-type]


def _rows(batch: object) -> list[bytes]:
    padded = batch
    return [
        row[:length].numpy().tobytes()
        for row, length in zip(padded.data, padded.lengths.tolist(), strict=True)  # type: ignore[attr-defined]
    ]


@contextlib.contextmanager
def _in_a_loader(archive: Archive, chance: random.Random, **options: object) -> Iterator[Check]:
    parent = os.getpid()
    loader = _loader(archive, **options)
    batches = iter(loader)
    got = [data for _ in range(1 + chance.randrange(3)) for data in _rows(next(batches))]

    def check() -> None:
        # The iteration is the parent's; a child begins its own.
        mine = [*got, *(data for batch in batches for data in _rows(batch))] if os.getpid() == parent else _pass(loader)
        assert b"".join(mine) == WHOLE
        assert b"".join(_pass(loader)) == WHOLE
        loader.close()

    yield check


def _pass(loader: archivestream.ArchiveLoader) -> list[bytes]:
    return [data for batch in loader for data in _rows(batch)]


def a_loader_with_threads(archive: Archive, chance: random.Random) -> contextlib.AbstractContextManager[Check]:
    return _in_a_loader(archive, chance, num_workers=3, persistent_workers=chance.random() < 0.5)


def a_loader_with_slots(archive: Archive, chance: random.Random) -> contextlib.AbstractContextManager[Check]:
    return _in_a_loader(archive, chance, num_workers=2, device="cpu", keep="batches")


@contextlib.contextmanager
def a_loader_with_processes(archive: Archive, chance: random.Random) -> Iterator[Check]:
    """PyTorch's own, which forks its workers from here; only the parent may ask it for more."""
    from torch.utils.data import DataLoader

    dataset = archivestream.ArchiveDataset(archive.select(KEYS))
    loader = DataLoader(dataset, batch_size=16, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    batches = iter(loader)
    got = [*next(batches)]
    parent = os.getpid()

    def check() -> None:
        if os.getpid() == parent:
            got.extend(data for batch in batches for data in batch)
            assert b"".join(got) == WHOLE
        else:
            assert b"".join(dataset.__getitems__(range(len(KEYS)))) == WHOLE

    yield check


@contextlib.contextmanager
def _in_a_background(archive: Archive, **options: object) -> Iterator[Check]:
    parent = os.getpid()
    items = archivestream.background(iter, archive.select(KEYS), maxsize=3, **options)  # type: ignore[arg-type]
    got = [next(items) for _ in range(3)]

    def check() -> None:
        if os.getpid() == parent:
            assert b"".join([*got, *items]) == WHOLE
        items.close()

    yield check


def a_background_thread(archive: Archive, chance: random.Random) -> contextlib.AbstractContextManager[Check]:
    return _in_a_background(archive)


def a_background_process(archive: Archive, chance: random.Random) -> contextlib.AbstractContextManager[Check]:
    return _in_a_background(archive, processes=True, start_method="fork")


STAGES = (
    before_a_batch,
    not_begun,
    in_the_middle,
    done_and_not_fetched,
    while_it_is_fetched,
    fetched,
    dropped,
    while_threads_read,
    a_background_thread,
    a_background_process,
)
# Those that need PyTorch, which takes its time to end.
LOADERS = (
    a_loader_with_threads,
    a_loader_with_slots,
    a_loader_with_processes,
)
CACHES: tuple[Callable[[], Cache | None], ...] = (
    lambda: None,
    lambda: Cache(200_000, policy="lru"),
    lambda: Cache(200_000, policy="lru", shared=True),
)


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.001)


class _EndOfChild(BaseException):
    """Lets a child leave all that it is in."""


def fork_at(stage: Stage, archive: Archive, seed: int) -> None:
    """Fork at a stage, and hold that both are right and the child ends."""
    chance = random.Random(seed)
    with stage(archive, chance) as check:
        child = os.fork()
        if not child:
            faulthandler.register(signal.SIGALRM, chain=True)  # where it hangs
            signal.alarm(PATIENCE // 2)
            try:
                if seed % 3:
                    check()
                reads_right(archive, chance)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            if seed % 2 or multiprocessing.active_children():
                os._exit(0)  # multiprocessing would wait for processes that are its parent's, and raise
            raise _EndOfChild
        if seed % 4 > 1:
            check()  # while the child is at it
        status: list[int] = []

        def has_ended() -> bool:
            pid, found = os.waitpid(child, os.WNOHANG)
            if pid:
                status.append(os.waitstatus_to_exitcode(found))
            return bool(pid)

        try:
            _until(has_ended)
        except AssertionError:
            os.kill(child, signal.SIGKILL)
            raise
        assert status == [0], f"the child ended with {status[0]}"
        if seed % 4 <= 1:
            check()
        reads_right(archive, chance)


def forks(seconds: float, outcome: Outcome) -> None:
    """Go through the stages, archives and caches, again and again."""
    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
    folder = Path(tempfile.mkdtemp())
    parent = os.getpid()
    try:
        samples = [make(kind, folder) for kind in KINDS]
        _go_through(STAGES, samples, seconds / 2, outcome)
        import torch.utils.data  # noqa: F401

        _go_through(LOADERS, samples, seconds / 2, outcome)
    finally:
        if os.getpid() == parent:
            shutil.rmtree(folder)


def _go_through(stages: Sequence[Stage], samples: list[Sample], seconds: float, outcome: Outcome) -> None:
    end, turn = time.monotonic() + seconds, 0
    # Each stage at least once, however little time there is.
    while turn < len(stages) or time.monotonic() < end:
        around = turn // len(stages)
        cache = CACHES[around % len(CACHES)]
        # The number of stages is no multiple of that of the archives: each meets each.
        _fork_once(stages[turn % len(stages)], samples[turn % len(samples)], cache, turn + around, outcome)
        turn += 1
        if turn % 50 == 0:
            progress(f"{turn} forks")


def _fork_once(
    stage: Stage,
    sample: Sample,
    make_cache: Callable[[], Cache | None],
    seed: int,
    outcome: Outcome,
) -> None:
    try:
        cache = make_cache()
        with archivestream.open(sample.path, threads=4, cache=cache) as archive:
            fork_at(stage, archive, seed)
        if cache is not None:
            cache.close()
        outcome.done[stage.__name__] += 1
    except Exception as error:
        outcome.errors.append(f"{stage.__name__}, {sample.kind}, seed {seed}: {error!r}")


if __name__ == "__main__":
    try:
        main(forks)
    except _EndOfChild:
        sys.exit(0)
