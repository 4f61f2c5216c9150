"""`Archive.open_member`: a member as a file, below the size that is decoded at once and above it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image
from zipmaker import (
    DEFLATE,
    LZMA,
    METHODS,
    STORED,
    XZ,
    ZSTD,
    Entry,
    compress,
    deflate,
    lzma_without_end_mark,
    make,
)

import archivestream
from archivestream import (
    Archive,
    ArchiveError,
    CorruptArchiveError,
    LimitExceededError,
    Limits,
    UnsupportedFeatureError,
)

OpenAs = Callable[..., Archive]

LOW = 50_000  # what takes the place of the size up to which a member is decoded at once
PIECE = 1 << 20  # what is decoded at a time
LINES = b"".join(b"line %d of many\n" % i for i in range(20_000))
NOISE = random.Random(0).randbytes(60_000)
CONTENTS = {
    "small": LINES[: LOW - 1],
    "threshold": LINES[:LOW],
    "above": LINES[: LOW + 1],
    "lines": LINES,
    "noise": NOISE,
}


@pytest.fixture
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read piece by piece what is quick to make; a member of that size in earnest is further down."""
    monkeypatch.setattr("archivestream.member_io._WHOLE", LOW)


# ---- like any file ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_like_a_file(open_as: OpenAs, method: int, kind: str) -> None:
    """Whatever one does with it, it does what `io.BytesIO` does."""
    contents = CONTENTS[kind]
    archive = open_as(make(Entry(b"before"), Entry(b"x", contents, method, local_extra=bytes(700)), Entry(b"after")))
    rng = random.Random(kind + str(method))
    with archive.open_member("x") as member:
        assert isinstance(member, io.BufferedReader)
        assert member.readable()
        assert member.seekable()
        assert not member.writable()
        model = io.BytesIO(contents)
        # Far steps back are dear where a stream is decoded anew each time.
        for _ in range(60 if method == STORED else 25):
            size = rng.choice([0, 1, 10, 5000, len(contents), len(contents) * 2])
            place = rng.randrange(len(contents) + 100)
            assert member.tell() == model.tell()
            match rng.randrange(9):
                case 0:
                    assert member.read(size) == model.read(size)
                case 1:
                    assert member.seek(place) == model.seek(place)
                case 2:
                    assert member.seek(-min(place, len(contents)), io.SEEK_END) == model.seek(
                        -min(place, len(contents)), io.SEEK_END
                    )
                case 3:
                    step = rng.randrange(-min(model.tell(), 3000), 3000)
                    assert member.seek(step, io.SEEK_CUR) == model.seek(step, io.SEEK_CUR)
                case 4:
                    assert member.readline() == model.readline()
                case 5:
                    ours, theirs = bytearray(size), bytearray(size)
                    assert member.readinto(ours) == model.readinto(theirs)
                    assert ours == theirs
                case 6:
                    data = member.read1(size)
                    assert model.read(len(data)) == data
                    assert data or not size or model.tell() >= len(contents)
                case 7:
                    ahead = member.peek(10)
                    assert contents[model.tell() :].startswith(ahead)
                case 8:
                    ours = np.zeros(size // 4, np.int32)  # type: ignore[assignment]
                    got = member.readinto(ours)  # type: ignore[arg-type]
                    assert model.read(got) == ours.tobytes()[:got]  # type: ignore[attr-defined]
        member.seek(0)
        assert member.read() == contents
        assert member.read() == b""
        assert member.read(10) == b""
        member.seek(0)
        assert list(member) == io.BytesIO(contents).readlines()
    assert member.closed
    with pytest.raises(ValueError, match="closed"):
        member.read()


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
def test_odd_seeks(method: int) -> None:
    for contents in (b"", b"short", LINES):
        member = archivestream.open(make(Entry(b"x", contents, method))).open_member(0)
        for past in (len(contents), len(contents) + 1, len(contents) + 10**6, 2**62):
            assert member.seek(past) == past
            assert member.tell() == past
            assert member.read(5) == b""
            assert member.read() == b""
        assert member.seek(3, io.SEEK_END) == len(contents) + 3
        assert member.read(1) == b""
        for offset, whence in ((-1, 0), (-len(contents) - 1, 2), (0, 5), (0, 3), (0, 4)):
            with pytest.raises((ValueError, OSError)):  # as a BytesIO or as a file has it, but never another
                member.seek(offset, whence)
        member.seek(0)
        assert member.read() == contents
        with pytest.raises(io.UnsupportedOperation):
            member.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            member.truncate(0)


@pytest.mark.usefixtures("low_threshold")
def test_members_at_the_same_time(open_as: OpenAs) -> None:
    """Each has a position of its own, and lives on when the archive is closed."""
    archive = open_as(make(*(Entry(b"%d" % method, LINES, method) for method in METHODS)))
    members = [archive.open_member(i % len(METHODS)) for i in range(12)]
    archive.close()
    del archive
    pieces: list[list[bytes]] = [[] for _ in members]
    for i in itertools.cycle(range(12)):
        pieces[i].append(members[i].read(10_000 + i))
        if not any(piece[-1] for piece in pieces if piece):
            break
    assert all(b"".join(piece) == LINES for piece in pieces)


# ---- what reads files ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
def test_readers_of_files(open_as: OpenAs, method: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    png, npy, npz, inner, text = (io.BytesIO() for _ in range(5))
    Image.fromarray(pixels).save(png, "png")
    np.save(npy, pixels)
    np.savez(npz, a=pixels, b=pixels[::-1])
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("lines.txt", LINES)
        file.writestr("noise", NOISE)
    text.write("naïve, text\r\n".encode() * 9000)
    files = {"png": png, "npy": npy, "npz": npz, "zip": inner, "txt": text}
    archive = open_as(make(*(Entry(name.encode(), file.getvalue(), method) for name, file in files.items())))
    with archive.open_member("png") as member, Image.open(member) as image:
        assert np.array_equal(np.asarray(image), pixels)
    with archive.open_member("npy") as member:
        assert np.array_equal(np.load(member), pixels)
    with archive.open_member("npz") as member, np.load(member) as loaded:
        assert np.array_equal(loaded["b"], pixels[::-1])
        assert np.array_equal(loaded["a"], pixels)
    with archive.open_member("zip") as member, zipfile.ZipFile(member) as nested:
        assert nested.testzip() is None
        assert nested.read("noise") == NOISE
        assert nested.read("lines.txt") == LINES
    with archive.open_member("zip") as member, archivestream.open(member) as nested_archive:
        assert nested_archive.read_many(["noise", "lines.txt"]) == [NOISE, LINES]
    with archive.open_member("txt") as member, io.TextIOWrapper(member, "utf-8") as wrapped:
        assert wrapped.readline() == "naïve, text\n"
        assert sum(1 for _ in wrapped) == 8999


# ---- what is wrong with the data -------------------------------------------------------------------------------


def consume(member: io.BufferedReader, how: str) -> int:
    """Read a member from start to end, in one way or another; how many bytes it gave."""
    if how == "read":
        return len(member.read())
    if how == "pieces":
        return sum(len(piece) for piece in iter(lambda: member.read(9973), b""))
    if how == "lines":
        return sum(map(len, member))
    if how == "readinto":
        buffer = bytearray(1_300_000)
        return sum(iter(lambda: member.readinto(buffer), 0))
    if how == "from the end":
        member.seek(-1, io.SEEK_END)
        member.read()
    elif how == "twice":
        member.readinto(bytearray(1_300_001))
    elif how == "header first":
        member.read(100)
        member.seek(50_001)
        member.read(10)
    member.seek(0)
    buffer = bytearray(1_200_000)
    return sum(iter(lambda: member.readinto(buffer), 0))


WAYS = ["read", "pieces", "lines", "readinto", "from the end", "twice", "header first"]
LARGE = LINES * 9  # about 3 MB
PAYLOADS = {method: compress(LARGE, method) for method in METHODS}


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", WAYS)
def test_checksum_is_checked(open_as: OpenAs, method: int, how: str) -> None:
    """Who reads a member from start to end is told, whatever was done before."""
    archive = open_as(
        make(*(Entry(name, LARGE, method, PAYLOADS[method], crc=crc) for name, crc in ((b"x", None), (b"bad", 1))))
    )
    assert consume(archive.open_member("x"), how) == len(LARGE)
    with pytest.raises(CorruptArchiveError, match=r"'bad'.*CRC"):
        consume(archive.open_member("bad"), how)


@pytest.mark.usefixtures("low_threshold")
def test_checksum_is_not_checked_where_nobody_wants_it() -> None:
    data = make(*(Entry(b"%d" % method, LARGE, method, PAYLOADS[method], crc=1) for method in METHODS))
    archive = archivestream.open(data, verify=False)
    for i in range(len(archive)):
        assert archive.open_member(i).read() == LARGE


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS[1:])
def test_damaged_stream(method: int) -> None:
    rng = random.Random(method)
    payload = compress(LINES, method)
    for _ in range(40):
        bad = bytearray(payload)
        for _ in range(rng.choice([1, 1, 20])):
            bad[rng.choice([rng.randrange(len(bad)), rng.randrange(20)])] = rng.randrange(256)
        if rng.random() < 0.3:
            del bad[rng.randrange(len(bad)) :]
        archive = archivestream.open(make(Entry(b"x", LINES, method, bytes(bad))))
        try:
            assert archive.open_member(0).read() == LINES
        except ArchiveError as error:
            assert error.member == "x"
            try:
                assert archive[0] == LINES
            except ArchiveError:
                pass
            else:
                raise AssertionError("read gives it, open_member does not") from error


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
def test_stream_of_another_length(method: int) -> None:
    for more in (b"", b"x", b"x" * 1000, LARGE):
        payload = compress(LARGE[: 2 * PIECE] + more, method)
        for declared in (LARGE[: 2 * PIECE], LARGE[: 2 * PIECE + 1], LARGE[: 2 * PIECE - 1]):
            if declared == LARGE[: 2 * PIECE] + more or (method == LZMA and len(declared) <= 2 * PIECE):
                continue
            archive = archivestream.open(make(Entry(b"x", declared, method, payload)))
            with pytest.raises(CorruptArchiveError):
                archive[0]
            with pytest.raises(CorruptArchiveError):
                archive.open_member(0).read()


def test_lzma_without_end_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a decoder makes of the bytes after the last one is noise, and no error."""
    monkeypatch.setattr("archivestream.member_io._WHOLE", 0)
    sizes = range(1, 500)
    archive = archivestream.open(
        make(*(Entry(b"%d" % n, NOISE[:n], LZMA, lzma_without_end_mark(NOISE[:n])) for n in sizes))
    )
    for i, size in enumerate(sizes):
        assert archive[i] == NOISE[:size]
        assert archive.open_member(i).read() == NOISE[:size]


@pytest.mark.usefixtures("low_threshold")
def test_streams_that_pause() -> None:
    """Much is read that gives nothing: blocks that are empty, frames that are to be skipped."""
    empty_blocks = b"\0\0\0\xff\xff" * (3 * PIECE // 5)
    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<L", 2 * PIECE) + bytes(2 * PIECE)
    frames = compress(LINES[:1000], ZSTD) + skippable + compress(LINES[1000:], ZSTD)
    payloads = {DEFLATE: empty_blocks + deflate(LINES), ZSTD: frames}
    for method, payload in payloads.items():
        archive = archivestream.open(make(Entry(b"x", LINES, method, payload)))
        assert archive[0] == LINES
        assert archive.open_member(0).read() == LINES


@pytest.mark.usefixtures("low_threshold")
def test_streams_that_stop_at_a_piece() -> None:
    """All input is taken and as much as was asked for has come out: there may be more, or not."""
    for method, size in itertools.product(METHODS, (PIECE, 2 * PIECE, 2 * PIECE + 1)):
        contents = (b"\0" * PIECE + LINES * 9)[:size]
        archive = archivestream.open(make(Entry(b"x", contents, method)))
        assert archive.open_member(0).read() == contents


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", [LZMA, XZ])
def test_limit_of_the_window(method: int) -> None:
    archive = archivestream.open(make(Entry(b"x", LINES, method)), limits=Limits(max_window_bytes=5000))
    for read in (archive.read, lambda i: archive.open_member(i).read()):
        with pytest.raises(LimitExceededError, match="'x'"):
            read(0)


@pytest.mark.usefixtures("low_threshold")
def test_zstd_of_another_window_or_with_a_dictionary() -> None:
    wide = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    archive = archivestream.open(make(Entry(b"x", LINES, ZSTD, compressor.compress(LINES) + compressor.flush())))
    assert archive[0] == LINES
    with contextlib.suppress(LimitExceededError):  # its window may pass the limits; its data are not damaged
        assert archive.open_member(0).read() == LINES
    trained = zstandard.train_dictionary(1000, [LINES[i : i + 99] for i in range(0, 50_000, 99)])
    payload = zstandard.ZstdCompressor(dict_data=trained).compress(LINES)
    archive = archivestream.open(make(Entry(b"x", LINES, ZSTD, payload)))
    for read in (archive.read, lambda i: archive.open_member(i).read()):
        with pytest.raises(UnsupportedFeatureError, match="dictionary"):
            read(0)


# ---- large in earnest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [STORED, DEFLATE, LZMA, ZSTD, XZ])
def test_threshold_in_earnest(method: int) -> None:
    size = (16 << 20) + 1
    contents = (LINES * (size // len(LINES) + 1))[:size]
    payload = compress(contents, method)
    archive = archivestream.open(make(*(Entry(b"x", contents, method, payload, crc=crc) for crc in (None, 7))))
    with archive.open_member(0) as member:
        assert member.read() == contents
        member.seek(-20, io.SEEK_END)
        assert member.read() == contents[-20:]
        member.seek(5)
        assert member.read(20) == contents[5:25]
    with archive.open_member(1) as member, pytest.raises(CorruptArchiveError, match="CRC"):
        member.read()


WRITE = """
import sys
from zipmaker import Entry, make

size = 100 << 20
block = b"".join(b"line %d\\n" % i for i in range(100_000))
contents = (block * (size // len(block) + 1))[:size]
method = int(sys.argv[1])
with open(sys.argv[2], "wb") as file:
    file.write(make(Entry(b"x", contents, method)))
"""
MEASURE = """
import resource, sys
import archivestream

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with archivestream.open(sys.argv[1]) as archive:
    before = peak()
    with archive.open_member(0) as member:
        member.seek(-10, 2)
        member.read()
        member.seek(0)
        total = sum(len(piece) for piece in iter(lambda: member.read(1 << 20), b""))
    assert total == archive.info(0).size == 100 << 20
    assert archive.verify().ok
    archive.extract(path=sys.argv[2])
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
@pytest.mark.parametrize("method", [STORED, DEFLATE, ZSTD])
def test_memory_does_not_depend_on_the_size(tmp_path: Path, method: int) -> None:
    paths = [str(Path(__file__).parent), str(Path(archivestream.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: object) -> str:
        command = [sys.executable, "-c", *map(str, arguments)]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    path = tmp_path / "large.zip"
    run(WRITE, method, path)
    assert int(run(MEASURE, path, tmp_path / "out")) < 40_000, "kilobytes, for 100 MB"


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
def test_what_proved_bad_is_not_read_again(open_as: OpenAs, method: int) -> None:
    archive = open_as(make(Entry(b"x", LINES, method, crc=1)))
    with archive.open_member("x") as member:
        for _ in range(3):
            with pytest.raises(CorruptArchiveError, match="CRC"):
                consume(member, "read")
        member.seek(0)
        with pytest.raises(CorruptArchiveError, match="CRC"):
            member.read(10)


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [10, LOW + 1])
def test_verify_checks_whatever_was_asked_for(
    open_as: OpenAs, monkeypatch: pytest.MonkeyPatch, method: int, size: int
) -> None:
    monkeypatch.setattr("archivestream.verification._BATCH_BYTES", LOW)
    archive = open_as(make(Entry(b"x", LINES[:size], method, crc=1)), verify=False)
    assert archive["x"] == LINES[:size]
    assert archive.testzip() == "x"
    assert len(archive.verify().errors) == 1


@pytest.mark.usefixtures("low_threshold")
@pytest.mark.parametrize("size", [10, LOW + 1])
@pytest.mark.parametrize("frames", [1, 3])
def test_bytes_after_the_last_frame_of_zstd(open_as: OpenAs, size: int, frames: int) -> None:
    data = LINES[: size * frames]
    payload = b"".join(zstandard.compress(data[i * size : (i + 1) * size]) for i in range(frames))
    for junk in (b"j", b"junk and more"):
        made = make(Entry(b"x", data, ZSTD, payload=payload + junk))
        archive = open_as(made)
        assert archive["x"] == archive.open_member("x").read() == archive.read_many(["x"])[0] == data
        with pytest.raises(CorruptArchiveError, match="end before"):
            open_as(made, strict=True)["x"]
        with pytest.raises(CorruptArchiveError, match="end before"):
            open_as(made, strict=True).open_member("x").read()


@pytest.mark.usefixtures("low_threshold")
def test_a_window_is_no_larger_than_its_member(open_as: OpenAs) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, write_content_size=0)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    payload = compressor.compress(LINES) + compressor.flush()
    archive = open_as(make(Entry(b"x", LINES, ZSTD, payload=payload)))
    assert archive["x"] == archive.open_member("x").read() == LINES
    small = open_as(make(Entry(b"x", LINES, ZSTD, payload=payload)), limits=Limits(max_window_bytes=1 << 18))
    with pytest.raises(LimitExceededError, match="max_window_bytes = 262144"):
        small.open_member("x").read()
