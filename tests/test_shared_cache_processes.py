"""The shared cache among processes that are stopped, short of descriptors, or in a PID namespace of their own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import make_members, zip_of

import archivestream
from archivestream import Cache, shared_files
from archivestream._native.sharedstore import SharedStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no robust locks here")

MEMBERS = list(make_members([i % 9 * 1500 for i in range(100)]).values())
ROOT = Path(archivestream.__file__).parents[1]
POLICIES = ["keep", "lru"]
ONE = np.zeros(1, np.int64)

# Where the locks lie in the header: see shared_layout.hpp.
TABLE = 56
MUTEX = {"x86_64": 40, "aarch64": 48}.get(platform.machine(), 0)  # bytes of a pthread_mutex_t
WRITING = [TABLE + (2 + i) * MUTEX for i in range(16)]


@contextmanager
def process(work: Callable[[Callable[[], None]], object]) -> Iterator[int]:
    """Have a forked process do some work, which says by a call when it is ready; kill it in the end."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            work(lambda: os.write(told, b".") and None)
        finally:
            os._exit(1)
    os.close(told)
    try:
        assert os.read(ready, 1)
        yield child
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def held_by_another(cache: Cache, places: list[int]) -> Iterator[int]:
    """Have a process hold some locks of a cache, and do nothing, as one does that was stopped there."""
    assert isinstance(cache._store, SharedStore)
    descriptor = cache._store.descriptor

    def hold(ready: Callable[[], None]) -> None:
        header = ctypes.c_char.from_buffer(mmap.mmap(descriptor, 4096))
        for place in places:
            lock = ctypes.c_void_p(ctypes.addressof(header) + place)
            if ctypes.CDLL(None).pthread_mutex_lock(lock) == errno.EOWNERDEAD:
                ctypes.CDLL(None).pthread_mutex_consistent(lock)
        ready()
        time.sleep(60)

    with process(hold) as child:
        yield child


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that hangs: without the GIL, no handler of Python would run."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def without_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


# Who is alive


def test_a_loader_that_cannot_look_itself_up_is_waited_for() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)

        def load(ready: Callable[[], None]) -> None:
            without_descriptors()
            with view.claim(ONE, np.full(1, 3, np.uint64)) as claim:
                ready()
                time.sleep(0.3)
                claim.keep([b"abc"])
            time.sleep(60)

        with process(load):
            claim = view.claim(ONE, np.full(1, 3, np.uint64))
            assert (claim.own, claim.others) == ([], [0])
            assert claim.wait()
            assert view.get(0) == b"abc"


def test_who_has_no_descriptor_takes_nobody_for_dead() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)

        def load(ready: Callable[[], None]) -> None:
            with view.claim(ONE, np.full(1, 3, np.uint64)) as claim:
                ready()
                time.sleep(0.3)
                claim.keep([b"abc"])
            time.sleep(60)

        with process(load):
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    assert view.claim(ONE + 1, np.full(1, 3, np.uint64)).own == [0]  # it knows itself
                    without_descriptors()
                    claim = view.claim(ONE, np.full(1, 3, np.uint64))
                    os._exit(not (claim.others == [0] and claim.wait() and view.get(0) == b"abc"))
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="root may make namespaces, by unshare(1)")
def test_the_dead_of_a_namespace_without_its_own_proc() -> None:
    code = f"""
import contextlib, os, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from archivestream import Cache
view = Cache(1 << 20, shared=True).members_of(b"x" * 16)
view.claim(np.ones(1, np.int64), np.ones(1, np.uint64))  # looks for the dead, which it does now and then only
with contextlib.suppress(OSError), open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str({os.getpid()} - 1))  # so that /proc has one of that number, who lives
child = os.fork()
if child == 0:
    claim = view.claim(np.zeros(1, np.int64), np.ones(1, np.uint64))
    os._exit(9)
os.waitpid(child, 0)
print(view.claim(np.zeros(1, np.int64), np.ones(1, np.uint64)).wait())
"""
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unshare" in found.stderr:
        pytest.skip(found.stderr)
    assert (found.returncode, found.stdout, found.stderr) == (0, "True\n", "")


# What the dead leave


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_that_killed_processes_had_claimed_is_used_again(policy: Any) -> None:
    size = np.full(1, 1 << 16, np.uint64)

    def claim_some(ready: Callable[[], None]) -> None:
        claim = view.claim(np.arange(3), np.full(3, 1 << 16, np.uint64))
        ready()
        time.sleep(60 * len(claim.own))

    with Cache(1 << 20, policy=policy, shared=True) as cache:
        for number in range(4):
            view = cache.members_of(bytes([number]) * 16)
            with process(claim_some):
                pass
        view = cache.members_of(b"others" + bytes(10))
        for member in range(20):
            with view.claim(np.array([member]), size) as claim:
                claim.keep([bytes(1 << 16)] * len(claim.own))
            time.sleep(0.02)  # longer than it goes on without another look
        assert sum(view.get(member) is not None for member in range(20)) >= 10


def test_memory_of_the_dead_is_given_out_only_while_nobody_writes() -> None:
    def claim_all(ready: Callable[[], None]) -> None:
        claim = view.claim(ONE, np.full(1, 40_000, np.uint64))
        ready()
        time.sleep(60 * len(claim.own))

    with Cache(1 << 16, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        with process(claim_all):
            pass
        with held_by_another(cache, WRITING[7:8]):  # he may be the one who seems to be dead
            for member in range(1, 9):
                assert not keep(view, member, 40_000)
        assert keep(view, 9, 40_000)


def keep(view: Any, member: int, size: int) -> bool:
    """Store a member; return whether it is there then."""
    with view.claim(np.array([member]), np.full(1, size, np.uint64)) as claim:
        claim.keep([bytes([member]) * size] * len(claim.own))
    time.sleep(0.02)
    found = view.get(member)
    assert found in (None, bytes([member]) * size)
    return found is not None


# Who is stopped


@pytest.mark.parametrize("policy", POLICIES)
def test_others_read_on_while_one_is_stopped_at_the_table(policy: Any) -> None:
    data = zip_of({f"m{i}": data for i, data in enumerate(MEMBERS)})
    with Cache(1 << 20, policy=policy, shared=True) as cache, archivestream.open(data, cache=cache) as archive:
        archive.read_many(range(20))
        view = cache.members_of(b"x" * 16)
        with view.claim(ONE, np.ones(1, np.uint64)), held_by_another(cache, [TABLE]):
            assert archive[3] == MEMBERS[3]
            assert archive.read_many(range(100)) == MEMBERS
            assert archive.read_batch(range(50)).data.tobytes() == b"".join(MEMBERS[:50])
            assert cache.stats.limit == 1 << 20
            with pytest.raises(TimeoutError, match="stopped"):
                cache.clear()
            claim = view.claim(ONE, np.ones(1, np.uint64))
            del claim
        # What could not be given up then can be loaded now, and all is as before.
        assert keep(view, 0, 1)
        assert archive.read_many(range(20)) == MEMBERS[:20]
        before = cache.stats
        assert archive.read_many(range(20)) == MEMBERS[:20]
        assert cache.stats.hits - before.hits == 20


def test_a_look_up_waits_for_the_table_without_the_gil() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        with held_by_another(cache, [TABLE]):
            beats = []
            stop = threading.Event()

            def beat() -> None:
                while not stop.wait(0.01):
                    beats.append(time.monotonic())

            thread = threading.Thread(target=beat)
            thread.start()
            began = time.monotonic()
            assert view.get(0) is None
            waited = time.monotonic() - began
            stop.set()
            thread.join()
            assert len(beats) > waited / 0.01 / 10


def test_one_that_is_stopped_while_it_writes_is_in_nobodys_way() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        with held_by_another(cache, WRITING[:15]):
            assert all(keep(view, member, 100) for member in range(5))
        with held_by_another(cache, WRITING):  # but sixteen are
            assert not keep(view, 9, 100)
        assert keep(view, 9, 100)


def test_members_of_a_stopped_loader_are_waited_for_once() -> None:
    data = zip_of({f"m{i}": data for i, data in enumerate(MEMBERS)})
    with Cache(1 << 20, shared=True) as cache, archivestream.open(data, cache=cache) as archive:
        view = archive._shared.reader.cached  # type: ignore[attr-defined]

        def load(ready: Callable[[], None]) -> None:
            claim = view.claim(np.arange(9), archive.sizes[:9].astype(np.uint64))
            ready()
            time.sleep(60 * len(claim.own))

        with process(load):
            assert archive[1] == MEMBERS[1]  # after some seconds
            began = time.monotonic()
            for _ in range(20):
                assert archive[1] == MEMBERS[1]
            assert time.monotonic() - began < 9  # the first took as long


@pytest.mark.parametrize("closing", [False, True])
def test_one_that_is_stopped_while_it_makes_or_removes_the_file(
    closing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_files, "_MEMORY", tmp_path)
    monkeypatch.setattr(shared_files, "_PATIENCE", 0.5)

    def stop(ready: Callable[[], None]) -> None:
        cache = Cache(1 << 20, shared=True, name="x") if closing else None

        def stopped(file: int, path: Path) -> bool:
            ready()
            os.kill(os.getpid(), signal.SIGSTOP)
            return True

        monkeypatch.setattr(shared_files, "_is_at", stopped)  # asked right after the lock is taken
        if cache is None:
            cache = Cache(1 << 20, shared=True, name="x")
        cache.close()
        os._exit(0)

    with process(stop) as child:
        os.waitpid(child, os.WUNTRACED)
        with pytest.raises(TimeoutError, match=r"making or removing.*archivestream-\d+-x"):
            Cache(1 << 20, shared=True, name="x")
        with Cache(1 << 20, shared=True, name="y"):
            pass
        os.kill(child, signal.SIGKILL)  # his lock goes with him
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        with Cache(1 << 20, shared=True, name="x"):
            pass
    assert os.listdir(tmp_path) == []


# A full disk


@pytest.mark.skipif(os.geteuid() != 0, reason="root may mount")
def test_a_disk_that_is_full_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    monkeypatch.setattr(shared_files, "_MEMORY", tmp_path)
    check_room = shared_files._check_room

    def others_are_quicker(file: int, limit: int) -> None:
        check_room(file, limit)
        (tmp_path / "other").write_bytes(bytes(64 << 10))

    monkeypatch.setattr(shared_files, "_check_room", others_are_quicker)
    try:
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                try:
                    Cache(1 << 16, shared=True, name="x")
                except OSError as error:
                    os._exit(error.errno != errno.ENOSPC)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0  # no SIGBUS
    finally:
        subprocess.run(["umount", tmp_path], check=True)
