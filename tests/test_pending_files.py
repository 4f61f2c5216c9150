"""Files without a name until they are whole: who may read them, what they replace, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packtools import has_unnamed_files, leftovers

import archivestream
from archivestream import pack
from archivestream.atomic import PendingFile

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}


@pytest.fixture
def unnamed(tmp_path: Path) -> Path:
    """A folder whose files need no name."""
    if not has_unnamed_files(tmp_path):
        pytest.skip("files have names here")
    return tmp_path


@pytest.fixture(params=[0o022, 0o077, 0o027, 0])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What new files are not; for 0, they have a name from the beginning."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def write(path: Path, data: bytes, *, overwrite: bool = False, folder: int | None = None) -> None:
    pending = PendingFile(path, folder)
    try:
        pending.begin()
        pending.file.write(data)
        pending.finish(sync=True)
        pending.place(overwrite=overwrite)
    except BaseException:
        pending.discard()
        raise


def contents(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_permissions_are_those_of_any_new_file(umask: int, tmp_path: Path) -> None:
    pack({"a": b"1"}, tmp_path / "a.zip")
    with archivestream.open(tmp_path / "a.zip") as archive:
        archive.extract(path=tmp_path / "out")
    for path in (tmp_path / "a.zip", tmp_path / "out/a"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert leftovers(tmp_path) == []


def test_what_is_replaced(umask: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    before = contents(tmp_path)
    for name in ("file", "link", "nowhere", "folder"):
        with pytest.raises(FileExistsError, match=f"{name}'"):
            write(tmp_path / name, b"new")
    assert contents(tmp_path) == before
    for name in ("file", "link", "nowhere", "new"):
        write(tmp_path / name, b"new", overwrite=True)
    with pytest.raises(IsADirectoryError, match="folder'"):
        write(tmp_path / "folder", b"new", overwrite=True)
    expected = dict.fromkeys(("file", "link", "nowhere", "new"), b"new") | {"precious": b"precious", "folder": None}
    assert contents(tmp_path) == expected


def test_names_in_a_folder_that_is_open(umask: int, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    folder = os.open(tmp_path / "before", os.O_RDONLY)
    try:
        (tmp_path / "before").rename(tmp_path / "after")
        for data in (b"1", b"2"):
            write(Path("a"), data, overwrite=True, folder=folder)
            assert contents(tmp_path / "after") == {"a": data}
    finally:
        os.close(folder)


def test_no_name_while_it_is_written(unnamed: Path) -> None:
    with archivestream.ZipPacker(unnamed / "a.zip") as packer:
        packer.add("a", os.urandom(20 << 20))
        assert os.listdir(unnamed) == []
    assert os.listdir(unnamed) == ["a.zip"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_process_that_is_killed_leaves_nothing(replaced: bool, unnamed: Path) -> None:
    (unnamed / "out").mkdir()
    code = (
        "import archivestream, os, signal\n"
        "from archivestream.tfrecord import TFRecordWriter\n"
        "packers = [archivestream.ZipPacker('out/a.zip', overwrite=True), TFRecordWriter('out/b', overwrite=True)]\n"
        "packers[0].add('a', os.urandom(20 << 20))\n"
        "packers[1].write(os.urandom(20 << 20))\n"
        "if not os.fork():\n"  # which has them open, too, and ends first
        "    raise SystemExit\n"
        "os.wait()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    before = {"a.zip": b"old", "b": b"old"} if replaced else {}
    for name, data in before.items():
        (unnamed / "out" / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", code], cwd=unnamed, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(unnamed / "out") == before


def test_shards_that_wait_for_the_last_one(unnamed: Path) -> None:
    """Half of the descriptors hold some that are done without a name; the others have temporary ones."""
    code = (
        "import archivestream, os, resource, signal\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
        "def members():\n"
        "    yield from ((f'{i}', bytes(5000)) for i in range(80))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "archivestream.pack(members(), 'a-{:03d}.zip', method='stored', max_shard_bytes=7000, threads=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=unnamed, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert leftovers(unnamed) == os.listdir(unnamed)
    assert len(leftovers(unnamed)) < 40  # of about 80


def test_what_is_buffered_is_not_written_to_another_file(tmp_path: Path) -> None:
    """A file that is discarded is closed, and its descriptor may be that of another one next."""
    pending = PendingFile(tmp_path / "a")
    pending.begin()
    pending.file.write(b"buffered")
    number = pending.file.fileno()
    pending.discard()
    with open(tmp_path / "b", "wb") as other:
        assert other.fileno() == number
        del pending
    assert contents(tmp_path) == {"b": b""}
