"""Ctrl-C while one member takes long: it is answered before the member is there, and all goes on well after it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SIZE = 3 << 29

PROGRAM = """
import os, signal, sys, threading, time
from resource import RUSAGE_SELF, getrusage
import archivestream
path, kind, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
archive = archivestream.open(path, index="memory", threads=2)
if kind == "read":
    read = lambda: archive["large"]
else:
    read = lambda: archive.read_many(["small", "large"])
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    read()
except KeyboardInterrupt:
    taken = getrusage(RUSAGE_SELF).ru_maxrss << 10
else:
    sys.exit("it was not interrupted")
if taken > 0.9 * size:
    sys.exit("it was interrupted once the member was there")
assert archive["small"] == b"small"
if kind == "read_many":
    archive.close()
    sys.exit(7)     # while a thread is at work still
while True:         # the memory of what was interrupted is given back
    taken = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if taken < size // 4:
        sys.exit(7)
    time.sleep(0.2)
    assert archive.read_many(["small"]) == [b"small"]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One member of zeros, which deflate makes a thousandth of."""
    path = tmp_path_factory.mktemp("large") / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as writer:
        writer.writestr("small", b"small")
        with writer.open("large", "w", force_zip64=True) as file:
            for _ in range(SIZE >> 24):
                file.write(bytes(1 << 24))
    return path


def memory() -> int:
    """Bytes of memory that may be had."""
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.skipif(sys.platform == "linux" and memory() < 2 * SIZE, reason="needs 3 GiB of memory")
@pytest.mark.parametrize("kind", ["read", "read_many"])
def test_a_large_member(path: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, kind, str(SIZE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
