"""4 processes on one shared cache, one of which is killed each second: right bytes, bounded memory, no hang."""

from __future__ import annotations

import mmap
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

import archivestream
from archivestream import Archive, Cache
from stress import Outcome, main, progress
from stress.archives import LARGE, ORDERED, make

PROCESSES = 4
# Of which the members take about 6 MB: few enough that members are dropped all the time, or not kept at all.
LIMIT = 1 << 20
PATIENCE = 60
WRONG = 3


class Readers:
    """Processes that read at random, and count what they have done in memory that all see."""

    def __init__(self, archive: Archive, outcome: Outcome) -> None:
        self.archive, self.outcome = archive, outcome
        self.counts = np.frombuffer(mmap.mmap(-1, 8 * PROCESSES), np.uint64)
        self.pids = [0] * PROCESSES
        self.started = 0

    def start(self, place: int) -> None:
        self.started += 1
        pid = os.fork()
        if pid == 0:
            try:
                self._read(place, self.started)
            except BaseException:
                traceback.print_exc()
                os._exit(WRONG)
        self.pids[place] = pid

    def _read(self, place: int, seed: int) -> None:
        chance = random.Random(seed)
        while True:
            keys = chance.choices(range(LARGE), k=chance.choice([1, 4, 20, 100]))
            expected = [ORDERED[key] for key in keys]
            match chance.randrange(4):
                case 0:
                    assert self.archive[keys[0]] == expected[0]
                case 1:
                    assert self.archive.read_many(keys) == expected
                case 2:
                    assert self.archive.submit(keys).result().data.tobytes() == b"".join(expected)
                case 3:
                    rows, lengths = self.archive.read_padded(keys[:4])
                    found = [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)]
                    assert found == expected[:4]
            self.counts[place] += 1

    def kill(self, place: int) -> None:
        """Kill one, which must not have ended by itself."""
        os.kill(self.pids[place], signal.SIGKILL)
        status = os.waitpid(self.pids[place], 0)[1]
        self.pids[place] = 0
        if status != signal.SIGKILL:
            self.outcome.errors.append(f"a reader ended by itself: {os.waitstatus_to_exitcode(status)}")

    def all_go_on(self) -> None:
        """Wait until each has done something more."""
        before = self.counts.copy()
        end = time.monotonic() + PATIENCE
        while not (self.counts > before).all():
            if time.monotonic() > end:
                self.outcome.errors.append(f"a reader hangs: {before} {self.counts}")
                return
            time.sleep(0.005)


def memory_of(cache: Cache) -> int:
    """Bytes that the file of a cache takes."""
    return os.fstat(cache._store.descriptor).st_blocks * 512  # type: ignore[union-attr]


def with_policy(policy: str, path: Path, seconds: float, outcome: Outcome) -> None:
    """Kill one after the other."""
    chance = random.Random(policy)
    period = min(1.0, seconds / 8)
    most = 0
    with Cache(LIMIT, policy=policy, shared=True) as cache, archivestream.open(path, cache=cache) as archive:  # type: ignore[arg-type]
        readers = Readers(archive, outcome)
        for place in range(PROCESSES):
            readers.start(place)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not outcome.errors:
                time.sleep(period * chance.random())
                victim = chance.randrange(PROCESSES)
                readers.kill(victim)
                outcome.done[f"{policy}: killed"] += 1
                most = max(most, memory_of(cache), cache.stats.bytes)
                readers.counts[victim] = 0
                readers.start(victim)
                readers.all_go_on()
                if outcome.done[f"{policy}: killed"] % 10 == 0:
                    progress(
                        f"{policy}: {outcome.done[f'{policy}: killed']} killed, {int(readers.counts.sum()):,} reads"
                    )
        finally:
            for place, pid in enumerate(readers.pids):
                if pid:
                    readers.kill(place)
        outcome.done[f"{policy}: reads of those that lived"] += int(readers.counts.sum())
        outcome.notes[f"{policy}: most memory"] = f"{most:,} of {LIMIT:,} bytes"
        _check(most <= LIMIT, f"{policy}: {most} bytes of {LIMIT}", outcome)
        # What the dead were loading can be loaded, and their memory is there for others.
        _check(archive.read_many(range(LARGE)) == ORDERED[:LARGE], f"{policy}: wrong bytes at the end", outcome)
        before = _members_after(cache.clear, archive, cache)
        with Cache(LIMIT, policy=policy, shared=True) as fresh, archivestream.open(path, cache=fresh) as other:  # type: ignore[arg-type]
            expected = _members_after(fresh.clear, other, fresh)
        outcome.notes[f"{policy}: members kept, and in a new cache"] = f"{before}, {expected}"
        _check(before >= 0.95 * expected, f"{policy}: {before} members fit where {expected} did", outcome)


def _members_after(clear: Callable[[], object], archive: Archive, cache: Cache) -> int:
    clear()
    for key in range(LARGE):
        assert archive[key] == ORDERED[key]
    return cache.stats.members


def _check(holds: bool, text: str, outcome: Outcome) -> None:
    if not holds:
        outcome.errors.append(text)


def caches(seconds: float, outcome: Outcome) -> None:
    """Kill readers of a cache of each policy."""
    with tempfile.TemporaryDirectory() as folder:
        path = make("segments.zip", Path(folder)).path
        for policy in ("keep", "lru"):
            with_policy(policy, path, seconds / 2, outcome)


if __name__ == "__main__":
    main(caches)
