"""The stress of `python -m tests.stress`, for a moment each: the same code."""

from __future__ import annotations

import os
import sys

import pytest
from stress import PARTS, run

pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks into /proc; shared caches are Linux's"
)

SECONDS = float(os.environ.get("STRESS_SECONDS", "2"))


@pytest.mark.parametrize("part", PARTS)
def test_stress(part: str) -> None:
    outcome = run(part, SECONDS)
    assert not outcome.errors, outcome.errors[:5]
    assert sum(outcome.done.values()) > 5  # it has done something
