"""tar, zstd and gzip, damaged: an error that names the archive, or identical bytes; never anything else."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import tarmaker as make
import zstandard
from samples import as_frames, as_seekable, tar_of, text, zst_of

import archivestream
from archivestream import (
    ArchiveChangedError,
    ArchiveError,
    CorruptArchiveError,
    LimitExceededError,
    UnsupportedFeatureError,
)

MEMBERS = {"a": text(700), "folder/b": b"", "c" * 60: random.Random(1).randbytes(300), "d": text(900, 2)}
TAR = tar_of(MEMBERS)[: -7 * 1024]  # without most of the zeros at its end


def sparse() -> bytes:
    """Every kind of header: sparse, PAX, long names, links."""
    data = make.pax((b"path", "größe".encode()), (b"mtime", b"1.5")) + make.member(b"x", b"pax data")
    data += make.long_name(b"long" * 40) + make.member(b"x", b"long data", magic=make.GNU)
    data += (
        make.long_name(b"long" * 40, b"K")
        + make.header(b"link", kind=b"1", magic=make.GNU)
        + make.header(b"dir/", kind=b"5")
    )
    records = [(b"GNU.sparse.major", b"0"), (b"GNU.sparse.minor", b"1"), (b"GNU.sparse.map", b"0,100,2000,50")]
    data += make.pax(*records, (b"GNU.sparse.size", b"3000"), (b"GNU.sparse.name", b"sparse"))
    return data + make.member(b"x", text(150)) + make.END


SAMPLES: dict[str, bytes] = {
    "tar": TAR,
    "tar, every header": sparse(),
    "tar.zst": zst_of(TAR),
    "tar.zst, no checksum": zstandard.ZstdCompressor(write_content_size=False).compress(TAR),
    "tar.zst, frames": as_frames(TAR, 700),
    "tar.zst, seekable": as_seekable(TAR, 700),
    "zst": zst_of(text(2000)),
}
GZIP: dict[str, bytes] = {
    "tar.gz": gzip.compress(TAR, mtime=0),
}


class Outcome:
    """What the members of an archive are, or which error there is."""

    def __init__(self, source: object, name: str, **options: object) -> None:
        self.error: ArchiveError | None = None
        self.members: dict[tuple[int, str], bytes | ArchiveError] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", archivestream.ArchiveWarning)  # of a seek table
            try:
                archive = archivestream.open(source, threads=1, **options)  # type: ignore[arg-type]
            except ArchiveError as error:
                assert error.archive is not None
                assert error.archive.startswith(name)
                self.error = error
                return
        with archive:
            for i, member in enumerate(archive.names):
                try:
                    self.members[i, member] = archive[i]
                except ArchiveError as error:
                    assert error.archive == name
                    assert error.member == member
                    self.members[i, member] = error
            errors = archive.verify().errors
            assert {error.member for error in errors} >= {key[1] for key in self.bad}
            if not errors:
                assert archive.read_many(range(len(archive))) == list(self.members.values())

    @property
    def bad(self) -> list[tuple[int, str]]:
        return [key for key, data in self.members.items() if isinstance(data, ArchiveError)]


def truncations(data: bytes) -> Iterator[bytes]:
    return (data[:size] for size in range(len(data)))


def flips(data: bytes, masks: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    masks = list(masks)
    changed = bytearray(data)
    for place in range(len(data)):
        for mask in masks:
            changed[place] ^= mask
            yield place, bytes(changed)
            changed[place] ^= mask


# ---- the archive ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("strict", [False, True])
def test_every_truncation(kind, strict):
    """Is an error, but where a tar ends between two members, or a zstd file between two frames."""
    whole = Outcome(SAMPLES[kind], f"<{len(SAMPLES[kind])} bytes>", strict=strict)
    opened = 0
    for data in truncations(SAMPLES[kind]):
        found = Outcome(data, f"<{len(data)} bytes>", strict=strict)
        if found.error is None and kind != "zst":
            opened += 1
            assert found.members.items() <= whole.members.items()
    limits = {"tar": 1024 + 4, "tar, every header": 1024 + 6, "tar.zst, frames": 8, "tar.zst, seekable": 8}
    assert opened <= limits.get(kind, 0) + (kind == "tar.zst, seekable")


@pytest.mark.parametrize("kind", ["tar.zst", "tar.zst, no checksum", "tar.zst, frames", "tar.zst, seekable", "zst"])
@pytest.mark.parametrize("strict", [False, True])
def test_every_flip_of_zstd(kind, strict):
    """Is an error, or what libzstd makes of it, where there is no checksum or a frame has become one to skip."""
    data = SAMPLES[kind]
    whole = Outcome(data, f"<{len(data)} bytes>", strict=strict)
    assert whole.members
    for _, flipped in flips(data, [1, 0x10, 0xFF] if strict else [1 << bit for bit in range(8)]):
        found = Outcome(flipped, f"<{len(data)} bytes>", strict=strict)
        if found.members and found.members != whole.members:
            plain = b"".join(decompress(flipped))
            if list(found.members) != [(0, "")]:
                assert found.members == Outcome(plain, f"<{len(plain)} bytes>", strict=strict).members
            else:  # no tar any more
                assert list(found.members.values()) == [plain]


def decompress(data: bytes) -> Iterator[bytes]:
    """Every frame, by itself."""
    while data:
        if data[1:4] == b"\x2a\x4d\x18" and data[0] >> 4 == 5:
            data = data[8 + int.from_bytes(data[4:8], "little") :]
            continue
        decompressor = zstandard.ZstdDecompressor().decompressobj()
        yield decompressor.decompress(data)
        assert decompressor.eof
        data = decompressor.unused_data


@pytest.mark.parametrize("kind", ["tar", "tar, every header"])
@pytest.mark.parametrize("strict", [False, True])
def test_every_flip_of_tar(kind, strict):
    """Headers have a checksum; the data have none, so a flip in them is in the member, and nowhere else."""
    data = SAMPLES[kind]
    whole = Outcome(data, f"<{len(data)} bytes>", strict=strict)
    for place, flipped in flips(data, [1, 0x80, 0xFF]):
        found = Outcome(flipped, f"<{len(data)} bytes>", strict=strict)
        if found.error is None and found.members != whole.members:
            assert {name for _, name in found.bad} <= {"link"}  # whose target has another name now
            changed = [key for key in found.members if found.members[key] != whole.members.get(key)]
            # The bytes of one member (and of the links to it), or of an extension header, or the last mark.
            assert len(changed) <= 2 or place >= len(data) - 1024


@pytest.mark.parametrize("strict", [False, True])
def test_gzip(strict, capfd):
    pytest.importorskip("rapidgzip")
    for data in GZIP.values():
        whole = Outcome(data, f"<{len(data)} bytes>", strict=strict)
        assert whole.members
        for cut in truncations(data):
            assert Outcome(cut, f"<{len(cut)} bytes>", strict=strict).error is not None
        for _, flipped in flips(data, [1 if strict else 0x40]):
            found = Outcome(flipped, f"<{len(data)} bytes>", strict=strict)
            assert found.error is not None or found.members == whole.members
    capfd.readouterr()  # what rapidgzip writes there, nobody can stop


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


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.zst, frames", "zst", "tar.gz", "segmented"])
def test_every_flip_and_truncation_of_a_saved_index(kind, segmented, tmp_path):
    """Is an error where it is required, and else no matter."""
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
    path = tmp_path / "archive"
    path.write_bytes(segmented[0] if kind == "segmented" else {**SAMPLES, **GZIP}[kind])
    with archivestream.open(path) as archive:
        contents = list(archive)
        [beside] = map(Path, archive.summary().saved_indexes)
    whole = beside.read_bytes()
    masks = [1, 0xFF] if kind != "segmented" else [1 << random.Random(2).randrange(8)]
    for data in itertools.chain(truncations(whole), (flipped for _, flipped in flips(whole, masks))):
        beside.write_bytes(data)
        with pytest.raises((CorruptArchiveError, ArchiveChangedError)) as caught:
            archivestream.open(path, index="require")
        assert caught.value.archive == str(beside)
    for data in (whole[:-1], whole[:100], bytes(len(whole))):
        beside.write_bytes(data)
        with archivestream.open(path) as archive:
            assert list(archive) == contents
        assert beside.read_bytes() == whole


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
