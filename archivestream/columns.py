"""The columns of an index: their types, and what must hold of them before native code may follow them.

A row per member, 48 bytes with ``name_offset``::

    size             u64  bytes of the member, decoded
    compressed_size  u64  in the source; where members share blocks, its share of them
    offset           u64  of the local header (ZIP), of the data (tar), or in the logical stream
    crc32            u32  of the decoded bytes, or their CRC-32C if the flag says so; 0 where the format has none
    codec            u16  ZIP's number of the compression method (APPNOTE 4.4.5)
    flags            u16  `MemberFlag`
    timestamp        u32  MS-DOS date and time (APPNOTE 4.4.6)
    attributes       u32  external file attributes (APPNOTE 4.4.15): the upper half is the Unix mode

A row per block; those of a source are in order, and leave no gap in its logical stream::

    block_start            u64  in the logical stream; of a segment, in the decoded member
    block_size             u64  decoded
    block_offset           u64  in the source; of a segment, from the first byte of the member's data
    block_compressed_size  u64
    block_codec            u16  `Codec`
    block_flags            u16  `BlockFlag`
    block_crc32            u32  of the decoded block

Columns of offsets have a row more than what they cut: names in UTF-8 (a byte that is in no encoding is a lone
surrogate, as `os.fsdecode` has it), the bytes of those that stand otherwise in the archive, the extents of sparse
members (what they do not cover is zero), what decoding a block needs beside its bytes, the segments of members.
``successor`` is there where members do not follow one another in the order of the source: whose data come next.

A column that was made by a format holds to all this; one that comes from a file is checked.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream._native.checkpoints import Dictionary
from archivestream._native.columns import (
    BlockFlag,
    Layout,
    MemberFlag,
    is_ascending,
    is_contiguous,
    is_sparse,
    is_text,
)

__all__ = ["BLOCK_COLUMNS", "DTYPES", "MEMBER_COLUMNS", "Columns", "find_fault"]

Columns: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Table:
    """Columns that are there together or not at all: of one value a row, and offsets, of which there is one more."""

    u64: str = ""
    u32: str = ""
    u16: str = ""
    offsets: str = ""
    into: str = ""  # the column that the offsets cut into pieces

    @property
    def rows(self) -> dict[str, type[np.generic]]:
        types: tuple[tuple[str, type[np.generic]], ...]
        types = (self.u64, np.uint64), (self.u32, np.uint32), (self.u16, np.uint16)
        return {name: dtype for names, dtype in types for name in names.split()}


_TABLES = {
    "members": _Table(
        u64="size compressed_size offset",
        u32="crc32 timestamp attributes",
        u16="codec flags",
        offsets="name_offset",
        into="names",
    ),
    "raw names": _Table(u32="raw_member", offsets="raw_offset", into="raw_names"),
    "sparse members": _Table(u32="sparse_member", offsets="sparse_offset", into="extent_place"),
    "extents": _Table(u64="extent_place extent_offset extent_size"),
    "blocks": _Table(
        u64="block_start block_size block_offset block_compressed_size",
        u32="block_crc32",
        u16="block_codec block_flags",
        offsets="aux_offset",
        into="aux",
    ),
    "segmented members": _Table(u32="segment_member", offsets="segment_first", into="block_start"),
}

MEMBER_COLUMNS = tuple(_TABLES["members"].rows)
BLOCK_COLUMNS = tuple(_TABLES["blocks"].rows)

# The type of each column, in the order of bytes that the machine and the file have.
DTYPES: Mapping[str, np.dtype[Any]] = {
    **{name: np.dtype(dtype) for table in _TABLES.values() for name, dtype in table.rows.items()},
    **{table.offsets: np.dtype(np.uint64) for table in _TABLES.values() if table.offsets},
    **{name: np.dtype(np.uint8) for name in ("names", "raw_names", "aux", "dictionary", "gzip_index")},
    "successor": np.dtype(np.uint32),
}

# Flags of members that have a table, and the column that lists them.
_FLAGGED = (
    (MemberFlag.RAW_NAME_BIT, "raw_member"),
    (MemberFlag.SPARSE_BIT, "sparse_member"),
    (MemberFlag.SEGMENTED_BIT, "segment_member"),
)
_MEMBER_FLAGS = functools.reduce(operator.or_, map(int, MemberFlag))
_BLOCK_FLAGS = functools.reduce(operator.or_, map(int, BlockFlag))
_NO_SUCCESSOR = 0xFFFFFFFF
_GZIP_HEAD = 8  # bytes in front of the seek points of gzip


def find_fault(columns: Columns, layout: Layout, *, whole: bool) -> str | None:
    """Say what is wrong with columns, or None: no look-up in good ones leads out of them.

    Where they lead to in the archive is not looked at: the engine compares that with the archive each time.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Of one source.
    layout : Layout
        Of that source.
    whole : bool
        Whether they must make an index, or may be what an unfinished scan has found.
    """
    fault = _find_missing(columns, layout, whole)
    if fault:
        return fault
    unknown = columns.keys() - DTYPES.keys()
    if unknown:
        return f"{min(unknown)!r} is no column of an index"
    for name, dtype in DTYPES.items():
        if name in columns and columns[name].dtype != dtype:
            return f"{name!r} is of {columns[name].dtype}, not of {dtype}"
    for name, table in _TABLES.items():
        present = [column for column in table.rows if column in columns]
        if not present:
            continue
        counts = {len(columns[column]) for column in present}
        if len(counts) > 1:
            return f"the columns of its {name} differ in length"
        if table.offsets and (
            len(columns[table.offsets]) != counts.pop() + 1
            or not is_ascending(columns[table.offsets], len(columns[table.into]))
        ):
            return f"{table.offsets!r} does not lead through {table.into!r}"
    if len(columns.get("gzip_index", range(_GZIP_HEAD))) < _GZIP_HEAD:
        return "'gzip_index' does not say where the last member ends"
    if "gzip_index" in columns and (layout != Layout.BLOCKS or "block_start" not in columns):
        return "it is not of what a gzip file decodes to, and has 'gzip_index'"
    return _find_member_fault(columns) or _find_block_fault(columns, layout) or _find_dictionary_fault(columns)


def _find_missing(columns: Columns, layout: Layout, whole: bool) -> str | None:
    for name, table in _TABLES.items():
        wanted = {*table.rows, *filter(None, (table.offsets, table.into))}
        there = wanted & columns.keys()
        # Extents and blocks may be there without those that refer to them.
        needed = (name == "members" and whole) or (name == "blocks" and whole and layout == Layout.BLOCKS)
        if (needed or there & {*table.rows, table.offsets}) and there != wanted:
            return f"the columns of its {name} are not all there"
    return None


def _find_member_fault(columns: Columns) -> str | None:
    if "size" not in columns:
        return "it has tables of members without members" if {c for _, c in _FLAGGED} & columns.keys() else None
    n = len(columns["size"])
    if n >= _NO_SUCCESSOR:
        return "it has more members than can be counted"
    if not is_text(columns["names"], columns["name_offset"]):
        return "its names are not UTF-8"
    flags = columns["flags"]
    used = int(np.bitwise_or.reduce(flags)) if n else 0
    if used & ~_MEMBER_FLAGS:
        return "it has flags of members that are not known"
    for bit, column in _FLAGGED:
        listed = columns.get(column, np.empty(0, np.uint32))
        if (len(listed) or used & bit) and not np.array_equal(np.flatnonzero(flags & np.uint16(bit)), listed):
            return f"{column!r} does not list the members that have the flag"
    if "successor" in columns:
        successor = columns["successor"]
        if len(successor) != n or not np.all((successor < n) | (successor == _NO_SUCCESSOR)):
            return "'successor' refers to members that are not there"
    if "sparse_member" in columns and not is_sparse(
        *(columns[c] for c in ("size", "sparse_member", "sparse_offset", "extent_place", "extent_size"))
    ):
        return "the extents of a sparse member overlap, or lie outside it"
    return None


def _find_block_fault(columns: Columns, layout: Layout) -> str | None:
    if "block_start" not in columns:
        return None
    starts = columns["block_start"]
    if layout == Layout.ENTRIES:
        runs = columns.get("segment_first", np.zeros(1, np.uint64))
        if runs[-1] != len(starts):
            return "it has segments that belong to no member"
    else:
        runs = np.array([0, len(starts)], np.uint64)
    if not is_contiguous(starts, columns["block_size"], runs):
        return "its blocks leave gaps, or overlap"
    if layout == Layout.ENTRIES and len(starts):
        # Every segment is of a member, so that the last one of each is in front of where the next one's begin.
        last = runs[1:].astype(np.int64) - 1
        ends = starts[last] + columns["block_size"][last]
        if np.any(runs[1:] == runs[:-1]) or np.any(ends != columns["size"][columns["segment_member"]]):
            return "the segments of a member are not all of it, or more"
    if len(starts) and int(np.bitwise_or.reduce(columns["block_flags"])) & ~_BLOCK_FLAGS:
        return "it has flags of blocks that are not known"
    return None


def _find_dictionary_fault(columns: Columns) -> str | None:
    try:
        if "dictionary" in columns:
            Dictionary(columns["dictionary"].data)
    except ValueError:
        return "'dictionary' is none of zstd"
    return None
