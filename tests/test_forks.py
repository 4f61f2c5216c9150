"""Forks at any moment: a child is right and ends, whatever its parent was doing, and so is the parent."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import archivestream
from archivestream import CorruptArchiveError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

N = 200
_random = random.Random(0)
MEMBERS = [_random.randbytes(_random.choice([0, 100, 3000, 20_000])).hex().encode() for _ in range(N)]
WHOLE = b"".join(MEMBERS)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ZIP of `MEMBERS`."""
    path = tmp_path_factory.mktemp("forks") / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for number, data in enumerate(MEMBERS):
            writer.writestr(f"m{number}", data)
    return path


def in_child(check: Callable[[], object], seconds: float = 30) -> None:
    """Fork, check something in the child, and hold that it ended well and in time."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    end_well(pid, seconds)


def end_well(pid: int, seconds: float = 30) -> None:
    """Hold that a child ends with status 0 in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert status == 0
            return
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def test_forks_while_a_batch_is_pending(path: Path) -> None:
    archive = archivestream.open(path, threads=4)
    rng = random.Random(0)
    for turn in range(100):
        pending = [archive.submit(range(N))]
        time.sleep(rng.random() * 0.003)

        def check(turn: int = turn, pending: list[archivestream.PendingBatch] = pending) -> None:
            if turn % 3 == 0:
                pending.clear()
            elif turn % 3 == 1:
                assert pending[0].result().data.tobytes() == WHOLE
                assert pending[0].done()
            assert archive.read_batch(range(N)).data.tobytes() == WHOLE

        in_child(check)
        assert pending[0].result().data.tobytes() == WHOLE


def test_forks_while_threads_read(path: Path) -> None:
    archive = archivestream.open(path, threads=4)
    pending = archive.submit(range(N))
    stop = threading.Event()
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            keys = rng.sample(range(N), 40)
            if archive.submit(keys).result().data.tobytes() != b"".join(MEMBERS[i] for i in keys):
                wrong.append(seed)
            if pending.result().data.tobytes() != WHOLE:
                wrong.append(seed)

    def check() -> None:
        assert pending.result().data.tobytes() == WHOLE
        assert archive.read_many(range(N)) == MEMBERS
        assert archive.submit(range(N)).result().data.tobytes() == WHOLE

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            pending = archive.submit(range(N))
            in_child(check)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_child_of_a_child(path: Path) -> None:
    archive = archivestream.open(path, threads=4)
    pending = archive.submit(range(N))

    def check() -> None:
        own = archive.submit(range(N))
        in_child(lambda: [own.result(), pending.result()])
        assert own.result().data.tobytes() == pending.result().data.tobytes() == WHOLE

    in_child(check)


def test_a_child_may_wait_for_done(path: Path) -> None:
    pending = archivestream.open(path, threads=4).submit(range(N))

    def check() -> None:
        until = time.monotonic() + 5
        while not pending.done():
            assert time.monotonic() < until, "done() is never true"
            time.sleep(0.001)
        assert pending.result().data.tobytes() == WHOLE

    in_child(check)


WAITING = """
import io, os, random, signal, sys, threading, time, warnings, zipfile
sys.path.insert(0, sys.argv[1])
import archivestream
warnings.simplefilter("ignore")
rng = random.Random(0)
file = io.BytesIO()
with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as writer:
    writer.writestr("long", rng.randbytes(16 << 20).hex())
    writer.writestr("short", rng.randbytes(4 << 20).hex())
archive = archivestream.open(file.getvalue(), threads=1)
met = 0
for _ in range(5):
    busy = archive.submit(["short"])
    pending = archive.submit(["long"])
    threads = [threading.Thread(target=pending.result) for _ in range(2)]
    for thread in threads:
        thread.start()
    busy.result()
    time.sleep(0.01)
    met += not pending.done()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        pending.result()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child hangs: {status}"
    for thread in threads:
        thread.join()
print("met" if met else "missed")
"""


def test_a_fork_while_threads_wait_for_the_same_batch() -> None:
    # One thread decodes a long member, another waits for it, and no thread of the pool has a hold on the
    # job: then the child must not wait for those who wait in its parent. With a pool of one thread, so in
    # a process of its own.
    command = [sys.executable, "-c", WAITING, str(Path(archivestream.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if done.stdout != "met\n":
        pytest.skip("this machine was too quick, or too slow")


def directory_of(n: int) -> bytes:
    """Make a ZIP that is a central directory and nothing else: names of seven digits, no data."""
    header = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 7, *[0] * 6)
    entries = np.tile(np.frombuffer(header + bytes(7), np.uint8), (n, 1))
    for place in range(7):
        entries[:, 46 + place] = ord("0") + np.arange(n) // 10 ** (6 - place) % 10
    count = n & 0xFFFF
    return entries.tobytes() + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, entries.size, 0, 0)


def test_a_fork_while_a_name_table_is_built(path: Path) -> None:
    data = directory_of(1_000_000)
    for turn in range(4):
        large, small = archivestream.open(data), archivestream.open(path)
        thread = threading.Thread(target=lambda large=large: "0123456" in large)
        thread.start()
        time.sleep(0.01 * turn)
        in_child(lambda large=large, small=small: ["m5" in small, "7" in large], seconds=10)
        thread.join()


def test_a_fork_while_a_result_is_finished() -> None:
    # Method 12 is decoded in Python, by the thread that asks; a lock that it holds is not for the child.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as writer:
        writer.writestr("a", bytes(4_000_000))
    archive = archivestream.open(file.getvalue())
    for turn in range(5):
        pending = archive.submit([0])
        thread = threading.Thread(target=pending.result)
        thread.start()
        time.sleep(0.004 * turn)
        in_child(lambda pending=pending: pending.result(), seconds=10)
        thread.join()


def test_a_fork_while_a_file_object_is_read(path: Path) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            time.sleep(0.001)
            return super().read(size)

    archive = archivestream.open(Slow(path.read_bytes()))
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            archive.read_many(range(20))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for _ in range(10):
            in_child(lambda: archive[3], seconds=10)
    finally:
        stop.set()
        thread.join()


def test_a_fork_with_input_that_ended_early() -> None:
    # What a file object gave is decoded again in the child: it must not be read beyond its end.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("a", bytes(1_000_000))
    archive = archivestream.open(file)
    file.truncate(2000)
    pending = archive.submit([0])

    def check() -> None:
        with pytest.raises(CorruptArchiveError, match="became shorter"):
            pending.result()

    in_child(check)
    check()


def _result_in_worker(pending: archivestream.PendingBatch) -> None:
    assert pending.result().data.tobytes() == WHOLE


def test_processes_of_multiprocessing(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    archive = archivestream.open(path, threads=4)
    for turn in range(10):
        pending = archive.submit(range(N))
        time.sleep(0.0003 * turn)
        process = context.Process(target=_result_in_worker, args=(pending,))
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert pending.result().data.tobytes() == WHOLE
