"""Data sets that are written as several archives, and writing that ends before its time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packtools import content, leftovers, run, text

import archivestream
from archivestream import ShardPacker, pack, repack

PACKAGE = Path(archivestream.__file__).parents[1]


def members(count: int = 200) -> dict[str, bytes]:
    return {f"{i:04d}": content(1000 + 37 * i % 5000, i) for i in range(count)}


def read(paths: object) -> dict[str, bytes]:
    with archivestream.open(paths) as archive:  # type: ignore[arg-type]
        return dict(zip(archive.names, archive, strict=True))


# ---- how many, and how they are named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "options", "names"),
    [
        ("a-{:05d}.zip", {"shards": 3}, ["a-00000.zip", "a-00001.zip", "a-00002.zip"]),
        ("a-%02d.zip", {"shards": 2}, ["a-00.zip", "a-01.zip"]),
        ("a{}.zip", {"shards": 2}, ["a0.zip", "a1.zip"]),
        ("a-{08..10}.zip", {}, ["a-08.zip", "a-09.zip", "a-10.zip"]),
        ("a-{0..1}.zip", {"shards": 2}, ["a-0.zip", "a-1.zip"]),
    ],
)
def test_names(pattern: str, options: dict[str, int], names: list[str], tmp_path: Path) -> None:
    paths = pack(members(), tmp_path / pattern, **options)  # type: ignore[arg-type]
    assert paths == [tmp_path / name for name in names]
    assert read(paths) == members()
    if ".." in pattern:
        assert read(tmp_path / pattern) == members()
    assert read(tmp_path / "a*.zip") == members()


@pytest.mark.parametrize(
    ("pattern", "options", "message"),
    [
        ("a.zip", {"shards": 2}, "where the number of a shard stands"),
        ("a-{:05d}-{}.zip", {"shards": 2}, "once"),
        ("a-{:05d}.zip", {}, "say either"),
        ("a-{:05d}.zip", {"shards": 2, "max_shard_bytes": 10}, "say either"),
        ("a-{0..3}.zip", {"shards": 2}, "stands for 4 shards, not 2"),
        ("a-{0..3}.zip", {"max_shard_bytes": 1000}, "not known before"),
        ("a-{:05d}.zip", {"shards": 0}, "shards is from 1"),
        ("a-{:05d}.zip", {"max_shard_bytes": 0}, "max_shard_bytes is at least 1"),
        ("a-{:05d}.rar", {"shards": 2}, "suffix"),
    ],
)
def test_patterns_that_are_refused(pattern: str, options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        pack(members(), tmp_path / pattern, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# ---- what goes where ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar.zst", "tar"])
def test_shards_are_balanced(suffix: str, tmp_path: Path) -> None:
    paths = pack(iter(members().items()), tmp_path / f"a-{{:02d}}.{suffix}", shards=7, threads=2)
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) - min(sizes) < 15_000
    again = pack(iter(members().items()), tmp_path / f"b-{{:02d}}.{suffix}", shards=7, threads=1)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    if suffix == "zip":
        assert read(paths) == members()


def test_the_order_of_an_archive_stays(tmp_path: Path) -> None:
    (whole,) = pack(members(), tmp_path / "a.zip")
    paths = repack(whole, tmp_path / "b-{0..6}.zip")
    sizes = [path.stat().st_size for path in paths]
    assert max(sizes) - min(sizes) < 15_000
    with archivestream.open(tmp_path / "b-{0..6}.zip") as archive:
        assert archive.namelist() == list(members())
        assert list(archive) == list(members().values())


@pytest.mark.parametrize("suffix", ["zip", "tar.zst", "tar"])
@pytest.mark.parametrize("limit", [20_000, 100_000])
def test_a_bound_on_the_size(suffix: str, limit: int, tmp_path: Path) -> None:
    everything = {**members(), "large": content(150_000), "text": text(150_000)}
    paths = pack(everything, tmp_path / f"a-{{:03d}}.{suffix}", max_shard_bytes=limit)
    names = []
    for path in paths:
        inside = run(*(["unzip", "-Z1"] if suffix == "zip" else ["tar", "-tf"]), path).stdout.decode().split()
        assert path.stat().st_size <= limit or inside in (["large"], ["text"])
        names += inside
    assert names == list(everything)
    assert sum(path.stat().st_size > 0.65 * limit for path in paths) >= len(paths) - 4
    if suffix == "zip":
        with archivestream.open(paths) as archive:
            assert archive.namelist() == list(everything)
        assert read(tmp_path / "a-*.zip") == everything


def test_more_shards_than_members(tmp_path: Path) -> None:
    paths = pack({"a": b"1"}, tmp_path / "a-{:d}.zip", shards=3)
    assert [len(zipfile.ZipFile(path).namelist()) for path in paths] == [1, 0, 0]
    assert pack({}, tmp_path / "b-{:d}.zip", max_shard_bytes=1000) == [tmp_path / "b-0.zip"]


def test_large_members(tmp_path: Path) -> None:
    data = {f"{i}": content(9 << 20, i) for i in range(3)}
    for name, options in (("a-{}.zip", {"max_shard_bytes": 19 << 20}), ("b-{}.zip", {"shards": 2})):
        paths = pack(data, tmp_path / name, **options)  # type: ignore[arg-type]
        assert [len(zipfile.ZipFile(path).namelist()) for path in paths] == [2, 1]
        assert read(paths) == data


def test_packer(tmp_path: Path) -> None:
    with ShardPacker(tmp_path / "a-{:02d}.zip", shards=2, method="stored", align=64) as packer:
        for name, data in members().items():
            packer.add(name, data)
        assert [path for path in tmp_path.iterdir() if path.suffix == ".zip"] == []
    assert packer.paths == [tmp_path / "a-00.zip", tmp_path / "a-01.zip"]
    assert read(packer.paths) == members()
    with pytest.raises(ValueError, match="frame_size is no option of zip"):
        ShardPacker(tmp_path / "b-{:02d}.zip", shards=2, frame_size=65536)


FEW_DESCRIPTORS = """
import resource, sys
from archivestream import pack, repack
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
print(len(repack("a.zip", "b-{:03d}.zip", shards=150)))
print(len(pack(((f"{i:04d}", bytes(5000)) for i in range(200)), "c-{:03d}.zip", method="stored", max_shard_bytes=7000)))
"""


def test_many_shards_need_few_descriptors(tmp_path: Path) -> None:
    pack(members(), tmp_path / "a.zip")
    root = str(Path(archivestream.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout.split() == ["150", "200"], done.stderr
    assert leftovers(tmp_path) == []


# ---- all or nothing -------------------------------------------------------------------------------------------------


def test_one_that_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "a-2.zip").write_bytes(b"precious")
    for options in ({"shards": 4}, {"max_shard_bytes": 50_000}):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            pack(members(), tmp_path / "a-{}.zip", **options)  # type: ignore[arg-type]
        assert [path.name for path in tmp_path.iterdir()] == ["a-2.zip"]
    pack(members(), tmp_path / "a-{}.zip", shards=4, overwrite=True)
    assert read(tmp_path / "a-{0..3}.zip") == members()


def test_one_that_comes_to_be_there_meanwhile(tmp_path: Path) -> None:
    packer = ShardPacker(tmp_path / "a-{}.zip", shards=4)
    for name, data in members().items():
        packer.add(name, data)
    (tmp_path / "a-2.zip").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        packer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a-2.zip"]


SCRIPT = """
import sys, os, random
import archivestream
def members():
    for i in range(2000):
        if i == 100:
            print("under way", flush=True)
        yield str(i), random.Random(i).randbytes(200_000)
archivestream.pack(members(), sys.argv[1], **eval(sys.argv[2]))
"""


def start(target: Path, options: str, **more: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, "-c", SCRIPT, str(target), options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("target", "options"),
    [("a.zip", "{}"), ("a.tar.zst", "{}"), ("a-{}.zip", "{'shards': 3}"), ("a-{}.tar", "{'max_shard_bytes': 10**7}")],
)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed(target: str, options: str, end: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path / target, options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"under way\n"
        time.sleep(0.05)
        process.send_signal(end)
        assert process.wait(60) != 0
    left = list(tmp_path.iterdir())
    assert all(path.name.startswith(".") for path in left)  # nothing under a final name
    if end == signal.SIGINT:
        assert left == []
    paths = pack(members(), tmp_path / target, **eval(options))  # and the next run succeeds
    assert all(path.stat().st_size for path in paths)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("a.zip", "{}"),
        ("a.tar.zst", "{}"),
        ("a-{}.zip", "{'shards': 3}"),
        ("b-{}.zip", "{'shards': 3, 'method': 'stored'}"),
    ],
)
def test_a_file_that_may_not_grow(target: str, options: str, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))

    with start(tmp_path / target, options, preexec_fn=limit) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1].startswith("OSError: [Errno 27] File too large:")
    assert target.split("{")[0] in errors.decode().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(tmp_path: Path) -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", tmp_path], check=False).returncode
    ):
        pytest.skip("no file system can be mounted")
    try:
        for target in ("a.zip", "a.tar.zst", "a.tar"):
            with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / target}'"):
                pack(((str(i), content(50_000, i)) for i in range(1000)), tmp_path / target)
            assert list(tmp_path.iterdir()) == []
            with pytest.raises(OSError, match="No space left"):
                pack({"large": content(20 << 20)}, tmp_path / target)
            assert list(tmp_path.iterdir()) == []
        assert read(pack(members(), tmp_path / "a.zip")) == members()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


MEMORY = """
import resource, sys
import archivestream
archivestream.pack({}, sys.argv[2] + ".warm.zip")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archivestream.pack(sys.argv[1], sys.argv[2], threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("target", ["a.zip", "a.tar.zst"])
@pytest.mark.parametrize("sizes", [[400 << 20], [7 << 20] * 60, [100_000] * 4000], ids=["one", "some", "many"])
def test_memory_does_not_grow_with_the_input(target: str, sizes: list[int], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    block = text(1 << 16)
    for i, size in enumerate(sizes):
        with open(tmp_path / f"in/{i}", "wb") as file:
            file.write(block[: size // 2])
            file.truncate(size)  # the rest is a hole
    command = [sys.executable, "-c", MEMORY, tmp_path / "in", tmp_path / target]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(PACKAGE)}, capture_output=True, check=True)
    assert int(done.stdout) < 130 << 10  # KiB; the input is three times as large
