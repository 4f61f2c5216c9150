"""Targets: zstd frames and seek tables, and checkpoints inside of frames, against python-zstandard."""

from __future__ import annotations

import random

import zstandard
from zstdmaker import NO_BUDGET, Columns, arrays, aux_of, check_blocks, compressed

from archivestream._native.checkpoints import Dictionary, extent_of_segment, restore_segment
from archivestream._native.codecs import Codec, Status
from archivestream._native.frameindex import FrameIndexer
from archivestream._native.zstdscan import check_frame, parse_seek_table, read_frame_header, seek_table_size

from .reading import LIMITS, opened, pieces, read_all, strict_agrees
from .target import Data, chance, require

__all__ = ["decode_frames", "run_checkpoints", "run_zstd"]

MOST = 4 << 20  # bytes of content: a block of 4 bytes may be 128 KiB
# What a stock decoder has no opinion on.
OURS = {Status.UNSUPPORTED_METHOD, Status.TRAILING_BYTES, Status.DICTIONARY_REQUIRED, Status.WINDOW_TOO_LARGE}
REFUSALS = {Status.BAD_INDEX, Status.BAD_DATA, Status.BAD_CHECKSUM, Status.TRUNCATED}


def run_zstd(data: Data) -> None:
    """Headers and seek tables by themselves; the frames, at once and in pieces; then the archive."""
    rng = chance(data)
    try:
        header = read_frame_header(data[:18])
    except ValueError:
        pass
    else:
        check_frame(data[:18], len(data), header["content_size"] or 0)
    _read_seek_table(data)
    indexer = FrameIndexer(max_window=LIMITS.max_window_bytes)
    content = _drain(indexer, data)
    if content is None:
        return
    finished = indexer.finish() is not None
    in_pieces = FrameIndexer(max_window=LIMITS.max_window_bytes)
    parts = b"".join(_drain(in_pieces, piece) or b"" for _, piece in pieces(data, rng))
    require((in_pieces.finish() is not None) == finished, "pieces make a difference")
    require(parts == content or not finished, "pieces make another content")
    expected = decode_frames(data)
    if finished:
        require(content == expected, "another content than zstandard's")
    else:
        require(expected is None or not data or indexer.status in OURS, "zstandard reads it", Status(indexer.status))
    with opened(data, threads=rng.choice((1, 2)), cache=rng.choice((0, None))) as archive:
        if archive is None:
            return
        require(finished, "it is open, though it is damaged")
        found = read_all(archive, rng)
        if archive.summary().format == "zst":
            [(_, member)] = found
            require(member == content or not isinstance(member, bytes), "another content")
    strict_agrees(data, found)


def _read_seek_table(data: Data) -> None:
    try:
        size = seek_table_size(data[max(0, len(data) - 9) :], len(data))
        if size:
            table = parse_seek_table(data[len(data) - size :], len(data))
            require(len({len(memoryview(column).cast("B")) for column in table.values()}) <= 2, "uneven columns")
    except ValueError:
        pass


def _drain(indexer: FrameIndexer, data: Data) -> bytes | None:
    """Feed bytes, and return the content, or None where it is large."""
    found: list[bytes] = []
    indexer.feed(data)
    while (part := indexer.next()) is not None:
        found.append(bytes(memoryview(part)))
        if indexer.size > MOST:
            return None
    return b"".join(found)


def decode_frames(data: Data) -> bytes | None:
    """Decode all frames with python-zstandard; None where it refuses one, or the last one ends too early."""
    found = []
    at = 0
    while at < len(data):
        if bytes(data[at + 1 : at + 4]) == b"\x2a\x4d\x18" and data[at] >> 4 == 5:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            if at > len(data) or at < 8:
                return None
            continue
        decompressor = zstandard.ZstdDecompressor(max_window_size=LIMITS.max_window_bytes).decompressobj()
        try:
            found.append(decompressor.decompress(bytes(data[at:])))
        except zstandard.ZstdError:
            return None
        if not decompressor.eof:
            return None
        at = len(data) - len(decompressor.unused_data)
    return b"".join(found)


def run_checkpoints(data: Data) -> None:
    """Make checkpoints wherever one can be; decode from each, whole and in part; then from damaged ones."""
    rng = chance(data)
    options = {
        "spacing": rng.choice((1, 1, 1000, 50_000)),
        "budget": NO_BUDGET,
        "max_window": LIMITS.max_window_bytes,
    }
    indexer = FrameIndexer(**options)
    snapshot = None
    content = b""
    middle = rng.randrange(len(data) + 1)
    for piece in (data[:middle], data[middle:]):
        part = _drain(indexer, piece)
        if part is None:
            return
        content += part
        snapshot = snapshot or {name: bytes(memoryview(column)) for name, column in indexer.snapshot().items()}
    found = indexer.finish()
    if found is None:
        return
    columns = arrays(found)
    stream = bytes(data)
    check_blocks(columns, stream, content)
    require(content == decode_frames(stream), "another content than zstandard's")
    resumed = FrameIndexer(**options, resume=snapshot)
    require(_drain(resumed, data) == content, "another content on resuming")
    again = resumed.finish()
    require(again is not None, "no end on resuming")
    again = arrays(again or {})
    require(all((again[name] == column).all() for name, column in columns.items()), "other columns on resuming")
    rows = [row for row, codec in enumerate(columns["block_codec"]) if codec == Codec.ZSTD_SEGMENT]
    for row in rng.sample(rows, min(4, len(rows))):
        _read_parts(columns, row, stream, content, rng)
    if "dictionary" in columns:
        Dictionary(columns["dictionary"].tobytes())


def _read_parts(columns: Columns, row: int, data: bytes, content: bytes, rng: random.Random) -> None:
    aux, source = aux_of(columns, row), compressed(columns, row, data)
    start, size = int(columns["block_start"][row]), int(columns["block_size"][row])
    upto = rng.randrange(size + 1)
    status, compressed_end, decoded_end = extent_of_segment(aux, upto)
    require(status == Status.OK and upto <= decoded_end <= size and compressed_end <= len(source), "no such extent")
    status, part = restore_segment(aux, source[:compressed_end], upto, decoded_end)
    require(status == Status.OK and bytes(memoryview(part)) == content[start : start + decoded_end], "another part")
    for _ in range(4):
        bad = bytearray(aux)
        for _ in range(rng.choice((1, 1, 2, 8))):
            if bad:
                bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        bad = bad[: rng.choice((len(bad), rng.randrange(len(bad) + 1)))]
        status, part = restore_segment(bad, source, size, size)
        if status == Status.OK:
            require(bytes(memoryview(part)) == content[start : start + size], "other bytes from a damaged checkpoint")
        else:
            require(status in REFUSALS, "an unknown refusal", Status(status))
        extent_of_segment(bad, upto)
