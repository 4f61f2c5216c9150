"""The cache of all processes of a machine: one limit, processes killed at any moment, names, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import multiprocessing
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import make_members, zip_of

import archivestream
from archivestream import Archive, ArchiveWarning, Cache, shared_files
from archivestream._native.sharedstore import SharedStore

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no robust locks here")

N = 100
MEMBERS = list(make_members([i % 9 * 1500 for i in range(N)]).values())
ROOT = Path(archivestream.__file__).parents[1]
POLICIES = ["keep", "lru"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shared") / "a.zip"
    path.write_bytes(zip_of({f"m{i}": data for i, data in enumerate(MEMBERS)}))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for named caches, here and in programs that are told of it."""
    monkeypatch.setattr(shared_files, "_MEMORY", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def helpers() -> None:
    """Start what `multiprocessing` keeps from then on."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def nothing_stays(helpers: None) -> Iterator[None]:
    """Hold that each test leaves no descriptor, thread, or file in shared memory."""
    gc.collect()
    before = left()
    yield
    gc.collect()
    assert left() == before


def left() -> tuple[int, int, list[str]]:
    # Not those of the stress, which may run beside.
    ours = [name for name in os.listdir("/dev/shm") if re.match(r"archivestream-(?!\d+-stress-)", name)]
    return len(os.listdir("/proc/self/fd")), threading.active_count(), ours


def read_at_random(archive: Archive, seed: int, turns: int) -> None:
    chance = random.Random(seed)
    for _ in range(turns):
        keys = [chance.randrange(N) for _ in range(chance.choice([1, 4, 20]))]
        expected = [MEMBERS[key] for key in keys]
        match chance.randrange(4):
            case 0:
                assert archive[keys[0]] == expected[0]
            case 1:
                assert archive.read_many(keys) == expected
            case 2:
                assert archive.read_batch(keys).data.tobytes() == b"".join(expected)
            case 3:
                rows, lengths = archive.read_padded(keys)
                assert [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)] == expected


def memory_of(cache: Cache) -> int:
    """Bytes that the file of a cache takes."""
    assert isinstance(cache._store, SharedStore)
    return os.fstat(cache._store.descriptor).st_blocks * 512


def run(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    setup = f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
    setup += "import archivestream\nfrom archivestream import Cache\n"
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


# Processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("policy", POLICIES)
def test_four_processes(path: Path, method: str, policy: Any) -> None:
    context = multiprocessing.get_context(method)
    with Cache(300_000, policy=policy, shared=True) as cache, archivestream.open(path, cache=cache) as archive:
        processes = [context.Process(target=read_at_random, args=(archive, seed, 100)) for seed in range(4)]
        for process in processes:
            process.start()
        read_at_random(archive, 9, 100)
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        stats = cache.stats
        assert 0 < stats.bytes <= 300_000
        assert memory_of(cache) <= 300_000
        assert (stats.evictions > 0) == (policy == "lru")
        assert stats.hits > 500  # of all of them
    for process in processes:
        process.close()


def _read_all(archive: Archive, seed: int) -> None:
    keys = np.random.default_rng(seed).permutation(N)
    for batch in np.split(keys, 10):
        assert archive.read_many(batch) == [MEMBERS[key] for key in batch]


def test_a_member_is_read_by_one_process(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with Cache(2 << 20, shared=True) as cache, archivestream.open(path, cache=cache) as archive:
        processes = [context.Process(target=_read_all, args=(archive, seed)) for seed in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 6
        assert (cache.stats.misses, cache.stats.members, cache.stats.hits) == (N, N, 5 * N)


@pytest.mark.parametrize("policy", POLICIES)
def test_processes_that_are_killed_at_any_moment(path: Path, policy: Any) -> None:
    chance = random.Random(4)
    with (
        Cache(300_000, policy=policy, shared=True) as cache,
        archivestream.open(path, cache=cache, threads=1) as archive,
    ):
        for turn in range(40):
            children = []
            for _ in range(3):
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    try:
                        read_at_random(archive, turn * 10 + len(children), 10**9)
                    finally:
                        os._exit(1)
                children.append(child)
            time.sleep(chance.random() * 0.03)
            if turn % 8 == 0:
                cache.clear()
            for child in children:
                os.kill(child, signal.SIGKILL)
            read_at_random(archive, turn, 10)  # while they are dying, and some are zombies
            for child in children:
                assert os.waitpid(child, 0)[1] == signal.SIGKILL
            assert cache.stats.bytes <= 300_000
            assert memory_of(cache) <= 300_000
        # What they were loading can be loaded, and all is in order.
        read_at_random(archive, 0, 100)
        if policy == "keep":
            before = cache.stats
            for key in range(N):
                assert archive[key] == MEMBERS[key]
            assert cache.stats.members == before.members
        cache.clear()
        for _ in range(2):
            archive.read_many(range(N))
        assert cache.stats.bytes > 270_000  # what the dead were loading is not lost


def test_what_a_dead_process_was_loading_is_taken_over() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        child = os.fork()
        if child == 0:
            claim = view.claim(np.arange(3), np.full(3, 100, np.uint64))
            os.kill(os.getpid(), signal.SIGKILL if len(claim.own) == 3 else signal.SIGTERM)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        claim = view.claim(np.arange(3), np.full(3, 100, np.uint64))
        if claim.others:  # it looks for what the dead have left now and then, or when it has to wait
            assert claim.wait()
            claim = view.claim(np.arange(3), np.full(3, 100, np.uint64))
        assert claim.own == [0, 1, 2]
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_what_a_living_process_is_loading_is_waited_for() -> None:
    with Cache(1 << 20, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with view.claim(np.arange(2), np.full(2, 3, np.uint64)) as claim:
                    os.write(told, b".")
                    time.sleep(0.1)
                    claim.keep([b"abc", b"def"])
                os._exit(0)
            finally:
                os._exit(1)
        os.read(ready, 1)
        claim = view.claim(np.arange(2), np.full(2, 3, np.uint64))
        assert claim.others == [0, 1]
        assert claim.wait()
        assert (view.get(0), view.get(1)) == (b"abc", b"def")
        assert os.waitpid(child, 0)[1] == 0
        os.close(ready)
        os.close(told)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_process_that_died_in_the_middle_of_a_change(path: Path, policy: Any) -> None:
    # The flag that it leaves stands at a fixed place; see Header in shared_region.hpp.
    with Cache(300_000, policy=policy, shared=True) as cache, archivestream.open(path, cache=cache) as archive:
        archive.read_many(range(20))
        pending = archive.submit(range(20, 40))
        assert isinstance(cache._store, SharedStore)
        os.pwrite(cache._store.descriptor, b"\1", 48)
        assert cache.members_of(b"x" * 16).get(3) is None
        assert archive.read_many(range(30)) == MEMBERS[:30]  # repairs it
        assert pending.result().data.tobytes() == b"".join(MEMBERS[20:40])
        assert archive.read_many(range(20)) == MEMBERS[:20]
        before = cache.stats
        assert archive.read_many(range(20)) == MEMBERS[:20]
        assert cache.stats.hits - before.hits == 20


# Sizes


@pytest.mark.parametrize("policy", POLICIES)
def test_members_of_all_sizes_leave_no_holes(policy: Any) -> None:
    chance = random.Random(5)
    sizes = [int(2 ** chance.uniform(0, 17)) for _ in range(500)]
    with Cache(1 << 20, policy=policy, shared=True) as cache:
        view = cache.members_of(b"x" * 16)
        for turn in range(6):
            order = chance.sample(range(500), 500)
            for key in order:
                found = view.get(key)
                if found is None:
                    claim = view.claim_one(key, sizes[key])
                    if claim is not None:
                        with claim:
                            if chance.random() < 0.9:  # else it could not be read
                                claim.keep([bytes([key % 251]) * sizes[key]])
                else:
                    assert found == bytes([key % 251]) * sizes[key]
                assert cache.stats.bytes <= 1 << 20
            if turn:
                there = [sizes[key] for key in range(500) if view.get(key) is not None]
                assert sum(there) > 0.85 * (1 << 20)


def test_a_limit_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="65536 bytes or more"):
        Cache(1000, shared=True)


def test_a_limit_that_is_no_multiple_of_a_page(path: Path) -> None:
    for limit in (65_537, 99_999, 1_234_567):
        for policy in POLICIES:
            with Cache(limit, policy=policy, shared=True) as cache:  # type: ignore[arg-type]
                archive = archivestream.open(path, cache=cache)
                read_at_random(archive, limit, 30)
                assert memory_of(cache) <= limit
                assert cache.stats.members


# No room


def test_no_room_is_an_error_at_once(folder: Path) -> None:
    free = os.statvfs(folder)
    with pytest.raises(OSError, match="only") as caught:
        Cache(free.f_frsize * free.f_bavail * 2, shared=True, name="large")
    assert caught.value.errno == errno.ENOSPC
    assert not os.listdir(folder)


def test_files_of_limited_size(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            Cache(2 << 20, shared=True)
        with Cache(1 << 20, shared=True) as cache:
            assert archivestream.open(path, cache=cache).read_many(range(N)) == MEMBERS
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root may mount")
def test_a_file_system_that_others_fill(path: Path, folder: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        with Cache(3 << 20, shared=True, name="x") as cache:
            archive = archivestream.open(zip_of({str(i): bytes([i]) * 100_000 for i in range(30)}), cache=cache)
            archive.read_many(range(3))
            with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.warns(ArchiveWarning, match="cannot grow"):
                archive.read_many(range(30))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(2):
                    assert archive.read_many(range(30)) == [bytes([i]) * 100_000 for i in range(30)]
            assert cache.stats.members >= 3
    finally:
        subprocess.run(["umount", folder], check=True)


# Names


def test_processes_that_are_started_separately(path: Path, folder: Path) -> None:
    code = """
from pathlib import Path
archivestream.shared_files._MEMORY = Path(sys.argv[2])
with Cache(2 << 20, shared=True, name="run-17") as cache, archivestream.open(sys.argv[1], cache=cache) as archive:
    archive.read_many(range(100))
    print(cache.stats.hits, cache.stats.misses, flush=True)
    sys.stdin.read()
"""
    first = run(code, path, folder, stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == "0 100\n"
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    second = run(code, path, folder, stdin=subprocess.DEVNULL)
    assert second.communicate(timeout=60) == ("100 100\n", "")
    assert file.exists()  # the other goes on
    with Cache(2 << 20, shared=True, name="run-17") as cache:
        assert cache.stats.members == 100
        assert pickle.loads(pickle.dumps(cache)).stats.members == 100
    assert first.communicate("", timeout=60) == ("", "")
    assert not file.exists()


def test_what_the_killed_leave_is_swept(path: Path, folder: Path) -> None:
    code = """
from pathlib import Path
archivestream.shared_files._MEMORY = Path(sys.argv[2])
cache = Cache(2 << 20, shared=True, name=sys.argv[3])
archivestream.open(sys.argv[1], cache=cache).read_many(range(100))
print("ready", flush=True)
time.sleep(60)
"""
    for name in ("one", "two"):
        process = run(code, path, folder, name)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.communicate()
    assert len(list(folder.iterdir())) == 1  # the second has swept the first
    with Cache(1 << 20, policy="lru", shared=True, name="two") as cache:  # not as the dead one made it
        assert cache.stats.members == 0
    assert not list(folder.iterdir())


def test_an_unnamed_one_leaves_nothing_even_if_all_are_killed(path: Path) -> None:
    code = """
cache = Cache(2 << 20, shared=True)
archive = archivestream.open(sys.argv[1], cache=cache)
child = os.fork()
archive.read_many(range(100))
os.write(1, b"ready\\n")
time.sleep(60)
"""
    process = run(code, path, start_new_session=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()  # and `nothing_stays` looks


def test_an_interpreter_that_ends_without_closing(path: Path, folder: Path) -> None:
    code = """
from pathlib import Path
archivestream.shared_files._MEMORY = Path(sys.argv[2])
cache = Cache(2 << 20, shared=True, name="x")
archive = archivestream.open(sys.argv[1], cache=cache)
archive.read_many(range(100))
"""
    assert run(code, path, folder).communicate(timeout=60) == ("", "")
    assert not list(folder.iterdir())


def test_another_limit_or_policy_is_refused(folder: Path) -> None:
    with Cache(1 << 20, shared=True, name="x"):
        for arguments in ({"limit": 2 << 20}, {"limit": 1 << 20, "policy": "lru"}):
            with pytest.raises(ValueError, match=r"'x'.* made with limit=1048576 and policy='keep'"):
                Cache(**arguments, shared=True, name="x")  # type: ignore[arg-type]


def test_what_is_no_cache_of_this_user_is_refused(folder: Path, tmp_path: Path) -> None:
    path = shared_files.path_of("x")
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(PermissionError, match="this user alone"):
        Cache(1 << 20, shared=True, name="x")
    path.unlink()
    os.link(target, path)
    path.chmod(0o600)
    with pytest.raises(PermissionError, match="this user alone"):
        Cache(1 << 20, shared=True, name="x")
    path.unlink()
    path.touch(0o644)
    with pytest.raises(PermissionError, match="this user alone"):
        Cache(1 << 20, shared=True, name="x")
    if os.geteuid() == 0:
        path.chmod(0o600)
        os.chown(path, 12345, 12345)
        with pytest.raises(PermissionError, match="this user alone"):
            Cache(1 << 20, shared=True, name="x")
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match=r"x"):
        Cache(1 << 20, shared=True, name="x")
    assert target.read_bytes() == b"precious"


def test_half_made_files_are_made_anew(folder: Path) -> None:
    for content in (b"", b"x" * 100, bytes(1 << 20)):
        path = shared_files.path_of("x")
        path.touch(0o600)
        path.write_bytes(content)
        with Cache(1 << 20, shared=True, name="x") as cache:
            assert cache.stats.members == 0


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 101, "é"])
def test_names(name: str) -> None:
    with pytest.raises(ValueError, match="name of a shared cache"):
        Cache(1 << 20, shared=True, name=name)


def _open_and_close(folder: Path, seed: int) -> None:
    shared_files._MEMORY = folder
    chance = random.Random(seed)
    for _ in range(60):
        with Cache(1 << 20, shared=True, name="x") as cache:
            view = cache.members_of(b"x" * 16)
            with view.claim(np.arange(1), np.full(1, 3, np.uint64)) as claim:
                claim.keep([b"abc"] * len(claim.own))
            claim.wait()
            assert view.get(0) == b"abc"
            time.sleep(chance.random() * 0.002)


def test_many_that_open_and_close_one_name(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_open_and_close, args=(folder, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    for process in processes:
        process.close()
    assert not list(folder.iterdir())


def test_a_pickle_of_an_unnamed_one_is_refused() -> None:
    with Cache(1 << 20, shared=True) as cache, pytest.raises(TypeError, match="give it a name"):
        pickle.dumps(cache)


def test_readers_of_bzip2_share_too() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as writer:
        writer.writestr("a", b"text" * 1000)
    with Cache(1 << 20, shared=True) as cache, archivestream.open(file.getvalue(), cache=cache) as archive:
        child = os.fork()
        if child == 0:
            os._exit(archive[0] != b"text" * 1000)
        assert os.waitpid(child, 0)[1] == 0
        assert archive[0] == b"text" * 1000
        assert (cache.stats.hits, cache.stats.misses) == (1, 1)
