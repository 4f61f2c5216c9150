"""The beginning of a run: ``python -m benchmarks.first_batch {ours,zipfile,index,epoch} PATH [PROCESSES]``.

What a process has done before warms its caches, so each figure comes from new ones.
"""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks import ROOT

__all__ = ["index_memory", "is_measurable", "seconds"]

_BATCH = 256
_EMPTY = b"PK\5\6" + bytes(18)  # a ZIP without members


def seconds(side: str, path: Path) -> float:
    """Time the first batch of a side (``"ours"``, ``"zipfile"``): from opening the archive, with all imports done."""
    return float(_run(side, str(path)))


def index_memory(after: str, path: Path, processes: int) -> int:
    """Measure what an open archive takes in several processes together, in bytes: their shares of shared pages add up.

    After all of the index was read (``"index"``), or after each process has also looked up a name and read every
    member (``"epoch"``).
    """
    return int(_run(after, str(path), str(processes)))


def is_measurable() -> bool:
    """Whether this system tells what a process shares (``/proc/PID/smaps_rollup`` of Linux)."""
    return Path("/proc/self/smaps_rollup").exists()


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.first_batch", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def _seconds(side: str, path: Path) -> float:
    import numpy as np

    from benchmarks.loading import Work, our_loader, torch_loader

    make = {"ours": our_loader, "zipfile": torch_loader}[side]
    started = time.perf_counter()
    batches = iter(make(Work(path, [np.arange(_BATCH)])))
    next(batches)
    return time.perf_counter() - started


def _index_memory(after: str, path: Path, processes: int) -> int:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    children = [context.Process(target=_child, args=(after, path, barrier)) for _ in range(processes)]
    for child in children:
        child.start()
    used = []
    for _ in range(2):
        barrier.wait()  # all are ready, and do nothing
        used.append(sum(_proportional(child.pid) for child in children))
        barrier.wait()
    for child in children:
        child.join()
    return used[1] - used[0]


def _child(after: str, path: Path, barrier: Barrier) -> None:
    try:
        _use_index(after, path, barrier)
    except BaseException:
        barrier.abort()  # the parent does not wait any longer
        raise


def _use_index(after: str, path: Path, barrier: Barrier) -> None:
    import archivestream

    with archivestream.open(_EMPTY) as archive:  # what Python loads on first use is not the index's
        archive.read_batch([])
    barrier.wait()
    barrier.wait()
    with archivestream.open(path, index="require") as archive:
        for column in archive._shared.reader.index.columns.values():
            column.max(initial=0)
        if after == "epoch":
            archive.read(archive.names[0])  # looks its name up
            for first in range(0, len(archive), _BATCH):
                archive.read_batch(range(first, min(first + _BATCH, len(archive))))
        gc.collect()
        barrier.wait()
        barrier.wait()


def _proportional(pid: Any) -> int:
    """Return the proportional set size of a process: proc(5), /proc/pid/smaps."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no Pss")


if __name__ == "__main__":
    job, path = sys.argv[1], Path(sys.argv[2])
    print(_seconds(job, path) if job in ("ours", "zipfile") else _index_memory(job, path, int(sys.argv[3])))
