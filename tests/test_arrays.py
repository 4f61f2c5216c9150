"""read_arrays and decode="numpy" against numpy.load."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
import zstandard
from test_damage import patch

import archivestream
from archivestream import CorruptArchiveError, UnsupportedFeatureError
from archivestream.npy import decode_array

RNG = np.random.default_rng(0)


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version, allow_pickle=False)
    return file.getvalue()


def packed(members: list[bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if method == 93 else method, compresslevel=1) as writer:
        for i, data in enumerate(members):
            writer.writestr(f"{i}.npy", zstandard.compress(data, 1) if method == 93 else data)
    result = bytearray(file.getvalue())
    if method == 93:
        for i, data in enumerate(members):
            patch(result, f"{i}.npy".encode(), method=93, size=len(data), crc=zlib.crc32(data))
    return bytes(result)


def arrays(n: int, shape: tuple[int, ...], dtype: Any, order: str = "C") -> list[np.ndarray[Any, Any]]:
    size = int(np.prod(shape))
    raw = RNG.integers(0, 4, (n, size * np.dtype(dtype).itemsize), np.uint8)
    return [np.asarray(row.view(dtype).reshape(shape), order=order) for row in raw]  # type: ignore[call-overload]


@pytest.mark.parametrize("method", [0, 8, 12, 93])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((), np.int64),
        ((1,), np.uint8),
        ((3,), "<u2"),
        ((7, 5), ">i4"),
        ((0, 4), np.float32),
        ((2, 3, 4), np.complex64),
        ((64, 64, 3), np.uint8),
        ((200, 300), np.uint16),
        ((5,), [("a", "<i4"), ("b", "u1", (3,))]),
        ((4,), "S7"),
        ((4,), "M8[s]"),
    ],
)
def test_same_as_numpy(method: int, order: str, shape: tuple[int, ...], dtype: Any) -> None:
    expected = arrays(9, shape, dtype, order)
    with archivestream.open(packed([npy(array) for array in expected], method), threads=3) as archive:
        for keys in ([0], [3, 1, 1, 8], range(9), range(9)[::-1]):
            whole = np.stack([expected[key] for key in keys]).astype(expected[0].dtype)  # stack makes it native
            result = archive.read_arrays(keys)
            assert result.dtype == whole.dtype
            assert result.shape == whole.shape
            assert result.tobytes() == whole.tobytes()
            out = np.empty_like(whole, order="C")
            assert archive.read_arrays(keys, out) is out
            assert out.tobytes() == whole.tobytes()
        for i, array in enumerate(expected):
            again = decode_array(archive[i], None, None)
            assert again.flags.writeable
            assert again.dtype == array.dtype
            assert again.tobytes("A") == array.tobytes("A")


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_neighbours_do_not_meet(threads: int) -> None:
    # A compressed member is decoded over the end of the slot before it.
    for shape in ((40,), (127,), (129,), (60, 60), (1,)):
        expected = np.stack(arrays(61, shape, np.uint8))
        data = packed([npy(array) for array in expected])
        rng = random.Random(threads)
        with archivestream.open(data, threads=threads) as archive:
            for _ in range(40):
                keys = [rng.randrange(61) for _ in range(rng.randrange(1, 80))]
                out = np.full((len(keys), *shape), 77, np.uint8)
                assert np.array_equal(archive.read_arrays(keys, out), expected[keys])
                assert np.array_equal(archive.read_arrays(keys), expected[keys])


def test_headers_written_otherwise() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    padded = bytearray(npy(array, (1, 0)))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,4)}".ljust(len(padded) - 10 - 48 - 1) + b"\n"
    other = bytes(padded[:10]) + header + array.tobytes()
    members = [npy(array), npy(array + 1, (2, 0)), npy(array + 2, (3, 0)), other, npy(np.asfortranarray(array + 3))]
    with archivestream.open(packed(members)) as archive:
        for keys in (range(5), [3, 0, 1], [4, 0], [1, 1, 3]):
            expected = np.stack([np.load(io.BytesIO(members[key])) for key in keys])
            assert np.array_equal(archive.read_arrays(keys), expected)
            assert np.array_equal(archive.read_arrays(keys, np.empty((len(keys), 3, 4), np.float32)), expected)


def test_what_does_not_fit() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    members = [npy(array), npy(array), npy(array.reshape(4, 3)), npy(array.astype("f8")), b"no array", b""]
    file = io.BytesIO()
    np.save(file, np.array([{}, None]), allow_pickle=True)
    members.append(file.getvalue())
    members.append(members[0][:-1])
    with archivestream.open(packed(members)) as archive:
        for _ in range(2):  # the second time, headers are remembered
            assert np.array_equal(archive.read_arrays([0, 1]), [array, array])
            for odd in (2, 3):
                with pytest.raises(ValueError, match=f"'{odd}.npy' has shape"):
                    archive.read_arrays([0, odd])
                assert archive.read_arrays([odd]).shape[0] == 1
            for odd in (4, 5, 7):
                for keys in ([odd], [0, odd]):
                    with pytest.raises(CorruptArchiveError, match=f"'{odd}.npy'"):
                        archive.read_arrays(keys)
            with pytest.raises(UnsupportedFeatureError, match="objects"):
                archive.read_arrays([6])
        with pytest.raises(ValueError, match="no members"):
            archive.read_arrays([])
        for out in (
            np.empty((2, 3, 4), np.float64),
            np.empty((3, 3, 4), np.float32),
            np.empty((2, 4, 3), np.float32),
            np.empty((2, 3, 8), np.float32)[:, :, ::2],
            np.empty((2, 3, 4), np.float32, order="F"),
        ):
            with pytest.raises(ValueError, match="out"):
                archive.read_arrays([0, 1], out)


def test_a_bad_member() -> None:
    members = [npy(array) for array in arrays(5, (50, 50), np.uint8)]
    data = bytearray(packed(members))
    with archivestream.open(bytes(data)) as archive:
        data[archive.info(3).offset + 300] ^= 0x10
    with archivestream.open(bytes(data)) as archive:
        with pytest.raises(CorruptArchiveError, match=r"'3\.npy'"):
            archive.read_arrays(range(5))
        assert archive.read_arrays([0, 1, 2, 4]).shape == (4, 50, 50)
