"""Batches with bad members among good ones: `errors=` of the batch methods, and rows of their own."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import Archive, CorruptArchiveError

BAD = (0, 5, 11)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def damaged(path: Path, members: list[bytes], bad: tuple[int, ...], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a ZIP, and overwrite the last bytes of the data of some members."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for i, data in enumerate(members):
            archive.writestr(f"{i:03d}.bin", data)
        infos = archive.infolist()
    with path.open("r+b") as file:
        for i in bad:
            file.seek(infos[i].header_offset + 30 + len(infos[i].filename) + infos[i].compress_size - 2)
            file.write(b"\x55\xaa")
    return path


def texts(n: int = 12) -> list[bytes]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 20, int(rng.integers(50, 4000)), np.uint8).tobytes() for _ in range(n)]


@pytest.fixture(params=[zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    return archivestream.open(damaged(tmp_path / "bad.zip", texts(), BAD, request.param), threads=2)


def test_read_many(archive: Archive) -> None:
    errors: dict[int, Exception] = {}
    got = archive.read_many(range(12), errors=errors)
    assert sorted(errors) == list(BAD)
    for i, data in enumerate(texts()):
        if i in BAD:
            assert got[i] is None
            assert isinstance(errors[i], CorruptArchiveError)
            assert f"{i:03d}.bin" in str(errors[i])
            assert "bad.zip" in str(errors[i])
        else:
            assert got[i] == data
    with pytest.raises(CorruptArchiveError, match=r"000\.bin"):
        archive.read_many(range(12))


def test_read_batch(archive: Archive) -> None:
    errors: dict[int, Exception] = {}
    batch = archive.read_batch([7, 5, 5, 1], errors=errors)
    assert sorted(errors) == [1, 2]
    assert bytes(batch[0]) == texts()[7]
    assert bytes(batch[3]) == texts()[1]


@pytest.mark.parametrize("wider", [0, 100])
def test_read_padded(archive: Archive, wider: int) -> None:
    keys = [3, 0, 8, 2, 8]
    errors: dict[int, Exception] = {}
    expected = [b"" if i in BAD else texts()[i] for i in keys]
    out = np.full((5, max(map(len, texts())) + wider), 77, np.uint8) if wider else None
    rows, lengths = archive.read_padded(keys, out, errors=errors)
    assert out is None or rows is out
    assert sorted(errors) == [1]
    assert lengths.tolist() == [*map(len, expected)]
    for row, data in zip(rows, expected, strict=True):
        assert row.tobytes() == data.ljust(rows.shape[1], b"\0")
    with pytest.raises(CorruptArchiveError):
        archive.read_padded(keys)


def test_read_padded_of_nothing_and_of_what_does_not_fit(archive: Archive) -> None:
    rows, lengths = archive.read_padded([])
    assert rows.shape == (0, 0)
    assert lengths.shape == (0,)
    with pytest.raises(ValueError, match="the batch needs"):
        archive.read_padded([1, 2], np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="the batch needs"):
        archive.read_padded([1, 2], np.zeros((3, 9999), np.uint8))
    for out in (np.zeros((2, 9999), np.int8), np.zeros((9999, 2), np.uint8).T, np.zeros(19998, np.uint8), bytearray(9)):
        with pytest.raises(TypeError, match="two dimensions"):
            archive.read_padded([1, 2], out)  # type: ignore[arg-type]
    fixed = np.zeros((2, 9999), np.uint8)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        archive.read_padded([1, 2], fixed)


def test_an_impossible_size_takes_no_memory(tmp_path: Path) -> None:
    path = damaged(tmp_path / "huge.zip", texts(), ())
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little")  # its uncompressed size in the directory
    errors: dict[int, Exception] = {}
    with archivestream.open(bytes(data)) as archive:
        rows, lengths = archive.read_padded(range(4), errors=errors)
        assert sorted(errors) == [0]
        assert lengths.tolist() == [0, *map(len, texts()[1:4])]
        assert rows.shape[1] == max(map(len, texts()[1:4]))
        errors.clear()
        batch = archive.read_batch(range(4), errors=errors)
        assert sorted(errors) == [0]
        assert [*map(bytes, batch)] == [b"", *texts()[1:4]]


@pytest.mark.parametrize("bad", [(), (0,), (0, 1), (3, 7), tuple(range(12))])
@pytest.mark.parametrize("twice", [False, True])
def test_read_arrays(tmp_path: Path, bad: tuple[int, ...], twice: bool) -> None:
    arrays = np.random.default_rng(1).integers(0, 9, (12, 20, 30), np.int16)
    path = damaged(tmp_path / "arrays.zip", [npy(a) for a in arrays], bad)
    with archivestream.open(path) as archive:
        if twice and len(bad) < 12:
            archive.read_arrays([i for i in range(12) if i not in bad])  # so that the header is known
        errors: dict[int, Exception] = {}
        got = archive.read_arrays(range(12), errors=errors)
        assert sorted(errors) == list(bad)
        for i in set(range(12)) - set(bad):
            np.testing.assert_array_equal(got[i], arrays[i])


def test_arrays_of_another_shape_are_bad_members(tmp_path: Path) -> None:
    members = [np.zeros((4, 5)), np.zeros((5, 4)), np.ones((4, 5)), np.zeros(3), b"no array", np.ones((4, 5), ">f8")]
    path = damaged(tmp_path / "odd.zip", [m if isinstance(m, bytes) else npy(m) for m in members], ())
    with archivestream.open(path) as archive:
        errors: dict[int, Exception] = {}
        got = archive.read_arrays(range(6), errors=errors)
        assert sorted(errors) == [1, 3, 4, 5]
        assert "has shape (5, 4)" in str(errors[1])
        assert (got[2] == 1).all()
        with pytest.raises(ValueError, match="has shape"):
            archive.read_arrays(range(3))
