"""Limits: what an archive may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tarmaker as make
import zstandard

import archivestream
from archivestream import Limits
from archivestream.index import Index

PARTS = [os.urandom(50_000), b"text " * 20_000, b"small"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        for i, (data, method) in enumerate(zip(PARTS, (0, 8, 8), strict=True)):
            writer.writestr(str(i), data, method)
    return tmp_path / "a.zip"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(max_members=2), "max_members"),
        (Limits(max_index_bytes=50), "max_index_bytes"),
    ],
)
def test_limits_of_an_archive(path: Path, limits: Limits, says: str) -> None:
    with pytest.raises(archivestream.LimitExceededError, match=says):
        archivestream.open(path, limits=limits)


def test_limits_of_a_member(path: Path) -> None:
    with archivestream.open(path, limits=Limits(max_member_bytes=60_000)) as archive:
        assert archive[0] == PARTS[0]
        for read in (lambda: archive[1], lambda: archive.read_batch([0, 1]), lambda: archive.submit([1])):
            with pytest.raises(archivestream.LimitExceededError, match="'1'"):
                read()


HUGE = """
import resource, struct, sys, zlib
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import archivestream
packed = zlib.compress(bytes(99))[2:-4]
def member(method, size):
    local = struct.pack("<4s5H3L2H", b"PK\\3\\4", 45, 0, method, 0, 33, 0, len(packed), 0, 1, 0) + b"a" + packed
    extra = struct.pack("<HHQ", 1, 8, size)
    central = struct.pack("<4s6H3L5H2L", b"PK\\1\\2", 45, 45, 0, method, 0, 33, 0, len(packed), 0xFFFFFFFF, 1,
                          len(extra), 0, 0, 0, 0, 0) + b"a" + extra
    return local + central + struct.pack("<4s4H2LH", b"PK\\5\\6", 0, 0, 1, 1, len(central), len(local), 0)
for method in (0, 8, 12, 14, 93, 95):
    for size in (1 << 34, (1 << 34) + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        archive = archivestream.open(member(method, size))
        for read in (archive.read, lambda i: archive.read_many([i]), lambda i: archive.read_batch([i] * 9),
                     lambda i: archive.submit([i]).result(), archive.open_member):
            try:
                read(0)
            except archivestream.ArchiveError as error:
                assert "'a'" in str(error)
            else:
                sys.exit(f"{method} {size} was read")
print("refused")
"""


def test_huge_sizes_take_no_memory() -> None:
    root = str(Path(archivestream.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", HUGE], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr


# Headers that are all alike, of which a compressed file holds a thousand in a few bytes.
ALIKE = """
import gzip, resource, sys
import numpy, tarmaker, zstandard
import archivestream
compress = {"zst": zstandard.compress, "gz": gzip.compress}[sys.argv[1]]
head = tarmaker.pax((b"path", b"p" * 4096), kind=b"g")
data = compress(head + tarmaker.header() * int(sys.argv[2]) + tarmaker.END)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    found = len(archivestream.open(data, index="memory", threads=1))
except archivestream.LimitExceededError as error:
    assert "raise that" in str(error)
    found = "max_index_ratio = 256" in str(error)
mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> (20 if sys.platform == "darwin" else 10)
print(found, "in memory" if mib < 300 else f"took {mib} MiB")
"""


@pytest.mark.parametrize(
    ("kind", "headers", "found"), [("zst", 10_000, "10000"), ("zst", 80_000, "True"), ("gz", 80_000, "True")]
)
def test_an_index_is_in_proportion_to_its_file(kind: str, headers: int, found: str) -> None:
    path = os.pathsep.join([str(Path(archivestream.__file__).parents[1]), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", ALIKE, kind, str(headers)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.stdout, done.returncode) == (f"{found} in memory\n", 0), done.stderr


def test_what_limits_an_index() -> None:
    free = 64 << 20
    assert Limits().index_room(0) == (free, "Limits.max_index_ratio = 256")
    assert Limits().index_room(10**6) == (free + 256 * 10**6, "Limits.max_index_ratio = 256")
    assert Limits().index_room(1 << 40) == (16 << 30, f"Limits.max_index_bytes = {16 << 30}")
    assert Limits(max_index_ratio=0).index_room(10**6)[0] == free
    assert Limits(max_index_ratio=2**64 - 1).index_room(10**6)[0] == 16 << 30
    assert Limits(max_index_bytes=10).index_room(10**6) == (10, "Limits.max_index_bytes = 10")


def test_many_empty_members_with_long_names_are_no_attack() -> None:
    folder = b"f" * 60 + b"/" + b"g" * 30
    content = b"".join(make.header(b"%s/%05d" % (folder, i)) for i in range(5000)) + make.END
    data = zstandard.compress(content, 19)
    with archivestream.open(data, index="memory") as archive:
        assert len(archive) == 5000
        # So that as many of them as there may be have the room that they need.
        assert archive._shared.reader.index.nbytes < Limits().max_index_ratio * len(data)


def test_no_more_members_than_32_bits_count() -> None:
    n = 1 << 20
    column = np.zeros(n, np.uint64)
    part = Index({"name_offset": np.zeros(n + 1, np.uint64), "block_start": column}, data_end=[0])
    assert len(part) * 4096 == 2**32
    with pytest.raises(archivestream.LimitExceededError, match="4294967296 members in 4096 archives"):
        Index.concatenate([part] * 4096)
    empty = Index({"name_offset": np.zeros(1, np.uint64), "block_start": column}, data_end=[0])
    with pytest.raises(archivestream.LimitExceededError, match="4294967296 blocks"):
        Index.concatenate([empty] * 4096)


@pytest.mark.parametrize(
    "name", ["max_member_bytes", "max_members", "max_index_bytes", "max_index_ratio", "max_window_bytes"]
)
def test_values_that_are_none(name: str) -> None:
    for wrong in (-1, 2**64):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: wrong})
    with pytest.raises(TypeError):
        Limits(**{name: 1.5})  # type: ignore[arg-type]


def test_errors_name_the_limit(path: Path) -> None:
    with (
        archivestream.open(path, limits=Limits(max_member_bytes=10)) as archive,
        pytest.raises(archivestream.LimitExceededError, match="max_member_bytes = 10"),
    ):
        archive[0]
