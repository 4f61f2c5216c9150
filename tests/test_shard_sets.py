"""Sets of shards: records from an iterable, shards that are appended, and what an interrupted write leaves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packtools import has_unnamed_files, leftovers

import archivestream
from archivestream import ArchiveWarning, ShardPacker, pack, repack
from archivestream._native import storing

PACKAGE = Path(archivestream.__file__).parents[1]


def records(count: int = 300, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(3000)) for _ in range(count)]


def by_number(archive: archivestream.Archive) -> list[bytes]:
    return [archive[f"{i:012d}"] for i in range(len(archive))]


# ---- records ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.zst"])
@pytest.mark.parametrize("method", [None, "stored"])
def test_a_list_keeps_its_order(suffix: str, method: Any, tmp_path: Path) -> None:
    if method and suffix != "zip":
        pytest.skip("methods are those of ZIP")
    paths = pack(records(), tmp_path / f"part-{{:05d}}.{suffix}", shards=7, method=method)
    assert [path.name for path in paths] == [f"part-{i:05d}.{suffix}" for i in range(7)]
    sizes = [path.stat().st_size for path in paths]
    assert suffix == "tar.zst" or max(sizes) - min(sizes) < 12_000
    with archivestream.open(tmp_path / f"part-{{:05d}}.{suffix}") as archive:
        assert list(archive) == records()
        assert list(archive.names) == [f"{i:012d}" for i in range(300)]
        order = random.Random(3).sample(range(300), 300)
        assert archive.read_many(order) == [records()[i] for i in order]


def test_what_can_be_read_once_is_spread(tmp_path: Path) -> None:
    paths = pack(iter(records()), tmp_path / "part-%03d.zip", shards=7, method="stored")
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) - min(sizes) < 8_000
    with archivestream.open(tmp_path / "part-%03d.zip") as archive:
        assert by_number(archive) == records()
        assert len({archive.origin(f"{i:012d}") for i in range(20)}) == 7


@pytest.mark.parametrize("threads", [1, 3])
def test_stored_records_are_plain_zip(threads: int, tmp_path: Path) -> None:
    """Written many at a time, they are what other programs read, and the same whatever the number of threads."""
    everything = [*records(), b"", bytes(9 << 20), b"x"]
    pack(everything, tmp_path / "a.zip", method="stored", threads=threads)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert [archive.read(info) for info in archive.infolist()] == everything
        assert {info.external_attr for info in archive.infolist()} == {0o100644 << 16}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with archivestream.open(tmp_path / "a.zip", strict=True) as archive:
        assert archive.verify().ok
    pack(iter(everything), tmp_path / "b.zip", method="stored", threads=2)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_stored_members_that_need_more_than_plain_headers(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"with a time")
    with archivestream.ZipPacker(tmp_path / "a.zip", method="stored") as packer:
        packer.add("plain", b"1")
        packer.add("naïve", b"2")
        packer.add("folder/", b"", mode=0o700)
        packer.add_file("file", tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert [info.filename for info in archive.infolist()] == ["plain", "naïve", "folder/", "file"]
        assert archive.infolist()[2].external_attr == 0o40700 << 16 | 0x10
        assert archive.infolist()[3].date_time[0] > 2020


def test_stored_members_behind_4_gib(tmp_path: Path) -> None:
    """Offsets go on in ZIP64 fields within one run of small members."""
    small = {f"{i:04d}": bytes([i]) * 100 for i in range(64)}
    packer = archivestream.ZipPacker(tmp_path / "a.zip", method="stored")
    file = packer._writers[0].file
    file.size = (4 << 30) - 2000  # a hole, as if that had been written
    file.patch(0, b"\0")
    for name, data in small.items():
        packer.add(name, data)
    packer.close()
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert dict(zip(archive.names, archive, strict=True)) == small
    with zipfile.ZipFile(tmp_path / "a.zip") as peer:
        assert {name: peer.read(name) for name in small} == small
        assert peer.infolist()[0].header_offset == (4 << 30) - 2000
        assert peer.infolist()[63].header_offset > 4 << 30


@pytest.mark.parametrize("wrong", ["data", "directory", "crcs", "times", "names"])
def test_native_memory_is_as_large_as_it_must_be(wrong: str) -> None:
    arguments: dict[str, Any] = {
        "names": [b"a", b"bc"],
        "contents": [memoryview(b"12345"), memoryview(b"")],
        "times": np.zeros(2, np.uint32),
        "attributes": np.zeros(2, np.uint32),
        "data": np.zeros(2 * 30 + 3 + 5, np.uint8),
        "directory": np.zeros(2 * 46 + 3, np.uint8),
        "crcs": np.zeros(2, np.uint32),
    }
    storing.store(*arguments.values())
    assert arguments["data"][31:36].tobytes() == b"12345"
    assert arguments["crcs"].tolist() == [zlib.crc32(b"12345"), 0]
    before = arguments["directory"].copy()
    assert not storing.move(arguments["directory"], (1 << 32) - 2)
    assert (arguments["directory"] == before).all()
    assert storing.move(arguments["directory"], 7)
    assert int.from_bytes(arguments["directory"][42:46].tobytes(), "little") == 7
    arguments[wrong] = arguments[wrong][:-1]
    with pytest.raises(ValueError, match=r"as large as|as many"):
        storing.store(*arguments.values())


def test_arrays_and_what_makes_them(tmp_path: Path) -> None:
    arrays = [np.full((2, 3), i) for i in range(40)]
    pack(arrays, tmp_path / "a.zip")
    pack((lambda i=i: arrays[i] for i in range(40)), tmp_path / "b.zip", n_jobs=4)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.names[39] == "000000000039.npy"
        np.testing.assert_array_equal(archive.read_arrays(range(40)), arrays)


def test_a_sample_that_fails(tmp_path: Path) -> None:
    def sample(i: int) -> bytes:
        if i == 30:
            raise RuntimeError("no such image")
        return bytes([i])

    samples = (lambda i=i: sample(i) for i in range(60))
    with pytest.raises(RuntimeError, match="no such image"):
        pack(samples, tmp_path / "part-{}.zip", shards=3, n_jobs=3)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="n_jobs is for samples"):
        pack(str(tmp_path), "/tmp/never.zip", n_jobs=2)
    with pytest.raises(ValueError, match="threads"):
        pack([b"1"], tmp_path / "a.zip", n_jobs=0)


# ---- shuffle ------------------------------------------------------------------------------------------------------


def test_shuffle_by_seed(tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(records(), tmp_path / f"{name}-{{}}.zip", shards=5, shuffle=seed)
        with archivestream.open(tmp_path / f"{name}-{{}}.zip") as archive:
            assert by_number(archive) == records()
            orders.append(list(archive.names))
    assert orders[0] == orders[1] != orders[2] != sorted(orders[2])
    shards = repack(tmp_path / "a-{}.zip", tmp_path / "d-{}.zip", shards=5, shuffle=3)  # of an archive, too
    with archivestream.open(shards) as archive:
        assert by_number(archive) == records()
        assert list(archive.names) not in orders


def test_shuffle_of_what_can_be_read_once(tmp_path: Path) -> None:
    """Each so many records are dealt out anew, one to each shard."""
    shards_of = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(iter(records()), tmp_path / f"{name}-{{}}.zip", shards=5, shuffle=seed)
        with archivestream.open(tmp_path / f"{name}-{{}}.zip") as archive:
            assert by_number(archive) == records()
            found = [archive.origin(f"{i:012d}")[-5] for i in range(300)]
        assert all(set(found[i : i + 5]) == set("01234") for i in range(0, 300, 5))
        shards_of.append(found)
    assert shards_of[0] == shards_of[1] != shards_of[2]
    assert len({tuple(shards_of[0][i : i + 5]) for i in range(0, 300, 5)}) > 20
    with pytest.raises(ValueError, match="needs shards="):
        pack(iter(records()), tmp_path / "d.zip", shuffle=1)
    with pytest.raises(ValueError, match="say how many"):
        ShardPacker(tmp_path / "d-{}.zip", max_shard_bytes=1000, shuffle=1)


# ---- appending ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("more", [{"shards": 3}, {"max_shard_bytes": 60_000}])
def test_append(suffix: str, more: dict[str, int], tmp_path: Path) -> None:
    pattern = tmp_path / f"part-{{:03d}}.{suffix}"
    first = pack(records(100, 1), pattern, shards=4, append=True)  # to nothing: it begins
    second = pack(iter(records(80, 2)), pattern, append=True, **more)  # type: ignore[arg-type]
    third = pack([(f"named {i}", data) for i, data in enumerate(records(20, 3))], pattern, shards=1, append=True)
    assert [path.name for path in [*first, *second, *third]] == [
        f"part-{i:03d}.{suffix}" for i in range(5 + len(second))
    ]
    with archivestream.open(pattern) as archive:
        assert len(archive) == 200
        assert list(archive)[:100] == records(100, 1)
        assert [archive[f"{100 + i:012d}"] for i in range(80)] == records(80, 2)
        assert [archive[f"named {i}"] for i in range(20)] == records(20, 3)


def test_append_refuses_names_that_are_there(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    pack({"a": b"1", "b": b"2"}, pattern, shards=2)
    with pytest.raises(ValueError, match="two members with the name 'b'"):
        pack([("c", b"3"), ("b", b"4")], pattern, shards=1, append=True)
    assert sorted(os.listdir(tmp_path)) == ["part-0.zip", "part-1.zip"]
    for target in ("a.zip", "a-{0..3}.zip"):
        with pytest.raises(ValueError, match="append"):
            pack([b"1"], tmp_path / target, append=True)


def test_an_exception_leaves_the_set_as_it_was(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    pack(records(50), pattern, shards=2)

    def failing() -> Any:
        yield from records(50)
        raise RuntimeError("the source has failed")

    with pytest.raises(RuntimeError, match="has failed"):
        pack(failing(), pattern, shards=2, append=True)
    assert sorted(os.listdir(tmp_path)) == ["part-0.zip", "part-1.zip"]
    with archivestream.open(pattern) as archive:
        assert list(archive) == records(50)


# A process that ends before a shard gets its name, as if it had been killed there.
KILLED = """
import os, signal, sys
import archivestream
pattern, before, options = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
rename = {name: getattr(os, name) for name in ("link", "replace")}
count = 0
def counted(name):
    def call(source, target, **options):
        global count
        if count == before:
            os.kill(os.getpid(), signal.SIGKILL)
        rename[name](source, target, **options)
        count += not os.path.basename(target).startswith(".")
    return call
os.link, os.replace = counted("link"), counted("replace")
archivestream.pack([bytes([i]) * 100 for i in range(60)], pattern, shards=4, **options)
"""


def run_killed(pattern: Path, before: int, options: dict[str, Any]) -> int:
    command = [sys.executable, "-c", KILLED, str(pattern), str(before), str(options)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, timeout=60, check=False).returncode


def test_killed_while_shards_get_their_names(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    pack(records(30), pattern, shards=2)
    for renamed in range(4):
        assert run_killed(pattern, renamed, {"append": True, "overwrite": True}) == -signal.SIGKILL
        behind = sorted(path.name for path in tmp_path.glob("part-*"))[2:]
        assert behind == [f"part-{i}.zip" for i in range(6 - renamed, 6)]
        if not renamed:
            with archivestream.open(pattern) as archive:
                assert list(archive) == records(30)
            continue
        with pytest.warns(ArchiveWarning, match=r"part-2\.zip is not there, and .*part-\d\.zip is"):
            archive = archivestream.open(pattern)
        assert list(archive) == records(30)  # as it was
        with pytest.raises(FileExistsError, match="interrupted write"):
            pack([b"1"], pattern, shards=1, append=True)
    assert run_killed(pattern, 99, {"append": True, "overwrite": True}) == 0  # and the next one clears that away
    with archivestream.open(pattern) as archive:
        assert list(archive) == [*records(30), *(bytes([i]) * 100 for i in range(60))]


def test_killed_while_a_new_set_gets_its_names(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    assert run_killed(pattern, 2, {}) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="no file fits the pattern"):
        archivestream.open(pattern)


def test_killed_while_records_are_written(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    pack(records(30), pattern, shards=2)
    script = (
        "import archivestream, os, signal, sys\n"
        "def records():\n"
        "    yield from [bytes(10000)] * 8000\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "archivestream.pack(records(), sys.argv[1], shards=4, method='stored', append=True)"
    )
    command = [sys.executable, "-c", script, str(pattern)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert bool(leftovers(tmp_path)) != has_unnamed_files(tmp_path)
    with archivestream.open(pattern) as archive:
        assert list(archive) == records(30)
    pack(records(20, 5), pattern, shards=2, append=True)
    with archivestream.open(pattern) as archive:
        assert len(archive) == 50


# ---- overwriting, and gaps ----------------------------------------------------------------------------------------


def test_a_smaller_set_over_a_larger_one(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{}.zip"
    pack(records(90), pattern, shards=9)
    (tmp_path / "part-x.zip").write_bytes(b"another file")
    with pytest.raises(FileExistsError):
        pack(records(10), pattern, shards=3)
    pack(records(10), pattern, shards=3, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["part-0.zip", "part-1.zip", "part-2.zip", "part-x.zip"]
    with archivestream.open(pattern) as archive:
        assert list(archive) == records(10)


def test_a_shard_that_was_lost(tmp_path: Path) -> None:
    pattern = tmp_path / "part-{:02d}.zip"
    pack(records(90), pattern, shards=9)
    (tmp_path / "part-04.zip").unlink()
    with pytest.warns(ArchiveWarning, match=r"part-04\.zip is not there, and .*part-05\.zip is"):
        archive = archivestream.open(pattern)
    assert list(archive) == records(90)[: len(archive)]
    assert archive.origin(-1).endswith("part-03.zip")


def test_a_file_of_exactly_that_name_comes_first(tmp_path: Path) -> None:
    pack({"a": b"1"}, tmp_path / "100%d.zip", format="zip", max_shard_bytes=1 << 20)
    (tmp_path / "1000.zip").rename(tmp_path / "100%d.zip")
    with archivestream.open(tmp_path / "100%d.zip") as archive:
        assert archive["a"] == b"1"


def test_shards_in_order_of_what_is_compressed_together(tmp_path: Path) -> None:
    """The last frame of a shard is written before the next shard begins."""
    pack(records(), tmp_path / "a.zip")
    repack(tmp_path / "a.zip", tmp_path / "b-{0..4}.tar.zst", frame_size=65536)
    with archivestream.open(tmp_path / "b-{0..4}.tar.zst") as archive:
        assert list(archive) == records()


# ---- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar.zst"])
def test_block_order_reads_few_shards_at_a_time(suffix: str, tmp_path: Path) -> None:
    """A window holds runs of a few shards: nearly sequential reads, and every record once an epoch."""
    everything = [i.to_bytes(4, "little") * 5000 for i in range(512)]  # 20 KB each; 640 KB a shard
    pack(iter(everything), tmp_path / f"part-{{:02d}}.{suffix}", shards=16)
    with archivestream.open(tmp_path / f"part-{{:02d}}.{suffix}", cache=0) as archive:
        sampler = archivestream.ArchiveSampler(archive, shuffle="block", seed=3, window=1 << 21)
        epochs = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            order = list(sampler)
            assert sorted(order) == list(range(512))
            shards = [archive.origin(i) for i in order]
            assert np.mean([len(set(shards[i : i + 32])) for i in range(0, 512, 32)]) <= 8  # of 14 at random
            assert Counter(shards) == dict.fromkeys(shards, 32)
            epochs.append(order)
        assert epochs[0] != epochs[1]
