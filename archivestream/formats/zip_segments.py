"""Segments of deflated ZIP members: pieces that can each be decoded alone, as `archivestream.pack` writes them.

Any reader takes such a member as the one DEFLATE stream that it is. Each segment but the last ends with an empty
stored block on a byte boundary (zlib's full flush), and refers to no byte before it. Where the segments lie is said
in an extra field of the central directory header (APPNOTE 4.5.2: the kind is none that is assigned)::

     0  u16 kind 41 53 ("AS")      5  u32 bytes of a segment, decoded; the last may have fewer
     2  u16 bytes that follow      9  u32 number of segments
     4  u8  version 1             13  u32 for each segment: its bytes, compressed

No other reader looks at it: a member that is not what the directory says when it is read by segments is read as the
stream that it is, and strict mode and file objects read no other way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from archivestream._native.codecs import DEFLATE_EXPANSION, Codec
from archivestream._native.columns import MemberFlag

__all__ = ["MOST_SEGMENTS", "add_segments", "field_of"]

_KIND = 0x5341
_VERSION = 1
_HEAD = struct.Struct("<BLL")
_LARGEST = np.uint64(1 << 30)  # bytes of what native code decodes alone

# What fits an extra field together with all others that a member may have.
MOST_SEGMENTS = 16_000


def field_of(segment_size: int, sizes: Sequence[int]) -> bytes:
    """Make the extra field of a member from the compressed sizes of its segments."""
    content = _HEAD.pack(_VERSION, segment_size, len(sizes)) + struct.pack(f"<{len(sizes)}L", *sizes)
    return struct.pack("<2H", _KIND, len(content)) + content


def add_segments(columns: dict[str, Any]) -> None:
    """Turn the fields that the scanner kept into columns of blocks; one that does not fit its member is passed over."""
    members = np.frombuffer(columns.pop("segment_member"), np.uint32).tolist()
    bounds = np.frombuffer(columns.pop("segment_offset"), np.uint64).tolist()
    fields = memoryview(columns.pop("segment_fields"))
    sizes = np.frombuffer(columns["size"], np.uint64)
    compressed_sizes = np.frombuffer(columns["compressed_size"], np.uint64)
    flags = np.frombuffer(columns["flags"], np.uint16).copy()
    segmented: list[int] = []
    parts: list[tuple[_Column, _Column]] = []
    for row, member in enumerate(members):
        field = fields[bounds[row] : bounds[row + 1]]
        part = _parse(field, int(sizes[member]), int(compressed_sizes[member]))
        if part is not None:
            segmented.append(member)
            parts.append(part)
    if not segmented:
        return
    flags[segmented] |= np.uint16(MemberFlag.SEGMENTED_BIT)
    counts = [len(part[0]) for part in parts]
    first = np.cumsum([0, *counts]).astype(np.uint64)
    codec = np.full(first[-1], Codec.DEFLATE_SEGMENT, np.uint16)
    codec[first[1:].astype(np.int64) - 1] = Codec.DEFLATE  # the last of a member is a whole stream
    block_size, block_compressed_size = (np.concatenate(column) for column in zip(*parts, strict=True))
    columns.update(
        flags=flags,
        segment_member=np.array(segmented, np.uint32),
        segment_first=first,
        block_start=np.concatenate([_starts(part[0]) for part in parts]),
        block_size=block_size,
        block_offset=np.concatenate([_starts(part[1]) for part in parts]),
        block_compressed_size=block_compressed_size,
        block_codec=codec,
        block_flags=np.zeros(len(codec), np.uint16),
        block_crc32=np.zeros(len(codec), np.uint32),
        aux_offset=np.zeros(len(codec) + 1, np.uint64),
        aux=np.empty(0, np.uint8),
    )


_Column = np.ndarray[Any, np.dtype[np.uint64]]


def _parse(field: memoryview, size: int, compressed_size: int) -> tuple[_Column, _Column] | None:
    """Return the sizes of the segments, decoded and compressed, or None where they are not those of the member."""
    if len(field) < _HEAD.size:
        return None
    version, segment_size, count = _HEAD.unpack_from(field)
    if version != _VERSION or not segment_size or len(field) != _HEAD.size + 4 * count:
        return None
    if count != -(-size // segment_size) or count < 2:
        return None
    compressed = np.frombuffer(field, "<u4", count, _HEAD.size).astype(np.uint64)
    if not compressed.all() or int(compressed.sum()) != compressed_size:  # of 16,383 numbers of 32 bits: no overflow
        return None
    decoded = np.full(count, segment_size, np.uint64)
    decoded[-1] = size - segment_size * (count - 1)
    if (decoded > _LARGEST).any() or (decoded // np.uint64(DEFLATE_EXPANSION) > compressed).any():
        return None
    return decoded, compressed


def _starts(sizes: _Column) -> _Column:
    """Where pieces begin that lie one behind the other."""
    starts: _Column = np.cumsum(sizes) - sizes
    return starts
