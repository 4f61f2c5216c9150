"""Members as files, whole and piece by piece."""

from __future__ import annotations

import io
import lzma
import os
import random
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from test_damage import patch

import archivestream
from archivestream import CorruptArchiveError, member_io

DATA = b"".join(os.urandom(50) + b"repeated" * 40 for _ in range(9000))
METHODS = {0: None, 8: None, 12: None, 14: None, 93: zstandard.compress(DATA), 95: lzma.compress(DATA)}


@pytest.fixture(params=METHODS, ids=lambda method: f"method {method}")
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("before", b"x")
        stored = METHODS[request.param]
        writer.writestr("m", DATA if stored is None else stored, 0 if stored else request.param)
    data = bytearray(file.getvalue())
    if METHODS[request.param]:
        patch(data, b"m", method=request.param, size=len(DATA), crc=zlib.crc32(DATA))
    (tmp_path / "a.zip").write_bytes(data)
    return tmp_path / "a.zip"


@pytest.fixture(params=["whole", "pieces"], autouse=True)
def threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pieces":
        monkeypatch.setattr(member_io, "_WHOLE", 1000)
        monkeypatch.setattr(member_io, "_PIECE", 10_000)


@pytest.mark.parametrize("kind", ["file", "bytes", "object"])
def test_like_a_file(path: Path, kind: str) -> None:
    source = {"file": path, "bytes": path.read_bytes(), "object": io.BytesIO(path.read_bytes())}[kind]
    rng = random.Random(1)
    with archivestream.open(source) as archive, archive.open_member("m") as member:
        assert isinstance(member, io.BufferedReader)
        assert member.readable()
        assert member.seekable()
        assert member.read() == DATA
        assert member.read() == b""
        assert member.seek(0) == 0
        for _ in range(60):
            at, size = rng.randrange(len(DATA) + 100), rng.randrange(30_000)
            assert member.seek(at) == at
            assert member.read(size) == DATA[at : at + size]
            assert member.tell() == max(at, min(at + size, len(DATA)))
        assert member.seek(-10, io.SEEK_END) == len(DATA) - 10
        assert member.seek(-5, io.SEEK_CUR) == len(DATA) - 15
        assert member.read() == DATA[-15:]
        with pytest.raises((ValueError, OSError)):
            member.seek(-1)
        member.seek(0)
        assert list(member) == DATA.splitlines(keepends=True) or b"\r" in DATA
        member.seek(0)
        target = bytearray(12345)
        assert member.readinto(target) == 12345
        assert target == DATA[:12345]


def test_damage_is_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2", data.find(b"PK\1\2") + 1)
    data[at + 16] ^= 1  # the checksum in the directory
    path.write_bytes(data)
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match="'m'"):
        archive.open_member("m").read()
    with archivestream.open(path, verify=False) as archive:
        assert archive.open_member("m").read() == DATA
        assert archive["m"] == DATA


def test_truncation_is_found(path: Path) -> None:
    with archivestream.open(path) as archive:
        os.truncate(path, 20_000)
        with pytest.raises(archivestream.ArchiveError, match="'m'"):
            archive.open_member("m").read()


def test_readers_of_files(tmp_path: Path) -> None:
    array = np.arange(5000.0)
    inner = io.BytesIO()
    np.savez(inner, array=array)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a.npz", inner.getvalue())
        writer.writestr("text", "a\nb\nc")
    with archivestream.open(tmp_path / "a.zip") as archive:
        with np.load(archive.open_member("a.npz")) as loaded:
            assert np.array_equal(loaded["array"], array)
        with io.TextIOWrapper(archive.open_member("text")) as text:
            assert text.read().split() == ["a", "b", "c"]
        with zipfile.ZipFile(archive.open_member("a.npz")) as nested:
            assert nested.namelist() == ["array.npy"]
