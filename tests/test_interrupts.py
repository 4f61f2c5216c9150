"""Ctrl-C while one member takes long: it is answered before the member is there, and all goes on well after it."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from zipmaker import DEFLATE, Entry, make

SIZE = 3 << 29
PIECE = 1 << 24

PROGRAM = """
import os, signal, sys, threading, time
import archivestream
path, kind, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
archive = archivestream.open(path, index="memory", threads=2)
if kind == "read":
    read = lambda: archive["large"]
else:
    read = lambda: archive.read_many(["small", "large"])
def taken_now():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = taken_now()
def interrupt():    # as soon as it is being decoded
    while taken_now() < before + size // 16:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    read()
except KeyboardInterrupt:
    [taken] = [int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM")]
else:
    sys.exit("it was not interrupted")
if taken > 0.9 * size:
    sys.exit("it was interrupted once the member was there")
assert archive["small"] == b"small"
if kind == "read_many":
    archive.close()
    sys.exit(7)     # while a thread is at work still
while True:         # the memory of what was interrupted is given back
    if taken_now() < size // 4:
        sys.exit(7)
    time.sleep(0.2)
    assert archive.read_many(["small"]) == [b"small"]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One member of zeros, each of which takes a bit: a second or so to decode, on any machine."""
    path = tmp_path_factory.mktemp("large") / "a.zip"
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, strategy=zlib.Z_HUFFMAN_ONLY)
    piece = deflate.compress(bytes(PIECE)) + deflate.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(SIZE // PIECE):
        crc = zlib.crc32(bytes(PIECE), crc)
    payload = piece * (SIZE // PIECE) + deflate.flush()
    large = Entry(b"large", method=DEFLATE, payload=payload, crc=crc, size=SIZE)
    path.write_bytes(make(Entry(b"small", b"small"), large))
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
