"""Memory of a process of its own: ``python -m benchmarks.memory {open,epoch,blocks} SIDE PATH``.

What a process has used before stays in its allocator, so each figure comes from a fresh one.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT

__all__ = ["CACHE", "THREADS", "is_measurable", "measure"]

# How archives are read whose members share blocks.
CACHE = 8 << 20
THREADS = 2
_BATCH = 256

_STATUS = Path("/proc/self/status")


def is_measurable() -> bool:
    """Whether this system tells what a process uses (``/proc/self/status`` of Linux)."""
    return _STATUS.exists()


def measure(job: str, side: str, path: Path) -> dict[str, int]:
    """Run a job in a fresh process.

    Parameters
    ----------
    job : {"open", "epoch", "blocks"}
        What to do with the archive: the last is an epoch, too, without torch.
    side : {"ours", "zipfile", "cdmltrain"}
        With what; the last one for that job alone, which is not for the second.
    path : Path
        The archive.

    Returns
    -------
    dict of str to int
        Bytes resident ``before`` the job and ``after`` it, and at their ``peak`` meanwhile; of an epoch, also the
        bytes in ``total`` that it has read.
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


def _blocks(side: str, path: str) -> dict[str, int]:
    if side == "ours":
        import archivestream

        out = np.ones(_BATCH * 12_000, np.uint8)
    else:
        engine = import_module("cdmltrain.zstd_engine").ZSTDStreamEngine
    before = _resident("VmRSS")
    _reset_peak()
    total = 0
    if side == "ours":
        with archivestream.open(path, index="require", threads=THREADS, cache=CACHE) as archive:
            order = np.random.default_rng(7).permutation(len(archive))
            for batch in np.split(order, range(_BATCH, len(order), _BATCH)):
                total += int(archive.read_batch(batch, out).offsets[-1])
    else:
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it does
            opened = engine(path)
        for member in np.random.default_rng(7).permutation(len(opened)).tolist():
            total += len(opened.get_by_index(member))
    return {"before": before, "after": _resident("VmRSS"), "peak": _resident("VmHWM"), "total": total}


if __name__ == "__main__":
    _, job, side, path = sys.argv
    print(json.dumps({"open": _open, "epoch": _epoch, "blocks": _blocks}[job](side, path)))
