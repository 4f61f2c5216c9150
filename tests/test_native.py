"""The native rooms at their edges: engine, name table, buffers, and how many reads a batch costs."""

from __future__ import annotations

import errno
import gc
import io
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import archivestream
from archivestream import Limits
from archivestream._native.buffers import ALIGNMENT, RECYCLED_BYTES, Buffer
from archivestream._native.cache import BlockCache
from archivestream._native.codecs import Status
from archivestream._native.columns import Layout
from archivestream._native.engine import Reader
from archivestream._native.files import compare_words
from archivestream._native.names import NameTable
from archivestream._native.view import IndexView
from archivestream.formats import read_index
from archivestream.index import Index
from archivestream.sources import MemorySource

STORED, DEFLATE, BZIP2 = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2
WHAT = {"strict": False, "limits": Limits(), "metadata_encoding": None, "threads": None, "progress": None}


def make_zip(members: Sequence[bytes], method: int = DEFLATE) -> bytes:
    """Put members named 0, 1, … into a ZIP."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for number, data in enumerate(members):
            archive.writestr(str(number), data)
    return file.getvalue()


def make_reader(data: bytes, threads: int = 3, **columns: Any) -> tuple[Reader, Index]:
    """Make an engine over a ZIP in memory, with some columns of its index put in place of its own."""
    source = MemorySource(data)
    index = read_index(source, **WHAT).index
    view = IndexView(
        {**index.columns, **columns},
        index.first_member,
        index.first_block,
        [(-1, source.memory, source.size, index.data_end[0], Layout.ENTRIES, 0)],
        source,
        largest=1 << 30,
        max_window=1 << 20,
        strict=False,
        allow_overlap=False,
    )
    return Reader(view, BlockCache(1 << 20), threads=threads, verify=True), index


def make_view(columns: dict[str, Any], first_member: NDArray[np.uint64]) -> IndexView:
    """View the columns of an index of one source."""
    return IndexView(
        columns,
        first_member,
        np.array([0, 0], np.uint64),
        [(-1, b"", 0, 0, Layout.ENTRIES, 0)],
        None,
        largest=1,
        max_window=1,
        strict=False,
        allow_overlap=False,
    )


def blocks(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


TEXTS = [f"member {i} ".encode() * i for i in range(40)]
NOTHING = np.empty(0, np.uint8)


# The engine


@pytest.mark.parametrize("column", ["offset", "compressed_size", "size", "crc32", "codec", "flags"])
def test_columns_must_fit_together(column: str) -> None:
    _, index = make_reader(make_zip(TEXTS))
    right = index[column]
    for wrong in (right[:-1], np.concatenate([right, right[:1]]), right[:0]):
        with pytest.raises(ValueError, match="rows"):
            make_reader(make_zip(TEXTS), **{column: wrong.copy()})
    other = np.float32 if right.dtype != np.float32 else np.float64
    with pytest.raises(ValueError, match="dtype mismatch"):
        make_reader(make_zip(TEXTS), **{column: right.astype(other)})
    with pytest.raises((KeyError, TypeError, AttributeError)):
        make_reader(make_zip(TEXTS), **{column: None})


def test_a_column_is_missing() -> None:
    _, index = make_reader(make_zip(TEXTS))
    columns = dict(index.columns)
    del columns["crc32"]
    with pytest.raises(KeyError):
        make_view(columns, index.first_member)


def test_the_bounds_of_the_sources_must_fit() -> None:
    _, index = make_reader(make_zip(TEXTS))
    for first in ([0], [0, 20, 40]):
        with pytest.raises(ValueError, match="rows"):
            make_view(index.columns, np.array(first, np.uint64))


def test_blocks_out_of_range_fail_one_by_one() -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    wanted = blocks(3, 40, -1, 7, 2**31, 2**32 + 3, 2**63 - 1, -(2**63))
    result, failures = reader.read_many(wanted)
    assert [result[0], result[3]] == [TEXTS[3], TEXTS[7]]
    assert [failure[0] for failure in failures] == [1, 2, 4, 5, 6, 7]
    assert {failure[2] for failure in failures} == {Status.OUT_OF_BOUNDS}
    assert result[1:3] == [None, None]
    assert [f[0] for f in reader.check(wanted)] == [1, 2, 4, 5, 6, 7]
    refused = reader.offsets(wanted, np.empty(len(wanted) + 1, np.int64))
    assert refused is not None
    assert (refused[0], refused[2]) == (1, Status.OUT_OF_BOUNDS)
    assert reader.read(40) == (Status.OUT_OF_BOUNDS, 0)
    assert reader.read(2**64 - 1) == (Status.OUT_OF_BOUNDS, 0)
    assert reader.payload(40) == (Status.OUT_OF_BOUNDS, 0)
    assert reader.data_offset(40, b"") == (Status.OUT_OF_BOUNDS, 0)
    assert reader.ranges(blocks(-1, 40)) == [None, None]
    for negative in (-1, 2**64):
        with pytest.raises(OverflowError):
            reader.read(negative)


def test_empty_batches() -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    none = blocks()
    assert reader.read_many(none) == ([], [])
    assert reader.check(none) == []
    assert reader.read_into(none, NOTHING, none) == []
    assert reader.read_slots(none, NOTHING, b"prefix") == []
    assert reader.ranges(none) == []
    assert reader.offsets(none, np.empty(1, np.int64)) is None
    pending = reader.submit(none, NOTHING, none)
    assert pending.done()
    assert pending.wait() == []


def test_an_archive_of_no_members() -> None:
    reader, _ = make_reader(make_zip([]))
    assert reader.read_many(blocks()) == ([], [])
    assert reader.read_many(blocks(0))[1] == [(0, 0, Status.OUT_OF_BOUNDS, 0)]


def test_empty_members_need_no_memory() -> None:
    reader, _ = make_reader(make_zip([b"", b"x", b""], STORED))
    assert reader.read_many(blocks(0, 2, 2, 0)) == ([b""] * 4, [])
    assert reader.read_into(blocks(0, 2), NOTHING, blocks(0, 0)) == []
    out = np.zeros(1, np.uint8)
    assert reader.read_into(blocks(0, 1, 2), out, blocks(0, 0, 1)) == []
    assert out.tobytes() == b"x"


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("method", [STORED, DEFLATE])
def test_repeated_blocks_in_any_order(threads: int, method: int) -> None:
    reader, _ = make_reader(make_zip(TEXTS, method), threads)
    numbers = random.Random(threads).choices(range(40), k=1000)
    result, failures = reader.read_many(blocks(*numbers))
    assert failures == []
    assert result == [TEXTS[i] for i in numbers]


@pytest.mark.parametrize("target", [-1, -(2**63), 2**63 - 1, 100 - len(TEXTS[3]) + 1, 101], ids=str)
def test_targets_outside_the_buffer(target: int) -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    out = np.zeros(100, np.uint8)
    for call in (reader.read_into, reader.submit):
        with pytest.raises(ValueError, match="outside the buffer"):
            call(blocks(1, 3), out, blocks(0, target))
    assert not out.any()


def test_targets_at_the_very_end() -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    out = np.zeros(100, np.uint8)
    assert reader.read_into(blocks(3, 0), out, blocks(100 - len(TEXTS[3]), 100)) == []
    assert out.tobytes().lstrip(b"\0") == TEXTS[3]


def test_a_row_too_few() -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    with pytest.raises(ValueError, match="target is missing"):
        reader.read_into(blocks(1, 2), np.zeros(999, np.uint8), blocks(0))
    with pytest.raises(ValueError, match="a row more"):
        reader.offsets(blocks(1, 2), np.empty(2, np.int64))


def test_memory_that_cannot_be_written() -> None:
    reader, _ = make_reader(make_zip(TEXTS))
    with pytest.raises((ValueError, BufferError), match=r"(?i)read-only|writable"):
        reader.read_into(blocks(1), bytes(100), blocks(0))
    with pytest.raises((ValueError, BufferError), match="contiguous"):
        reader.read_into(blocks(1), np.zeros(200, np.uint8)[::2], blocks(0))


def test_bytes_of_failed_blocks_are_not_handed_out() -> None:
    data = bytearray(make_zip(TEXTS, STORED))
    data[data.find(TEXTS[5]) + 1] ^= 1
    reader, _ = make_reader(bytes(data))
    result, failures = reader.read_many(blocks(4, 5, 6))
    assert result == [TEXTS[4], None, TEXTS[6]]
    assert failures == [(1, 5, Status.BAD_CHECKSUM, 0)]


MISUSE = {
    "more input than blocks": "reader.read_many(np.arange(1), [bytes(9)] * 100_000)",
    "a pending read of nothing": "PendingRead().wait()",
    "a buffer without memory": "bytes(Buffer(1 << 20, _adopting=True))",
    "as many begins as ends": "NameTable(b'', np.empty(0, np.uint64), np.empty(1, np.uint64))",
    "names that lie nowhere": "NameTable(b'ab', np.array([1], np.uint64), np.array([3], np.uint64))",
    "names that end before they begin": "NameTable(b'ab', np.array([2], np.uint64), np.array([1], np.uint64))",
}


@pytest.mark.parametrize("code", MISUSE.values(), ids=MISUSE)
def test_misuse_is_an_exception(code: str) -> None:
    # In a process of its own, since what is to be ruled out is a crash.
    script = f"""
import sys
import tempfile
sys.path[:0] = [{str(Path(archivestream.__file__).parents[1])!r}, {str(Path(__file__).parent)!r}]
import numpy as np
from archivestream._native.buffers import Buffer
from archivestream._native.files import compare_words
from archivestream._native.names import NameTable
from archivestream._native.work import PendingRead
from test_native import make_reader, make_zip
reader, _ = make_reader(make_zip([b"x" * 99]))
try:
    {code}
except (ValueError, IndexError, TypeError, MemoryError):
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


@pytest.mark.parametrize("size", [0, 1, 29, 30, 31, 40])
def test_input_that_ends_early(size: int) -> None:
    reader, _ = make_reader(make_zip([b"some text " * 99]))
    result, failures = reader.read_many(blocks(0), [make_zip([b"some text " * 99])[:size]])
    assert result == [None]
    assert failures[0][2] == Status.TRUNCATED


# Slots: members less a prefix that they share


def slots_case(n: int, size: int, skip: int, seed: int = 0) -> tuple[bytes, list[bytes]]:
    rng = random.Random(seed)
    prefix = rng.randbytes(skip)
    # Half of it random, half of it not, so that deflate has something to do.
    bodies = [rng.randbytes(size // 2) + b"\1" * (size - size // 2) for _ in range(n)]
    return prefix, bodies


@pytest.mark.parametrize("method", [STORED, DEFLATE])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 99, 100])
@pytest.mark.parametrize(
    ("size", "skip"), [(1, 0), (1, 1), (4, 128), (128, 128), (129, 128), (300, 4096), (20_000, 128)]
)
def test_slots(method: int, n: int, size: int, skip: int) -> None:
    prefix, bodies = slots_case(n, size, skip)
    reader, _ = make_reader(make_zip([prefix + body for body in bodies], method), threads=4)
    # Guards on both sides: nothing may be written in front of the first slot or behind the last.
    memory = np.full(n * size + 2 * 8192, 0xA5, np.uint8)
    out = memory[8192 : 8192 + n * size]
    for order in (range(n), random.Random(n).sample(range(n), n)):
        assert reader.read_slots(blocks(*order), out, prefix) == []
        assert out.tobytes() == b"".join(bodies[i] for i in order)
        assert (memory[:8192] == 0xA5).all()
        assert (memory[-8192:] == 0xA5).all()


def test_slots_smaller_than_the_prefix_and_many_threads() -> None:
    # A prefix that reaches over several slots must not be laid over what other threads are writing.
    prefix, bodies = slots_case(20_000, 12, 128)
    reader, _ = make_reader(make_zip([prefix + body for body in bodies]), threads=8)
    out = np.empty(20_000 * 12, np.uint8)
    for seed in range(5):
        order = random.Random(seed).sample(range(20_000), 20_000)
        assert reader.read_slots(blocks(*order), out, prefix) == []
        assert out.tobytes() == b"".join(bodies[i] for i in order)


@pytest.mark.parametrize("method", [STORED, DEFLATE])
def test_a_bad_slot_leaves_its_neighbours_alone(method: int) -> None:
    prefix, bodies = slots_case(9, 50_000, 128)
    members = [prefix + body for body in bodies]
    members[4] = b"!" + members[4][1:]
    data = make_zip(members, method)
    reader, _ = make_reader(data, threads=4)
    out = np.empty(9 * 50_000, np.uint8)
    failures = reader.read_slots(np.arange(9), out, prefix)
    assert [(f[0], f[1], f[2]) for f in failures] == [(4, 4, Status.PREFIX_DIFFERS)]
    for i in {0, 1, 2, 3, 5, 6, 7, 8}:
        assert out[i * 50_000 : (i + 1) * 50_000].tobytes() == bodies[i]


def test_slots_that_do_not_fit() -> None:
    reader, _ = make_reader(make_zip([b"ab", b"abc", b"abcd"]))
    out = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match=r"one size|outside"):
        reader.read_slots(blocks(0, 1, 2), out, b"a")
    with pytest.raises(ValueError, match="smaller than the prefix"):
        reader.read_slots(blocks(0), out, b"abc")
    with pytest.raises(ValueError, match="4096"):
        reader.read_slots(blocks(0), out, bytes(4097))
    with pytest.raises(ValueError, match="empty"):
        reader.read_slots(blocks(0), NOTHING, b"a")


# Reads


def count_reads(call: Callable[[], object]) -> int:
    """Count the system calls that read, of all threads of this process."""

    def reads() -> int:
        descriptor = os.open("/proc/self/io", os.O_RDONLY)
        try:
            text = os.read(descriptor, 4096)
        finally:
            os.close(descriptor)
        return int(text.split(b"syscr: ")[1].split()[0])

    gc.collect()
    before = reads()
    call()
    return reads() - before - 1


needs_proc = pytest.mark.skipif(
    not os.access("/proc/self/io", os.R_OK), reason="Linux counts system calls in /proc/self/io"
)


@needs_proc
@pytest.mark.parametrize("method", [STORED, DEFLATE, BZIP2], ids=["stored", "deflate", "bzip2"])
def test_one_read_for_each_member(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([os.urandom(9000).hex().encode() for _ in range(50)], method))
    archive = archivestream.open(path)
    for _ in range(2):  # before the local headers are known, and after
        assert count_reads(lambda: [archive[i] for i in range(50)]) == 50


@needs_proc
@pytest.mark.parametrize("method", [STORED, DEFLATE])
def test_neighbours_share_a_read(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip([os.urandom(300).hex().encode() for _ in range(1000)], method))
    archive = archivestream.open(path, threads=2)
    order = random.Random(0).sample(range(1000), 1000)
    for keys in (range(1000), order, [3, 5, 4]):
        reads = count_reads(lambda keys=keys: archive.read_many(keys))
        assert reads <= 1 + 9 * 2  # some for each thread, so that none waits for the last
    assert count_reads(lambda: archive.read_many([0, 999])) == 2  # the gap is not read


@needs_proc
def test_large_stored_members_are_read_to_their_place(tmp_path: Path) -> None:
    members = [os.urandom(110_000) for _ in range(20)]
    path = tmp_path / "a.zip"
    path.write_bytes(make_zip(members, STORED))
    archive = archivestream.open(path)
    for _ in range(2):
        found: list[bytes] = []
        assert count_reads(lambda found=found: found.extend(archive.read_many(range(20)))) == 20
        assert found == members


# Names


@given(st.lists(st.text(max_size=12), max_size=60), st.lists(st.text(max_size=12), max_size=10))
@settings(deadline=None)
def test_the_name_table_is_a_dict(names: list[str], others: list[str]) -> None:
    encoded = [name.encode() for name in names]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.uint64)
    table = NameTable(b"".join(encoded), offsets[:-1], offsets[1:])
    expected = {name: position for position, name in enumerate(names)}
    for name in [*names, *others, ""]:
        assert table.find(name) == expected.get(name, -1)
        assert table.find(name.encode()) == expected.get(name, -1)
    assert table.duplicates == len(names) - len(expected)


def test_names_of_all_kinds() -> None:
    names = [f"{i:x}" * (i % 5) for i in range(100_000)]
    encoded = [name.encode() for name in names]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.uint64)
    table = NameTable(b"".join(encoded), offsets[:-1], offsets[1:])
    expected = {name: position for position, name in enumerate(names)}
    assert table.duplicates == len(names) - len(expected)
    assert all(table.find(name) == position for name, position in expected.items())
    assert table.find("no such name") == table.find("x" * 100_000) == table.find("a\0") == -1
    assert table.find("\ud800") == -1  # a lone surrogate is in no archive
    assert table.find(b"\xff") == -1
    for key in (None, 1, bytearray(b"a")):
        with pytest.raises(TypeError):
            table.find(key)  # type: ignore[arg-type]


def test_no_names() -> None:
    table = NameTable(b"", np.empty(0, np.uint64), np.empty(0, np.uint64))
    assert table.find("") == table.find("a") == -1
    assert table.duplicates == 0


# Numbers in files


@given(
    st.lists(st.sampled_from([0, 1, 4, 9, 4000, 4096, 4097, 70_000]), max_size=60),
    st.booleans(),
    st.none() | st.integers(0, 59),
)
@settings(deadline=None)
def test_numbers_at_places_of_a_file(steps: list[int], backwards: bool, wrong: int | None) -> None:
    places = np.cumsum(steps, dtype=np.uint64)
    if backwards:
        places = places[::-1].copy()
    data = random.Random(1).randbytes(int(places.max(initial=0)) + 4)
    expected = np.array([int.from_bytes(data[at : at + 4], "little") for at in places.tolist()], np.uint32)
    count, status = len(places), 0
    if wrong is not None and wrong < len(places):
        expected[wrong] ^= 1 << 9
        count, status = wrong, errno.EILSEQ
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert compare_words(file.fileno(), places, expected) == (count, status)
        if len(places):  # the file ends within one of them
            places[-1] = len(data) - 3
            count = min(count, len(places) - 1)
            assert compare_words(file.fileno(), places, expected) == (count, errno.EILSEQ)


# Buffers


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4096, 300_000, 1 << 20, RECYCLED_BYTES + 1])
def test_buffers_are_aligned_and_writable(size: int) -> None:
    buffer = Buffer(size)
    assert len(buffer) == size
    view = memoryview(buffer)
    assert (view.nbytes, view.readonly, view.format, view.ndim) == (size, False, "B", 1)
    if size:
        array = np.frombuffer(view, np.uint8)
        array[0], array[-1] = 1, 2
        assert array.ctypes.data % ALIGNMENT == 0


def test_live_buffers_share_nothing() -> None:
    rng = random.Random(0)
    live: list[tuple[int, NDArray[np.uint8]]] = []
    for mark in range(3000):
        if live and rng.random() < 0.5:
            live.pop(rng.randrange(len(live)))
        size = rng.choice([1, 1000, 256 << 10, (256 << 10) + 1, 400_000, 1 << 20, 2 << 20])
        array = np.frombuffer(Buffer(size), np.uint8)
        array[:8], array[-8:] = mark % 251, mark % 251
        live.append((mark, array))
        del live[:-20]
        bounds = sorted((a.ctypes.data, a.ctypes.data + a.size) for _, a in live)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(bounds))
    assert all((a[[0, -1]] == mark % 251).all() for mark, a in live)


def test_memory_that_is_not_there() -> None:
    for size in (1 << 62, (1 << 63) - 1):
        with pytest.raises(MemoryError, match=str(size)):
            Buffer(size)
    for size in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            Buffer(size)


def test_a_buffer_outlives_its_owner() -> None:
    view = memoryview(Buffer(1 << 20))
    view[:] = b"\7" * (1 << 20)
    others = [np.frombuffer(Buffer(1 << 20), np.uint8) for _ in range(20)]
    for other in others:
        other[:] = 0
    assert view == b"\7" * (1 << 20)
