"""The cache of decoded members in one process: limits, policies, single flight, every way to read, errors, forks."""

from __future__ import annotations

import io
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from samples import MAKERS, make_members, zip_of

import archivestream
from archivestream import Archive, Cache, CorruptArchiveError, sidecar
from archivestream._native.columns import MemberFlag
from archivestream._native.memberstore import MemberStore
from archivestream._native.memberview import MemberView
from archivestream.index import Index
from archivestream.sources import LocalSource

POLICIES = ["keep", "lru"]
SHARED = [False] if sys.platform == "darwin" else [False, True]
N = 60
MEMBERS = list(make_members([i % 7 * 700 for i in range(N)]).values())


class Counting(io.BytesIO):
    """A file object that counts how often it is read, and takes its time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        time.sleep(0.002)
        return super().read(size)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "a.zip"
    path.write_bytes(zip_of({f"m{i}": data for i, data in enumerate(MEMBERS)}))
    return path


@pytest.fixture(params=SHARED, ids=lambda shared: "shared" if shared else "private")
def shared(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def read_every_way(archive: Archive, keys: list[int], expected: list[bytes]) -> None:
    """Compare what each method gives with what it must be."""
    whole = b"".join(expected)
    assert [archive[key] for key in keys] == expected
    assert archive.read_many(keys) == expected
    assert archive.read_batch(keys).data.tobytes() == whole
    out = np.full(len(whole) + 5, 0xAA, np.uint8)
    assert archive.read_batch(keys, out=out).data.tobytes() == whole
    assert out[len(whole) :].tolist() == [0xAA] * 5
    assert archive.submit(keys).result().data.tobytes() == whole
    rows, lengths = archive.read_padded(keys)
    assert lengths.tolist() == list(map(len, expected))
    assert [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)] == expected
    assert not any(row[n:].any() for row, n in zip(rows, lengths, strict=True))
    assert archive.select(keys).read_many(range(len(keys))) == expected


# Every way to read, every kind of archive


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("limit", [64 << 10, 1 << 20])
def test_every_way_to_read(path: Path, policy: Any, limit: int, shared: bool) -> None:
    chance = random.Random(1)
    with Cache(limit, policy=policy, shared=shared) as cache, archivestream.open(path, cache=cache) as archive:
        assert archive.cache is cache
        for _ in range(20):
            keys = [chance.randrange(N) for _ in range(chance.choice([1, 2, 30]))]  # with duplicates
            read_every_way(archive, keys, [MEMBERS[key] for key in keys])
            assert 0 < cache.stats.bytes <= limit
        assert archive.read_many([]) == []
        assert cache.stats.hits > cache.stats.members > 0
        assert archive.verify().ok


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("zst", "gz")])
def test_every_kind_of_archive(kind: str, shared: bool) -> None:
    if "gz" in kind:
        pytest.importorskip("rapidgzip")
    members = make_members([0, 10, 5000, 70_000, 300, 12_345])
    data = MAKERS[kind](members)
    expected = list(members.values())
    for source in (data, io.BytesIO(data)):
        with Cache(1 << 20, shared=shared) as cache, archivestream.open(source, cache=cache) as archive:
            for _ in range(2):
                read_every_way(archive, list(range(6)), expected)
            assert cache.stats.members == 6
            assert cache.stats.misses == 6


def test_methods_that_python_decodes(shared: bool) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for i in range(8):
            writer.writestr(f"m{i}", MEMBERS[i + 10], (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED)[i % 3])
    for source in (file.getvalue(), file):
        with archivestream.open(source, cache=Cache(1 << 20, shared=shared)) as archive:
            for _ in range(2):
                read_every_way(archive, list(range(8)), MEMBERS[10:18])
            assert archive.cache is not None
            assert archive.cache.stats.misses == 8


def test_sparse_members(shared: bool) -> None:
    pax = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "9000", "GNU.sparse.map": "10,4,8000,3"}
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as writer:
        info = tarfile.TarInfo("sparse")
        info.size, info.pax_headers = 7, pax
        writer.addfile(info, io.BytesIO(b"abcdefg"))
    expected = bytes(10) + b"abcd" + bytes(7986) + b"efg" + bytes(997)
    with archivestream.open(file.getvalue(), cache=Cache(1 << 20, shared=shared)) as archive:
        for _ in range(2):
            read_every_way(archive, [0], [expected])


def npy_zip(arrays: list[np.ndarray[Any, Any]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        for i, array in enumerate(arrays):
            one = io.BytesIO()
            np.save(one, array)
            writer.writestr(f"a{i}.npy", one.getvalue())
    return file.getvalue()


@pytest.mark.parametrize("limit", [70_000, 1 << 20])
def test_arrays(limit: int, shared: bool) -> None:
    chance = np.random.default_rng(1)
    arrays = [chance.integers(0, 9, (20, 30), np.int32) for _ in range(50)]
    arrays[7] = np.asfortranarray(arrays[7])  # its header is another
    with archivestream.open(npy_zip(arrays), cache=Cache(limit, shared=shared)) as archive:
        for _ in range(6):
            keys = chance.integers(0, 50, 20)
            assert (archive.read_arrays(keys) == np.stack([arrays[key] for key in keys])).all()
        assert archive.cache is not None
        assert archive.cache.stats.hits > 0


# The limit, and the policies


def test_what_is_counted_is_what_there_is(path: Path) -> None:
    # The objects as Python counts them, and for each no more than 100 bytes besides.
    with archivestream.open(path, cache=Cache(1 << 30)) as archive:
        objects = archive.read_many(range(N))
        assert archive.cache is not None
        least = sum(map(sys.getsizeof, objects))
        assert least + 40 * N <= archive.cache.stats.bytes <= least + 100 * N


def test_a_hit_is_the_object_itself(path: Path) -> None:
    with archivestream.open(path, cache=Cache(1 << 20)) as archive:
        first = archive[5]
        assert archive[5] is first
        assert archive["m5"] is first
        assert archive.read_many([4, 5])[1] is first
        assert archive.select(["m5"])[0] is first


def test_keep_keeps_and_lru_drops(path: Path) -> None:
    order = [3, 4, 5, 6]  # of 2,100 bytes and more each
    room = sum(sys.getsizeof(MEMBERS[i]) + 48 for i in order[:3]) + 512
    with archivestream.open(path, cache=Cache(room, policy="keep")) as archive:
        first = [archive[i] for i in order[:3]]
        for _ in range(3):
            archive[6]
            assert [archive[i] for i in order[:3]] == first
        assert archive.cache is not None
        stats = archive.cache.stats
        assert (stats.members, stats.evictions, stats.hits, stats.misses) == (3, 0, 9, 6)
    with archivestream.open(path, cache=Cache(room, policy="lru")) as archive:
        assert archive.cache is not None
        archive[3], archive[4]
        archive[3]
        assert archive[5]
        archive[6]  # 4 goes, and may be more: 6 is larger
        before = archive.cache.stats
        assert before.evictions >= 1
        archive[6]
        assert archive.cache.stats.hits == before.hits + 1
        archive[4]
        assert archive.cache.stats.misses == before.misses + 1


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_too_large_drops_nothing(policy: Any, shared: bool) -> None:
    members = [b"small" * 100, bytes(200_000), b"other" * 100]
    data = zip_of({str(i): one for i, one in enumerate(members)})
    with Cache(100_000, policy=policy, shared=shared) as cache, archivestream.open(data, cache=cache) as archive:
        for _ in range(3):
            assert archive.read_many(range(3)) == members
            assert [archive[i] for i in range(3)] == members
        assert cache.stats.members == 2
        assert cache.stats.evictions == 0


@pytest.mark.parametrize(("policy", "least", "most"), [("keep", 0.48, 0.5), ("lru", 0, 0.4)])
def test_hit_rate_of_shuffled_epochs(policy: Any, least: float, most: float, shared: bool) -> None:
    chance = random.Random(3)
    members = [chance.randbytes(10_000) for _ in range(400)]
    cache = Cache(sum(map(len, members)) // 2, policy=policy, shared=shared)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for i, one in enumerate(members):
            writer.writestr(str(i), one)
    with cache, archivestream.open(file.getvalue(), cache=cache) as archive:
        for epoch in range(4):
            before = cache.stats
            order = np.random.default_rng(epoch).permutation(400)
            for batch in np.split(order, 25):
                archive.read_batch(batch)
            now = cache.stats
            assert now.hits + now.misses - before.hits - before.misses == 400
            if epoch:
                assert least <= (now.hits - before.hits) / 400 <= most


class Store(RuleBasedStateMachine):
    """A store against a dictionary: what it holds is right, in the right order, and never too much."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 3000
        self.lru = False
        self.begin()

    def begin(self) -> None:
        self.store = MemberStore(self.limit, self.lru)
        self.views = [MemberView(self.store, bytes([i]) * 16) for i in range(2)]
        self.model: dict[tuple[int, int], bytes] = {}  # the least recently used first

    @precondition(lambda self: not self.model)
    @rule(limit=st.integers(0, 6000), lru=st.booleans())
    def anew(self, limit: int, lru: bool) -> None:
        self.limit, self.lru = limit, lru
        self.begin()

    @rule(archive=st.integers(0, 1), row=st.integers(0, 30))
    def get(self, archive: int, row: int) -> None:
        assert self.views[archive].get(row) == self.model.get((archive, row))
        self.use(archive, row)

    def use(self, archive: int, row: int) -> None:
        if (archive, row) in self.model:
            self.model[archive, row] = self.model.pop((archive, row))

    @rule(archive=st.integers(0, 1), rows=st.lists(st.integers(0, 30), max_size=5), size=st.integers(0, 900))
    def put(self, archive: int, rows: list[int], size: int) -> None:
        sizes = np.full(len(rows), size, np.uint64)
        with self.views[archive].claim(np.array(rows, np.int64), sizes) as claim:
            own = [rows[i] for i in claim.own]
            for i in claim.others:
                self.use(archive, rows[i])
            data = [bytes([row]) * size for row in own]
            if size % 2:
                claim.keep(data)
            else:
                memory = np.frombuffer(b"".join(data) or b"\0", np.uint8)
                claim.store_from(memory, np.arange(len(own)) * size, np.full(len(own), size, np.uint64))
        before = self.store.statistics()
        for row, one in zip(own, data, strict=True):
            self.model[archive, row] = one
        # What was dropped went in order, or is what did not fit.
        gone = [key for key in self.model if self.views[key[0]].get(key[1]) is None]
        new = {(archive, row) for row in own}
        old = [key for key in self.model if key not in new]
        gone_of_old = [key for key in gone if key not in new]
        assert gone_of_old == (old[: len(gone_of_old)] if self.lru else [])
        for key in gone:
            del self.model[key]
        assert before[4] == len(self.model)

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @invariant()
    def holds_no_more_than_it_may(self) -> None:
        _, _, held, evictions, members = self.store.statistics()
        assert held <= self.limit
        assert sum(map(sys.getsizeof, self.model.values())) + 40 * members <= held or not members
        assert members == len(self.model)
        assert self.lru or evictions == 0


Store.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestStore = Store.TestCase


# Single flight


@pytest.mark.parametrize("way", ["read", "read_many", "read_batch"])
def test_a_member_that_many_want_is_read_once(way: str, shared: bool) -> None:
    source = Counting(zip_of({f"m{i}": data for i, data in enumerate(MEMBERS)}))
    with Cache(1 << 20, shared=shared) as cache, archivestream.open(source, cache=cache, threads=1) as archive:
        archive[0]
        before = source.reads
        archive[1]
        each = source.reads - before  # reads of the file for one member
        barrier = threading.Barrier(8)

        def read(seed: int) -> None:
            keys = random.Random(seed).sample(range(2, N), N - 2)
            barrier.wait()
            if way == "read":
                assert [archive[key] for key in keys] == [MEMBERS[key] for key in keys]
            elif way == "read_many":
                assert archive.read_many(keys) == [MEMBERS[key] for key in keys]
            else:
                assert archive.read_batch(keys).data.tobytes() == b"".join(MEMBERS[key] for key in keys)

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(read, seed) for seed in range(8)]:
                future.result(60)
        assert source.reads - before == each * (N - 1)
        assert cache.stats.misses == N


def test_errors_are_not_kept_and_nobody_hangs(path: Path, shared: bool) -> None:
    data = bytearray(path.read_bytes())
    with archivestream.open(path) as good:
        info = good.info(5)
    data[info.offset + 30 + len(info.name) + info.compressed_size // 2] ^= 0x10
    with archivestream.open(bytes(data), cache=Cache(1 << 20, shared=shared), threads=2) as archive:
        assert archive.cache is not None

        def read(_: int) -> None:
            for keys in ([5], [4, 5, 6], [5, 5]):
                with pytest.raises(CorruptArchiveError, match="m5"):
                    archive.read_many(keys)
                with pytest.raises(CorruptArchiveError, match="m5"):
                    archive.read_batch(keys)
            with pytest.raises(CorruptArchiveError, match="m5"):
                archive[5]
            errors: dict[int, Exception] = {}
            found = archive.read_many([3, 5, 4, 5], errors=errors)
            assert (found[0], found[2], set(errors)) == (MEMBERS[3], MEMBERS[4], {1, 3})
            errors.clear()
            rows, lengths = archive.read_padded([5, 3], errors=errors)
            assert (lengths.tolist(), set(errors)) == ([0, len(MEMBERS[3])], {0})
            assert not rows[0].any()

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(read, seed) for seed in range(8)]:
                future.result(60)
        assert archive.cache.stats.members in (2, 3)  # 6, where another was reading 5
        assert archive[3] == MEMBERS[3]


def test_threads_that_read_and_clear(path: Path, shared: bool) -> None:
    with Cache(90_000, policy="lru", shared=shared) as cache, archivestream.open(path, cache=cache) as archive:
        stop = threading.Event()

        def clear() -> None:
            while not stop.wait(0.001):
                cache.clear()
                assert cache.stats.bytes <= 90_000

        def read(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(40):
                keys = [chance.randrange(N) for _ in range(10)]
                read_every_way(archive, keys, [MEMBERS[key] for key in keys])

        with ThreadPoolExecutor(9) as pool:
            clearing = pool.submit(clear)
            try:
                for future in [pool.submit(read, seed) for seed in range(8)]:
                    future.result(60)
            finally:
                stop.set()
            clearing.result(60)


# Which archives share what


def test_archives_share_a_cache(path: Path, tmp_path: Path, shared: bool) -> None:
    link = tmp_path / "link.zip"
    link.symlink_to(path)
    other = tmp_path / "other.zip"
    other.write_bytes(zip_of({f"m{i}": data[::-1] for i, data in enumerate(MEMBERS)}))
    with Cache(1 << 20, shared=shared) as cache:
        first, same, differs = (archivestream.open(one, cache=cache) for one in (path, link, other))
        assert first.read_many(range(N)) == MEMBERS
        assert same.read_many(range(N)) == MEMBERS
        assert (cache.stats.hits, cache.stats.misses) == (N, N)
        assert differs.read_many(range(N)) == [data[::-1] for data in MEMBERS]
        assert cache.stats.misses == 2 * N


def forge(data: bytes, crc32: int) -> bytes:
    """Append four bytes that give it a CRC-32: backwards through the table, by the high bytes of its entries."""
    table = [zlib.crc32(bytes([i])) ^ zlib.crc32(b"\0") for i in range(256)]
    by_high_byte = {value >> 24: i for i, value in enumerate(table)}
    wanted, steps = crc32 ^ 0xFFFFFFFF, []
    for _ in range(4):
        steps.append(by_high_byte[wanted >> 24])
        wanted = (wanted ^ table[steps[-1]]) << 8 & 0xFFFFFFFF
    state = zlib.crc32(data) ^ 0xFFFFFFFF
    for step in reversed(steps):
        data += bytes([step ^ state & 255])
        state = state >> 8 ^ table[step]
    return data


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.zst", "tar.gz"])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_one_archive_cannot_pass_for_another(tmp_path: Path, kind: str, where: str, shared: bool) -> None:
    # Names, places, sizes and CRC-32 are the same, of the ends of the files, and the time of modification.
    ends = {"0": random.Random(0).randbytes(100_000), "2": random.Random(2).randbytes(100_000)}
    good = b"label=benign; " * 100 + b"good"
    hostile = forge(b"label=hostile " * 100, zlib.crc32(good))
    with Cache(1 << 20, shared=shared) as cache:
        for number, label in enumerate((hostile, good)):
            data = MAKERS[kind]({"0": ends["0"], "1": label, "2": ends["2"]})
            opened: Any = data
            if where == "file":
                opened = tmp_path / f"{number}.{kind}"
                opened.write_bytes(data)
                os.utime(opened, ns=(1, 1))
            with archivestream.open(opened, cache=cache, index="memory") as archive:
                assert archive["1"] == label


@pytest.mark.parametrize("own", ["memory", "private"])
def test_what_a_saved_index_says_is_not_for_those_who_use_none(
    tmp_path: Path, own: Literal["memory", "private"], shared: bool
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(MAKERS["tar"]({"cat": b"meow", "dog": b"woof"}))
    with archivestream.open(path) as archive:
        assert archive["cat"] == b"meow"
    source = LocalSource(path)
    saved = sidecar.load_any(source)
    assert saved is not None
    # A sparse member, whose bytes are those of the other one: all that tells members apart is as it was.
    planted = {
        "sparse_member": np.zeros(1, np.uint32),
        "sparse_offset": np.array([0, 1], np.uint64),
        "extent_place": np.zeros(1, np.uint64),
        "extent_offset": saved.columns["offset"][1:2].copy(),
        "extent_size": saved.columns["size"][1:2].copy(),
    }
    flags = saved.columns["flags"].copy()
    flags[0] |= int(MemberFlag.SPARSE_BIT)
    sidecar.save({**saved.columns, **planted, "flags": flags}, saved.metadata, source)
    with Cache(1 << 20, shared=shared) as cache:
        with archivestream.open(path, cache=cache) as archive:
            assert archive["cat"] == b"woof"
        with archivestream.open(path, cache=cache, index=own) as archive:
            assert archive["cat"] == b"meow"
            hits = cache.stats.hits
        with archivestream.open(path, cache=cache, index=own) as archive:
            assert archive["cat"] == b"meow"
            assert cache.stats.hits > hits


def test_a_damaged_copy_that_nobody_verifies_is_not_for_others(path: Path, shared: bool) -> None:
    good = zip_of({"a": b"benign"})
    at = good.find(zlib.compress(b"benign", 6, -zlib.MAX_WBITS))
    assert at > 0
    damaged = good[:at] + zlib.compress(b"broken", 6, -zlib.MAX_WBITS) + good[at + 8 :]
    with Cache(1 << 20, shared=shared) as cache:
        for data, expected in ((damaged, b"broken"), (good, b"benign")):
            with archivestream.open(data, cache=cache, verify=False) as archive:
                assert archive["a"] == expected


def test_fingerprints_of_columns_that_run_into_each_other() -> None:
    def index(names: bytes, offset: bytes) -> Index:
        return Index({"names": names, "name_offset": bytes(8), "offset": offset}, data_end=[0])

    assert index(b"a" * 8, b"b" * 8).fingerprint() != index(b"a" * 8 + b"b" * 8, b"").fingerprint()


def test_what_was_not_verified_is_not_for_those_who_verify(path: Path, shared: bool) -> None:
    with archivestream.open(path) as archive:
        crc32 = archive.info(5).crc32
    assert crc32 is not None
    data = path.read_bytes().replace(struct.pack("<L", crc32), struct.pack("<L", crc32 ^ 1))
    with Cache(1 << 20, shared=shared) as cache:
        trusting = archivestream.open(data, cache=cache, verify=False)
        assert trusting.read_many(range(N)) == MEMBERS
        careful = archivestream.open(data, cache=cache)
        with pytest.raises(CorruptArchiveError, match="CRC-32"):
            careful[5]


def test_a_plain_tar_that_was_written_anew(tmp_path: Path) -> None:
    # Its index knows no checksums: names, places and sizes are the same.
    path = tmp_path / "a.tar"
    with Cache(1 << 20) as cache:
        for turn in (b"a", b"b"):
            path.write_bytes(MAKERS["tar"]({"x": turn * 300_000, "y": b"end" * 50_000}))
            os.utime(path, ns=(turn[0], turn[0]))
            with archivestream.open(path, cache=cache, index="memory") as archive:
                assert archive["x"] == turn * 300_000


# Lifetimes


def test_closing(path: Path, shared: bool) -> None:
    cache = Cache(1 << 20, shared=shared)
    archive = archivestream.open(path, cache=cache)
    archive.read_many(range(N))
    cache.close()
    cache.close()
    assert (cache.stats.members, cache.stats.bytes) == (0, 0)
    read_every_way(archive, [3, 4, 3], [MEMBERS[3], MEMBERS[4], MEMBERS[3]])
    assert cache.stats.members == 0
    archive.close()
    with pytest.raises(ValueError, match="closed"):
        archive[3]


def test_clearing(path: Path, shared: bool) -> None:
    with Cache(1 << 20, shared=shared) as cache, archivestream.open(path, cache=cache) as archive:
        archive.read_many(range(N))
        cache.clear()
        assert cache.stats.members == 0
        assert cache.stats.misses == N
        assert archive.read_many(range(N)) == MEMBERS
        assert cache.stats.members == N


def test_an_archive_is_dropped_with_its_cache_at_once(path: Path) -> None:
    import gc
    import weakref

    gc.disable()
    try:
        archive = archivestream.open(path, cache=Cache(1 << 20))
        archive.read_many(range(N))
        archive.submit(range(5)).result()
        alive = weakref.ref(archive.cache)
        del archive
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forks_while_threads_read(path: Path, shared: bool) -> None:
    with Cache(70_000, policy="lru", shared=shared) as cache, archivestream.open(path, cache=cache) as archive:
        stop = threading.Event()

        def read(seed: int) -> None:
            chance = random.Random(seed)
            while not stop.is_set():
                keys = [chance.randrange(N) for _ in range(10)]
                assert archive.read_many(keys) == [MEMBERS[key] for key in keys]

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(15):
                child = os.fork()
                if child == 0:
                    signal.alarm(30)
                    try:
                        read_every_way(archive, list(range(N)), MEMBERS)
                        os._exit(0)
                    finally:
                        os._exit(1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_pickle_begins_with_an_empty_cache_of_the_same_kind(path: Path) -> None:
    with archivestream.open(path, cache=Cache(12_345, policy="lru")) as archive:
        archive.read_many(range(N))
        first, second = pickle.loads(pickle.dumps((archive, archive.select([3]))))
        assert first.cache is second.cache
        assert first.cache is not archive.cache
        assert (first.cache.limit, first.cache.policy, first.cache.stats.members) == (12_345, "lru", 0)
        assert first.read_many(range(N)) == MEMBERS


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": -1}, ValueError),
        ({"limit": 1.5}, TypeError),
        ({"limit": 10, "policy": "fifo"}, ValueError),
        ({"limit": 10, "name": "x"}, ValueError),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Cache(**arguments)


@pytest.mark.parametrize("limit", [0, 1, 100, 700])
def test_a_cache_that_holds_nothing_or_next_to_it(path: Path, limit: int) -> None:
    with archivestream.open(path, cache=Cache(limit, policy="lru")) as archive:
        read_every_way(archive, list(range(N)), MEMBERS)
        assert archive.cache is not None
        assert archive.cache.stats.bytes <= limit


def test_a_claim_that_is_dropped_is_free_again() -> None:
    view = MemberView(MemberStore(1000, False), b"x" * 16)
    claim = view.claim(np.arange(2), np.full(2, 10, np.uint64))
    other = view.claim(np.arange(2), np.full(2, 10, np.uint64))
    assert (claim.own, other.own, other.others) == ([0, 1], [], [0, 1])
    waiting = threading.Thread(target=other.wait)
    waiting.start()
    del claim
    waiting.join(10)
    assert not waiting.is_alive()
    assert view.claim(np.arange(2), np.full(2, 10, np.uint64)).own == [0, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux only")
def test_without_memory_nothing_is_kept_and_nothing_lost() -> None:
    code = """
import resource, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from archivestream._native.memberstore import MemberStore
from archivestream._native.memberview import MemberView
view = MemberView(MemberStore(1 << 30, False), b"x" * 16)
data, n = np.zeros(1 << 20, np.uint8), 800
before = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
for limit in ((used + (64 << 20), before[1]), before):
    with view.claim(np.arange(n), np.full(n, 1 << 20, np.uint64)) as claim:
        starts, sizes = np.zeros(len(claim.own), np.int64), np.full(len(claim.own), 1 << 20, np.uint64)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        claim.store_from(data, starts, sizes)
        print(sum(view.get(i) is not None for i in range(n)))
"""
    command = [sys.executable, "-c", code, str(Path(archivestream.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    few, all_of_them = map(int, done.stdout.split())
    assert 0 <= few < 100
    assert all_of_them == 800  # what was reserved in vain is free again


def test_ctrl_c_reaches_one_who_waits() -> None:
    code = """
import os, signal, sys, threading, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from archivestream._native.memberstore import MemberStore
from archivestream._native.memberview import MemberView
view = MemberView(MemberStore(1000, False), b"x" * 16)
claim = view.claim(np.arange(1), np.full(1, 10, np.uint64))
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    view.claim(np.arange(1), np.full(1, 10, np.uint64)).wait()
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", code, str(Path(archivestream.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")
