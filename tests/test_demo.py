"""``archivestream demo``: it trains, both ways give the same, and it says what it lacks."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import archivestream
from archivestream.cli import app

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}


# Runs the command line as if a package were not installed.
WITHOUT = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name == {!r} else find_spec(name, *more)
from archivestream.__main__ import main
main()
"""


def run(*arguments: object, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the demo in a real process."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(without), "demo", *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def invoke(*arguments: object) -> Any:
    """Run the demo in this process."""
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def encode(image: Any, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_images(path: Path, names: list[str]) -> Path:
    """Write random images of all sizes and modes, bright ones and dark ones by their folder."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            height, width = random.integers(1, 100, 2)
            base = 200 if name.startswith("bright") else 0
            pixels = random.integers(base, base + 50, (height, width, 3), np.uint8)
            image = Image.fromarray(pixels).convert(("RGB", "L", "P", "RGB")[number % 4])
            kind = "jpeg" if name.lower().endswith("jpg") and image.mode != "P" else "png"
            archive.writestr(name, encode(image, kind))
        archive.writestr("readme.txt", "not an image")
        archive.writestr("__MACOSX/bright/._0.png", "nor is this")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = [f"{'bright' if i % 2 else 'dark'}/{i}.{'JPG' if i % 3 else 'png'}" for i in range(40)]
    return write_images(tmp_path / "images.zip", names)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from archivestream.cli.demo import training

    monkeypatch.setattr(training, "_SECONDS", 0.01)


def results(output: str) -> dict[str, list[str]]:
    """Read the table at the end: the columns of each row."""
    table = output[output.index("─") :]
    rows = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_digits() -> None:
    pytest.importorskip("sklearn")
    done = run("--epochs", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,797 images of 10 classes: 0 (178), 1 (182), " in done.stdout
    assert "1,438 to train on, 359 held out" in done.stdout
    for reader in ("archivestream", "zipfile"):
        epochs = re.findall(rf"^{reader} +epoch (\d)/3 +loss .* images/s$", done.stdout, re.MULTILINE)
        assert epochs == ["1", "2", "3"]
    rows = results(done.stdout)
    ours, theirs = rows.pop("accuracy on held-out images")
    assert ours == theirs
    assert float(ours) > 0.95
    assert len(rows) == 3
    for row in rows.values():
        ours, theirs, ratio = (float(number.replace(",", "")) for number in row)
        assert min(ours, theirs) > 0
        assert ratio == pytest.approx(ours / theirs, abs=0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_own_images(images: Path, workers: int) -> None:
    arguments = ("--archive", images, "--epochs", 2, "--batch-size", 7, "--workers", workers)
    done = run(*arguments, without="sklearn")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{images}: 40 images of 2 classes: bright (20), dark (20)\n" in done.stdout
    assert "32 to train on, 8 held out" in done.stdout
    ours, theirs = results(done.stdout)["accuracy on held-out images"]
    assert ours == theirs


def test_the_seed_decides_all(images: Path, quick: None) -> None:
    def losses(seed: int) -> list[str]:
        output = invoke("--archive", images, "--epochs", 1, "--seed", seed).stdout
        return re.findall(r"loss ([\d.]+)   accuracy ([\d.]+)", output)

    first = losses(1)
    assert first[0] == first[1]  # of archivestream, of zipfile
    assert losses(1) == first
    assert losses(2) != first


def test_what_zipfile_cannot_read_is_trained_all_the_same(
    images: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> bytes:
        raise NotImplementedError("That compression method is not supported")

    monkeypatch.setattr(zipfile.ZipFile, "read", refuse)
    result = invoke("--archive", images, "--epochs", 1)
    assert result.exit_code == 0
    assert "zipfile cannot read" in result.stdout
    assert "nothing to compare with" in result.stdout
    assert all(len(row) == 1 for row in results(result.stdout).values())


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "there are 0 images"),
        (["a/1.png", "b/2.png"], "there are 2 images"),
        ([f"all/{i}.png" for i in range(20)], "in 1 folders"),
        ([f"{i}.png" for i in range(20)], "some images lie in no folder"),
    ],
)
def test_an_unfit_archive_is_an_error(tmp_path: Path, names: list[str], reason: str) -> None:
    path = write_images(tmp_path / "unfit.zip", names)
    result = invoke("--archive", path)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"archivestream: error: {path}: ")
    assert reason in line


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named(images: Path, workers: int) -> None:
    with zipfile.ZipFile(images, "a") as archive:
        archive.writestr("dark/broken.png", b"\x89PNG\r\n\x1a\n nothing more")
    done = (run if workers else invoke)("--archive", images, "--workers", workers, "--epochs", 1)
    (line,) = done.stderr.splitlines()
    assert line.startswith("archivestream: error: ")
    assert "images.zip: member 'dark/broken.png': " in line


@pytest.mark.parametrize("module", ["torch", "PIL", "sklearn"])
def test_a_missing_package_names_the_extra(module: str) -> None:
    done = run(without=module)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"archivestream: error: the demo needs {module}")
    assert line.endswith("pip install 'archivestream[demo]'")


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--workers", "--seed"])
def test_options_have_bounds(option: str) -> None:
    assert invoke(option, -1).exit_code == 2
