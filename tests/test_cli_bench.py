"""``archivestream bench``: what it prints, and what it says of bad members."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from archivestream.cli import app

torch = pytest.importorskip("torch")


def bench(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(300):
            archive.writestr(f"{'even' if i % 2 == 0 else 'odd'}/{i:03d}.bin", bytes(range(i % 200)) * 20)
    return path


@pytest.mark.parametrize("shuffle", ["no", "global", "block"])
@pytest.mark.parametrize("workers", [0, 2])
def test_bytes(path: Path, shuffle: str, workers: int) -> None:
    result = bench(path, "--shuffle", shuffle, "--num-workers", workers, "--batch-size", 32, "--collate", "pad")
    assert result.exit_code == 0
    assert re.search(r"^300 samples in 10 batches, .* samples/s, .* MB/s$", result.stdout, re.M)
    for stage in ("fetch", "decode", "transform", "collate", "waiting for consumer", "waiting for data"):
        assert re.search(rf"^ *{stage} +\d+\.\d%", result.stdout, re.M), stage
    assert "read amplification: 1.00" in result.stdout
    assert result.stdout.rstrip().endswith(".")


def test_epochs_and_a_cache(path: Path) -> None:
    result = bench(path, "--epochs", 3, "--cache", 50_000_000, "--pattern", "even/*")
    assert result.exit_code == 0
    assert result.stdout.count("150 samples") == 3
    assert "epoch 3 of 3" in result.stdout
    assert re.search(r"cache: 66\.\d% hits", result.stdout)


def test_a_bound_on_the_time(path: Path) -> None:
    result = bench(path, "--seconds", 0.000001, "--batch-size", 1)
    assert re.search(r"^\d+ samples? in \d+ batch", result.stdout, re.M)
    assert "300 samples" not in result.stdout


def test_bad_members_are_skipped_and_listed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for name in ("even/150.bin", "odd/199.bin"):
            info = archive.getinfo(name)
            data[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 0x55
    path.write_bytes(data)
    result = bench(path)
    assert result.exit_code == 0
    assert "298 samples" in result.stdout
    assert "even/150.bin" in result.stderr
    assert "odd/199.bin" in result.stderr


def test_arrays_that_differ_in_shape(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(9):
            stream = io.BytesIO()
            np.save(stream, np.zeros((i + 1, 2)))
            archive.writestr(f"{i}.npy", stream.getvalue())
    for collate in ("pad", "list"):
        assert "9 samples" in bench(path, "--decode", "numpy", "--collate", collate).stdout


def test_what_cannot_be_done(path: Path, tmp_path: Path) -> None:
    result = bench(path, "--pattern", "nothing*")
    assert result.exit_code == 1
    assert "nothing to load" in result.stderr
    result = bench(path, "--decode", "mp4")
    assert result.exit_code == 1
    assert "decode" in result.stderr
    result = bench(tmp_path / "none.zip")
    assert result.exit_code == 1


@pytest.mark.parametrize("collate", ["list", "pad", "packed"])
def test_to_a_device(path: Path, collate: str) -> None:
    result = bench(path, "--device", "cpu", "--batch-size", 32, "--collate", collate)
    assert result.exit_code == 0
    assert re.search(r"^  to cpu: 10 copies, \d+\.\d MB, from \d+ slots of \d+\.\d MB$", result.stdout, re.M)


def test_a_device_that_is_not_there(path: Path) -> None:
    result = bench(path, "--device", "tpu")
    assert result.exit_code == 1
    assert "device must be 'cuda'" in result.stderr
    if not torch.cuda.is_available():
        result = bench(path, "--device", "cuda")
        assert result.exit_code == 1
        assert re.search(r"device='cuda' cannot be had: .*; device='auto' takes the CPU", result.stderr)
        result = bench(path, "--device", "auto")
        assert result.exit_code == 0
        assert "  on the CPU: " in result.stdout
