"""``archivestream pack`` and ``archivestream repack``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packtools import content, has_begun, run, same_tree, text
from typer.testing import CliRunner

import archivestream
from archivestream.cli import app

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}


def invoke(*arguments: object, status: int = 0) -> Any:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "cat").mkdir(parents=True)
    (root / "cat/1.txt").write_bytes(text(20_000))
    (root / "cat/2.bin").write_bytes(content(9000))
    (root / "readme").write_bytes(b"hello\n")
    return root


def test_pack_a_folder(folder: Path, tmp_path: Path) -> None:
    result = invoke("pack", folder, tmp_path / "a.zip")
    size = (tmp_path / "a.zip").stat().st_size
    assert result.stdout == f"{tmp_path / 'a.zip'}: {size / 1000:.1f} kB ({size:,} bytes)\n"
    run("unzip", "-q", tmp_path / "a.zip", "-d", tmp_path / "out")
    same_tree(folder, tmp_path / "out")
    invoke("verify", tmp_path / "a.zip")


def test_pack_several(folder: Path, tmp_path: Path) -> None:
    invoke("pack", folder / "cat", folder / "readme", tmp_path / "a.tar.zst")
    names = run("tar", "--zstd", "-tf", tmp_path / "a.tar.zst").stdout.decode().split()
    assert names == ["cat/", "cat/1.txt", "cat/2.bin", "readme"]


def test_options_are_passed_on(folder: Path, tmp_path: Path) -> None:
    arguments = ["--method", "deflate", "--level", "12", "--segment-size", "8192", "--align", "4096", "--threads", "1"]
    invoke("pack", folder, tmp_path / "a.zip", *arguments)
    same = archivestream.pack(folder, tmp_path / "b.zip", method="deflate", level=12, segment_size=8192, align=4096)
    assert (tmp_path / "a.zip").read_bytes() == same[0].read_bytes()
    invoke("pack", folder, tmp_path / "data", "--format", "tar.zst", "--frame-size", "4096", "-l", "1")
    same = archivestream.pack(folder, tmp_path / "b.tar.zst", frame_size=4096, level=1)
    assert (tmp_path / "data").read_bytes() == same[0].read_bytes()


def test_shards(folder: Path, tmp_path: Path) -> None:
    result = invoke("pack", folder, tmp_path / "a-{:02d}.zip", "--shards", 2)
    assert result.stdout.splitlines()[-1] == "2 archives"
    with archivestream.open(tmp_path / "a-{00..01}.zip") as archive:
        assert archive.namelist() == ["cat/", "cat/1.txt", "cat/2.bin", "readme"]
    invoke("repack", tmp_path / "a-*.zip", tmp_path / "b-%d.zip", "--max-shard-bytes", 10_000)
    assert (tmp_path / "b-1.zip").exists()


def test_repack(folder: Path, tmp_path: Path) -> None:
    invoke("pack", folder, tmp_path / "a.zip")
    invoke("repack", tmp_path / "a.zip", tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["cat", "cat/1.txt", "cat/2.bin", "readme"]
    invoke("repack", tmp_path / "a.zip", tmp_path / "a.zip", "--overwrite", "--method", "stored", "--strict")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pack", "in", "a.rar"], "a.rar: the suffix is none of .zip, .tar.zst, .tzst, .tar"),
        (["pack", "nowhere", "a.zip"], "nowhere: No such file or directory"),
        (["pack", "in", "in/a.zip"], "in/a.zip lies in in, which is to be packed"),
        (["pack", "in", "there.zip"], "there.zip: it is there already; --overwrite replaces it"),
        (["pack", "in", "no/a.zip"], "no/a.zip: No such file or directory"),
        (["pack", "in", "a.zip", "--frame-size", "65536"], "frame_size is no option of zip"),
        (["pack", "in", "a.zip", "--level", "99"], "level of method 'auto' is 1 to 12, not 99"),
        (["pack", "in", "a.zip", "--shards", "3"], "a.zip must say where the number of a shard stands"),
        (["repack", "in/readme", "a.zip"], "in/readme: "),
        (["repack", "there.zip", "a.zip"], "there.zip: "),
    ],
)
def test_errors(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.zip").write_bytes(b"precious")
    result = invoke(*arguments, status=1)
    assert result.stderr.startswith(f"archivestream: error: {message}")
    assert result.stdout == ""
    assert Path("there.zip").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "there.zip"]
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "readme"]


def test_ctrl_c_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with open(folder / "large", "wb") as sparse:
        sparse.truncate(1 << 40)
    command = [sys.executable, "-m", "archivestream", "pack", folder, tmp_path / "out/a.zip"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not has_begun(process.pid, tmp_path / "out") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert has_begun(process.pid, tmp_path / "out")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (output, errors) == (b"", b"")
    assert list((tmp_path / "out").iterdir()) == []
