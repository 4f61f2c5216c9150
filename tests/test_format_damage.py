"""tar, zstd and gzip, damaged: an error that names the archive, or identical bytes; never anything else."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tarmaker as make
from samples import tar_of, text, zst_of

import archivestream
from archivestream import (
    ArchiveError,
    CorruptArchiveError,
    LimitExceededError,
    UnsupportedFeatureError,
)

# ---- an archive that was damaged after it was indexed -----------------------------------------------------------


@pytest.fixture(scope="module")
def segmented() -> tuple[bytes, dict[str, bytes]]:
    """One frame of several segments in some KB: most of it repeats itself."""
    line = text(3000)
    members = {f"{i}": line * 400 + b"%d" % i for i in range(10)}
    data = zst_of(tar_of(members), 5)
    assert len(data) < 12_000
    return data, members


@pytest.mark.parametrize("cache", [0, None])
def test_every_flip_behind_the_index(segmented, tmp_path, cache):
    """An error or the same bytes, in whichever segment it is; and what was read before stays in the cache."""
    data, members = segmented
    path = tmp_path / "a.tar.zst"
    path.write_bytes(data)
    contents = list(members.values())
    chance = random.Random(5)
    refused = 0
    with archivestream.open(path, cache=cache) as archive, path.open("r+b", buffering=0) as file:
        if cache is None:
            assert archive.read_many(range(len(archive))) == contents
        for place in range(len(data)):
            os.pwrite(file.fileno(), bytes([data[place] ^ 1 << chance.randrange(8)]), place)
            i = chance.randrange(len(members))
            try:
                assert archive[i] == contents[i]
            except ArchiveError as error:
                assert (error.archive, error.member) == (str(path), str(i))
                refused += 1
            os.pwrite(file.fileno(), data[place : place + 1], place)
        assert archive.read_many(range(len(archive))) == contents
    assert bool(refused) == (cache == 0)


# ---- sizes that are lies ----------------------------------------------------------------------------------------


def frame(header: bytes, *blocks: bytes) -> bytes:
    return b"\x28\xb5\x2f\xfd" + header + b"".join(blocks)


def zstd_block(kind: int, size: int, data: bytes, last: bool = True) -> bytes:
    """RFC 8878, 3.1.1.2: raw (0), repeated (1), compressed (2)."""
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + data


EXABYTE = 1 << 60
HELLO = zstd_block(0, 5, b"hello")
# What a file is, and what its reader must say.
LIES: dict[str, tuple[bytes, type[Exception], str]] = {
    # Content size in 8 bytes (descriptor C0), window as large as that or (descriptor E0: one segment) given.
    "an exabyte of content, window of 8 MiB": (
        frame(b"\xc0\x68" + EXABYTE.to_bytes(8, "little"), HELLO),
        CorruptArchiveError,
        "fewer bytes|damaged",
    ),
    "an exabyte in one segment": (frame(b"\xe0" + EXABYTE.to_bytes(8, "little"), HELLO), LimitExceededError, "window"),
    "a window of 3.75 TiB": (frame(b"\0\xff", HELLO), LimitExceededError, "max_window_bytes"),
    "a window of 256 MiB": (frame(b"\0\x90", HELLO), LimitExceededError, "max_window_bytes"),
    "a dictionary": (
        frame(b"\x03\x58" + b"\x39\x30\0\0", HELLO),
        UnsupportedFeatureError,
        "dictionary 12345 is required",
    ),
    "a reserved block": (frame(b"\0\x58", zstd_block(3, 5, b"hello")), CorruptArchiveError, "damaged"),
    "a block of 2 MiB": (frame(b"\0\x58", zstd_block(1, (1 << 21) - 1, b"a")), CorruptArchiveError, "damaged"),
    "no last block": (frame(b"\0\x58", zstd_block(0, 5, b"hello", last=False)), CorruptArchiveError, "truncated"),
    "a skippable frame of 4 GiB": (b"\x50\x2a\x4d\x18\xff\xff\xff\xff", CorruptArchiveError, "truncated"),
    "a tar of 4 EiB": (
        make.header(b"a", make.base256(1 << 62)) + make.END,
        CorruptArchiveError,
        "truncated",
    ),
    "a negative size": (make.header(b"a", make.base256(-1)) + make.END, CorruptArchiveError, "negative"),
    "a PAX header of 8 GiB": (
        make.header(b"a", b"77777777777\0", kind=b"x") + make.END,
        LimitExceededError,
        "1 MiB",
    ),
}


@pytest.mark.parametrize("how", LIES)
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_that_are_lies(how, packed):
    """Cost no memory; in another process, which has little."""
    data, kind, reason = LIES[how]
    if packed and data.startswith((b"\x28", b"\x50")):
        pytest.skip("it is packed already")
    found = open_with_little_memory(zst_of(data) if packed else data)
    assert found.startswith(f"{kind.__name__} <")
    assert re.search(reason, found)


def test_sparse_members_of_exabytes():
    """Are listed, and not read: by a limit, or where that is raised for want of memory. Any part of them is."""
    size = 1 << 62
    records = [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.map", b"%d,5" % (size - 5))]
    data = make.pax(*records, (b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.name", b"sparse"))
    data += make.member(b"x", b"hello") + make.END
    for whole in (data, zst_of(data)):
        found = open_with_little_memory(whole)
        assert found.startswith(f"1 members\nLimitExceededError <{len(whole)} bytes>: member 'sparse'")
        assert "max_member_bytes" in found
        with archivestream.open(whole, limits=archivestream.Limits(max_member_bytes=1 << 63)) as archive:
            with archive.open_member(0) as member:
                member.seek(-7, io.SEEK_END)
                assert member.read() == b"\0\0hello"
            with pytest.raises(MemoryError):
                archive[0]


def test_what_expands_without_bound():
    """10 GiB of zeros in a few hundred KB are scanned in little memory; reading the member is refused by its size."""
    # 8 raw blocks of a tar's header, then blocks that repeat one byte 128 KiB times (RFC 8878, 3.1.1.2.2).
    count = (3 << 30) >> 17
    head = make.header(b"zeros", count << 17)
    blocks = zstd_block(1, 1 << 17, b"\0", last=False) * count
    data = frame(b"\0\x58", zstd_block(0, 512, head, last=False), blocks, zstd_block(1, 1024, b"\0"))
    assert open_with_little_memory(data, "max_member_bytes=1 << 30").startswith("1 members\nLimitExceededError")


LITTLE = """
import sys, resource, warnings
import archivestream
data = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), used + (300 << 20)))
try:
    archive = archivestream.open(data, threads=1, cache=1 << 20, limits=archivestream.Limits({}))
    print(len(archive), "members")
    archive[0]
except Exception as error:
    print(type(error).__name__, error)
"""


def open_with_little_memory(data: bytes, limits: str = "") -> str:
    """Open bytes, and read their first member, in a process that can take 300 MiB and no more; what it says."""
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
    command = [sys.executable, "-c", LITTLE.replace("{}", limits)]
    done = subprocess.run(command, env=environment, input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()
