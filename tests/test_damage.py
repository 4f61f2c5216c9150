"""Damage: truncated at every length, every byte changed. An error that names the archive, or identical bytes."""

from __future__ import annotations

import io
import random
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

import archivestream
from archivestream import ArchiveError

RNG = random.Random(5)
TEXT = b"".join(RNG.choice((b"alpha ", b"beta ", b"gamma ")) for _ in range(30))


def sample() -> bytes:
    """Make an archive with every method that is read, and every way to write sizes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for name, method in (("s", 0), ("d", 8), ("b", 12), ("l", 14)):
            writer.writestr(name, TEXT, method)
        writer.writestr("empty", b"")
        with writer.open(zipfile.ZipInfo("z64"), "w", force_zip64=True) as member:
            member.write(TEXT)
        packed = zstandard.ZstdCompressor().compress(TEXT)
        writer.writestr("zs", packed)
        writer.writestr("dir/", b"")
        writer.comment = b"a comment"
    data = bytearray(file.getvalue())
    # zipfile of Python 3.14 writes method 93; before, the stored bytes get the headers that it would write.
    patch(data, b"zs", method=93, size=len(TEXT), crc=zlib.crc32(TEXT))
    return bytes(data)


def patch(data: bytearray, name: bytes, *, method: int, size: int, crc: int) -> None:
    for signature, header, at_method, at_crc, at_size in ((b"PK\3\4", 30, 8, 14, 22), (b"PK\1\2", 46, 10, 16, 24)):
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            if data[at + header : at + header + len(name)] == name:
                data[at + at_method : at + at_method + 2] = method.to_bytes(2, "little")
                data[at + at_crc : at + at_crc + 4] = crc.to_bytes(4, "little")
                data[at + at_size : at + at_size + 4] = size.to_bytes(4, "little")


WHOLE = sample()
EXPECTED = [TEXT, TEXT, TEXT, TEXT, b"", TEXT, TEXT, b""]


def outcome(data: bytes, *, strict: bool = False) -> list[bytes | ArchiveError] | ArchiveError:
    """What every member gives; anything but an `ArchiveError` is a failure of the test."""
    try:
        archive = archivestream.open(data, threads=1, strict=strict)
    except ArchiveError as error:
        assert archivestream_name(error)
        return error
    members: list[bytes | ArchiveError] = []
    for i in range(len(archive)):
        try:
            members.append(archive[i])
        except ArchiveError as error:
            assert archivestream_name(error)
            members.append(error)
    # The other ways to read must agree.
    report = archive.verify()
    assert len(report.errors) == sum(isinstance(member, ArchiveError) for member in members)
    try:
        many = archive.read_many(range(len(archive)))
    except ArchiveError:
        assert report.errors
    else:
        assert many == members
        assert archive.read_batch(range(len(archive))).data.tobytes() == b"".join(many)
    return members


def archivestream_name(error: ArchiveError) -> bool:
    return str(error).startswith("<") and " bytes>" in str(error)


def check(data: bytes, what: object, *, strict: bool = False) -> None:
    result = outcome(data, strict=strict)
    if isinstance(result, ArchiveError):
        return
    for i, member in enumerate(result):
        if isinstance(member, bytes) and member != (EXPECTED[i] if i < len(EXPECTED) else None):
            # An entry may be lost or renamed, never another's bytes under a checksum that was not changed.
            assert member in EXPECTED, (what, i, member)


def test_the_sample_is_whole() -> None:
    assert outcome(WHOLE) == EXPECTED
    assert outcome(WHOLE, strict=True) == EXPECTED


def test_truncated_at_every_length() -> None:
    for size in range(len(WHOLE)):
        result = outcome(WHOLE[:size])
        # Cut in the comment, the end record says that it runs past the end; before, there is none.
        assert isinstance(result, ArchiveError), size


def test_truncated_at_the_front_at_every_length() -> None:
    for size in range(len(WHOLE)):
        check(WHOLE[size:], size)


def damages(data: bytes) -> Iterator[tuple[int, int]]:
    for at in range(len(data)):
        values = {0, 0xFF, *(data[at] ^ (1 << bit) for bit in range(8))} - {data[at]}
        for value in sorted(values):
            yield at, value


@pytest.mark.parametrize("strict", [False, True])
def test_every_byte_changed(strict: bool) -> None:
    data = bytearray(WHOLE)
    for at, value in damages(WHOLE):
        before, data[at] = data[at], value
        check(bytes(data), (at, value), strict=strict)
        data[at] = before


@pytest.mark.parametrize("width", [2, 4, 8])
def test_edge_values_everywhere(width: int) -> None:
    top = (1 << 8 * width) - 1
    for at in range(len(WHOLE) - width + 1):
        here = int.from_bytes(WHOLE[at : at + width], "little")
        for value in {0, 1, top, top - 1, top >> 1, (here + 1) & top, (here - 1) & top, len(WHOLE)}:
            data = WHOLE[:at] + value.to_bytes(width, "little") + WHOLE[at + width :]
            check(data, (at, value))


def test_damage_in_a_file_and_a_file_object(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for at, value in list(damages(WHOLE))[::97]:
        data = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
        path.write_bytes(data)
        by_bytes = outcome(data)
        for opened in (path, io.BytesIO(data)):
            try:
                archive = archivestream.open(opened, threads=2)
            except ArchiveError:
                assert isinstance(by_bytes, ArchiveError)
                continue
            assert isinstance(by_bytes, list)
            for i, expected in enumerate(by_bytes):
                if isinstance(expected, bytes):
                    assert archive[i] == expected
                else:
                    with pytest.raises(type(expected)):
                        archive[i]


def test_what_zipfile_reads_is_read_alike() -> None:
    differs = 0
    for at, value in list(damages(WHOLE))[::7]:
        data = WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :]
        result = outcome(data)
        if isinstance(result, ArchiveError):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                reader = zipfile.ZipFile(io.BytesIO(data))
            except Exception:
                differs += 1
                continue
        for info, member in zip(reader.infolist(), result, strict=False):
            if isinstance(member, bytes) and info.compress_type != 93:
                try:
                    assert reader.read(info) == member
                except AssertionError:
                    raise
                except Exception:
                    differs += 1
    assert differs < 60  # archives that zipfile refuses, and that are read here by the rules of the format
