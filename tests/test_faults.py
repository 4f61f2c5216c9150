"""Faults at every call of reading and writing: a few points of each operation. `python -m tests.faults` tries all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import shim
from faults.campaigns import CAMPAIGNS

# How many calls of each operation fail, one in each turn.
POINTS = os.environ.get("ARCHIVESTREAM_FAULTS", "1")


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_campaign(campaign: str) -> None:
    reason = shim.why_not()
    if reason is not None and campaign != "objects":
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.faults", campaign, "--points", POINTS]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stderr + done.stdout
    tried, struck, survived = map(int, done.stdout.splitlines()[-1].split()[1:4])
    assert tried == survived
    assert struck > tried // 2  # what has no effect tests nothing
