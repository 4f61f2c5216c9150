"""Concurrency: many threads and many processes on one archive, in every way at once."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import archivestream
from archivestream import Archive, CorruptArchiveError

N = 200
_random = random.Random(0)
MEMBERS = [_random.randbytes(_random.choice([0, 100, 3000, 20_000])).hex().encode() for _ in range(N)]
WHOLE = b"".join(MEMBERS)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ZIP of `MEMBERS`, stored, deflated and a few in bzip2."""
    path = tmp_path_factory.mktemp("concurrency") / "a.zip"
    with zipfile.ZipFile(path, "w") as writer:
        for number, data in enumerate(MEMBERS):
            writer.writestr(f"m{number}", data, METHODS[number % 37 % 4])
    return path


def all_ways(archive: Archive, seed: int, turns: int) -> None:
    """Read members in ways chosen at random, and compare each with what it must be."""
    rng = random.Random(seed)
    for _ in range(turns):
        i = rng.randrange(N)
        keys = [rng.randrange(N) for _ in range(rng.choice([0, 1, 2, 30]))]
        names = [f"m{key}" for key in keys]
        expected = [MEMBERS[key] for key in keys]
        match rng.randrange(10):
            case 0:
                assert archive[i] == MEMBERS[i]
            case 1:
                assert archive[f"m{i}"] == MEMBERS[i]
            case 2:
                assert archive.read_many(names if i % 2 else keys) == expected
            case 3:
                batch = archive.read_batch(keys, out=bytearray(len(WHOLE) * 2))
                assert [bytes(member) for member in batch] == expected
            case 4:
                pending = [archive.submit(keys), archive.submit([i])]
                assert pending[1].result().data.tobytes() == MEMBERS[i]
                assert pending[0].result().data.tobytes() == b"".join(expected)
            case 5:
                with archive.open_member(i) as file:
                    file.seek(len(MEMBERS[i]) // 2)
                    assert file.read() == MEMBERS[i][len(MEMBERS[i]) // 2 :]
            case 6:
                view = archive.select(names)
                assert len(view) == len(names)
                assert view.read_many(range(len(view))) == expected
                assert not keys or view[names[0]] == expected[0]
            case 7:
                assert archive.select(keys).verify().ok
            case 8:
                info = archive.info(f"m{i}")
                assert (info.position, info.size, info.name) == (i, len(MEMBERS[i]), f"m{i}")
            case 9:
                archive.submit(keys)  # dropped at once
                assert archive.names[i] == f"m{i}"
                assert "nothing" not in archive


def in_threads(work: Callable[[int], object], count: int = 16) -> None:
    """Do some work in many threads that begin together; raise what one of them raises."""
    barrier = threading.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(begin, number) for number in range(count)]:
            future.result(60)


# Threads


@pytest.mark.parametrize("threads", [None, 1, 2, 64])
def test_every_operation_from_many_threads(path: Path, threads: int | None) -> None:
    with archivestream.open(path, threads=threads) as archive:
        in_threads(lambda seed: all_ways(archive, seed, 60))


def test_sources_that_are_not_files(path: Path) -> None:
    data = path.read_bytes()
    with open(path, "rb") as file:
        for source in (data, bytearray(data), io.BytesIO(data), file):
            with archivestream.open(source) as archive:
                in_threads(lambda seed, archive=archive: all_ways(archive, seed, 20))


def test_a_file_object_whose_every_call_can_be_interrupted(path: Path) -> None:
    class Shifty(io.BytesIO):
        """Lets other threads come in between `seek` and `read`."""

        def seek(self, *place: int) -> int:
            found = super().seek(*place)
            time.sleep(0)
            return found

        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0)
            return super().read(min(size or 0, 1000))

    with archivestream.open(Shifty(path.read_bytes())) as archive:
        in_threads(lambda seed: archive.read_many(range(seed, N, 16)) == MEMBERS[seed:N:16])


def test_several_archives_as_one(path: Path) -> None:
    sources = [path, path.read_bytes(), io.BytesIO(path.read_bytes())]
    with archivestream.open(sources, threads=4) as archive:

        def work(seed: int) -> None:
            keys = random.Random(seed).choices(range(3 * N), k=200)
            assert archive.read_many(keys) == [MEMBERS[key % N] for key in keys]

        in_threads(work)


def test_many_threads_open_the_same_file(path: Path) -> None:
    def work(seed: int) -> None:
        for turn in range(10):
            with archivestream.open(path) as archive:
                all_ways(archive, seed + turn, 5)

    in_threads(work)


def test_first_use_of_the_names_from_many_threads(path: Path) -> None:
    for turn in range(20):
        whole = archivestream.open(path)
        view = whole.select(range(N - 1, -1, -1))

        def work(seed: int, archive: Archive = view if turn % 2 else whole, turn: int = turn) -> None:
            position = N - 1 - seed if turn % 2 else seed
            assert archive.info(f"m{seed}").position == position
            assert archive[f"m{seed}".encode()] == MEMBERS[seed]
            assert "x" not in archive

        in_threads(work)


def test_one_pending_batch_and_many_threads(path: Path) -> None:
    with archivestream.open(path, threads=3) as archive:
        for _ in range(10):
            pending = archive.submit(range(N))

            def work(seed: int, pending: archivestream.PendingBatch = pending) -> None:
                while seed % 2 and not pending.done():
                    time.sleep(0)
                assert pending.result().data.tobytes() == WHOLE

            in_threads(work)


def test_the_memory_of_a_result_is_left_alone(path: Path) -> None:
    # Method 12 is decoded in Python when the result is asked for: once, however many threads ask.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as writer:
        writer.writestr("a", bytes(2_000_000))
    pending = archivestream.open(file.getvalue()).submit([0])
    found: list[archivestream.Batch] = []

    def work(number: int) -> None:
        time.sleep(0.002 * number)
        found.append(pending.result())
        found[-1].data[number] = 1  # mine by now

    in_threads(work)
    assert found[0].data.sum() == 16


def test_many_batches_pending_at_once(path: Path) -> None:
    with archivestream.open(path, threads=3) as archive:
        pending = [archive.submit(range(i % N, N)) for i in range(200)]
        for i in random.Random(0).sample(range(200), 200):
            assert pending[i].result().data.tobytes() == b"".join(MEMBERS[i % N :])


NO_THREADS = """
import os, resource, sys, threading, time
sys.path.insert(0, sys.argv[2])
import archivestream
archive = archivestream.open(sys.argv[1], threads=8)
sizes = [member.size for member in archive.infolist()]
{}
try:
    threading.Thread(target=int).start()
except RuntimeError:
    pass
else:
    print("skip")
    sys.exit()
keys = list(range(len(archive))) * 5
assert [len(data) for data in archive.read_many(keys)] == sizes * 5
assert archive.submit(keys).result().data.size == sum(sizes) * 5
pending = archive.submit(keys)
del pending
pending = archive.submit(keys)
until = time.monotonic() + 10
while not pending.done():
    assert time.monotonic() < until, "done() is never true"
    time.sleep(0.001)
assert pending.result().data.size == sum(sizes) * 5
assert len(os.listdir("/proc/self/task")) == 1
"""
REFUSALS = {
    # Threads whose stack is larger than all the memory that there may be.
    "no memory": "resource.setrlimit(resource.RLIMIT_AS, (1 << 38, 1 << 38))",
    # No more processes; holds for everybody but root.
    "no processes": "os.setuid(os.getuid() or 65534); resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_no_thread_can_be_started(path: Path, refusal: str) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard != resource.RLIM_INFINITY:
        pytest.skip("the limit of the stack cannot be raised")
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS.format(refusal), path, Path(archivestream.__file__).parents[1]],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: (
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 40, hard)) if "RLIMIT_AS" in refusal else None
        ),
    )
    assert done.returncode == 0, done.stderr
    if done.stdout == "skip\n":
        pytest.skip("the limit does not hold here")


# Processes


def _read_all_ways(archive: Archive, seed: int) -> None:
    all_ways(archive, seed, 100)


def in_processes(method: str, archive: Archive) -> None:
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=_read_all_ways, args=(archive, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    all_ways(archive, 99, 100)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


@needs_fork
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "buffered file", "BytesIO"])
def test_forked_processes_read_one_archive(path: Path, kind: str) -> None:
    with ExitStack() as stack:
        sources = {
            "path": lambda: path,
            "bytes": path.read_bytes,
            "BytesIO": lambda: io.BytesIO(path.read_bytes()),
            "file": lambda: stack.enter_context(open(path, "rb", buffering=0)),
            "buffered file": lambda: stack.enter_context(open(path, "rb")),
        }
        archive = archivestream.open(sources[kind]())
        assert archive[0] == MEMBERS[0]
        in_processes("fork", archive)


class Own(io.FileIO):
    """A file object that only its own methods can read, and whose position all forked processes share."""


def _read_or_refuse(archive: Archive, seed: int) -> None:
    for i in random.Random(seed).choices(range(N), k=1000):
        try:
            assert archive[i] == MEMBERS[i]
        except CorruptArchiveError:
            raise
        except (TypeError, ValueError, OSError) as error:
            assert "file object" in str(error)


@needs_fork
def test_forked_processes_are_never_misled_by_a_shared_position(path: Path) -> None:
    # To refuse is right, as for a pickle; to take another member's bytes for damage is not.
    with Own(path) as file:
        archive = archivestream.open(file)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_read_or_refuse, args=(archive, seed)) for seed in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        assert archive.read_many(range(N)) == MEMBERS


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_read_one_archive(path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    monkeypatch.chdir(path.parent)
    archive = archivestream.open(path.name)
    assert archive.read_many(range(N)) == MEMBERS
    monkeypatch.chdir("/")  # a pickle holds the whole path
    in_processes(method, archive)
