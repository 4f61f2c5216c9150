"""Run targets for a time, several at once, and tell what came of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import FOLDER, HERE, PROGRAM, ROOT, MissingTool
from .target import Target

__all__ = ["Result", "environment", "fuzz", "report", "reproduce"]

CORPORA = FOLDER / "corpora"
FINDS = FOLDER / "finds"
REGRESSIONS = HERE / "regressions"

MEMORY = 2048  # MiB of the whole process, of which ASan keeps some hundred
# CPython leaves objects behind at its end, on purpose: leaks are looked for in tests/leaks.py. A request for more
# memory than there is must be an error, as it is everywhere; libFuzzer ends the process for one above -malloc_limit_mb.
ASAN = "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=32"


@dataclass(frozen=True)
class Result:
    """What came of one run."""

    target: str
    executions: int
    seconds: float
    coverage: int
    features: int
    corpus: int
    finds: Sequence[Path]
    error: str  # the end of what it printed, where it failed

    @property
    def rate(self) -> float:
        """Executions a second."""
        return self.executions / max(self.seconds, 1e-9)


def environment(target: Target, frames: int = 3) -> dict[str, str]:
    """Return the environment of a fuzzer; of each allocation so many frames of the stack are kept, which costs time."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PYTHONMALLOC": "malloc",  # so that ASan knows every allocation
        "PYTHONHASHSEED": "0",
        "FUZZ_PYTHON": sys.executable,
        "FUZZ_TARGET": target.name,
        "ASAN_OPTIONS": join_options(ASAN, f"malloc_context_size={frames}", os.environ.get("ASAN_OPTIONS", "")),
        "UBSAN_OPTIONS": join_options("halt_on_error=1:print_stacktrace=1", os.environ.get("UBSAN_OPTIONS", "")),
        "XDG_CACHE_HOME": str(FOLDER / "cache"),
        "OMP_NUM_THREADS": "1",
    }


def join_options(*options: str) -> str:
    """Join options of a sanitizer; of equal ones the last counts."""
    return ":".join(filter(None, options))


def program(target: Target) -> list[str]:
    """Return the command that runs a target; options of libFuzzer follow."""
    if target.engine == "libfuzzer":
        if not PROGRAM.exists():
            raise MissingTool("the fuzzer is not built: python -m tests.fuzz build")
        return [str(PROGRAM)]
    if importlib.util.find_spec("atheris") is None:
        raise MissingTool('atheris is not installed: pip install -c tests/constraints.txt -e ".[fuzz]"')
    return [sys.executable, "-m", "fuzz.atheris_entry", target.name]


def make_corpus(target: Target) -> list[Path]:
    """Write the seeds of a target, unless they are there; return the folders of its inputs, the growing one first."""
    grown, seeds = CORPORA / target.name / "grown", CORPORA / target.name / "seeds"
    grown.mkdir(parents=True, exist_ok=True)
    if not seeds.exists():
        seeds.mkdir()
        for data in target.seeds():
            if len(data) <= target.max_len:
                (seeds / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    kept = REGRESSIONS / target.name
    return [grown, seeds, *([kept] if kept.is_dir() else [])]


def write_dictionary(target: Target) -> list[str]:
    """Write the dictionary of a target in libFuzzer's syntax; return the option that names it."""
    if not target.dictionary:
        return []
    path = CORPORA / target.name / "dictionary"
    words = ["".join(rf"\x{byte:02x}" for byte in word) for word in target.dictionary]
    path.write_text("".join(f'"{word}"\n' for word in words))
    return [f"-dict={path}"]


def start(target: Target, seconds: int, log: Path, share: int) -> subprocess.Popen[bytes]:
    """Start the fuzzer of a target, for a time; as many others as `share` have the same processor."""
    corpus = make_corpus(target)
    finds = FINDS / target.name
    finds.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.max_len}",
        f"-timeout={10 * share}",
        f"-report_slow_units={10 * share}",
        f"-rss_limit_mb={MEMORY}",
        "-malloc_limit_mb=512",
        "-print_final_stats=1",
        "-entropic=0",  # an input has thousands of features, and counting how rare they are takes half of the time
        f"-artifact_prefix={finds}/",
        *write_dictionary(target),
    ]
    command = [*program(target), *options, *map(str, corpus)]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment(target), start_new_session=True
        )


def fuzz(targets: Sequence[Target], seconds: int, jobs: int) -> Iterator[Result]:
    """Run targets for so many seconds each, `jobs` at once; yield what comes of each as it ends."""
    logs = FOLDER / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(targets)
    share = -(-min(jobs, len(waiting)) // (os.cpu_count() or 1))
    running: dict[str, tuple[Target, subprocess.Popen[bytes], float, set[Path]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                target = waiting.pop(0)
                before = set((FINDS / target.name).glob("*"))
                process = start(target, seconds, logs / f"{target.name}.log", share)
                running[target.name] = target, process, time.monotonic(), before
            time.sleep(0.2)
            for name, (target, process, began, before) in list(running.items()):
                late = time.monotonic() - began > 2 * seconds + 300
                if late:
                    os.killpg(process.pid, signal.SIGKILL)
                if process.poll() is not None or late:
                    del running[name]
                    log = (logs / f"{name}.log").read_text(errors="replace")
                    found = sorted(set((FINDS / name).glob("*")) - before)
                    yield summarise(target, log, process.wait(), time.monotonic() - began, found)
    finally:
        for _, process, _, _ in running.values():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def summarise(target: Target, log: str, status: int, seconds: float, finds: Sequence[Path]) -> Result:
    """Read the log of a fuzzer."""
    executions = [int(n) for n in re.findall(r"^stat::number_of_executed_units: (\d+)", log, re.MULTILINE)]
    executions = executions or [int(n) for n in re.findall(r"^#(\d+)\s", log, re.MULTILINE)] or [0]
    states = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log) or [("0", "0", "0")]
    error = log[-6000:] if status or finds else ""
    return Result(target.name, executions[-1], seconds, *map(int, states[-1]), finds, error)


def report(results: Sequence[Result]) -> str:
    """Make a table of results."""
    rows = [("target", "executions", "1/s", "coverage", "features", "corpus", "finds")]
    for r in results:
        numbers = (r.executions, round(r.rate), r.coverage, r.features, r.corpus)
        rows.append((r.target, *(f"{n:,}" for n in numbers), str(len(r.finds)) if not r.error else f"{len(r.finds)} !"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()  # names left, numbers right
        for row in rows
    ]
    return "\n".join(lines)


def reproduce(target: Target, path: Path, *options: str) -> int:
    """Run one input, or with options of libFuzzer do something else with it; return the exit status."""
    command = [*program(target), *options, "-timeout=10", f"-rss_limit_mb={MEMORY}", "-malloc_limit_mb=512", str(path)]
    return subprocess.run(command, env=environment(target, 30)).returncode
