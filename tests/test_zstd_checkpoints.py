"""Checkpoints inside zstd frames: each is restored by itself, from its row of the index and the file alone."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from zstdmaker import (
    NO_BUDGET,
    Columns,
    arrays,
    aux_of,
    block,
    check_blocks,
    compressed,
    drain,
    fault,
    frame,
    index,
    library,
    mixed,
    program,
    skippable,
)

from archivestream._native.checkpoints import Dictionary, extent_of_segment, restore_segment
from archivestream._native.codecs import Codec, Status
from archivestream._native.frameindex import FrameIndexer
from archivestream.formats.zstd import read_index
from archivestream.limits import Limits
from archivestream.sources import MemorySource

CONTENT = mixed(3_000_000)
NOISE = random.Random(1).randbytes(600_000)
EVERY = {"spacing": 1, "budget": NO_BUDGET}

needs_program = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")


def far_copies() -> bytes:
    return NOISE + CONTENT + bytes(6_000_000) + NOISE + CONTENT[::-1] + CONTENT


def in_small_blocks(content: bytes, size: int = 5000) -> bytes:
    """Compress with many block boundaries: most blocks take over tables from the block before."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    parts = []
    for at in range(0, len(content), size):
        parts.append(compressor.compress(content[at : at + size]))
        parts.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*parts, compressor.flush()])


MAKERS: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "level 1": lambda: (CONTENT, library(CONTENT, level=1)),
    "level 3": lambda: (CONTENT, library(CONTENT)),
    "level 19": lambda: (CONTENT[:1_200_000], library(CONTENT[:1_200_000], level=19)),
    "fast": lambda: (CONTENT, library(CONTENT, level=-5)),
    "no content size": lambda: (CONTENT, library(CONTENT, write_content_size=False)),
    "checksum": lambda: (CONTENT, library(CONTENT, write_checksum=True)),
    "small window": lambda: (CONTENT, library(CONTENT, window_log=14)),
    "small blocks": lambda: (CONTENT[:900_000], in_small_blocks(CONTENT[:900_000])),
    "several jobs": lambda: (CONTENT, library(CONTENT, threads=2, job_size=1 << 20, write_checksum=True)),
    "far copies": lambda: (far_copies(), library(far_copies(), window_log=27, enable_ldm=True)),
    "noise": lambda: (NOISE, library(NOISE)),
    "runs": lambda: (bytes(2_000_000), library(bytes(2_000_000))),
    "noise between text": lambda: (
        CONTENT[:300_000] + NOISE + CONTENT[:300_000],
        library(CONTENT[:300_000] + NOISE + CONTENT[:300_000]),
    ),
    "several frames": lambda: (
        CONTENT,
        b"".join(library(CONTENT[i : i + 500_000]) for i in range(0, 3_000_000, 500_000)),
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_every_boundary_is_restored(maker: str) -> None:
    content, data = MAKERS[maker]()
    decoded, columns = index(data, **EVERY)
    assert decoded == content
    check_blocks(columns, data, content)
    if maker not in ("runs", "noise"):
        assert np.count_nonzero(columns["block_codec"] == Codec.ZSTD_SEGMENT) >= 4


@needs_program
@pytest.mark.parametrize(
    "options",
    [
        ["-1"],
        ["-19"],
        ["--fast=5"],
        ["--long=27"],
        ["-T2", "-B1MiB"],
        ["--no-check"],
        ["--rsyncable", "-T2"],
        ["-9"],
        ["--target-compressed-block-size=1500"],
    ],
    ids=" ".join,
)
def test_what_the_program_writes(options: list[str]) -> None:
    content = CONTENT[:1_500_000]
    data = program(content, *options)
    decoded, columns = index(data, **EVERY)
    assert decoded == content
    assert len(columns["block_start"]) > 4
    check_blocks(columns, data, content)


@pytest.mark.parametrize("spacing", [1, 100_000, 300_000, 1 << 20, 4 << 20])
def test_blocks_cover_the_content(spacing: int) -> None:
    data = library(CONTENT, write_checksum=True)
    _, columns = index(data, spacing=spacing, budget=NO_BUDGET)
    check_blocks(columns, data, CONTENT)
    sizes = columns["block_size"]
    if spacing >= len(CONTENT):
        assert columns["block_codec"].tolist() == [Codec.ZSTD]
        assert columns["block_compressed_size"].tolist() == [len(data)]
    else:
        assert int(sizes.max()) < spacing + (128 << 10)
        # The ends of the segments lie at the first block behind a multiple of the spacing.
        assert all(start % max(spacing, 1 << 17) < 1 << 17 for start in columns["block_start"].tolist())
    # The first segment begins the frame, and needs no dictionary.
    assert len(aux_of(columns, 0)) < 100


def test_reads_of_a_part_end_at_a_stop() -> None:
    data = library(CONTENT)
    _, columns = index(data, spacing=2 << 20, budget=NO_BUDGET)
    for row in range(2):
        start, size = int(columns["block_start"][row]), int(columns["block_size"][row])
        aux, source = aux_of(columns, row), compressed(columns, row, data)
        for upto in [0, 1, 100_000, size // 2, size - 1, size]:
            status, compressed_end, decoded_end = extent_of_segment(aux, upto)
            assert status == Status.OK
            assert upto <= decoded_end <= min(upto + (700 << 10), size)
            assert (decoded_end == size) or compressed_end < len(source)
            status, part = restore_segment(aux, source[:compressed_end], upto, decoded_end)
            assert status == Status.OK
            assert bytes(memoryview(part)) == CONTENT[start : start + decoded_end]
            # A byte less of the file, or of the room.
            assert restore_segment(aux, source[: compressed_end - 1], upto, size)[0] == Status.TRUNCATED
            assert restore_segment(aux, source, upto, decoded_end - 1)[0] == Status.BAD_INDEX
        assert extent_of_segment(aux, size + 1)[0] == Status.BAD_INDEX
        assert restore_segment(aux, source, size + 1, size + 1)[0] == Status.BAD_INDEX


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def restore_with_library(aux: bytes, source: bytes, size: int) -> bytes:
    """Restore a segment as the description of `aux` says, with nothing but the package zstandard."""
    assert aux[0] == 1
    count, at = varint(aux, 2)
    for _ in range(count):
        _, at = varint(aux, at)
        _, at = varint(aux, at)
        at += 4
    blocks = bytearray(source)
    position = 0
    while position < len(blocks):
        header = int.from_bytes(blocks[position : position + 3], "little")
        blocks[position] &= 0xFE
        position += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
    made = struct.pack("<IBBI", 0xFD2FB528, 0x80, aux[1], size) + bytes(blocks) + b"\x01\0\0"
    if at == len(aux):
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompress(made)
    content_size, at = varint(aux, at)
    state_size, at = varint(aux, at)
    unpacked_size, at = varint(aux, at)
    unpacked = zstandard.ZstdDecompressor().decompress(aux[at:], max_output_size=unpacked_size)
    assert len(unpacked) == unpacked_size
    window = bytearray(content_size)
    ranges, at = varint(unpacked, state_size)
    places = []
    place = 0
    for _ in range(ranges):
        gap, at = varint(unpacked, at)
        length, at = varint(unpacked, at)
        places.append((place + gap, length))
        place += gap + length
    for place, length in places:
        window[place : place + length] = unpacked[at : at + length]
        at += length
    assert at == len(unpacked)
    dictionary = zstandard.ZstdCompressionDict(
        struct.pack("<II", 0xEC30A437, 1) + unpacked[:state_size] + bytes(window),
        dict_type=zstandard.DICT_TYPE_FULLDICT,
    )
    return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 31).decompress(made)


@pytest.mark.parametrize("maker", ["level 3", "small window", "several jobs", "far copies"])
def test_a_stock_decoder_restores_segments(maker: str) -> None:
    content, data = MAKERS[maker]()
    _, columns = index(data, **EVERY)
    rows = np.flatnonzero(columns["block_codec"] == Codec.ZSTD_SEGMENT).tolist()
    for row in [rows[0], *random.Random(2).sample(rows, min(12, len(rows)))]:
        start, size = int(columns["block_start"][row]), int(columns["block_size"][row])
        source = compressed(columns, row, data)
        assert restore_with_library(aux_of(columns, row), source, size) == content[start : start + size]


# ---- tables of one symbol -------------------------------------------------------------------------------------

RLE_MODES, REPEAT_MODES = 0b01010100, 0b11111100


def one_sequence(literals: bytes, modes: int) -> bytes:
    """Make a block of four literals, then a match of 3 bytes at offset 4, then the rest of the literals."""
    tables = bytes([4, 2, 0]) if modes == RLE_MODES else b""  # literals length 4, offset value 4 to 7, match length 3
    return block(2, bytes([len(literals) << 3]) + literals + b"\x01" + bytes([modes]) + tables + b"\x07")


@pytest.mark.parametrize("between", [[], [block(0, b"raw")], [block(1, b"x", 50), block(0, b"y")]])
def test_no_cut_where_a_table_of_one_symbol_is_used_again(between: list[bytes]) -> None:
    head = [block(0, b"0123456789"), one_sequence(b"abcdef", RLE_MODES)]
    tail = [block(0, b"end")]
    options = {"spacing": 20, "budget": NO_BUDGET}
    repeated = frame([*head, *between, one_sequence(b"ghijkl", REPEAT_MODES), *tail])
    renewed = frame([*head, *between, one_sequence(b"ghijkl", RLE_MODES), *tail])
    content = zstandard.ZstdDecompressor().decompressobj().decompress(renewed)
    assert content.startswith(b"0123456789abcdabcef")
    starts = {}
    for name, data in (("repeated", repeated), ("renewed", renewed)):
        decoded, columns = index(data, **options)
        assert decoded == content
        check_blocks(columns, data, content)
        starts[name] = set(columns["block_start"].tolist())
    where = content.index(b"ghijg")
    if where >= 20:
        assert where in starts["renewed"]
        assert where not in starts["repeated"]


def test_a_cut_that_cannot_wait() -> None:
    head = [one_sequence(b"abcdef", RLE_MODES), *[block(0, bytes(100))] * 5]
    data = frame([*head, one_sequence(b"ghijkl", RLE_MODES)])
    content, columns = index(data, spacing=50, budget=NO_BUDGET)
    assert len(columns["block_start"]) > 1
    check_blocks(columns, data, content)
    # No encoder does this: the table is used again long after it was made.
    faulty = fault(frame([*head, one_sequence(b"ghijkl", REPEAT_MODES)]), spacing=50, budget=NO_BUDGET)
    assert faulty.status == Status.UNSUPPORTED_METHOD


# ---- damage -----------------------------------------------------------------------------------------------------

SMALL = mixed(400_000, seed=3)[200_000:203_000]


def small_file() -> bytes:
    """Make a frame of a few small blocks, with checksum."""
    return in_small_blocks(SMALL, 700)


def test_every_truncation_is_an_error() -> None:
    data = small_file()
    for end in range(len(data)):
        indexer = FrameIndexer(**EVERY)
        assert SMALL.startswith(drain(indexer, data[:end]))
        assert indexer.finish() is None
        assert indexer.status == Status.TRUNCATED


def test_every_flip_is_an_error_or_harmless() -> None:
    data = small_file()
    for at in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            indexer = FrameIndexer(**EVERY)
            content = drain(indexer, bytes(flipped))
            columns = indexer.finish()
            if columns is None:
                assert indexer.status not in (Status.OK, Status.NO_MEMORY)
            else:
                assert content == SMALL
                check_blocks(arrays(columns), bytes(flipped), SMALL)


def test_every_flip_of_a_checkpoint_is_an_error_or_harmless() -> None:
    data = small_file()
    _, columns = index(data, **EVERY)
    segments = len(columns["block_start"])
    assert segments >= 4
    for row in (0, 1, segments - 1):
        aux, source = aux_of(columns, row), compressed(columns, row, data)
        start, size = int(columns["block_start"][row]), int(columns["block_size"][row])
        expected = SMALL[start : start + size]
        errors = {Status.BAD_INDEX, Status.BAD_DATA, Status.BAD_CHECKSUM, Status.TRUNCATED}
        damaged = [aux[:end] for end in range(len(aux))]
        damaged += [
            aux[:at] + bytes([aux[at] ^ 1 << bit]) + aux[at + 1 :] for at in range(len(aux)) for bit in range(8)
        ]
        damaged += [aux + b"\0", aux + aux, b""]
        refused = 0
        for bad in damaged:
            status, content = restore_segment(bad, source, size, size)
            assert status == Status.OK or status in errors
            refused += status != Status.OK
            if status == Status.OK:
                assert bytes(memoryview(content)) == expected
        assert refused > len(damaged) // 2
        for at in range(len(source)):
            bad = source[:at] + bytes([source[at] ^ 0x55]) + source[at + 1 :]
            status, content = restore_segment(aux, bad, size, size)
            assert status in errors or bytes(memoryview(content)) == expected


def test_damage_is_seen_before_the_end_of_a_segment() -> None:
    # A byte of a raw block: the stream stays valid.
    raw = library(NOISE, write_checksum=False)
    _, columns = index(raw, spacing=300_000, budget=NO_BUDGET)
    aux, source = aux_of(columns, 0), bytearray(compressed(columns, 0, raw))
    source[1000] ^= 1
    size = int(columns["block_size"][0])
    assert restore_segment(aux, source, 5000, size)[0] == Status.BAD_CHECKSUM
    status, content = restore_segment(aux, source, size, size, verify=False)
    assert status == Status.OK
    assert bytes(memoryview(content)) != NOISE[:size]


# ---- feeding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, 131_075, 1 << 30])
def test_pieces_of_any_size(piece: int) -> None:
    content = CONTENT[:300_000]
    data = b"".join([skippable(b"xyz"), library(content, write_checksum=True), skippable(b""), library(b"tail")])
    whole = index(data, **EVERY)
    decoded, columns = index(data, piece, **EVERY)
    assert decoded == whole[0] == content + b"tail"
    assert all(np.array_equal(columns[name], whole[1][name]) for name in columns)


def test_pieces_must_be_drained() -> None:
    data = library(bytes(5_000_000)) + library(CONTENT)
    indexer = FrameIndexer()
    indexer.feed(data)
    first = indexer.next()
    assert first is not None
    assert len(first) < 1_300_000
    with pytest.raises(ValueError, match="next"):
        indexer.feed(b"")
    with pytest.raises(ValueError, match="at least 1"):
        FrameIndexer(spacing=0)


def test_a_pass_resumes_from_any_snapshot() -> None:
    content = CONTENT[:900_000]
    data = (
        library(b"small")
        + library(content, write_checksum=True)
        + skippable(b"")
        + library(CONTENT[900_000:1_100_000], write_content_size=False)
        + library(b"tail")
    )
    everything = b"small" + CONTENT[:1_100_000] + b"tail"
    _, whole = index(data, **EVERY)
    indexer = FrameIndexer(**EVERY)
    snapshots: dict[int, dict[str, bytes]] = {}
    for at in range(0, len(data), 20):
        indexer.feed(data[at : at + 20])
        while indexer.next() is not None:
            pass
        columns = {name: bytes(memoryview(column)) for name, column in indexer.snapshot().items()}
        snapshots.setdefault(len(columns["block_start"]) // 8, columns)
    # Several small blocks can end in one piece.
    assert len(snapshots) > 8
    for columns in snapshots.values():
        decoded, resumed = index(data, resume=columns, **EVERY)
        assert decoded == everything
        assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


def test_a_snapshot_of_another_file_is_refused() -> None:
    data = library(CONTENT)
    _, columns = index(data, spacing=300_000, budget=NO_BUDGET)
    other = library(CONTENT[5:], level=1)
    assert fault(other, spacing=300_000, resume=columns).status == Status.BAD_INDEX
    checkpoint = int(columns["aux_offset"][-2])
    for at in [*range(checkpoint, checkpoint + 60), len(columns["aux"]) - 1]:
        damaged = columns["aux"].copy()
        damaged[at] ^= 0xFF
        indexer = FrameIndexer(spacing=300_000, budget=NO_BUDGET, resume={**columns, "aux": damaged})
        drain(indexer, data)
        assert indexer.finish() is not None or indexer.status in (Status.BAD_INDEX, Status.BAD_DATA)
    for name, changed in [("block_size", columns["block_size"][1:]), ("aux", columns["aux"][:-1])]:
        with pytest.raises(ValueError, match=r"block|checkpoint"):
            FrameIndexer(resume={**columns, name: changed})


def test_a_snapshot_of_another_file_does_no_harm() -> None:
    _, columns = index(library(CONTENT), spacing=300_000, budget=NO_BUDGET)
    data = library(CONTENT[5:], level=1)
    options: dict[str, Any] = {"strict": False, "limits": Limits(), "metadata_encoding": None, "progress": None}
    fresh, *_ = read_index(MemorySource(data), **options)
    found, *_ = read_index(MemorySource(data), **options, resume=columns)
    assert found.fingerprint() == fresh.fingerprint()
    assert found["aux"].tolist() == fresh["aux"].tolist()


# ---- size and memory --------------------------------------------------------------------------------------------


def test_the_spacing_grows_to_keep_the_budget() -> None:
    # At this level, most of the window is read again after every checkpoint.
    data = library(CONTENT, level=19)
    _, free = index(data, spacing=1 << 17, budget=NO_BUDGET)
    _, bounded = index(data, spacing=1 << 17, budget=0.05)
    check_blocks(bounded, data, CONTENT)
    assert len(free["aux"]) > 0.05 * len(data)
    assert len(bounded["aux"]) < len(free["aux"]) * 9 / 10
    assert int(free["block_size"].max()) < int(bounded["block_size"].max())
    assert int(bounded["block_size"].max()) < 2 * (1 << 17) + (1 << 17)


MEASURE = """
import resource, sys
from archivestream._native.frameindex import FrameIndexer
indexer = FrameIndexer()
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as file:
    while data := file.read(1 << 18):
        indexer.feed(data)
        while indexer.next() is not None:
            pass
assert indexer.finish() is not None
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) >> 10, indexer.size)
"""


@pytest.mark.parametrize("repeats", [10, 40])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, repeats: int) -> None:
    path = tmp_path / "file.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as file:
        for _ in range(repeats):
            file.write(compressor.compress(CONTENT))
        file.write(compressor.flush())
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    grown, size = map(int, done.stdout.split())
    assert size == repeats * len(CONTENT)
    assert grown < 40


# ---- dictionaries -----------------------------------------------------------------------------------------------


def trained() -> zstandard.ZstdCompressionDict:
    return zstandard.train_dictionary(20_000, [CONTENT[at : at + 2000] for at in range(0, 1_000_000, 2000)])


def with_dictionary(data: bytes, dictionary: zstandard.ZstdCompressionDict) -> bytes:
    return zstandard.ZstdCompressor(dict_data=dictionary).compress(data)


def test_frames_with_the_dictionary_of_the_file() -> None:
    dictionary = trained()
    raw = dictionary.as_bytes()
    parts = [CONTENT[at : at + 3000] for at in range(0, 60_000, 3000)]
    big = CONTENT[:500_000]
    data = library(b"first") + skippable(raw) + b"".join(with_dictionary(part, dictionary) for part in parts)
    data += with_dictionary(big, dictionary) + library(b"plain")
    for piece in (1000, 1 << 20):
        decoded, columns = index(data, piece, spacing=100_000)
        assert decoded == b"first" + b"".join(parts) + big + b"plain"
        assert columns["dictionary"].tobytes() == raw
        # A frame with a dictionary stays in one piece.
        assert set(columns["block_codec"].tolist()) == {Codec.ZSTD}
        assert columns["block_size"].tolist() == [5, *[3000] * 20, 500_000, 5]
    owner = Dictionary(columns["dictionary"])
    assert owner.id == dictionary.dict_id()
    for row in (0, 1, 7, 21, 22):
        start, size = int(columns["block_start"][row]), int(columns["block_size"][row])
        status, content = owner.decode(compressed(columns, row, data), size)
        assert status == Status.OK
        assert bytes(memoryview(content)) == decoded[start : start + size]
        assert owner.decode(compressed(columns, row, data), size + 1)[0] == Status.TOO_FEW_BYTES
        assert owner.decode(compressed(columns, row, data), size - 1)[0] == Status.TOO_MANY_BYTES


def test_a_dictionary_that_is_not_there() -> None:
    dictionary = trained()
    payload = with_dictionary(CONTENT[:3000], dictionary)
    other = bytearray(dictionary.as_bytes())
    other[4] ^= 1
    broken = bytearray(dictionary.as_bytes())
    broken[8:40] = bytes(32)
    for data, status in [
        (payload, Status.DICTIONARY_REQUIRED),
        (payload + skippable(dictionary.as_bytes()), Status.DICTIONARY_REQUIRED),
        (skippable(bytes(other)) + payload, Status.DICTIONARY_REQUIRED),
        (skippable(bytes(broken)) + payload, Status.BAD_DATA),
        (skippable(dictionary.as_bytes())[:-1], Status.TRUNCATED),
    ]:
        faulty = fault(data)
        assert faulty.status == status
        if status == Status.DICTIONARY_REQUIRED:
            assert faulty.detail == dictionary.dict_id()
    for data in (b"", b"no dictionary", bytes(broken)):
        with pytest.raises(ValueError, match="not a zstd dictionary"):
            Dictionary(data)


def test_columns_of_nothing() -> None:
    columns: Columns
    content, columns = index(skippable(b"nothing"))
    assert content == b""
    assert columns["aux_offset"].tolist() == [0]
    assert all(len(columns[name]) == 0 for name in columns if name != "aux_offset")
