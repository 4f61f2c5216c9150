"""zstd frames as they are in the wild, seek tables, and the corpus."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from zstdmaker import MAGIC, block, check_blocks, drain, fault, frame, index, library, mixed, skippable

from archivestream._native.codecs import Codec, Status
from archivestream._native.frameindex import FrameIndexer
from archivestream._native.zstdscan import (
    check_frame,
    make_seek_table,
    parse_seek_table,
    read_frame_header,
    seek_table_size,
)

CORPUS = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.json"
CONTENT = mixed(300_000, seed=4)
PARTS = [CONTENT[at : at + 40_000] for at in range(0, len(CONTENT), 40_000)]
FRAMES = [library(part, write_checksum=True) for part in PARTS]
SIZES = [(len(data), len(part)) for data, part in zip(FRAMES, PARTS, strict=True)]

# Rows of a bad seek table over frames that are sound. The manifest asks for an error, or for the true content.
ONLY_A_TABLE = "gen/zst-bad/st_csize_zero_loop.tar.zst"  # no frames, as the table says: no content
SOUND_FRAMES = {
    ONLY_A_TABLE,
    "gen/zst-bad/st_count_huge.tar.zst",
    "gen/zst-bad/st_count_wrap.tar.zst",
    "gen/zst-bad/st_csize_sum.tar.zst",
    "gen/zst-bad/st_dsize_4g.tar.zst",
    "gen/zst-bad/st_dsize_lie.tar.zst",
    "gen/zst-bad/st_reserved_bits.tar.zst",
}


def corpus_rows() -> list[dict[str, Any]]:
    if not MANIFEST.is_file():
        return []
    return [row for row in json.loads(MANIFEST.read_text()) if row["format"] == "zst"]


@pytest.mark.skipif(not MANIFEST.is_file(), reason=f"no corpus at {CORPUS}: set ARCHIVESTREAM_CORPUS")
@pytest.mark.parametrize("row", corpus_rows(), ids=lambda row: row["file"])
def test_corpus(row: dict[str, Any]) -> None:
    data = (CORPUS / row["file"]).read_bytes()
    indexer = FrameIndexer(spacing=1 << 16)
    content = drain(indexer, data)
    columns = indexer.finish()
    if row["file"] in SOUND_FRAMES:
        # The frames are sound, the seek table is not: it is refused, and the frames are walked.
        assert seek_table_is_refused(data) != (row["file"] == ONLY_A_TABLE)
        assert columns is not None
        assert content == zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data)
    elif row["expect"] == "error":
        assert columns is None
        assert indexer.status != Status.OK
    elif row["expect"] == "ok":
        assert columns is not None, Status(indexer.status)
        members = row["members"]
        if members[0]["name"]:
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                contents = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
        else:
            contents = {"": content}
        for member in members:
            expected = contents[member["name"]]
            assert len(expected) == member["size"]
            assert f"{zlib.crc32(expected):08x}" == member["crc32"]
            assert hashlib.sha256(expected).hexdigest() == member["sha256"]
        if seek_table_size(data[-9:], len(data)):
            assert not seek_table_is_refused(data)


def seek_table_is_refused(data: bytes) -> bool:
    try:
        size = seek_table_size(data[-9:], len(data))
        table = parse_seek_table(data[len(data) - size :], len(data))
    except ValueError:
        return True
    offsets, compressed_sizes, sizes = (
        np.frombuffer(table[name], np.uint64).tolist() for name in ("offset", "compressed_size", "size")
    )
    return not all(
        check_frame(data[offset : offset + 18], compressed_size, size)
        for offset, compressed_size, size in zip(offsets, compressed_sizes, sizes, strict=True)
    )


# ---- frames -----------------------------------------------------------------------------------------------------


def test_many_frames_are_a_block_each() -> None:
    empty = library(b"")
    data = skippable(b"first") + empty
    offsets = []
    for part in FRAMES:
        offsets.append(len(data))
        data += part + empty + skippable(b"", 15)
    decoded, columns = index(data)
    assert decoded == CONTENT
    assert columns["block_offset"].tolist() == offsets
    assert columns["block_compressed_size"].tolist() == [len(part) for part in FRAMES]
    assert columns["block_size"].tolist() == [len(part) for part in PARTS]
    assert set(columns["block_codec"].tolist()) == {Codec.ZSTD}
    check_blocks(columns, data, CONTENT)


def test_headers() -> None:
    assert read_frame_header(FRAMES[0]) == {
        "header_size": 7,
        "window": 40_000,
        "content_size": 40_000,
        "dictionary_id": 0,
        "has_checksum": True,
    }
    unknown = read_frame_header(library(CONTENT, write_content_size=False, window_log=17))
    assert unknown["content_size"] is None
    assert unknown["window"] == 1 << 17
    assert read_frame_header(MAGIC + b"\x03\x0b" + struct.pack("<I", 77))["dictionary_id"] == 77
    assert read_frame_header(MAGIC + b"\x03\x0b" + struct.pack("<I", 77))["window"] == 2048 + 3 * 256
    assert read_frame_header(MAGIC + b"\x60\x01\x00")["content_size"] == 257
    for bad in (b"", b"PK\3\4 not zstd", MAGIC + b"\x08\0", MAGIC + b"\xc0\0", MAGIC):
        with pytest.raises(ValueError, match=r"frame|bit"):
            read_frame_header(bad)


def test_a_window_above_the_limit_is_named() -> None:
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=20)
    ).compressobj()
    data = compressor.compress(CONTENT) + compressor.flush()
    faulty = fault(data, max_window=(1 << 20) - 1)
    assert (faulty.status, faulty.detail, faulty.offset) == (Status.WINDOW_TOO_LARGE, 1 << 20, 0)
    assert index(data, max_window=1 << 20)[0] == CONTENT
    # No opt-in goes beyond what libzstd decodes.
    huge = frame([block(0, b"x")], window_byte=0xFF)
    assert fault(huge, max_window=1 << 62).detail == (1 << 41) + 7 * (1 << 38)
    wide = frame([block(0, b"x")], window_byte=(31 - 10) << 3)
    assert index(wide, max_window=1 << 31)[0] == b"x"


def test_an_exabyte() -> None:
    size = struct.pack("<Q", 1 << 60)
    single = fault(MAGIC + b"\xe0" + size + block(0, b"x"))
    assert (single.status, single.detail) == (Status.WINDOW_TOO_LARGE, 1 << 60)
    assert fault(MAGIC + b"\xc0\x58" + size + block(0, b"x")).status == Status.TRUNCATED
    lie = MAGIC + b"\xc0\x58" + size + b"\x09\0\0x"
    assert fault(lie).status == Status.BAD_DATA


@pytest.mark.parametrize("checksum", [b"", b"\x99\x09\x77\xad"], ids=["none", "checksum"])
@pytest.mark.parametrize(("declared", "status"), [(9, Status.TOO_FEW_BYTES), (2, Status.TOO_MANY_BYTES), (3, None)])
def test_an_empty_last_block_hides_no_other_size(declared: int, status: Status | None, checksum: bytes) -> None:
    header = bytes([0x84 if checksum else 0x80, 0]) + struct.pack("<L", declared)  # 3.1.1.1
    data = MAGIC + header + block(0, b"abc") + b"\1\0\0" + checksum
    if status is None:
        assert index(data)[0] == b"abc"
    else:
        assert fault(data).status == status


def test_a_bomb_comes_in_small_pieces() -> None:
    data = library(bytes(64 << 20), level=1)
    indexer = FrameIndexer()
    indexer.feed(data)
    sizes = []
    while (piece := indexer.next()) is not None:
        sizes.append(len(piece))
        assert not any(memoryview(piece)[:: 1 << 16])
    assert sum(sizes) == 64 << 20
    assert max(sizes) < (1 << 20) + (128 << 10)


def test_what_follows_the_last_frame() -> None:
    data = FRAMES[0]
    for garbage in (b"\0", b"\0\0\0\0", b"garbage", b"\x28\xb5\0"):
        faulty = fault(data + garbage)
        assert faulty.status == Status.TRAILING_BYTES
        assert faulty.offset == len(data)
    for beginning in (MAGIC[:1], MAGIC[:3], MAGIC, skippable(b"abc")[:2], skippable(b"abc")[:9]):
        assert fault(data + beginning).status == Status.TRUNCATED
    assert fault(b"").status == Status.TRUNCATED
    assert fault(b"PK\x03\x04").status == Status.BAD_DATA


def test_faults_name_their_place() -> None:
    damaged = bytearray(FRAMES[1])
    damaged[-1] ^= 1
    faulty = fault(FRAMES[0] + bytes(damaged))
    assert faulty.status == Status.BAD_CHECKSUM
    assert faulty.offset == len(FRAMES[0]) + len(damaged) - 4
    reserved = fault(FRAMES[0] + frame([block(0, b"x"), block(3, b"y")]))
    assert (reserved.status, reserved.offset) == (Status.BAD_DATA, len(FRAMES[0]) + 6 + 4)
    assert fault(frame([block(1, b"x", 200_000)], window_byte=0x70)).status == Status.BAD_DATA


# ---- seek tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksums", [False, True])
def test_seek_tables(checksums: bool) -> None:
    low_hashes = [int.from_bytes(data[-4:], "little") for data in FRAMES] if checksums else None
    table = make_seek_table(SIZES, low_hashes)
    data = b"".join(FRAMES) + table
    assert index(data)[0] == CONTENT
    assert seek_table_size(data[-9:], len(data)) == len(table) == 17 + (12 if checksums else 8) * len(FRAMES)
    columns = parse_seek_table(table, len(data))
    values = {
        name: np.frombuffer(column, np.uint32 if name == "checksum" else np.uint64).tolist()
        for name, column in columns.items()
    }
    assert values["compressed_size"] == [size for size, _ in SIZES]
    assert values["size"] == [size for _, size in SIZES]
    assert values["offset"] == np.cumsum([0, *values["compressed_size"]])[:-1].tolist()
    assert values.get("checksum") == low_hashes
    assert not seek_table_is_refused(data)


def test_damaged_seek_tables() -> None:
    table = make_seek_table(SIZES)
    body = b"".join(FRAMES)
    data = body + table
    for at in range(len(table)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[len(body) + at] ^= 1 << bit
            if at >= len(table) - 4:
                assert seek_table_size(bytes(flipped[-9:]), len(flipped)) == 0  # no seek table at all
            elif at == len(table) - 5 and bit in (0, 1):
                assert not seek_table_is_refused(bytes(flipped))  # unused bits
            else:
                assert seek_table_is_refused(bytes(flipped))
    for end in range(len(table)):
        with pytest.raises(ValueError, match="seek table"):
            parse_seek_table(table[:end], len(data))
    for size in (len(data) - 1, len(data) + 1, len(table), 0):
        with pytest.raises(ValueError, match="seek table"):
            parse_seek_table(table, size)
    with pytest.raises(ValueError, match="4294967295 frames"):
        seek_table_size(struct.pack("<IBI", 0xFFFFFFFF, 0, 0x8F92EAB1), 1 << 60)
    assert seek_table_size(b"", 0) == 0


def test_seek_tables_that_lie() -> None:
    impossible = make_seek_table([(20, 0xFFFFFFFF)])
    with pytest.raises(ValueError, match="cannot hold"):
        parse_seek_table(impossible, 20 + len(impossible))
    moved = [(SIZES[0][0] + 1, SIZES[0][1]), (SIZES[1][0] - 1, SIZES[1][1]), *SIZES[2:]]
    assert seek_table_is_refused(b"".join(FRAMES) + make_seek_table(moved))
    larger = [(SIZES[0][0], SIZES[0][1] + 1), *SIZES[1:]]
    assert seek_table_is_refused(b"".join(FRAMES) + make_seek_table(larger))
    note = skippable(b"a note")
    assert not seek_table_is_refused(note + FRAMES[0] + make_seek_table([(len(note), 0), SIZES[0]]))
    assert seek_table_is_refused(note + FRAMES[0] + make_seek_table([(len(note), 1), SIZES[0]]))


def test_what_a_seek_table_cannot_say() -> None:
    for sizes in [(1 << 32, 1), (1, 1 << 32), (-1, 1)]:
        with pytest.raises(ValueError, match="below 4 GiB"):
            make_seek_table([sizes])
    with pytest.raises(ValueError, match="zip"):
        make_seek_table([(1, 1)], [])


def test_random_bytes_are_refused() -> None:
    choose = random.Random(5)
    for _ in range(300):
        data = MAGIC + bytes([choose.choice([0, 4, 0x20, 0x24])]) + choose.randbytes(choose.randrange(1, 300))
        indexer = FrameIndexer(spacing=1)
        drain(indexer, data)
        if indexer.finish() is None:
            assert indexer.status not in (Status.OK, Status.NO_MEMORY)
