"""Files without checksums that are overwritten in place while they are open: an error, and never the new bytes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import archivestream
from archivestream import Archive, Cache
from archivestream._native.watch import Watch
from archivestream.errors import ArchiveChangedError
from archivestream.tfrecord import TFRecordWriter

COUNT, SIZE = 20, 1000


def make_tar(path: Path, first: int) -> None:
    """Write a tar whose members are of one size, and differ from those of another `first` in each byte."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for i in range(COUNT):
            info = tarfile.TarInfo(f"{i:02d}")
            info.size = SIZE
            tar.addfile(info, io.BytesIO(bytes([first + i]) * SIZE))
    overwrite(path, data.getvalue())
    if first == 0:  # an hour ago: what is written now has another time, however coarse the clock of the system is
        os.utime(path, ns=(0, os.stat(path).st_mtime_ns - 3600 * 10**9))


def overwrite(path: Path, data: bytes) -> None:
    """Do what `cp` does: the same file, written anew."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "members.tar"
    make_tar(path, 0)
    return path


WAYS: dict[str, Callable[[Archive], object]] = {
    "by position": lambda archive: archive[7],
    "by name": lambda archive: archive["07"],
    "read_many": lambda archive: archive.read_many([7, 8]),
    "read_batch": lambda archive: archive.read_batch([7, 8]),
    "submit": lambda archive: archive.submit([7, 8]).result(),
    "open_member": lambda archive: archive.open_member(7).read(),
    "iterating": lambda archive: list(archive),
}


@pytest.mark.parametrize("cache", [None, 1 << 20], ids=["", "cached"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_overwritten_while_open(path, way, cache):
    archive = archivestream.open(path, cache=None if cache is None else Cache(cache))
    make_tar(path, 100)
    with pytest.raises(ArchiveChangedError, match=r"members\.tar.*was written to"):
        way(archive)
    with pytest.raises(ArchiveChangedError):  # also where it would have been kept
        way(archive)


def test_what_was_kept_before_is_served(path):
    """It is of the archive that was opened."""
    archive = archivestream.open(path, cache=Cache(1 << 20))
    assert archive[7] == bytes([7]) * SIZE
    make_tar(path, 100)
    assert archive[7] == bytes([7]) * SIZE
    with pytest.raises(ArchiveChangedError):
        archive[8]


def test_each_member_is_an_error_of_its_own(path, tmp_path):
    """Of several files, only those of the one that was overwritten."""
    other = tmp_path / "other.tar"
    make_tar(other, 0)
    archive = archivestream.open([path, other])
    make_tar(other, 100)
    errors: dict[int, Exception] = {}
    found = archive.read_many([3, COUNT + 3, 4, COUNT + 4], errors=errors)
    assert found == [bytes([3]) * SIZE, None, bytes([4]) * SIZE, None]
    assert [(place, type(error), error.member) for place, error in sorted(errors.items())] == [
        (1, ArchiveChangedError, "03"),
        (3, ArchiveChangedError, "04"),
    ]
    report = archive.verify()
    assert [type(error) for error in report.errors] == [ArchiveChangedError] * COUNT
    assert archive.read_many(range(COUNT)) == [bytes([i]) * SIZE for i in range(COUNT)]
    with pytest.raises(ArchiveChangedError):
        archive.extract(path=tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []  # of equal names, the last is meant


@pytest.mark.parametrize("how", ["renamed", "deleted", "replaced", "made readable"])
def test_what_does_no_harm(path, tmp_path, how):
    """The file that is open has the bytes that it had."""
    archive = archivestream.open(path)
    if how == "renamed":
        path.rename(tmp_path / "elsewhere")
    elif how == "deleted":
        path.unlink()
    elif how == "replaced":
        make_tar(tmp_path / "new", 100)
        (tmp_path / "new").replace(path)
    else:
        path.chmod(0o644)
    assert archive.read_many(range(COUNT)) == [bytes([i]) * SIZE for i in range(COUNT)]
    assert archive[7] == bytes([7]) * SIZE


def test_records_have_checksums(tmp_path):
    """So nothing else is asked, unless these are not checked."""
    path = tmp_path / "some.tfrecord"
    with TFRecordWriter(path) as writer:
        writer.write(b"record")
    data = path.read_bytes()
    for verify in (True, False):
        archive = archivestream.open(path, verify=verify)
        overwrite(path, data)
        os.utime(path, (1, 1 + verify))
        if verify:
            assert archive[0] == b"record"
        else:
            with pytest.raises(ArchiveChangedError):
                archive[0]


def test_watching_takes_any_members(path):
    """Native code is told of members that are not there, and of none."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        number, size, modified = file.fileno(), state.st_size, state.st_mtime_ns
        files = [(-1, 0, 0, False), (number, size, modified, False), (number, 1, 1, False), (number, 1, 1, True)]
        watch = Watch(files, np.array([0, 2, 22, 30, 40], np.uint64), file)
        for members, source in (([], -1), ([0, 1, 5], -1), ([0, 29, 5], 2), ([30, 40, -1, 2**62], -1)):
            assert watch.changed(np.array(members, np.int64)) == source
            assert max(map(watch.changed_one, members), default=-1) == source
    for first in ([0], [0, 1, 2]):
        with pytest.raises(ValueError, match="for each file"):
            Watch([(0, 0, 0, False)], np.array(first, np.uint64), None)
