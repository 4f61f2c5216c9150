"""Limits: what an archive may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import archivestream
from archivestream import Limits

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


@pytest.mark.parametrize("name", ["max_member_bytes", "max_members", "max_index_bytes", "max_window_bytes"])
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
