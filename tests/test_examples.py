"""The notebook of `examples/`, and training that resumes."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exampletools import EXAMPLES, require, run_example, run_python

import archivestream

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Make 150 random images of two classes, bright ones and dark ones."""
    random = np.random.default_rng(0)

    def members() -> Any:
        for i in range(150):
            png = io.BytesIO()
            Image.fromarray(random.integers(100 * (i % 2), 100 * (i % 2) + 156, (8, 8, 3), np.uint8)).save(png, "png")
            yield f"{('dark', 'bright')[i % 2]}/{i}.png", png.getvalue()

    return archivestream.pack(members(), tmp_path / "images.zip")[0]


def test_quickstart(tmp_path: Path) -> None:
    require("torch", "sklearn", "nbclient", "ipykernel")
    shutil.copy(EXAMPLES / "quickstart.ipynb", tmp_path)
    run_python(
        "-c",
        "from nbclient.cli import main; main()",
        "quickstart.ipynb",
        "--inplace",
        folder=tmp_path,
        IPYTHONDIR=str(tmp_path / "ipython"),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "jupyter"),
    )
    cells = json.loads((tmp_path / "quickstart.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert {output.get("name") for output in outputs} == {"stdout", None}  # no warnings
    text = "".join(line for output in outputs for line in output.get("text", []))
    assert text.startswith("1797 members, 183 of them threes; the first: 0/0000.png")
    assert float(re.findall(r"epoch 3: accuracy ([\d.]+)", text)[0]) > 0.9
    assert "1,438 samples in 23 batches" in text
    assert "left of the epoch: 1118 of 1438" in text
    assert "errors=[]" in text
    assert "the same image: True" in text
    (image,) = (output["data"]["image/png"] for output in outputs if "data" in output)
    assert image
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []  # it has cleaned up


def test_the_notebook_is_kept_valid_and_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    nbformat.validate(notebook)
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_training_goes_on_as_if_it_had_never_stopped(images: Path, tmp_path: Path) -> None:
    require("torch")

    def train(*arguments: object) -> list[str]:
        options = ("--archive", images, "--epochs", 2, "--batch-size", 16)
        first, *lines = run_example("train_digits.py", *options, *arguments, folder=tmp_path)
        assert first == f"{images}: 120 images to train on, 30 to test with"
        return lines

    whole = train("--checkpoint", "whole.pt")
    assert [line.split(":")[0] for line in whole] == ["epoch 1", "epoch 2"]
    assert train("--max-steps", 5) == ["stopped in epoch 1, after 5 steps"]
    assert train() == ["done before: 0 epochs and 80 samples", *whole]  # to the last digit of the loss
    assert not list(tmp_path.glob("*.tmp"))
