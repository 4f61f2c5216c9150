"""Members that share blocks: each block decoded once, bytes right wherever they lie, memory bounded."""

from __future__ import annotations

import io
import itertools
import os
import threading
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zipmaker
import zstandard
import zstdmaker

import archivestream
from archivestream import ArchiveError, CorruptArchiveError, Limits, formats
from archivestream._native.codecs import Codec
from archivestream._native.columns import BlockFlag, Layout, MemberFlag
from archivestream.columns import DTYPES, MEMBER_COLUMNS
from archivestream.index import Index
from archivestream.member_io import open_member
from archivestream.reader import MemberReader
from archivestream.sources import FileObjectSource, LocalSource, MemorySource, Source
from archivestream.verification import verify

WHAT: dict[str, Any] = {
    "strict": False,
    "limits": Limits(),
    "metadata_encoding": None,
    "threads": None,
    "progress": None,
}
STREAM = bytes(np.random.default_rng(5).integers(0, 64, 1 << 20, np.uint8))


class Frames:
    """A stream in zstd frames, cut at given places, and the columns that say so."""

    def __init__(self, stream: bytes, cuts: Sequence[int], codec: Codec = Codec.ZSTD) -> None:
        self.stream = stream
        bounds = [0, *cuts, len(stream)]
        pieces = [stream[a:b] for a, b in itertools.pairwise(bounds)]
        compress = zstandard.ZstdCompressor(level=1, write_checksum=False).compress
        frames = [compress(piece) if codec == Codec.ZSTD else piece for piece in pieces]
        self.data = b"head" + b"".join(frames) + b"tail"
        offsets = 4 + np.cumsum([0, *map(len, frames)])
        n = len(frames)
        self.columns: dict[str, Any] = {
            "block_start": np.array(bounds[:-1], np.uint64),
            "block_size": np.array([len(piece) for piece in pieces], np.uint64),
            "block_offset": offsets[:-1].astype(np.uint64),
            "block_compressed_size": np.array([len(frame) for frame in frames], np.uint64),
            "block_codec": np.full(n, codec, np.uint16),
            "block_flags": np.full(n, BlockFlag.CHECKED_BIT, np.uint16),
            "block_crc32": np.array([zlib.crc32(piece) for piece in pieces], np.uint32),
            "aux_offset": np.zeros(n + 1, np.uint64),
            "aux": b"",
        }

    def index(self, members: Sequence[tuple[int, int]], **changes: Any) -> Index:
        """Make an index of the members at some ranges of the stream."""
        n = len(members)
        names = [str(i).encode() for i in range(n)]
        columns = {
            **self.columns,
            "size": np.array([size for _, size in members], np.uint64),
            "compressed_size": np.zeros(n, np.uint64),
            "offset": np.array([start for start, _ in members], np.uint64),
            "crc32": np.zeros(n, np.uint32),
            "codec": np.full(n, Codec.ZSTD, np.uint16),
            "flags": np.zeros(n, np.uint16),
            "timestamp": np.zeros(n, np.uint32),
            "attributes": np.zeros(n, np.uint32),
            "names": b"".join(names),
            "name_offset": np.cumsum([0, *map(len, names)], dtype=np.uint64),
            **changes,
        }
        columns = {
            name: np.asarray(values, DTYPES[name]) if isinstance(values, list) else values
            for name, values in columns.items()
        }
        return Index(columns, data_end=[len(self.data)], layouts=[Layout.BLOCKS], formats=["tar.zst"])


def make_reader(index: Index, source: Source, **options: Any) -> MemberReader:
    what: dict[str, Any] = {"limits": Limits(), "verify": True, "strict": False, "threads": 3, "cache": 1 << 20}
    return MemberReader(index, [source], **{**what, **options})


def ids(*members: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(members, np.int64)


@pytest.fixture(params=["file", "bytes", "object"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def source_of(kind: str, data: bytes, folder: Path) -> Source:
    if kind == "bytes":
        return MemorySource(data)
    if kind == "object":
        return FileObjectSource(io.BytesIO(data))
    path = folder / "archive"
    path.write_bytes(data)
    return LocalSource(path)


def random_members(size: int, count: int, longest: int, seed: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, size, count)
    return [(int(start), int(min(size - start, rng.integers(0, longest)))) for start in starts]


@pytest.mark.parametrize("cache", [0, 100_000, 1 << 24])
@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.STORED])
def test_members_anywhere(kind: str, codec: Codec, cache: int, tmp_path: Path) -> None:
    frames = Frames(STREAM, [1, 70_000, 70_001, 300_000, 900_000], codec)
    # Within a block, over several, whole blocks, nothing, everything; the same twice.
    members = [*random_members(len(STREAM), 40, 200_000, 1), (1, 69_999), (0, 0), (len(STREAM), 0), (0, len(STREAM))]
    reader = make_reader(frames.index(members), source_of(kind, frames.data, tmp_path), cache=cache)
    expected = [STREAM[start : start + size] for start, size in members]
    order = [*range(len(members)), *range(len(members))[::-1]]
    assert reader.read_many(ids(*order)) == [expected[i] for i in order]
    data, offsets = reader.read_batch(ids(*order), None)
    assert [bytes(data[a:b]) for a, b in itertools.pairwise(offsets)] == [expected[i] for i in order]
    assert [reader.read(i) for i in range(len(members))] == expected
    pending = reader.submit(ids(*order), None)
    pending.wait()
    assert bytes(pending.data) == b"".join(expected[i] for i in order)
    assert reader.check(ids(*order)) == {}
    assert verify(reader, ids(*order), None).ok
    assert reader.cache.statistics()[2] <= cache


def test_each_block_is_decoded_once_in_a_batch() -> None:
    frames = Frames(STREAM, range(10_000, 1_000_000, 10_000))
    members = [(start, 100) for start in range(0, 1_000_000, 500)]
    reader = make_reader(frames.index(members), MemorySource(frames.data), cache=1 << 30)
    reader.read_many(np.random.default_rng(3).permutation(len(members)))
    assert reader.cache.statistics()[:2] == (0, 100)
    reader.read_many(np.arange(len(members)))
    assert reader.cache.statistics()[:2] == (100, 100)


def test_whole_blocks_go_straight_to_their_places() -> None:
    frames = Frames(STREAM, [100_000, 200_000, 300_000])
    reader = make_reader(frames.index([(0, 300_000)]), MemorySource(frames.data))
    assert reader.read(0) == STREAM[:300_000]
    assert reader.cache.statistics() == (0, 0, 0, 0)


def test_the_least_recently_used_goes_first() -> None:
    block = 65_536
    stream = STREAM[: 8 * block]
    frames = Frames(stream, range(block, 8 * block, block))
    reader = make_reader(frames.index([(i * block, 10) for i in range(8)]), MemorySource(frames.data), cache=3 * block)
    for i in (0, 1, 2, 0, 3, 0, 2, 1):  # 3 takes the place of 1; 1 that of 3
        assert reader.read(i) == stream[i * block : i * block + 10]
    hits, misses, kept, blocks = reader.cache.statistics()
    assert (hits, misses) == (3, 5)
    assert (kept, blocks) == (3 * block, 3)


def test_threads_that_want_one_block_decode_it_once() -> None:
    frames = Frames(STREAM, [])
    reader = make_reader(
        frames.index([(i * 1000, 1000) for i in range(1000)]), MemorySource(frames.data), cache=1 << 30
    )
    barrier = threading.Barrier(8)
    wrong = []

    def read(first: int) -> None:
        barrier.wait()
        wrong.extend(i for i in range(first, 1000, 8) if reader.read(i) != STREAM[i * 1000 : i * 1000 + 1000])

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert reader.cache.statistics()[1] == 1


def test_threads_that_want_more_or_less_of_one_block() -> None:
    stream = STREAM[: 1 << 20] * 3
    data = zstandard.ZstdCompressor(level=1).compress(stream)
    _, blocks = zstdmaker.index(data, spacing=1 << 20, budget=zstdmaker.NO_BUDGET)
    assert blocks["block_codec"][1] == Codec.ZSTD_SEGMENT
    first = int(blocks["block_start"][1])
    members = [(first + i * 10_000, 100) for i in range(100)]  # a read needs the segment up to its member
    frames = Frames(b"", [])
    frames.data, frames.columns = data, dict(blocks)
    index = frames.index(members)
    for _ in range(30):
        reader = make_reader(index, MemorySource(data), threads=1, cache=8 << 20)
        barrier = threading.Barrier(6)
        wrong = []

        def read(i: int, reader: MemberReader = reader, barrier: Any = barrier, wrong: list[int] = wrong) -> None:
            barrier.wait()
            for member in (i * 17, 99 - i, i):
                start, size = members[member]
                if reader.read(member) != stream[start : start + size]:
                    wrong.append(member)

        threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_forked_process_begins_with_an_empty_cache() -> None:
    frames = Frames(STREAM, [500_000])
    reader = make_reader(frames.index([(0, 10), (600_000, 10)]), MemorySource(frames.data), cache=1 << 30)
    assert reader.read(0) == STREAM[:10]
    child = os.fork()
    if child == 0:
        empty = reader.cache.statistics() == (0, 0, 0, 0)
        right = reader.read(0) == STREAM[:10] and reader.read(1) == STREAM[600_000:600_010]
        os._exit(0 if empty and right and reader.cache.statistics()[1] == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.read(1) == STREAM[600_000:600_010]


def test_a_bad_block_spoils_its_members_only(kind: str, tmp_path: Path) -> None:
    frames = Frames(STREAM, [100_000, 200_000])
    damaged = bytearray(frames.data)
    damaged[int(frames.columns["block_offset"][1]) + 50_000] ^= 1
    members = [(0, 10), (99_990, 10), (99_990, 20), (150_000, 5), (200_000, 5), (0, len(STREAM)), (100_000, 0)]
    reader = make_reader(frames.index(members), source_of(kind, bytes(damaged), tmp_path))
    for _ in range(2):  # what is bad is not kept
        errors: dict[int, Exception] = {}
        result = reader.read_many(ids(*range(len(members))), errors)
        assert sorted(errors) == [2, 3, 5]
        assert all(isinstance(error, CorruptArchiveError) for error in errors.values())
        for i, (start, size) in enumerate(members):
            assert i in errors or result[i] == STREAM[start : start + size]
    assert sorted(reader.check(ids(*range(len(members))))) == [2, 3, 5]
    with pytest.raises(CorruptArchiveError, match="member '3'"):
        reader.read(3)


def test_an_unverified_block_is_read_as_it_is() -> None:
    frames = Frames(STREAM, [], Codec.STORED)
    wrong = bytearray(frames.data)
    wrong[10] ^= 1
    reader = make_reader(frames.index([(0, 20)]), MemorySource(bytes(wrong)), verify=False)
    assert reader.read(0) == bytes(wrong[4:24])
    assert list(reader.check(ids(0))) == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"block_offset": [2**64 - 1]},
        {"block_offset": [5]},
        {"block_compressed_size": [2**64 - 1]},
        {"block_compressed_size": [0]},
        {"block_compressed_size": [7]},
        {"block_size": [2**64 - 1]},
        {"block_size": [2**40]},
        {"block_size": [2**20 + 1]},
        {"block_size": [2**20 - 1]},
        {"block_size": [0]},
        {"block_codec": [8]},
        {"block_codec": [0xF05D]},
        {"block_codec": [0xF008]},
        {"block_start": [100]},
        {"offset": [2**64 - 1]},
        {"size": [2**63]},
        {"offset": [2**20 - 5]},
        {"block_crc32": [1]},
    ],
)
def test_an_index_that_lies(changes: dict[str, list[int]], kind: str, tmp_path: Path) -> None:
    frames = Frames(STREAM, [])
    right = frames.index([(50, 10)])
    columns = {name: np.array(values, right[name].dtype) for name, values in changes.items()}
    reader = make_reader(frames.index([(50, 10)], **columns), source_of(kind, frames.data, tmp_path))
    with pytest.raises(ArchiveError):
        reader.read(0)
    with pytest.raises(ArchiveError):
        reader.read_batch(ids(0, 0), None)
    assert list(reader.check(ids(0))) == [0]


@pytest.mark.parametrize(
    "changes",
    [
        {"compressed_size": 40_000},
        {"compressed_size": 19_999},
        {"compressed_size": 0},
        {"compressed_size": 2**63},
        {"codec": Codec.DEFLATE},
        {"codec": Codec.ZSTD_SEGMENT},
        {"offset": 60_000},
        {"offset": 2**64 - 1},
        {"size": 2**50},
    ],
)
@pytest.mark.parametrize("data_end", [50_000, 2**63 - 1, 2**64 - 1])
def test_an_index_of_ranges_that_lies(changes: dict[str, int], data_end: int, kind: str, tmp_path: Path) -> None:
    columns = Frames(b"", []).index([(100, 20_000)], compressed_size=[20_000], codec=[Codec.STORED])
    changed = {name: np.array([changes.get(name, columns[name][0])], columns[name].dtype) for name in MEMBER_COLUMNS}
    for values, right in ((columns.columns, True), ({**columns.columns, **changed}, False)):
        index = Index(values, data_end=[data_end], layouts=[Layout.RANGES], formats=["tar"])
        reader = make_reader(index, source_of(kind, STREAM[:50_000], tmp_path))
        if right:
            assert reader.read(0) == STREAM[100:20_100]
            continue
        for read in (lambda: reader.read(0), lambda: reader.read_batch(ids(0, 0), None)):  # noqa: B023
            with pytest.raises(ArchiveError):
                read()
        assert list(reader.check(ids(0))) == [0]


@pytest.mark.parametrize("size", [65_536, 131_100, 1 << 20])
@pytest.mark.parametrize("codec", [Codec.STORED, Codec.DEFLATE])
@pytest.mark.parametrize("flags", [0, MemberFlag.SEGMENTED_BIT])
def test_a_name_that_no_local_header_has_room_for(
    size: int, codec: Codec, flags: int, kind: str, tmp_path: Path
) -> None:
    data = STREAM[:300_000]
    columns = Frames(data, [], Codec.STORED).index(
        [(0, 20_000)],
        compressed_size=[20_000],
        codec=[codec],
        flags=[flags],
        names=b"n" * size,
        name_offset=[0, size],
        segment_member=[0],
        segment_first=[0, 1],
    )
    index = Index(columns.columns, data_end=[len(data)], layouts=[Layout.ENTRIES], formats=["zip"])
    reader = make_reader(index, source_of(kind, data, tmp_path))
    for read in (lambda: reader.read(0), lambda: reader.read_batch(ids(0, 0), None)):
        with pytest.raises(CorruptArchiveError):
            read()
    assert list(reader.check(ids(0))) == [0]


def test_compressed_blocks_are_fetched_some_at_a_time() -> None:
    stream = STREAM * 48
    frames = Frames(stream, range(1 << 20, len(stream), 1 << 20), Codec.STORED)
    members = [(0, len(stream)), (5, 10), (30 << 20, 10)]
    reader = make_reader(frames.index(members), FileObjectSource(io.BytesIO(frames.data)), cache=4 << 20)
    tracemalloc.start()
    try:
        assert reader.check(ids(0, 1, 2)) == {}
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    expected = stream + stream[5:15] + stream[30 << 20 : (30 << 20) + 10]
    pending = reader.submit(ids(0, 1, 2), None)
    child = os.fork()
    if child == 0:
        pending.wait()
        os._exit(0 if bytes(pending.data) == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    pending.wait()
    assert bytes(pending.data) == expected


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_segments_that_are_not_those_of_the_stream_change_nothing(kind: str, tmp_path: Path) -> None:
    contents = STREAM[:50_000]
    data = zipmaker.make(zipmaker.Entry(b"a", contents, zipmaker.DEFLATE))
    columns = formats.read_index(MemorySource(data), **WHAT).index.columns
    segments = Frames(b"", []).index([]).columns
    lie = {
        **{name: segments[name] for name in ("block_flags", "block_crc32", "block_start", "aux", "aux_offset")},
        **{name: np.array([value], DTYPES[name]) for name, value in (("flags", 0x800), ("segment_member", 0))},
        "block_size": columns["size"],
        "block_offset": np.zeros(1, np.uint64),
        "block_compressed_size": columns["compressed_size"] - np.uint64(1),
        "block_codec": columns["codec"],
        "segment_first": np.array([0, 1], np.uint64),
    }
    index = Index({**columns, **lie}, data_end=[len(data)])
    for strict in (False, True):
        reader = make_reader(index, source_of(kind, data, tmp_path), strict=strict)
        assert reader.read(0) == contents
        assert reader.check(ids(0)) == {}


def test_only_deflated_members_have_segments() -> None:
    contents = STREAM[:50_000]
    data = zipmaker.make(zipmaker.Entry(b"a", contents, zipmaker.BZIP2))
    columns = formats.read_index(MemorySource(data), **WHAT).index.columns
    index = Index({**columns, "flags": np.array([MemberFlag.SEGMENTED_BIT], np.uint16)}, data_end=[len(data)])
    assert make_reader(index, MemorySource(data)).read(0) == contents


@pytest.mark.parametrize("layout", [Layout.RANGES, Layout.BLOCKS])
@pytest.mark.parametrize("offset", [0, 2**20 - 50, 2**20, 2**63, 2**64 - 1])
def test_extents_that_lie(layout: Layout, offset: int, kind: str, tmp_path: Path) -> None:
    frames = Frames(STREAM, [500_000], Codec.STORED)
    columns = frames.index(
        [(0, 300)],
        flags=[MemberFlag.SPARSE_BIT],
        sparse_member=[0],
        sparse_offset=[0, 1],
        extent_place=[100],
        extent_offset=[offset],
        extent_size=[100],
    ).columns
    data = STREAM if layout == Layout.RANGES else frames.data
    index = Index(columns, data_end=[len(data)], layouts=[layout], formats=["tar"])
    reader = make_reader(index, source_of(kind, data, tmp_path))
    if offset == 0:
        assert reader.read(0) == bytes(100) + STREAM[:100] + bytes(100)
        return
    with pytest.raises(CorruptArchiveError):
        reader.read(0)
    assert list(reader.check(ids(0))) == [0]


def test_a_block_that_became_shorter_is_an_error_in_a_forked_process_too() -> None:
    frames = Frames(STREAM, [])
    file = io.BytesIO(frames.data)
    reader = make_reader(frames.index([(0, 10)]), FileObjectSource(file))
    file.truncate(1000)
    pending = reader.submit(ids(0), None)
    child = os.fork()
    if child == 0:
        try:
            pending.wait()
        except CorruptArchiveError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(CorruptArchiveError, match="became shorter"):
        pending.wait()


def test_large_members_as_files(kind: str, tmp_path: Path) -> None:
    stream = STREAM * 20
    frames = Frames(stream, range(1 << 20, len(stream), 1 << 20))
    start, size = 12_345, 17 << 20
    reader = make_reader(frames.index([(start, size)]), source_of(kind, frames.data, tmp_path), cache=4 << 20)
    with open_member(reader, 0) as member:
        assert member.read() == stream[start : start + size]
        for place in (0, 5_000_000, 17, size - 3, size):
            member.seek(place)
            assert member.read(10) == stream[start + place : start + min(size, place + 10)]
    assert verify(reader, ids(0), None).ok


def test_arrays_from_blocks() -> None:
    from archivestream.npy import read_arrays

    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 255, (50, 70), np.uint8) for _ in range(30)]
    files = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array)
        files.append(file.getvalue())
    size = len(files[0])
    stream = b"".join(files)
    for cuts in ([], [64, 100, size * 3, size * 3 + 10], range(size, len(stream), size), range(13, len(stream), 1000)):
        frames = Frames(stream, cuts)
        reader = make_reader(frames.index([(i * size, size) for i in range(30)]), MemorySource(frames.data))
        assert (read_arrays(reader, ids(*range(30)), None) == arrays).all()
        assert (read_arrays(reader, ids(7, 7, 3, 29), None) == [arrays[i] for i in (7, 7, 3, 29)]).all()


def test_a_set_of_streams_and_their_blocks(tmp_path: Path) -> None:
    parts = [Frames(STREAM[i : i + 100_000], [30_000 + i]) for i in range(3)]
    members = [(0, 10), (29_000, 2000), (99_990, 10)]
    sources = [
        source_of(kind, part.data, tmp_path) for part, kind in zip(parts, ("file", "bytes", "object"), strict=True)
    ]
    index = Index.concatenate([part.index(members) for part in parts])
    reader = MemberReader(index, sources, limits=Limits(), verify=True, strict=False, threads=2, cache=1 << 20)
    expected = [part.stream[start : start + size] for part in parts for start, size in members]
    assert reader.read_many(ids(*range(9))) == expected
    assert [reader.read(i) for i in reversed(range(9))] == expected[::-1]
    assert verify(reader, ids(*range(9)), None).ok


def test_segments_end_where_their_archive_does(tmp_path: Path) -> None:
    """Whatever an index says: the blocks behind them are another's, and not to be read from this one."""
    (path,) = archivestream.pack({"a": STREAM[:300_000]}, tmp_path / "a.zip", method="deflate", segment_size=65_536)
    part = formats.read_index(LocalSource(path), **WHAT).index
    frames = Frames(STREAM, [])
    lie = Index({**part.columns, "size": part["size"] + np.uint64(5000)}, data_end=part.data_end)
    index = Index.concatenate([lie, frames.index([(100, 5000)]), part])
    sources = [LocalSource(path), MemorySource(frames.data), LocalSource(path)]
    reader = MemberReader(index, sources, limits=Limits(), verify=False, strict=False, threads=1, cache=1 << 20)
    errors: dict[int, Exception] = {}
    _, victim, other = reader.read_many(ids(0, 1, 2), errors)
    assert list(errors) == [0]
    assert (victim, other) == (STREAM[100:5100], STREAM[:300_000])
    assert reader.read(1) == STREAM[100:5100]  # and not from what was kept


def test_what_was_decoded_to_index_it_is_kept(tmp_path: Path) -> None:
    """The first reading after the index is built decodes nothing anew, where there is room for it all."""
    path = tmp_path / "x.tar.zst"
    members = {f"{i}": STREAM[i * 1000 : i * 1500 + 1] for i in range(300)}
    archivestream.pack(members, path, frame_size=65_536)
    for cache, decoded in ((64 << 20, False), (64 << 10, True)):
        with archivestream.open(path, index="memory", cache=cache) as archive:
            before = archive._shared.reader.cache.statistics()
            assert archive.read_many(list(members)) == list(members.values())
            after = archive._shared.reader.cache.statistics()
            assert (after[1] > before[1]) == decoded
            assert after[2] <= cache


def test_what_is_kept_of_several_archives_has_one_bound(tmp_path: Path) -> None:
    """Each of them may fill its part only, as what all of them decode to is there at the same time."""
    for i in range(4):
        archivestream.pack({f"{i}": STREAM[:100_000]}, tmp_path / f"{i}.tar.zst")
    for count, kept in ((1, True), (4, False)):
        paths = [tmp_path / f"{i}.tar.zst" for i in range(count)]
        with archivestream.open(paths, index="memory", cache=512 << 10) as archive:
            assert (archive._shared.reader.cache.statistics()[3] > 0) == kept
            assert [*archive] == [STREAM[:100_000]] * count
