"""What the fuzzers have found, and what they begin with, through their targets: no fuzzer is needed for that."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest
from fuzz.target import Target
from fuzz.targets import TARGETS

REGRESSIONS = Path(fuzz.__file__).with_name("regressions")
FOUND = sorted(path for path in REGRESSIONS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds(target: Target) -> None:
    count = 0
    for data in target.seeds():
        target.run(data)
        count += 1
    assert count >= 3
