"""`Archive.read_arrays` against `numpy.load`: every shape and type, every thread count, and hostile headers."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from zipmaker import BZIP2, DEFLATE, LZMA, METHODS, STORED, ZSTD, Entry, make

import archivestream
from archivestream import Archive, ArchiveError, CorruptArchiveError, LimitExceededError, UnsupportedFeatureError

OpenAs = Callable[..., Archive]
Array = NDArray[np.generic]

STRUCTURED = np.dtype([("a", "<i2"), ("b", ">f8", (2, 3)), ("c", [("d", "S3"), ("é", "?")])])
ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of versions 2 and 3
        np.lib.format.write_array(buffer, array, version, allow_pickle=True)
    return buffer.getvalue()


def load(data: bytes) -> Array:
    return np.load(io.BytesIO(data))  # type: ignore[no-any-return]


def archive_of(
    files: Sequence[bytes], methods: Sequence[int] = (STORED,), open_as: OpenAs = archivestream.open, **options: object
) -> Archive:
    entries = [Entry(b"%d.npy" % i, data, methods[i % len(methods)]) for i, data in enumerate(files)]
    return open_as(make(*entries), **options)


def assert_same(got: Array, files: Sequence[bytes]) -> None:
    expected = [load(data) for data in files]
    assert got.dtype == expected[0].dtype
    assert got.shape == (len(files), *expected[0].shape)
    for i, other in enumerate(expected):
        if other.dtype.names is None:
            assert got[i : i + 1].tobytes() == other.tobytes()
        else:  # what lies between fields has no meaning
            assert np.array_equal(got[i], other)


def arrays(count: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], order: str = "C") -> list[Array]:
    rng = np.random.default_rng(count)
    size = int(np.prod(shape)) * dtype.itemsize
    # Half noise, half zeros: it compresses, and the pieces of neighbours differ.
    pieces = [rng.bytes(size // 2) + bytes(size - size // 2) for _ in range(count)]
    if dtype.kind == "?" or dtype.names or dtype.kind in "USb":
        pieces = [bytes(byte & 1 for byte in piece) for piece in pieces]
    return [np.asarray(np.frombuffer(piece, dtype).reshape(shape), order=order) for piece in pieces]  # type: ignore[call-overload]


# ---- shapes, types, versions -----------------------------------------------------------------------------------

DTYPES = ["u1", "?", "<i2", ">i2", "<f4", ">f8", "f2", "c16", "<M8[ns]", ">m8[s]", "S5", "<U3", "V7"]


@pytest.mark.parametrize("dtype", [*map(np.dtype, DTYPES), STRUCTURED, ALIGNED], ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_and_types(open_as: OpenAs, dtype: np.dtype[np.generic], order: str) -> None:
    for shape in [(), (1,), (7,), (0,), (3, 0, 2), (2, 3), (5, 1, 4), (1, 1), (4, 3, 2, 5)]:
        files = [npy(array) for array in arrays(5, shape, dtype, order)]
        archive = archive_of(files, [STORED, DEFLATE, ZSTD, BZIP2, LZMA], open_as)
        assert_same(archive.read_arrays(range(5)), files)
        out = np.empty((5, *shape), dtype)
        assert_same(archive.read_arrays(range(5), out=out), files)
        assert_same(out, files)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(version: tuple[int, int]) -> None:
    files = [npy(array, version) for array in arrays(9, (3, 5), np.dtype("<f4"))]
    assert_same(archive_of(files, METHODS).read_arrays(range(9)), files)


def test_field_names_beyond_latin_1() -> None:
    """What version 3 of the format is for."""
    files = [npy(array, (3, 0)) for array in arrays(3, (2,), np.dtype([("名", "<f4"), ("é", "<i2")]))]
    archive = archive_of(files, [STORED, DEFLATE])
    assert archive.read_arrays([0, 1, 2]).dtype.names == ("名", "é")
    assert_same(archive.read_arrays([0, 1, 2]), files)


def test_mixed_versions_and_orders() -> None:
    """Headers that differ in length or words and say the same."""
    plain = arrays(12, (4, 6), np.dtype("<f4"))
    files = []
    for i, array in enumerate(plain):
        data = npy(np.asfortranarray(array) if i % 4 == 1 else array, (1 + i % 3, 0))
        if i % 4 == 2:  # another padding of the header: a multiple of 16, as older writers have it
            length = struct.unpack_from("<H", data, 8)[0] if data[6] == 1 else struct.unpack_from("<L", data, 8)[0]
            start = 10 if data[6] == 1 else 12
            header = data[start : start + length].rstrip() + b" " * (i * 16) + b"\n"
            data = data[:8] + struct.pack("<H" if data[6] == 1 else "<L", len(header)) + header + data[start + length :]
        files.append(data)
    for order in (range(12), range(11, -1, -1), [1, 0, 2], [2, 1, 1, 5]):
        archive = archive_of(files, [DEFLATE, STORED, ZSTD])
        assert_same(archive.read_arrays(order), [files[i] for i in order])


@pytest.mark.parametrize("header", [4000, 4096 - 10, 4096, 5000, 9990])
def test_long_headers(header: int) -> None:
    dtype = np.dtype([(f"field{i}" + "x" * (header // 60), "u1") for i in range(40)])
    files = [npy(array) for array in arrays(7, (3,), dtype)]
    assert_same(archive_of(files, [DEFLATE, STORED]).read_arrays(range(7)), files)


# ---- many members, many threads: the decoder borrows bytes in front of a slot -----------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 60, 127, 128, 129, 200, 1000, 20_000])
def test_neighbours(threads: int, size: int) -> None:
    count = 300 if size < 1000 else 100
    files = [npy(array) for array in arrays(count, (size,), np.dtype("u1"))]
    rng = random.Random(size)
    for methods in ([DEFLATE], [ZSTD], [DEFLATE, STORED, ZSTD]):
        archive = archive_of(files, methods, threads=threads)
        expected = np.stack([load(data) for data in files])
        for n in (1, 2, 3, count):
            for _ in range(25):
                keys = [rng.randrange(count) for _ in range(n)]
                out = np.full((n, size), 0xAA, np.uint8)
                assert np.array_equal(archive.read_arrays(keys), expected[keys])
                archive.read_arrays(keys, out=out)
                assert np.array_equal(out, expected[keys])


@pytest.mark.parametrize("threads", [1, 4])
def test_large_arrays(open_as: OpenAs, threads: int) -> None:
    files = [npy(array) for array in arrays(6, (600, 500), np.dtype("<f4"))]
    archive = archive_of(files, [STORED, DEFLATE, ZSTD], open_as, threads=threads)
    for keys in (range(6), [5, 0, 3, 3, 0]):
        assert_same(archive.read_arrays(keys), [files[i] for i in keys])


def test_keys(open_as: OpenAs) -> None:
    files = [npy(array) for array in arrays(5, (2, 2), np.dtype("<i4"))]
    archive = archive_of(files, [DEFLATE], open_as)
    assert_same(archive.read_arrays(["3.npy", b"0.npy", -1, np.int8(2)]), [files[i] for i in (3, 0, 4, 2)])
    assert_same(archive[::-2].read_arrays([0, 0, 1]), [files[i] for i in (4, 4, 2)])
    assert_same(archive.read_arrays([1] * 50), [files[1]] * 50)
    with pytest.raises(ValueError, match="no members"):
        archive.read_arrays([])
    with pytest.raises(IndexError):
        archive.read_arrays([5])


def test_result_owns_its_memory() -> None:
    files = [npy(array) for array in arrays(40, (30, 30), np.dtype("<f8"))]
    archive = archive_of(files, [DEFLATE])
    kept = [archive.read_arrays(range(40)) for _ in range(5)]
    for result in kept:
        assert result.flags.writeable
        assert_same(result, files)
    kept[0][:] = 0
    assert_same(kept[1], files)


# ---- out= ------------------------------------------------------------------------------------------------------


def test_out_that_does_not_fit() -> None:
    files = [npy(array) for array in arrays(4, (2, 3), np.dtype("<f4"))]
    for methods in ([STORED], [DEFLATE]):
        archive = archive_of(files, methods)
        bad: list[object] = [
            np.zeros((4, 2, 3), ">f4"),
            np.zeros((4, 2, 3), "<i4"),
            np.zeros((4, 3, 2), "<f4"),
            np.zeros((3, 2, 3), "<f4"),
            np.zeros((5, 2, 3), "<f4"),
            np.zeros(24, "<f4"),
            np.zeros((4, 2, 3), "<f4", order="F"),
            np.zeros((4, 2, 6), "<f4")[:, :, ::2],
            np.zeros((4, 2, 3), "<f4")[::-1],
        ]
        locked = np.zeros((4, 2, 3), "<f4")
        locked.flags.writeable = False
        for out in [*bad, locked]:
            with pytest.raises(ValueError, match="out"):
                archive.read_arrays(range(4), out=out)  # type: ignore[arg-type]
            assert not np.any(out), "nothing was written"
        for out in (bytearray(96), [0.0] * 24, 3):
            with pytest.raises((TypeError, ValueError), match=r"out|array"):
                archive.read_arrays(range(4), out=out)  # type: ignore[arg-type]


def test_out_is_returned() -> None:
    for shape in [(), (0,), (2, 3)]:
        files = [npy(array) for array in arrays(4, shape, np.dtype("<f4"))]
        for methods in ([STORED], [DEFLATE], [BZIP2]):
            out = np.empty((4, *shape), "<f4")
            assert archive_of(files, methods).read_arrays(range(4), out=out) is out, "as NumPy's functions do"


def test_out_may_be_a_part_of_more() -> None:
    files = [npy(array) for array in arrays(10, (5,), np.dtype("u1"))]
    whole = np.full((30, 5), 0xAA, np.uint8)
    archive_of(files, [DEFLATE]).read_arrays(range(10), out=whole[10:20])
    assert_same(whole[10:20], files)
    assert set(whole[:10].ravel().tolist()) == set(whole[20:].ravel().tolist()) == {0xAA}


# ---- members that do not go together, or are no arrays -----------------------------------------------------------

GOOD = arrays(6, (2, 3), np.dtype("<f4"))


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((3, 2), "<f4"),
        np.zeros((2, 3), ">f4"),
        np.zeros((2, 3), "<i4"),
        np.zeros((2, 3), "<f8"),
        np.zeros(6, "<f4"),
        np.zeros((2, 3, 1), "<f4"),
        np.zeros((2, 3, 0), "<f4"),
        np.zeros((), "<f4"),
        np.zeros((3, 2), "<f4").T.copy("F")[:, :2].copy("F"),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
@pytest.mark.parametrize("methods", [[STORED], [DEFLATE], [BZIP2]])
def test_member_of_another_shape(other: Array, methods: list[int]) -> None:
    files = [npy(array) for array in GOOD]
    archive = archive_of([*files[:3], npy(other), *files[3:]], methods)
    with pytest.raises(ValueError, match=r"3\.npy"):
        archive.read_arrays(range(7))
    assert_same(archive.read_arrays([0, 1, 2, 4, 5, 6]), files)


HOSTILE_HEADERS = [
    "{'descr': (((((",
    "-" * 5000 + "1",
    "(" * 5000,
    "{[]: 1}",
    "[1]",
    "{}",
    "",
    "\0" * 20,
    "{'descr': (), 'fortran_order': False, 'shape': (2,), }",
    "{'descr': [()], 'fortran_order': False, 'shape': (2,), }",
    "{'descr': 5, 'fortran_order': False, 'shape': (2,), }",
    "{'descr': '(2,)<f4', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '(2,)<f4', 'fortran_order': True, 'shape': (1, 1), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': 2, }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -1), }",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 70 + (2,)}, }}",
    "{'descr': '<f4', 'fortran_order': 1, 'shape': (2,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1099511627776, 1099511627776), }",
    "{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<M8[7foo]', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': {'names': []}, 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '" + "é" * 20,
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }" + " " * 70_000,
    "{'descr': '<f4', 'fortran_order': False, 'shape': {2: 1}, }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': {2}, }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': [2], }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': b'\\x02', }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2305843009213693951), }",
    f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {1 << 61}), }}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': [" + "[]," * (1 << 20) + "]}",
    "1" + "+1" * (1 << 20),
]


def with_header(header: str, version: tuple[int, int] = (2, 0), body: bytes = bytes(8)) -> bytes:
    encoded = header.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<L", len(encoded)) + encoded + body


@pytest.mark.parametrize("version", [(2, 0), (3, 0)])
@pytest.mark.parametrize("header", HOSTILE_HEADERS, ids=lambda header: header[:60])
def test_hostile_header(header: str, version: tuple[int, int]) -> None:
    for body in (bytes(8), b""):
        bad = with_header(header, version, body)
        archive = archive_of([npy(np.zeros(2, "<f4")), bad, bad], [DEFLATE, DEFLATE, STORED])
        for keys in ([1], [2], [0, 1], [1, 2]):
            with pytest.raises(ValueError, match=r"[12]\.npy") as caught:
                archive.read_arrays(keys)
            assert isinstance(caught.value, ArchiveError) or keys == [0, 1]


def test_the_longest_header() -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"
    good = [with_header(header.ljust(10_000), version) for version in ((1, 0), (2, 0), (3, 0))]
    archive = archive_of(good, METHODS)
    assert_same(archive.read_arrays([0, 1, 2]), [npy(np.zeros(2, "<f4"))] * 3)
    for version in ((1, 0), (2, 0), (3, 0)):
        with pytest.raises(CorruptArchiveError, match=r"0\.npy.*has 10001 bytes"):
            archive_of([with_header(header.ljust(10_001), version)], METHODS).read_arrays([0])


def test_arrays_of_nothing_that_are_too_many() -> None:
    empty = with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {1 << 58}), }}", body=b"")
    archive = archive_of([empty] * 16, [STORED])
    assert archive.read_arrays([0]).shape == (1, 0, 1 << 58)
    with pytest.raises(LimitExceededError, match=r"0\.npy.*more than one array holds"):
        archive.read_arrays(range(16))


ENDLESS = """
import archivestream, zipmaker
from test_arrays import with_header
header = "{'descr': '|V0', 'fortran_order': False, 'shape': (4611686018427387904,), }"
try:
    archivestream.open(zipmaker.make(zipmaker.Entry(b"x", with_header(header, body=b"")))).read_arrays([0])
except archivestream.ArchiveError:
    pass
"""


def test_elements_that_take_no_bytes() -> None:
    # In a process of its own: what does not end in native code cannot be interrupted.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", ENDLESS], env=environment, timeout=20, check=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMP",
        b"\x93NUMPY",
        b"\x93NUMPY\1",
        b"\x93NUMPY\1\0",
        b"\x93NUMPY\1\0\xff\xff",
        b"\x93NUMPY\2\0\xff\xff\xff\xff",
        b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(100),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", (0, 0)),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", (4, 0)),
        with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", (1, 1)),
        npy(GOOD[0])[:-1],
        npy(GOOD[0]) + b"x",
        b"text, and no array" * 20,
    ],
    ids=lambda data: repr(data[:16]),
)
def test_member_that_is_no_array(open_as: OpenAs, data: bytes) -> None:
    good = npy(GOOD[0])
    for method in METHODS:
        archive = archive_of([good, data, good], [method], open_as)
        for keys in ([1], [1, 0], [0, 1], [0, 2, 1]):
            with pytest.raises(CorruptArchiveError, match=r"1\.npy"):
                archive.read_arrays(keys)
        assert_same(archive.read_arrays([2, 0]), [good, good])


def test_objects_are_refused(open_as: OpenAs) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return exec, ("raise SystemExit('unpickled')",)

    for dtype in (object, [("a", object), ("b", "i4")], np.dtype((object, (2,)))):
        array = np.empty(1, dtype)
        array.ravel()[0] = (Evil(), 1) if isinstance(dtype, list) else Evil()
        archive = archive_of([npy(array), npy(GOOD[0])], [DEFLATE], open_as)
        for keys in ([0], [0, 0], [1, 0]):
            with pytest.raises(UnsupportedFeatureError, match=r"0\.npy.*objects"):
                archive.read_arrays(keys)


@pytest.mark.parametrize("place", [0, 1, 2, 50, 99])
@pytest.mark.parametrize("method", METHODS)
def test_one_bad_member(method: int, place: int) -> None:
    files = [npy(array) for array in arrays(100, (40, 20), np.dtype("u1"))]
    entries = [Entry(b"%d.npy" % i, data, method) for i, data in enumerate(files)]
    entries[place] = Entry(b"%d.npy" % place, files[place], method, crc=1)
    archive = archivestream.open(make(*entries), threads=4)
    with pytest.raises(CorruptArchiveError, match=rf"'{place}\.npy'.*CRC"):
        archive.read_arrays(range(100))
    rest = [i for i in range(100) if i != place]
    assert_same(archive.read_arrays(rest), [files[i] for i in rest])
    entries[place].flags = 1
    with pytest.raises(UnsupportedFeatureError, match=rf"'{place}\.npy'.*encrypted"):
        archivestream.open(make(*entries)).read_arrays(range(100))


def test_local_extra_fields_and_descriptors() -> None:
    files = [npy(array) for array in arrays(20, (150, 150), np.dtype("u1"))]
    entries = [
        Entry(b"%d" % i, data, [STORED, DEFLATE][i % 2], local_extra=bytes(i * 300), descriptor=(True, False))
        for i, data in enumerate(files)
    ]
    assert_same(archivestream.open(make(*entries)).read_arrays(range(20)), files)
