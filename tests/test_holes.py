"""Files with holes, which take no room on a disk: what is read of them is in proportion to what it holds."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from zipmaker import BZIP2, DEFLATE, LZMA, METHODS, STORED, XZ, ZSTD, Entry, Zip, compress

import archivestream
from archivestream import CorruptArchiveError
from archivestream._native.zstdscan import make_seek_table

HOLE = 3 << 30
DATA = b"some text " * 20

READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import archivestream
from archivestream import CorruptArchiveError
path, strict, bad = sys.argv[1], sys.argv[2] == "strict", sys.argv[3] == "bad"
with archivestream.open(path, strict=strict, index="memory", threads=2) as archive:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (
        lambda: archive["x"],
        lambda: archive.read_many(["x", "y"])[0],
        lambda: bytes(archive.read_batch(["y", "x"])[1]),
        lambda: archive.open_member("x").read(),
    ):
        try:
            assert read() == b"some text " * 20
            assert not strict and not bad
        except CorruptArchiveError as error:
            assert strict or bad, error
            assert "'x'" in str(error)
    assert archive["y"] == b"after"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert taken < 100_000, taken
"""


def with_a_hole(path: Path, data: bytes, at: int) -> Path:
    """Write a file with a hole at a place."""
    with path.open("wb") as file:
        file.write(data[:at])
        file.seek(at + HOLE)
        file.write(data[at:])
    assert os.stat(path).st_blocks * 512 < 1 << 20
    return path


def zip_with_a_hole(path: Path, method: int, payload: bytes) -> Path:
    """A ZIP whose first member is said to have a hole behind its stream."""
    first = Entry(b"x", DATA, method, payload, compressed_size=len(payload) + HOLE)
    made = Zip([first, Entry(b"y", b"after", offset=len(first.local()) + HOLE)])
    # The offset of the directory in the end record has the hole, too.
    data = bytearray(made.build())
    end = data.rindex(b"PK\5\6")
    start = struct.unpack_from("<L", data, end + 16)[0]
    struct.pack_into("<L", data, end + 16, start + HOLE)
    return with_a_hole(path, bytes(data), len(first.local()))


def read(path: Path, strict: str, what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", READ, path, strict, what], env=environment, timeout=60, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes, RLIMIT_AS and ru_maxrss in KiB")
@pytest.mark.parametrize("strict", ["default", "strict"])
@pytest.mark.parametrize("method", [DEFLATE, ZSTD, BZIP2, LZMA, XZ])
def test_a_hole_behind_a_stream(method: int, strict: str, tmp_path: Path) -> None:
    path = zip_with_a_hole(tmp_path / "a.zip", method, compress(DATA, method))
    read(path, strict, "good")


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes, RLIMIT_AS and ru_maxrss in KiB")
@pytest.mark.parametrize("method", [DEFLATE, ZSTD, BZIP2, XZ])
def test_a_hole_in_a_stream(method: int, tmp_path: Path) -> None:
    read(zip_with_a_hole(tmp_path / "a.zip", method, compress(DATA, method)[:-8]), "default", "bad")


@pytest.mark.parametrize("blocks", [1000, 6 << 20])
def test_a_frame_of_empty_blocks(blocks: int) -> None:
    # In zstd, three zeros are a block of no bytes: a frame may have any number of them.
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(DATA)
    assert frame[:5] == b"\x28\xb5\x2f\xfd\0"  # magic number, no size; then the window
    data = frame[:6] + bytes(3 * blocks) + frame[6:]
    with archivestream.open(data + make_seek_table([(len(data), len(DATA))], None), index="memory") as archive:
        assert archive.verify().ok == (blocks == 1000)  # which decodes it anew


def test_streams_that_are_longer_than_what_they_hold() -> None:
    # Stored blocks of one byte: 6 bytes for each, as of a writer that flushes all the time.
    data = os.urandom(100_000)
    blocks = b"".join(b"\0\1\0\xfe\xff" + data[i : i + 1] for i in range(len(data)))
    made = Zip([Entry(b"x", data, DEFLATE, blocks + b"\3\0"), *(Entry(b"%d" % m, data, m) for m in METHODS)]).build()
    with archivestream.open(made, strict=True) as archive:
        assert list(archive) == [data] * (1 + len(METHODS))
    # As many as are read, and what follows is not looked at; but it is known to be there.
    stored = compress(data, STORED)
    payload = compress(stored, DEFLATE) + bytes(18 << 20)
    for strict in (False, True):
        with archivestream.open(Zip([Entry(b"x", data, DEFLATE, payload)]).build(), strict=strict) as archive:
            if strict:
                with pytest.raises(CorruptArchiveError, match="'x'"):
                    archive.read(0)
            else:
                assert archive[0] == data
