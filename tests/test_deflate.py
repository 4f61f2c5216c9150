"""`archivestream.deflate` against the package whose interface it has, and against zlib and gzip."""

from __future__ import annotations

import array
import gc
import gzip
import mmap
import random
import subprocess
import sys
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import deflate as peer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archivestream import deflate as ours

FORMATS = ("deflate", "zlib", "gzip")
LEVELS = range(-1, 13)
SIZES = (0, 1, 2, 255, 256, 65_535, 65_536, 100_003)


def content(kind: str, size: int) -> bytes:
    if kind == "zeros":
        return bytes(size)
    if kind == "random":
        return random.Random(size).randbytes(size)
    words = random.Random(size).choices([b"the", b"archive", b"is", b"a", b"stream\n"], k=size)
    return b" ".join(words)[:size]


def compress(module, name, data, *args, **kwargs):
    return getattr(module, f"{name}_compress")(data, *args, **kwargs)


def decompress(module, name, data, *args, **kwargs):
    return getattr(module, f"{name}_decompress")(data, *args, **kwargs)


def stdlib_compress(name: str, data: bytes, level: int = 6) -> bytes:
    wbits = {"deflate": -15, "zlib": 15, "gzip": 31}[name]
    compressor = zlib.compressobj(level, zlib.DEFLATED, wbits)
    return compressor.compress(data) + compressor.flush()


def stdlib_decompress(name: str, data: bytes) -> bytes:
    """Decode one whole stream, as zlib does."""
    decompressor = zlib.decompressobj({"deflate": -15, "zlib": 15, "gzip": 31}[name])
    result = decompressor.decompress(data)
    if not decompressor.eof:
        raise zlib.error("incomplete stream")
    return result


def outcome(call, *args, **kwargs):
    """What a call returns, or the type of what it raises."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error).__name__


# ---- streams that are right ---------------------------------------------------------------------


def test_names():
    assert {*ours.__all__, "__version__"} == {*peer.__all__}
    assert issubclass(ours.DeflateError, Exception)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["zeros", "random", "text"])
@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(name, kind, level):
    for size in SIZES:
        data = content(kind, size)
        packed = compress(ours, name, data, level)
        assert type(packed) is bytearray
        assert stdlib_decompress(name, packed) == data
        assert decompress(peer, name, packed, max(size, 1)) == data
        result = decompress(ours, name, packed, size)
        assert type(result) is bytearray
        assert result == data


@pytest.mark.parametrize("kind", ["zeros", "random", "text"])
@pytest.mark.parametrize("name", FORMATS)
def test_other_writers(name, kind):
    for size in SIZES:
        data = content(kind, size)
        for packed in (
            compress(peer, name, data),
            stdlib_compress(name, data, 0),
            stdlib_compress(name, data, 9),
        ):
            assert decompress(ours, name, packed, size) == data


@pytest.mark.parametrize("level", [-1, 0, 1, 12])
@pytest.mark.parametrize("name", FORMATS)
def test_megabytes(name, level):
    data = content("text", 3_000_000) + content("random", 1_000_001) + content("zeros", 2_000_000)
    packed = compress(ours, name, data, level)
    assert stdlib_decompress(name, packed) == data
    assert decompress(ours, name, packed, len(data)) == data


@pytest.mark.parametrize("size", SIZES)
def test_gzip_size_from_footer(size):
    data = content("text", size)
    assert ours.gzip_decompress(gzip.compress(data)) == data
    assert ours.gzip_decompress(ours.gzip_compress(data), 0) == data
    assert gzip.decompress(ours.gzip_compress(data)) == data


def test_gzip_optional_fields():
    plain = gzip.compress(b"data", mtime=0)
    fields = b"\x04\x00xtra" + b"name\0" + b"comment\0"
    assert ours.gzip_decompress(plain[:3] + b"\x1c" + plain[4:10] + fields + plain[10:]) == b"data"


def test_higher_levels_compress_more():
    data = content("text", 200_000)
    sizes = [len(ours.deflate_compress(data, level)) for level in (0, 1, 6, 12)]
    assert sizes == sorted(sizes, reverse=True)
    assert ours.deflate_compress(data) == ours.deflate_compress(data, 6)


def test_the_strongest_compression_fits_the_bound():
    """No stream is refused for what its length says that it can hold."""
    data = bytes(50_000_000)
    packed = stdlib_compress("deflate", data, 9)
    assert len(data) > 1025 * len(packed)
    assert ours.deflate_decompress(packed, len(data)) == data


@given(st.binary(max_size=3000), st.sampled_from(FORMATS), st.integers(-1, 12))
def test_any_bytes(data, name, level):
    packed = compress(ours, name, data, level)
    assert stdlib_decompress(name, packed) == data
    assert decompress(ours, name, packed, len(data)) == data
    packed = stdlib_compress(name, data, min(level, 9))
    assert decompress(ours, name, packed, len(data)) == data


# ---- arguments ----------------------------------------------------------------------------------

PACKED = {name: bytes(compress(peer, name, b"foobar" * 100)) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_sizes(name):
    packed = PACKED[name]
    for size in (600, 601, 5000, 1 << 31, (1 << 32) - 1):
        assert decompress(ours, name, packed, size) == b"foobar" * 100
        assert decompress(ours, name, packed, originalsize=size) == b"foobar" * 100
        assert decompress(ours, name, packed, bufsize=size) == b"foobar" * 100
    for size in (1, 599):
        with pytest.raises(ours.DeflateError, match=f"more than {size} bytes"):
            decompress(ours, name, packed, size)
    with pytest.raises(ValueError, match="negative"):
        decompress(ours, name, packed, -1)
    with pytest.raises(TypeError, match="two names"):
        decompress(ours, name, packed, 600, bufsize=600)
    with pytest.raises(TypeError):
        decompress(ours, name, packed, 600, 600)


@pytest.mark.parametrize("name", ["deflate", "zlib"])
def test_size_is_needed(name):
    with pytest.raises(TypeError, match="originalsize"):
        decompress(ours, name, PACKED[name])


@pytest.mark.parametrize("name", ["deflate", "zlib"])
def test_size_zero(name):
    """Nothing in, nothing out; the peer does not look at the stream at all."""
    assert decompress(ours, name, b"", 0) == decompress(peer, name, b"", 0) == b""
    assert decompress(ours, name, stdlib_compress(name, b""), 0) == b""
    for data in (PACKED[name], b"garbage"):
        assert decompress(peer, name, data, 0) == b""
        with pytest.raises(ours.DeflateError):
            decompress(ours, name, data, 0)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"data": b"foobar"}),
        ((), {"data": b"foobar", "compresslevel": 3}),
        ((b"foobar", 12), {}),
        ((b"foobar", True), {}),
        ((b"foobar", -2), {}),
        ((b"foobar", 13), {}),
        ((b"foobar", 65536), {}),
        ((b"foobar", 1.0), {}),
        ((b"foobar", "6"), {}),
        ((b"foobar", None), {}),
        ((b"foobar", 1, 2), {}),
        ((b"foobar",), {"level": 1}),
        (("foobar",), {}),
        ((None,), {}),
        ((7,), {}),
        (([1, 2],), {}),
        ((), {}),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_compress_arguments(name, args, kwargs):
    expected = outcome(getattr(peer, f"{name}_compress"), *args, **kwargs)
    result = outcome(getattr(ours, f"{name}_compress"), *args, **kwargs)
    if isinstance(expected, bytearray):
        assert stdlib_decompress(name, result) == stdlib_decompress(name, expected)
    else:
        assert result == expected


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((600,), {}),
        ((), {"originalsize": 600}),
        ((True,), {}),
        ((1.0,), {}),
        (("600",), {}),
        ((600,), {"originalsize": 600}),
        ((), {"size": 600}),
    ],
)
@pytest.mark.parametrize("name", FORMATS)
def test_decompress_arguments(name, args, kwargs):
    expected = outcome(getattr(peer, f"{name}_decompress"), PACKED[name], *args, **kwargs)
    assert outcome(getattr(ours, f"{name}_decompress"), PACKED[name], *args, **kwargs) == expected
    assert outcome(getattr(ours, f"{name}_decompress"), str(PACKED[name]), 600) == "TypeError"


def test_data_by_keyword():
    assert ours.deflate_decompress(data=PACKED["deflate"], originalsize=600) == b"foobar" * 100
    assert ours.gzip_decompress(data=PACKED["gzip"]) == b"foobar" * 100


BUFFERS = {
    "bytes": b"hello world!" * 10,
    "bytearray": bytearray(b"hello world!" * 10),
    "memoryview": memoryview(b"hello world!" * 10)[1:],
    "memoryview 2-D": memoryview(b"hello world!").cast("B", (3, 4)),
    "empty": memoryview(b""),
    "array.array": array.array("d", [1.0, float("inf"), -0.5]),
    "0-D": np.array(5),
    "2-D": np.arange(12).reshape(3, 4),
    "big-endian": np.arange(12, dtype=">i4"),
    "complex": np.arange(12, dtype="c16"),
    "structured": np.zeros(5, [("a", "i4"), ("b", "S3")]),
    "empty array": np.zeros((0, 3), "c8"),
    "every second byte": memoryview(b"hello world!")[::2],
    "strided": np.arange(12)[::2],
    "Fortran order": np.asfortranarray(np.ones((3, 4))),
}


@pytest.mark.parametrize("data", BUFFERS.values(), ids=BUFFERS)
def test_buffers(data):
    """Any contiguous buffer, and the same errors as the peer's for all others."""
    expected = outcome(peer.gzip_compress, data)
    result = outcome(ours.gzip_compress, data)
    if isinstance(expected, str):
        assert result == expected
        assert outcome(ours.crc32, data) == outcome(peer.crc32, data) == expected
        assert outcome(ours.zlib_decompress, data, 9) == expected
    else:
        assert gzip.decompress(result) == gzip.decompress(expected) == memoryview(data).tobytes()
        assert ours.crc32(data) == peer.crc32(data)
        assert ours.adler32(data) == peer.adler32(data)


def test_mapped_file(tmp_path):
    path = tmp_path / "packed"
    path.write_bytes(PACKED["zlib"])
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert ours.zlib_decompress(mapped, 600) == b"foobar" * 100


def test_input_is_free_again():
    data = bytearray(b"foobar" * 100)
    packed = ours.zlib_compress(data)
    ours.zlib_decompress(packed, 600)
    ours.crc32(data)
    data.clear()  # would be a BufferError while the buffer is held
    packed.clear()


# ---- checksums ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 5551, 5552, 5553, 1_000_001])
@pytest.mark.parametrize("name", ["crc32", "adler32"])
def test_checksums(name, size):
    checksum, reference, standard = (getattr(m, name) for m in (ours, peer, zlib))
    data = content("random", size)
    assert checksum(data) == reference(data) == standard(data)
    for initial in (0, 1, 0xDEADBEEF, True):
        assert checksum(data, initial) == reference(data, initial) == standard(data, initial)
        assert checksum(data, initial=initial) == checksum(data, initial)


@pytest.mark.parametrize("initial", [-1, 1 << 32, (1 << 64) + 7, 1.0, None, "1"])
@pytest.mark.parametrize("name", ["crc32", "adler32"])
def test_odd_initial_values(name, initial):
    expected = outcome(getattr(peer, name), b"foobar", initial)
    assert outcome(getattr(ours, name), b"foobar", initial) == expected


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_checksums_in_pieces(pieces):
    crc, adler = 0, 1
    for piece in pieces:
        crc, adler = ours.crc32(piece, crc), ours.adler32(piece, adler)
    assert crc == zlib.crc32(b"".join(pieces))
    assert adler == zlib.adler32(b"".join(pieces))


# ---- streams that are wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(23), b"foobar", b"foobar" * 42, b"\x1f\x8b", b"\x1f\x8b" + bytes(17)]
)
def test_no_gzip_data(data):
    with pytest.raises(ValueError, match="Invalid gzip data"):
        ours.gzip_decompress(data)
    with pytest.raises(ours.DeflateError):
        ours.gzip_decompress(data, 100)


@pytest.mark.parametrize("kind", ["zeros", "random", "text"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation(name, kind):
    packed = stdlib_compress(name, content(kind, 500))
    for length in range(len(packed)):
        with pytest.raises(ours.DeflateError):
            decompress(ours, name, packed[:length], 500)
        if name == "gzip":
            with pytest.raises((ours.DeflateError, ValueError)):
                ours.gzip_decompress(packed[:length])


@pytest.mark.parametrize("kind", ["zeros", "random", "text"])
@pytest.mark.parametrize("name", ["zlib", "gzip"])
def test_every_flipped_bit(name, kind):
    """The same bytes, where a field does not matter, or an error; never other bytes."""
    data = content(kind, 100)
    packed = stdlib_compress(name, data)
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert outcome(decompress, ours, name, flipped, 100) in (data, "DeflateError")
        if name == "gzip":
            assert outcome(ours.gzip_decompress, flipped) in (data, "DeflateError", "ValueError")


def test_every_flipped_bit_of_a_raw_stream():
    """There is no checksum: what comes out is what zlib makes of it."""
    packed = stdlib_compress("deflate", content("text", 300))
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        expected = outcome(stdlib_decompress, "deflate", flipped)
        if expected == "error":
            expected = "DeflateError"
        assert outcome(ours.deflate_decompress, flipped, 100_000) == expected


@given(st.binary(max_size=200), st.sampled_from(FORMATS), st.integers(0, 500))
def test_any_input(data, name, size):
    """Arbitrary bytes: what zlib makes of them, or an error."""
    result = outcome(decompress, ours, name, data, size)
    if result in ("DeflateError", "ValueError"):
        return
    assert len(result) <= max(size, 1032 * len(data))
    assert not data or outcome(stdlib_decompress, name, data) == result


@given(st.binary(min_size=1, max_size=50))
def test_trailing_bytes_are_passed_over(trailing):
    for name in FORMATS:
        assert decompress(ours, name, PACKED[name] + trailing, 600) == b"foobar" * 100


def test_gzip_members():
    """The first one; without a size, as much as the last one says."""
    small, large = gzip.compress(b"small"), gzip.compress(b"large" * 99)
    assert ours.gzip_decompress(small + large) == peer.gzip_decompress(small + large) == b"small"
    assert ours.gzip_decompress(large + small, 495) == b"large" * 99
    with pytest.raises(ours.DeflateError, match="more than 5 bytes"):
        ours.gzip_decompress(large + small)


@pytest.mark.parametrize("footer", [0, 1, 599, 601, 1 << 20, (1 << 32) - 1])
def test_gzip_footer_that_lies(footer):
    with pytest.raises(ours.DeflateError):
        ours.gzip_decompress(PACKED["gzip"][:-4] + footer.to_bytes(4, "little"))


def test_memory_is_in_proportion_to_the_stream():
    """Neither a hostile footer nor a generous size takes gigabytes."""
    packed = ours.gzip_compress(b"")
    tracemalloc.start()
    try:
        with pytest.raises(ours.DeflateError):
            ours.gzip_decompress(packed[:-4] + b"\xff\xff\xff\xff")
        assert ours.gzip_decompress(packed, 1 << 40) == b""
        assert ours.deflate_decompress(PACKED["deflate"], 1 << 40) == b"foobar" * 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


# ---- threads and memory -------------------------------------------------------------------------


def test_several_threads():
    inputs = [content(kind, size) for kind in ("random", "text") for size in (0, 10, 99_999)]

    def work(i: int) -> None:
        data = inputs[i % len(inputs)]
        name = FORMATS[i % 3]
        packed = compress(ours, name, data, i % 13)
        assert decompress(ours, name, packed, len(data)) == data
        assert ours.crc32(data) == zlib.crc32(data)
        with pytest.raises(ours.DeflateError):
            decompress(ours, name, packed[:-1], len(data))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))


def lets_others_run(call) -> bool:
    """Whether this thread gets the GIL between the start of a call in another one and its end.

    The interval at which threads are asked to give it up is set so high that only a thread that
    lets go of it of its own accord does. Which of two threads the system runs first is up to it:
    hence several attempts. A call that keeps the GIL fails all of them.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(20):
            started, ended = threading.Event(), threading.Event()

            def run(started=started, ended=ended) -> None:
                started.set()
                call()
                ended.set()

            thread = threading.Thread(target=run)
            thread.start()
            started.wait()
            ran_meanwhile = not ended.is_set()
            thread.join()
            if ran_meanwhile:
                return True
    finally:
        sys.setswitchinterval(interval)
    return False


ZEROS = ours.deflate_compress(bytes(50_000_000))

has_gil = pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL to release")


@has_gil
def test_the_check_itself_sees_a_gil_that_is_kept():
    assert not lets_others_run(lambda: sum(range(300_000)))


@has_gil
@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: ours.gzip_compress(content("text", 4_000_000), 9), id="compress"),
        pytest.param(lambda: ours.deflate_decompress(ZEROS, 50_000_000), id="decompress"),
        pytest.param(lambda: ours.crc32(bytes(100_000_000)), id="crc32"),
        pytest.param(lambda: ours.adler32(bytes(100_000_000)), id="adler32"),
    ],
)
def test_gil_is_released(call):
    assert lets_others_run(call)


@pytest.mark.skipif(sys.platform != "linux", reason="address space can be limited on Linux only")
def test_no_memory_is_not_said_to_be_damage():
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from archivestream import deflate
packed = deflate.deflate_compress(b"plain")
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, used))
taken = []
for size in (1 << 20, 1 << 16, 1 << 13, 1 << 11):  # no room is left for a decompressor
    try:
        while True:
            taken.append(bytes(size))
    except MemoryError:
        pass
try:
    deflate.deflate_decompress(packed, 5)
except MemoryError:
    print("no memory")
"""
    command = [sys.executable, "-c", code, str(Path(ours.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("no memory\n", "")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_no_leak():
    data = content("text", 20_000)
    packed = {name: compress(ours, name, data) for name in FORMATS}
    damaged = {name: stream[: len(stream) // 2] for name, stream in packed.items()}

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def work(repeats: int) -> None:
        for _ in range(repeats):
            for name in FORMATS:
                compress(ours, name, data, 1)
                decompress(ours, name, packed[name], len(data))
                assert outcome(decompress, ours, name, damaged[name], len(data)) == "DeflateError"
                assert outcome(decompress, ours, name, packed[name], 10) == "DeflateError"
            assert outcome(compress, ours, "zlib", data, 99) == "ValueError"
            ours.crc32(data)
            ours.adler32(data)

    work(500)
    before = resident()
    work(10_000)
    assert resident() - before < 8 << 20
