"""Starts a process for the damages of a kind, and sees that it goes on, and ends."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import archivestream

__all__ = ["Crash", "try_kind"]

POLL = 0.1
STARTUP = 120.0  # seconds until the first case, and behind the last one
# Files are written by the thousand: in memory where that is possible.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Crash(AssertionError):
    """The process ended, or did not go on, at a case."""


def try_kind(
    kind: str,
    most: int | None = None,
    only: int | None = None,
    progress: Callable[[int], object] | None = None,
    *,
    kinds: str = "damage.kinds",
    patience: float = 60.0,
) -> dict[str, Any]:
    """Try the damages of a kind in a process of its own; return its report.

    Parameters
    ----------
    kind : str
        Its name.
    most : int, optional
        Cases to try, the same each time. Default: all.
    only : int, optional
        The number of one case.
    progress : callable, optional
        Called with the number of cases done.
    kinds : str
        The module that has the kind.
    patience : float
        Seconds for one case.

    Raises
    ------
    Crash
        If the process ended, or did not end, at a case: the message has its number.
    """
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        place = Path(folder, "case")
        place.write_bytes(struct.pack("<2q", -1, 0))
        paths = [Path(__file__).parents[1], Path(archivestream.__file__).parents[1], os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths)))}
        command = [sys.executable, "-m", "damage.child", kinds, kind, str(most or 0), folder]
        with Path(folder, "stderr").open("w+b") as stderr:
            child = subprocess.Popen(
                [*command, *([str(only)] if only is not None else [])],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
            try:
                hangs = _wait(child, place, progress, patience)
            finally:
                child.kill()
                child.wait()
            if child.returncode != 0:
                stderr.seek(0)
                text = stderr.read().decode("utf-8", "replace")[-2000:]
                how = f"did not go on for {patience:.0f} s" if hangs else f"ended with {child.returncode}"
                case = struct.unpack_from("<q", place.read_bytes())[0]
                raise Crash(f"{kind}: the process {how} at case {case}: {text}")
        report: dict[str, Any] = json.loads(Path(folder, "report").read_text())
        return report


def _wait(
    child: subprocess.Popen[bytes], place: Path, progress: Callable[[int], object] | None, patience: float
) -> bool:
    """Wait for the end of a process; say whether a case takes too long."""
    last, since = b"", time.monotonic()
    while True:
        try:
            child.wait(POLL)
        except subprocess.TimeoutExpired:
            now = place.read_bytes()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > (patience if struct.unpack_from("<q", now)[0] >= 0 else STARTUP):
                return True
            if progress is not None:
                progress(struct.unpack_from("<q", now, 8)[0])
        else:
            return False
