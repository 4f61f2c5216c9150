"""Archives of each kind are opened and closed, half of them with errors between: memory, threads, descriptors stay."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import random
import tempfile
import time
from pathlib import Path

import archivestream
from archivestream import ArchiveError, Limits
from stress import Outcome, main, progress
from stress.archives import KINDS, LARGE, ORDERED, PLAIN, Sample, make

CYCLES = 1000
WARM_UP = 100
# What the allocator may still find to spread to after the warm-up.
GROWTH = 4 << 20
# What rapidgzip 0.16.1 never gives back of each reader that is closed (3 to 5 KiB), of which a cycle makes several.
LOST_BY_RAPIDGZIP = 32 << 10


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def state() -> tuple[int, int, int]:
    """Resident memory, descriptors, threads."""
    gc.collect()
    return resident(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def good(sample: Sample, chance: random.Random) -> None:
    with archivestream.open(sample.path, threads=2) as archive:
        key = chance.randrange(LARGE)
        assert archive[key] == ORDERED[key]
        assert archive.read_many([1, 2]) == ORDERED[1:3]
        assert sample.names[5] in archive
        archive.submit(range(10))
        view = archive.select([3, 4])
        with view.open_member(1) as file:
            assert file.read() == ORDERED[4]


def bad(sample: Sample, chance: random.Random) -> None:
    """One of the errors that there can be; what was open is dropped, not closed."""
    match chance.randrange(5):
        case 0:
            with contextlib.suppress(ArchiveError):
                archive = archivestream.open(sample.damaged, index="memory" if "zip" in sample.kind else "auto")
                archive.read_many(range(LARGE), errors={})
                archive[LARGE // 2]
        case 1:
            with contextlib.suppress(ArchiveError):
                archivestream.open(sample.path, limits=Limits(max_members=3))
        case 2:
            archive = archivestream.open(sample.path)
            with contextlib.suppress(KeyError, IndexError):
                archive[chance.choice(["nothing", 10**6])]
        case 3:
            pending = archivestream.open(sample.path).submit(range(20))
            with contextlib.suppress(ValueError):
                archivestream.open(sample.path).read_batch(range(60, 80), out=bytearray(1))
            del pending
        case 4:
            archive = archivestream.open(sample.path)
            file = archive.open_member(PLAIN[3])
            archive.close()
            file.read(10)


def on_one_kind(sample: Sample, seconds: float, outcome: Outcome) -> None:
    """Cycle, and compare what there is after a warm-up with what there is at the end."""
    chance = random.Random(1)
    end = time.monotonic() + seconds
    before, count = None, 0
    while count < CYCLES + WARM_UP and (before is None or time.monotonic() < end):
        (good, bad)[count % 2](sample, chance)
        count += 1
        if before is None and (count == WARM_UP or time.monotonic() > end - 0.7 * seconds):
            before = state()
            warm = count
    after = state()
    assert before is not None
    outcome.done[sample.kind] += count
    outcome.notes[sample.kind] = (
        f"{count - warm} cycles after {warm}; memory {(after[0] - before[0]) / 1024:+,.0f} KiB, "
        f"descriptors {after[1] - before[1]:+}, threads {after[2] - before[2]:+}"
    )
    most = GROWTH + (count - warm) * LOST_BY_RAPIDGZIP * sample.kind.endswith("gz")
    if after[0] - before[0] > most or after[1:] != before[1:]:
        outcome.errors.append(f"{sample.kind}: from {before} to {after} in {count - warm} cycles")


def cycles(seconds: float, outcome: Outcome) -> None:
    """Go through all kinds; a minute is enough for a thousand cycles of each."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for i, kind in enumerate(KINDS):
            sample = make(kind, Path(folder), large=False)
            sample.damaged  # noqa: B018  # made once
            on_one_kind(sample, seconds / len(KINDS), outcome)
            progress(f"{i + 1}/{len(KINDS)} {kind}: {outcome.notes[kind]}")


if __name__ == "__main__":
    main(cycles)
