"""The index: flat columns that say where each member lies. No Python object per member.

Every column is a one-dimensional, read-only NumPy array. How members lie in a source is its `Layout`: each compressed
by itself (ZIP), each as it is (tar), or each a range of the logical stream that the source's blocks decode to
(``.tar.zst``).
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream._native.columns import Layout, MemberFlag
from archivestream._native.names import NameTable
from archivestream.columns import BLOCK_COLUMNS, DTYPES, MEMBER_COLUMNS
from archivestream.errors import LimitExceededError

__all__ = ["Extent", "Index", "MemberIds"]

Column: TypeAlias = NDArray[Any]
MemberIds: TypeAlias = NDArray[np.int64]

_NO_SUCCESSOR = 0xFFFFFFFF
_MOST_ROWS = _NO_SUCCESSOR - 1  # positions are held in 32 bits, of which all ones means none
_ERRORS = "surrogatepass"


class Extent(NamedTuple):
    """A part of a sparse member that is no hole: its place in the member, its place in the stream, and its size."""

    place: int
    offset: int
    size: int


class Index:
    """Where the members of an archive lie.

    Parameters
    ----------
    columns : mapping of str to buffer
        The bytes of each column, as `archivestream.columns` has them.
    data_end : sequence of int
        For each source, where the part of it that holds data ends.
    layouts : sequence of Layout
        Of each source.
    formats : sequence of str
        Of each source: ``"zip"``, ``"tar"``, ``"tar.zst"`` and the like.
    first_member, first_block : sequence of int, optional
        The first member and the first block of each source, and the number of all. Default: one source.
    dictionaries : sequence of (int, buffer), optional
        Which source has a zstd dictionary, and its bytes. Default: that of the column.

    Immutable, so safe for any number of threads.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        data_end: Sequence[int],
        layouts: Sequence[Layout] = (Layout.ENTRIES,),
        formats: Sequence[str] = ("zip",),
        first_member: Sequence[int] | None = None,
        first_block: Sequence[int] | None = None,
        dictionaries: Sequence[tuple[int, Any]] | None = None,
    ) -> None:
        self.columns: dict[str, Column] = {}
        for name, data in columns.items():
            column = np.frombuffer(data, DTYPES[name]) if len(data) else np.empty(0, DTYPES[name])
            column.flags.writeable = False
            self.columns[name] = column
        self.data_end = tuple(data_end)
        self.layouts = tuple(layouts)
        self.formats = tuple(formats)
        self.first_member = np.asarray([0, len(self)] if first_member is None else first_member, np.uint64)
        self.first_block = np.asarray([0, self.blocks] if first_block is None else first_block, np.uint64)
        if dictionaries is None:
            dictionaries = [(0, self["dictionary"])] if "dictionary" in self.columns else []
        self.dictionaries = tuple(dictionaries)

    def __len__(self) -> int:
        return len(self.columns["name_offset"]) - 1

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]

    @property
    def blocks(self) -> int:
        """How many rows the table of blocks has."""
        return len(self.columns.get("block_start", ()))

    @property
    def nbytes(self) -> int:
        """Memory of the columns, in bytes."""
        return sum(column.nbytes for column in self.columns.values())

    def stream_size(self, source: int) -> int:
        """Return how many bytes the blocks of a source decode to; 0 where they are not a stream."""
        begin, end = self.first_block[source : source + 2].tolist()
        if begin == end or self.layouts[source] != Layout.BLOCKS:
            return 0
        return int(self["block_start"][end - 1]) + int(self["block_size"][end - 1])

    def name(self, member: int) -> str:
        """Return the name of a member."""
        begin, end = self["name_offset"][member : member + 2].tolist()
        return self["names"][begin:end].tobytes().decode("utf-8", _ERRORS)

    def raw_name(self, member: int) -> bytes:
        """Return the name of a member as its bytes stand in the archive."""
        names, offsets, row = "names", "name_offset", member
        if int(self["flags"][member]) & MemberFlag.RAW_NAME_BIT:
            names, offsets, row = "raw_names", "raw_offset", int(np.searchsorted(self["raw_member"], member))
        begin, end = self[offsets][row : row + 2].tolist()
        return self[names][begin:end].tobytes()

    def is_dir(self, member: int) -> bool:
        """Whether a member stands for a directory: in a ZIP, by a slash at the end of its name; else by its mode."""
        if self.layouts[self.source_of(member)] != Layout.ENTRIES:
            return stat.S_ISDIR(int(self["attributes"][member]) >> 16)
        begin, end = self["name_offset"][member : member + 2].tolist()
        return bool(end > begin and self["names"][end - 1] == ord("/"))

    def extents(self, member: int, begin: int, end: int) -> list[Extent]:
        """Return what the extents of a sparse member hold of a range of it, in order."""
        row = int(np.searchsorted(self["sparse_member"], member))
        first, last = self["sparse_offset"][row : row + 2].tolist()
        places = self["extent_place"][first:last]
        low = max(0, int(np.searchsorted(places, np.uint64(begin), "right")) - 1)
        rows = slice(first + low, first + int(np.searchsorted(places, np.uint64(end))))
        columns = (self[name][rows].tolist() for name in ("extent_place", "extent_offset", "extent_size"))
        found = []
        for place, offset, size in zip(*columns, strict=True):
            skip = max(0, begin - place)
            size = min(size, end - place) - skip
            if size > 0:
                found.append(Extent(place + skip, offset + skip, size))
        return found

    def source_of(self, member: int) -> int:
        """Return which source holds a member."""
        return int(np.searchsorted(self.first_member, member, side="right")) - 1

    def name_parts(self, members: MemberIds | None, *, raw: bool = False) -> tuple[Column, Column, Column]:
        """Return bytes in which the names of some members, or of all, lie, and where each one begins and ends in them.

        With `raw`, as they stand in the archive.
        """
        names, begin, end = self["names"], self["name_offset"][:-1], self["name_offset"][1:]
        if raw and "raw_member" in self.columns:
            rows, bounds = self["raw_member"], self["raw_offset"] + np.uint64(len(names))
            names, begin, end = np.concatenate([names, self["raw_names"]]), begin.copy(), end.copy()
            begin[rows], end[rows] = bounds[:-1], bounds[1:]
        return (names, begin, end) if members is None else (names, begin[members], end[members])

    def table_of(self, members: MemberIds | None, *, raw: bool = False) -> NameTable:
        """Build a look-up table of names: see `name_parts`."""
        return NameTable(*self.name_parts(members, raw=raw))

    def fingerprint(self) -> str:
        """Return a digest that differs where the contents of the archive do."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in ("names", "name_offset", "offset", "size", "crc32", "block_size", "block_crc32"):
            if name in self.columns:
                # With its length, so that no bytes of one column can stand for those of the next.
                digest.update(b"%s %d\n" % (name.encode(), self[name].nbytes))
                digest.update(self[name].data)
        return digest.hexdigest()

    @classmethod
    def concatenate(cls, parts: Sequence[Index]) -> Index:
        """Put the members of several indexes, of one source or more, one after the other; sources keep that order.

        Raises
        ------
        LimitExceededError
            If there are more members or blocks than 32 bits count.
        """
        if len(parts) == 1:
            return parts[0]
        for what, count in (("members", sum(map(len, parts))), ("blocks", sum(part.blocks for part in parts))):
            if count > _MOST_ROWS:
                raise LimitExceededError(
                    f"there are {count} {what} in {len(parts)} archives, more than the {_MOST_ROWS} that can be opened "
                    "together; open them in several parts"
                )
        first = np.cumsum([0, *map(len, parts)])
        first_block = np.cumsum([0, *(part.blocks for part in parts)])
        first_source = np.cumsum([0, *(len(part.layouts) for part in parts)])
        columns = {name: np.concatenate([part[name] for part in parts]) for name in MEMBER_COLUMNS}
        columns["names"] = np.concatenate([part["names"] for part in parts])
        columns["name_offset"] = _join_offsets([part["name_offset"] for part in parts])
        _join_rows(columns, parts, first, "raw_member", ["raw_offset"], ["raw_names"])
        extents = ["extent_place", "extent_offset", "extent_size"]
        _join_rows(columns, parts, first, "sparse_member", ["sparse_offset"], extents)
        if first_block[-1]:
            with_blocks = [part for part in parts if part.blocks]
            for name in (*BLOCK_COLUMNS, "aux"):
                columns[name] = np.concatenate([part[name] for part in with_blocks])
            columns["aux_offset"] = _join_offsets([part["aux_offset"] for part in with_blocks])
            _join_segments(columns, parts, first, first_block)
        if any("successor" in part.columns for part in parts):
            columns["successor"] = np.concatenate(
                [_successor(part, int(base)) for part, base in zip(parts, first[:-1], strict=True)]
            )
        return cls(
            columns,
            data_end=[end for part in parts for end in part.data_end],
            layouts=[layout for part in parts for layout in part.layouts],
            formats=[name for part in parts for name in part.formats],
            first_member=_join_offsets([part.first_member for part in parts]).tolist(),
            first_block=_join_offsets([part.first_block for part in parts]).tolist(),
            dictionaries=[
                (int(base) + source, data)
                for part, base in zip(parts, first_source[:-1], strict=True)
                for source, data in part.dictionaries
            ],
        )


def _join_offsets(parts: Sequence[Column]) -> Column:
    bases = np.cumsum([0] + [int(part[-1]) for part in parts[:-1]]).astype(np.uint64)
    shifted = [part[1:] + base for part, base in zip(parts, bases, strict=True)]
    return np.concatenate([np.zeros(1, np.uint64), *shifted])


def _join_rows(
    columns: dict[str, Column],
    parts: Sequence[Index],
    first: Column,
    member: str,
    offsets: Sequence[str],
    values: Sequence[str],
) -> None:
    """Join the columns of what only some members have, from the parts that have any."""
    having = [(part, base) for part, base in zip(parts, first[:-1], strict=True) if member in part.columns]
    if having:
        columns[member] = np.concatenate([part[member] + np.uint32(base) for part, base in having])
        for name in offsets:
            columns[name] = _join_offsets([part[name] for part, _ in having])
        for name in values:
            columns[name] = np.concatenate([part[name] for part, _ in having])


def _join_segments(columns: dict[str, Column], parts: Sequence[Index], first: Column, first_block: Column) -> None:
    having = [i for i, part in enumerate(parts) if "segment_member" in part.columns]
    if having:
        members = [parts[i]["segment_member"] + np.uint32(first[i]) for i in having]
        rows = [parts[i]["segment_first"] + np.uint64(first_block[i]) for i in having]
        columns["segment_member"] = np.concatenate(members)
        # The blocks of a ZIP are all of segments, so that those of one end where those of the next begin; between the
        # parts may lie blocks of others, which no member refers to.
        columns["segment_first"] = np.concatenate([*(row[:-1] for row in rows), rows[-1][-1:]])


def _successor(part: Index, base: int) -> Column:
    """Shift the order of a part to its place in the whole; a part without the column is in order."""
    n = len(part)
    if "successor" in part.columns:
        successor = part["successor"].astype(np.int64)
    else:
        successor = np.arange(1, n + 1)
        successor[-1:] = _NO_SUCCESSOR
    return np.where(successor == _NO_SUCCESSOR, _NO_SUCCESSOR, successor + base).astype(np.uint32)
