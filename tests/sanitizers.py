"""The tests, with the native code under a sanitizer: ``python -m tests.sanitizers address`` or ``thread``.

The extensions, libdeflate and libzstd are built once more, with GCC, below ``build/sanitizers``; the interpreter is the
one that runs this, with the sanitizer's runtime loaded first. What follows goes to pytest: ``python -m tests.sanitizers
address tests/test_views.py -k cut``. Reports make the command fail.
"""

from __future__ import annotations

import fnmatch
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "sanitizers"
SUPPRESSIONS = Path(__file__).with_name("thread_suppressions.txt")


@dataclass(frozen=True)
class Sanitizer:
    """How to build for one, and how to run."""

    flags: str
    runtimes: tuple[str, ...]
    options: dict[str, str]
    tests: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]  # tests, as a pattern of their ids; and why


# Both take terabytes of address space for their shadow memory, and their own share of the rest.
_NO_LIMITS = (
    ("*address_space*", "a limit on address space leaves no room for the shadow memory"),
    ("*test_benchmarks.py*", "speed says nothing under a sanitizer, and the cases take an hour"),
    ("*test_packaging.py*", "it builds and installs the package, without a sanitizer"),
    ("*test_damage.py*", "its children have a limit on address space"),
    ("*test_bombs.py*", "the same"),
    ("*test_faults.py*", "its shim and a sanitizer's runtime both have to come first"),
    ("*test_fuzz_regressions.py*", "the fuzzers run them with the sanitizers"),
)

SANITIZERS = {
    "address": Sanitizer(
        flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1 -O1",
        runtimes=("libasan.so", "libubsan.so", "libstdc++.so"),
        options={
            # Leaks: the interpreter, NumPy and PyTorch keep much until they end, and each block that we take was asked
            # for by them, so that no suppression tells ours from theirs. The tests of lifetimes count ours.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=1:handle_segv=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
            # Each block of Python's gets red zones of its own.
            "PYTHONMALLOC": "malloc",
        },
        tests=("tests",),
        left_out=_NO_LIMITS,
    ),
    "thread": Sanitizer(
        flags="-fsanitize=thread -fno-omit-frame-pointer -g1 -O1",
        runtimes=("libtsan.so", "libstdc++.so"),
        options={
            # Signal handlers of Python only note the signal.
            "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:die_after_fork=0:report_signal_unsafe=0:"
            f"suppressions={SUPPRESSIONS}",
        },
        tests=(
            "tests/test_concurrency.py",
            "tests/test_forks.py",
            "tests/test_background.py",
            "tests/test_background_ends.py",
            "tests/test_cache.py",
            "tests/test_shared_cache.py",
            "tests/test_lifetimes.py",
            "tests/test_prefetch.py",
            "tests/test_tfrecord_feeding.py",
            "tests/test_tfrecord_foreseen.py",
            "tests/test_decoding.py",
        ),
        left_out=_NO_LIMITS,
    ),
}


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out what says nothing under a sanitizer: this module is a plugin of pytest, too."""
    left_out = SANITIZERS[os.environ["ARCHIVESTREAM_SANITIZER"]].left_out
    dropped = [item for item in items if any(fnmatch.fnmatch(item.nodeid, pattern) for pattern, _ in left_out)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]


def build(name: str) -> Path:
    """Build the package with a sanitizer; return the folder to import it from."""
    folder = BUILD / name
    flags = SANITIZERS[name].flags
    environment = {**os.environ, "CC": "gcc", "CXX": "g++", "CFLAGS": flags, "CXXFLAGS": flags, "LDFLAGS": flags}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(folder), "--build-lib"]
    command.append(str(folder / "lib"))
    print(shlex.join(command), flush=True)
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder / "lib"


def environment(name: str, library: Path) -> dict[str, str]:
    """Return the environment of a process that runs under a sanitizer."""
    sanitizer = SANITIZERS[name]

    def find(runtime: str) -> str:
        command = ["gcc", f"-print-file-name={runtime}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return {
        **os.environ,
        **sanitizer.options,
        "ARCHIVESTREAM_SANITIZER": name,
        "LD_PRELOAD": " ".join(map(find, sanitizer.runtimes)),
        "PYTHONPATH": os.pathsep.join([str(library), str(ROOT)]),
    }


def main(arguments: list[str]) -> int:
    """Build, and run the tests."""
    if not arguments or arguments[0] not in SANITIZERS:
        print(__doc__, file=sys.stderr)
        return 2
    name, *rest = arguments
    library = build(name)
    # The script of pytest: `python -m` would put this folder, whose extensions have no sanitizer, before the library.
    command = ["setarch", platform.machine(), "-R"]  # the shadow memory of older runtimes has a fixed place
    command += [str(Path(sys.executable).with_name("pytest")), "-p", "tests.sanitizers", "-o", "timeout=3000"]
    if not any(Path(one.partition("::")[0]).exists() for one in rest):
        rest += SANITIZERS[name].tests
    return subprocess.run([*command, *rest], cwd=ROOT, env=environment(name, library)).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
