"""C++ that gets no memory: an error, or fewer threads, at whichever of its allocations that happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

FAILING = """
#include <cstdlib>
#include <new>
extern "C" { int fail_at = 0; int fail_from = 0; }
void *operator new(std::size_t size) {
  if (fail_from && --fail_from == 0) { fail_from = 1; throw std::bad_alloc(); }
  if (fail_at && --fail_at == 0) throw std::bad_alloc();
  void *memory = std::malloc(size ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }
"""

PROGRAM = """
import ctypes, os, sys
import archivestream
from archivestream import Cache
from archivestream._native.meter import Meter
path, library, what = sys.argv[1], ctypes.CDLL(sys.argv[2]), sys.argv[3]
archive = archivestream.open(path, threads=4, index="memory")
expected = [b"contents" * 10_000 + b"%d" % i for i in range(50)]
def work():
    if what == "read":
        assert archive.read_many(range(50)) == expected
    elif what == "submit":
        assert bytes(archive.submit(range(50)).result().data) == b"".join(expected)
    elif what == "open":
        Meter()
        with archivestream.open(path, threads=4, index="memory", cache=Cache(1 << 26, shared=True)) as other:
            for _ in range(2):
                assert other.read_many(range(50)) == expected
for name in ("fail_at", "fail_from"):
    failing = ctypes.c_int.in_dll(library, name)
    for at in range(1, 20):
        child = os.fork()   # which begins with no threads
        if not child:
            failing.value = at
            try:
                work()
            except MemoryError:
                pass
            failing.value = 0
            assert archive.read_many(range(50)) == expected
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, (name, at)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "failing.cpp").write_text(FAILING)
    made = folder / "failing.so"
    subprocess.run(
        [str(COMPILER), "-shared", "-fPIC", "-O1", "-o", made, folder / "failing.cpp"], check=True, timeout=120
    )
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("what", ["read", "submit", "open"])
def test_every_allocation(what: str, library: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as writer:
        for i in range(50):
            writer.writestr(str(i), b"contents" * 10_000 + b"%d" % i)
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, path, library, what]
    done = subprocess.run(command, env=environment, timeout=120, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
