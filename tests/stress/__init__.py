"""Stress: threads, forks, killed processes, ends and lifetimes, for as long as one likes.

Each part is a module that runs in a process of its own for so many seconds, and ends with one line of JSON: what it has
done, and what went wrong. ``python -m tests.stress`` runs them for a minute each; `test_stress.py` for a moment.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import archivestream

__all__ = ["PARTS", "Outcome", "main", "run"]

PARTS = {
    "operations": "16 threads, each way to read, on one archive of each kind; others open and close archives",
    "forks": "a fork at each stage of a batch, of a loader, of a background iterator",
    "caches": "4 processes on one shared cache, of which one is killed each second",
    "exits": "the interpreter ends with work pending",
    "cycles": "archives of each kind are opened and closed, half of them with errors between",
}
TESTS = Path(__file__).parents[1]
# Beyond the seconds that it was given: to start, to make its archives, and to end the last thing that it does.
_GRACE = 180


@dataclass
class Outcome:
    """What a part has done.

    Attributes
    ----------
    done : Counter
        How many operations of each kind.
    errors : list of str
        What went wrong.
    notes : dict
        Figures that are its own.
    seconds : float
        How long it took.
    """

    done: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)
    seconds: float = 0


def main(part: Callable[[float, Outcome], None]) -> None:
    """Run a part as a program: its argument is how many seconds it may take, about."""
    seconds = float(sys.argv[1])
    faulthandler.enable()  # should it hang, it is sent SIGABRT
    outcome = Outcome()
    begin = time.monotonic()
    part(seconds, outcome)
    outcome.seconds = time.monotonic() - begin
    print(json.dumps(vars(outcome)))


def run(name: str, seconds: float) -> Outcome:
    """Run a part in a process of its own; what it prints of its progress goes to this one's standard error."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"stress.{name}", str(seconds)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(archivestream.__file__).parents[1]), str(TESTS)))},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=seconds * 2 + _GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        process.communicate()
        return Outcome(errors=["it hangs; where, it has written to the standard error"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    lines = out.splitlines()
    if process.returncode or not lines:
        return Outcome(errors=[f"it ended with {process.returncode}: {out[-2000:]}"])
    found = Outcome(**json.loads(lines[-1]))
    if lines[:-1]:
        found.errors.append(f"it printed {lines[:-1]}")
    return found


def progress(text: str) -> None:
    """Say how far it is, where somebody looks on."""
    if sys.stderr.isatty() or os.environ.get("STRESS_PROGRESS"):
        print(f"  {text}", file=sys.stderr, flush=True)
