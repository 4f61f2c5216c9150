"""Build the fuzzer: the extensions with ASan, UBSan and coverage, and an executable that embeds Python.

All of it lies in ``build/fuzz``. The Python files, and the C++ that Cython makes of the ``.pyx`` files, are those of
the repository; the Python that runs the fuzzers finds the instrumented extensions before the others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "fuzz"
EXTENSIONS = FOLDER / "extensions"
PROGRAM = FOLDER / "fuzzer"
HERE = Path(__file__).parent

# Extensions that no byte of an archive comes to but as a member that is whole: they are taken as they are.
PLAIN = {"memberstore", "memberview", "nameparts", "permutation", "sharedstore", "sharedview", "storing"}

# -O1, as every check and counter is an instruction, and the compiler has a minute.
FLAGS = ["-O1", "-gline-tables-only", "-fPIC", "-w", "-fno-omit-frame-pointer", "-fvisibility=hidden"]
SANITIZERS = "address,undefined"
UNCOUNTED = HERE / "uncounted.txt"
INSTRUMENTED = [
    f"-fsanitize=fuzzer-no-link,{SANITIZERS}",
    "-fno-sanitize=function",  # CPython calls every function of an extension through a pointer of another type
    f"-fsanitize-coverage-ignorelist={UNCOUNTED}",
]


class MissingTool(Exception):
    """Something that the fuzzers need is not installed."""


def find_clang() -> str:
    """Return the compiler."""
    clang = os.environ.get("CLANG", "clang")
    if shutil.which(clang) is None or shutil.which(f"{clang}++") is None:
        raise MissingTool(
            "clang is not installed; on Debian: apt-get install -y --no-install-recommends clang llvm "
            "libclang-rt-dev (CLANG=clang-18 names another one)"
        )
    return clang


def build() -> None:
    """Build what is out of date."""
    clang = find_clang()
    setup = load_setup()
    setup.third_party()
    EXTENSIONS.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'archivestream' / '_native'}"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        libraries: list[Future[Path]] = []
        for library in setup.LIBRARIES:
            include = f"-I{library.folder / library.include}"
            includes.append(include)
            libraries += [
                pool.submit(compile_file, [clang], source, [include])
                for pattern in reversed(library.sources)
                for source in sorted(library.folder.glob(pattern))
            ]
        names = [name for name in setup.EXTENSIONS if name not in PLAIN]
        translate(setup, names)
        compiled = {
            name: pool.submit(
                compile_file, [f"{clang}++", "-std=c++17"], ROOT / f"archivestream/_native/{name}.cpp", includes
            )
            for name in names
        }
        for name, future in compiled.items():
            needed = libraries if f"archivestream._native.{name}" in setup.LINKS else []
            link([f"{clang}++", "-shared", *INSTRUMENTED], [future, *needed], extension_path(name))
    command = [f"{clang}++", f"-fsanitize=fuzzer,{SANITIZERS}", "-std=c++17", *FLAGS, *includes, "-rdynamic"]
    entry = HERE / "entry.cpp"
    if is_older(PROGRAM, [entry]):
        run([*command, str(entry), *python_library(), "-o", str(PROGRAM)])


def load_setup() -> ModuleType:
    """Import ``setup.py``: which extensions there are, and where the C libraries come from."""
    spec = importlib.util.spec_from_file_location("archivestream_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def translate(setup: ModuleType, names: Sequence[str]) -> None:
    """Let Cython make C++ of what has changed, as the build of the package does."""
    from Cython.Build import cythonize

    before = os.getcwd()
    os.chdir(ROOT)  # the paths of the extensions are relative
    try:
        cythonize([setup.native(name) for name in names], compiler_directives=setup.DIRECTIVES, quiet=True)
    finally:
        os.chdir(before)


def compile_file(compiler: list[str], source: Path, includes: list[str]) -> Path:
    """Compile a file, unless its object is newer than it and all headers; return the object."""
    flags = hashlib.sha256(repr((compiler, INSTRUMENTED, FLAGS, UNCOUNTED.read_bytes())).encode()).hexdigest()[:8]
    target = FOLDER / f"objects-{flags}" / source.with_suffix(".o").relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_older(target, [source, *source.parent.glob("*.h*")]):
        run([*compiler, *INSTRUMENTED, *FLAGS, *includes, "-c", str(source), "-o", str(target)])
    return target


def link(command: list[str], objects: Sequence[Future[Path]], target: Path) -> None:
    """Link objects, once they are there, unless the target is newer."""
    paths = [future.result() for future in objects]
    if is_older(target, paths):
        run([*command, *map(str, paths), "-o", str(target)])


def is_older(target: Path, sources: Sequence[Path]) -> bool:
    """Whether a file is not there, or is older than any of others."""
    return not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def extension_path(name: str) -> Path:
    """Where the instrumented extension of a name lies."""
    return EXTENSIONS / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def python_library() -> list[str]:
    """Return what links the interpreter into a program."""
    folder = sysconfig.get_config_var("LIBDIR")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        folder = sysconfig.get_config_var("LIBPL")
    version = sysconfig.get_config_var("LDVERSION")
    system = shlex.split(f"{sysconfig.get_config_var('LIBS')} {sysconfig.get_config_var('SYSLIBS')}")
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", f"-lpython{version}", *system]


def run(command: list[str]) -> None:
    """Run a compiler, and show what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr}")
