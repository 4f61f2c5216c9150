"""A process that tries the damages of one kind: ``python -m damage.child MODULE KIND MOST FOLDER``.

Before each case it writes the number of that into a file, for whoever waits for it: a crash, or a case that does not
end, is then known by its number.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import resource
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from archivestream import ArchiveWarning

from .damages import Damage, choose, damages
from .subjects import ANYTHING, Found, Part, Subject, changes, short

OUTCOMES = "refused", "bad members", "identical", "changed"
MOST_FAILURES = 20
COLLECTED = 1000  # cases between two collections


def main(module: str, kind: str, most: str, folder: str, only: str = "") -> None:
    """Try cases of a kind that a module has, and write a report."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ArchiveWarning)  # a damage that does no harm
    subject: Subject = importlib.import_module(module).KINDS[kind](Path(folder))
    whole = subject.read(subject.data)
    assert isinstance(whole, list), f"the whole one cannot be read: {whole!r}"
    assert not any(part.is_bad for part in whole), f"the whole one cannot be read: {whole!r}"
    everything = damages(subject)
    chosen = [int(only)] if only else choose(everything, int(most) or None)
    limit_memory(subject.room)
    before = peak_memory()
    tally = Tally((before, "none"))
    with Path(folder, "case").open("r+b") as file, mmap.mmap(file.fileno(), 16) as shared:
        for done, number in enumerate(chosen):
            struct.pack_into("<2q", shared, 0, number, done)
            if done % COLLECTED == 0:  # archives are in cycles, which the collector is in no hurry to find
                gc.collect()
            tally.add(f"case {number}, {everything[number]}", subject, whole, everything[number])
        struct.pack_into("<2q", shared, 0, -1, len(chosen))
    peak = tally.peak[0] - before
    limit = subject.limit + subject.kept * len(chosen)
    if peak > limit:
        tally.failures.append(f"{tally.peak[1]}: {peak} bytes of memory were taken, more than {limit}")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {"bytes": len(subject.data), "all": len(everything), "inputs": len(chosen)}
    report |= {"cpu": usage.ru_utime + usage.ru_stime, **vars(tally), "peak": (peak, tally.peak[1])}
    report |= {"failed": len(tally.failures), "failures": tally.failures[:MOST_FAILURES]}
    Path(folder, "report").write_text(json.dumps(report))


@dataclass
class Tally:
    """What came of cases; the seconds of the slowest, and which; the most memory, and the case that made it so."""

    peak: tuple[int, str]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    labels: dict[str, int] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    failures: list[str] = field(default_factory=list)

    def add(self, case: str, subject: Subject, whole: list[Part], damage: Damage) -> None:
        data = damage.apply(subject)
        begin = time.perf_counter()
        try:
            outcome, labels = judge(subject, whole, damage, data)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            self.failures.append(f"{case}: {text[:1000]}")
        else:
            self.counts[outcome] += 1
            for label in labels:
                self.labels[label] = self.labels.get(label, 0) + 1
        self.peak = max(self.peak, (peak_memory(), case), key=lambda peak: peak[0])
        self.slowest = max(self.slowest, (time.perf_counter() - begin, case))


def judge(subject: Subject, whole: list[Part], damage: Damage, data: bytes) -> tuple[str, set[str]]:
    """Read what is damaged; say what came of it, and what is another, which must be allowed."""
    found = subject.read(data)
    labels = changes(subject, whole, found, data)
    allowed: AbstractSet[str]
    end = damage.end if len(damage.new) == damage.end - damage.begin else len(data) + damage.end
    if damage.kind == "cut":
        allowed = subject.cut
    elif damage.kind == "front":
        allowed = subject.cut_front
    elif damage.mended or (labels and subject.escapes(data, damage.begin, end)):
        allowed = ANYTHING
    else:
        allowed = subject.may_change(damage.begin, end)
    if not labels <= allowed and not (subject.means and means_that(subject, found, data)):
        raise AssertionError(f"{', '.join(sorted(labels - allowed))} changed: {short(found)}")
    if isinstance(found, Exception):
        return "refused", labels
    if any(part.is_bad for part in found):
        return "bad members", labels
    return "changed" if labels or found != whole else "identical", labels


def means_that(subject: Subject, found: Found, data: bytes) -> bool:
    assert subject.means is not None
    expected = subject.means(data)
    if isinstance(expected, Exception) or isinstance(found, Exception):
        return False
    return [(part.name, part.data) for part in expected] == [(part.name, part.data) for part in found]


def limit_memory(room: int) -> None:
    """Leave so much address space besides what is taken; count the peak from now on."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))


def peak_memory() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins, on Linux, with what the process had that this one was forked from
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
