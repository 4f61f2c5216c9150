"""What `examples/moving/` prints: among it, that the older system reads the same, where that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from exampletools import EXAMPLES, require, run_example


class Example(NamedTuple):
    """A script: the package that its users come from, what it imports, and what it prints besides."""

    old: str
    packages: tuple[str, ...]
    printed: list[str]
    ignored: tuple[str, ...] = ()  # warnings of the older package


MOVING = {
    "cdmltrain": Example(
        "cdmltrain",
        ("torch", "PIL"),
        ["{'image': 100}", "100 images, (48, 64, 3); the first has 1285 bytes"],
    ),
    "splitdataloader": Example(
        "splitdataloader",
        (),
        ["200 records; all of them in block order: True", "the same after moving: True"],
    ),
    "dareblopy": Example(
        "",
        ("PIL", "simplejpeg"),
        [
            "images: uint8 (20, 48, 64, 3)",
            "batches: 7; image (16, 3, 32, 32), label (16,)",
            "each record once: True",
        ],
    ),
    "datastack": Example(
        "data_stack",
        ("torch", "sklearn"),
        [
            "{'dog': 40, 'cat': 80}",
            "fold 1: 72 to train on, 24 to validate, 24 to test",
            "combined again: 120",
        ],
    ),
    "acumenindexer": Example(
        "acumenindexer",
        ("pyarrow",),
        [
            "100 arrays; the first: float16 (16, 3), {'label': 0, 'split': 'train'}",
            "the same after moving: True",
        ],
    ),
    "imagefolder": Example(
        "torchvision",
        ("torch", "PIL"),
        ["classes ['cat', 'dog', 'owl'], of [20, 20, 20] images: torch.float32 (60, 3, 48, 64)"],
    ),
    "webdataset": Example(
        "webdataset",
        ("torch", "PIL"),
        [
            "100 samples; the last one: ['__key__', '__url__', 'cls', 'jpg']",
            "images (100, 48, 64, 3), torch.uint8; labels (100,)",
        ],
        ignored=("unclosed file <_io.BufferedReader",),
    ),
}


def test_the_list_is_complete() -> None:
    there = {path.stem.removeprefix("from_") for path in (EXAMPLES / "moving").glob("*.py")}
    assert there == set(MOVING)


@pytest.mark.parametrize("name", MOVING)
def test_moving(name: str, tmp_path: Path) -> None:
    example = MOVING[name]
    require(*example.packages)
    lines = run_example(f"moving/from_{name}.py", folder=tmp_path, ignored=example.ignored)
    if example.old:
        there = find_spec(example.old) is not None
        compared = "the same as before: True" if there else f"nothing to compare with: No module named '{example.old}'"
        assert compared in lines
    for line in example.printed:
        assert line in lines
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind
