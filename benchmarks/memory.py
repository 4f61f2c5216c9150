"""Memory of a process of its own: ``python -m benchmarks.memory {open,epoch} {ours,zipfile} PATH``.

What a process has used before stays in its allocator, so each figure comes from a fresh one.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from benchmarks import ROOT

__all__ = ["is_measurable", "measure"]

_STATUS = Path("/proc/self/status")


def is_measurable() -> bool:
    """Whether this system tells what a process uses (``/proc/self/status`` of Linux)."""
    return _STATUS.exists()


def measure(job: str, side: str, path: Path) -> dict[str, int]:
    """Run a job in a fresh process.

    Parameters
    ----------
    job : {"open", "epoch"}
        What to do with the archive.
    side : {"ours", "zipfile"}
        With what.
    path : Path
        The archive.

    Returns
    -------
    dict of str to int
        Bytes resident ``before`` the job and ``after`` it, and at their ``peak`` meanwhile.
    """
    command = [sys.executable, "-m", "benchmarks.memory", job, side, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    result: dict[str, int] = json.loads(output)
    return result


def _resident(field: str) -> int:
    gc.collect()
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


def _reset_peak() -> None:
    """Begin to measure the peak anew: proc(5), /proc/pid/clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def _open(side: str, path: str) -> dict[str, int]:
    import archivestream

    open_archive: Any = archivestream.open if side == "ours" else zipfile.ZipFile
    before = _resident("VmRSS")
    _reset_peak()
    with open_archive(path):
        return {"before": before, "after": _resident("VmRSS"), "peak": _resident("VmHWM")}


def _epoch(side: str, path: str) -> dict[str, int]:
    from torch.utils.data import DataLoader

    from benchmarks.datasets import shuffled

    for _ in DataLoader(range(8), batch_size=4, shuffle=True):  # type: ignore[arg-type]
        pass  # what torch loads on first use is not the epoch's
    batches = shuffled(side, Path(path), batch_size=256)
    before = _resident("VmRSS")
    _reset_peak()
    total = 0
    for batch in batches():
        total += sum(map(len, batch))
    return {
        "before": before,
        "after": _resident("VmRSS"),
        "peak": _resident("VmHWM"),
        "total": total,
    }


if __name__ == "__main__":
    _, job, side, path = sys.argv
    print(json.dumps({"open": _open, "epoch": _epoch}[job](side, path)))
