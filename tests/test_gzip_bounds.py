"""gzip: address space that is limited, and saved indexes that ask for memory."""

from __future__ import annotations

import errno
import gzip
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rapidgzip")

import archivestream
from archivestream import CorruptArchiveError, sidecar
from archivestream.sources import LocalSource

MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # in what ru_maxrss counts

LIMITED = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import archivestream, rapidgzip

for room in (1, 64, 500, 1000, 1300, 2500):
    child = os.fork()
    if child == 0:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        kind = getattr(resource, sys.argv[3])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(kind, (used + (room << 20),) * 2)
        try:
            with archivestream.open(sys.argv[2], index="memory") as archive:
                found = len(archive[0])
        except MemoryError as error:
            found = str(error)
        print(room, found, flush=True)
        os._exit(0)
    print("status", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux only")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_on_address_space_is_an_error_and_no_crash(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(random.Random(1).randbytes(3 << 20), 1))
    command = [sys.executable, "-c", LIMITED, str(Path(archivestream.__file__).parents[1]), str(path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("status")] == ["status 0"] * 6, done.stdout
    outcomes = [line.split(" ", 1)[1] for line in lines if not line.startswith("status")]
    assert all(outcome == str(3 << 20) or "address space" in outcome or not outcome for outcome in outcomes)
    assert "address space" in outcomes[2]
    assert outcomes[-1] == str(3 << 20)


NO_THREADS = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
import archivestream, rapidgzip

with open(sys.argv[2], "rb") as file:
    data = file.read()
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
os.setuid(65534)  # whom the limit holds for
try:
    archivestream.open(data, threads=4)
except archivestream.ArchiveError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="root may become somebody without threads")
def test_no_threads_are_not_said_to_be_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(random.Random(1).randbytes(3 << 20), 1))
    command = [sys.executable, "-c", NO_THREADS, str(Path(archivestream.__file__).parents[1]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"SourceError {errno.EAGAIN}\n", "")


@pytest.mark.parametrize("blocks", [1, 1000])
def test_a_saved_index_that_says_it_decodes_to_much(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"plain" * 1000))
    archivestream.open(path).close()
    source = LocalSource(path)
    saved = sidecar.load_any(source)
    assert saved is not None
    columns = {name: np.array(column) for name, column in saved.columns.items()}
    whole = (2 << 30) // blocks
    for name in ("block_size", "block_compressed_size"):
        columns[name] = np.full(blocks, whole, np.uint64)
    for name in ("block_start", "block_offset"):
        columns[name] = np.arange(blocks, dtype=np.uint64) * np.uint64(whole)
    for name in ("block_codec", "block_flags", "block_crc32"):
        columns[name] = np.repeat(columns[name][:1], blocks)
    columns["aux_offset"] = np.zeros(blocks + 1, np.uint64)
    metadata = sidecar.Metadata(saved.metadata.format, saved.metadata.layout, 2 << 30, crc32=saved.metadata.crc32)
    sidecar.save(columns, metadata, source, saved.path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptArchiveError, match="saved index"):
        archivestream.open(path, index="require")[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * MIB


CLOSED_BY_ANOTHER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from archivestream.formats.gzip import read_index
from archivestream.limits import Limits
from archivestream.sources import LocalSource

def work():
    global source
    options = {"strict": False, "metadata_encoding": None, "threads": 1, "progress": None}
    _, source, _ = read_index(LocalSource(sys.argv[2]), limits=Limits(), **options)
    source.read_at(0, 10)

thread = threading.Thread(target=work)
thread.start()
thread.join()
source.close()
print(threading.active_count())
"""


def test_no_thread_is_begun_to_close(tmp_path: Path) -> None:
    """There may be no memory for one."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"plain" * 1000))
    command = [sys.executable, "-c", CLOSED_BY_ANOTHER, str(Path(archivestream.__file__).parents[1]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")
