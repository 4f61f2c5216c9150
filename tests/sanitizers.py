"""The tests, with the native code under a sanitizer: ``python -m tests.sanitizers address`` or ``thread``.

The extensions, libdeflate and libzstd are built once more, with GCC, below ``build/sanitizers``, and so is an
interpreter that does no more than load the sanitizer's runtime first: it is the one that runs this, otherwise, with its
packages (Python 3.11 or later, with its shared library). What follows goes to pytest: ``python -m tests.sanitizers
address tests/test_views.py -k cut``. Reports, of any process, are shown, and make the command fail.
"""

from __future__ import annotations

import fnmatch
import os
import platform
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
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
    options: dict[str, str]  # of the runtimes, by the variable that each reads
    environment: dict[str, str]
    tests: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]  # tests, as a pattern of their ids; and why


# Both take terabytes of address space for their shadow memory, and their own share of the rest.
_LEFT_OUT = (
    ("*dies_is_an_error*segfault*", "a segmentation fault is what it asks for, and what they report"),
    ("*address_space*", "a limit on address space leaves no room for the shadow memory"),
    ("*test_no_thread_can_be_started?no memory*", "the same"),
    ("*test_no_memory_is_not_said_to_be_damage*", "the same"),
    ("*test_a_hole_*_a_stream*", "the same"),
    ("*test_huge_sizes_take_no_memory*", "the same"),
    ("*test_memory_kept_for_later_batches*", "what is resident is the sanitizer's, too"),
    ("*test_memory_is_bounded*", "the same"),
    ("*test_a_thousand_archives_leave_nothing*", "the same"),
    ("*test_stress?cycles?*", "the same"),
    ("*test_signals_are_looked_for_all_along*", "it measures time, and all takes many times as long"),
    ("*test_benchmarks.py*", "speed says nothing under a sanitizer, and the cases take an hour"),
    ("*test_examples_ddp.py*", "what it runs imports a module beside it, where this checkout must not be looked for"),
    ("*test_packaging.py*", "it builds and installs the package, without a sanitizer"),
    ("*test_damage.py*", "its children have a limit on address space"),
    ("*test_bombs.py*", "the same"),
    ("*test_faults.py*", "its shim and a sanitizer's runtime both have to come first"),
    ("*test_no_memory.py*", "the same"),
    ("*test_fuzz_regressions.py*", "the fuzzers run them with the sanitizers"),
)

SANITIZERS = {
    "address": Sanitizer(
        flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1 -O1",
        options={
            # Leaks: the interpreter, NumPy and PyTorch keep much until they end, and each block that we take was asked
            # for by them, so that no suppression tells ours from theirs. The tests of lifetimes count ours.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:abort_on_error=1:handle_segv=1",
            "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
        },
        # Each block of Python's gets red zones of its own.
        environment={"PYTHONMALLOC": "malloc"},
        tests=("tests",),
        left_out=(
            *_LEFT_OUT,
            ("*fork*", "a thread may hold the lock of the runtime's allocator then, and the child waits"),
        ),
    ),
    "thread": Sanitizer(
        # The warning is of fences, which it does not follow: see the suppressions.
        flags="-fsanitize=thread -Wno-tsan -fno-omit-frame-pointer -g1 -O1",
        options={
            # Signal handlers of Python only note the signal. A longer history has both stacks in a report.
            "TSAN_OPTIONS": "die_after_fork=0:report_signal_unsafe=0:history_size=7:allocator_may_return_null=1:"
            f"suppressions={SUPPRESSIONS}",
        },
        environment={},
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
            "tests/test_stress.py",
        ),
        left_out=(
            *_LEFT_OUT,
            ("*test_a_fork_while_threads_wait*", "its child has ten seconds for what takes a minute"),
            ("*test_no_thread_can_be_started*", "the same"),
            ("*test_stress?exits?", "each of its programs has a minute, and some take longer"),
        ),
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


def make_interpreter(name: str) -> Path:
    """Make a virtual environment whose interpreter is linked with a sanitizer's runtime, before the C++ library.

    Were the runtime preloaded, all programs that tests start would have it, of which some, such as `ps`, hang with it.
    """
    folder = BUILD / name / "python"
    venv.create(folder, clear=True)
    packages = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    next(folder.glob("lib/*/site-packages")).joinpath("packages.pth").write_text("".join(packages))
    python = folder / "bin" / "python"
    python.unlink()
    include, libraries, version = map(sysconfig.get_config_var, ("INCLUDEPY", "LIBDIR", "LDVERSION"))
    command = ["g++", *SANITIZERS[name].flags.split(), f"-I{include}", "-x", "c++", "-", "-o", str(python)]
    command += ["-Wl,--no-as-needed", f"-L{libraries}", f"-Wl,-rpath,{libraries}", f"-lpython{version}"]
    main = b"#include <Python.h>\nint main(int argc, char **argv) { return Py_BytesMain(argc, argv); }\n"
    subprocess.run(command, input=main, check=True)
    return python


def reports(name: str) -> Path:
    """Return the folder of what a sanitizer has to say, of one process in each file."""
    return BUILD / name / "reports"


def environment(name: str, library: Path) -> dict[str, str]:
    """Return the environment of a process that runs under a sanitizer."""
    sanitizer = SANITIZERS[name]

    # Into files: pytest keeps what tests write, and tests keep what their processes write.
    options = {key: f"{value}:log_path={reports(name)}/report" for key, value in sanitizer.options.items()}
    return {
        **os.environ,
        **options,
        **sanitizer.environment,
        "ARCHIVESTREAM_SANITIZER": name,
        # Else `python -m`, and children, would find the package in this folder, which has no sanitizer.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([str(library), str(ROOT)]),
    }


def main(arguments: list[str]) -> int:
    """Build, and run the tests."""
    if not arguments or arguments[0] not in SANITIZERS:
        print(__doc__, file=sys.stderr)
        return 2
    name, *rest = arguments
    library = build(name)
    command = ["setarch", platform.machine(), "-R"]  # the shadow memory of older runtimes has a fixed place
    command += [str(make_interpreter(name)), "-m", "pytest", "-p", "tests.sanitizers", "-o", "timeout=3000"]
    command.append("--capture=sys")  # that of undefined behaviour knows of no files
    if not any(Path(one.partition("::")[0]).exists() for one in rest):
        rest += SANITIZERS[name].tests
    shutil.rmtree(reports(name), ignore_errors=True)
    reports(name).mkdir()
    status = subprocess.run([*command, *rest], cwd=ROOT, env=environment(name, library)).returncode
    texts = [path.read_text(errors="replace") for path in sorted(reports(name).iterdir())]
    # Who asks for more memory than there is gets NULL, as without a sanitizer; the runtime says so all the same.
    found = [text for text in texts if any("failed to allocate" not in line for line in text.splitlines())]
    for text in found:
        print(text, file=sys.stderr)
    print(f"{len(found)} processes with reports")
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
