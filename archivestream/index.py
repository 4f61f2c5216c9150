"""The index: flat columns that say where each member lies. No Python object per member.

Every column is a one-dimensional, read-only NumPy array. In a ZIP each member is one block, so one row serves
both; its start in the logical stream is the sum of the sizes before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream._native.names import NameTable
from archivestream._native.zipscan import MemberFlag

__all__ = ["COLUMNS", "Index", "MemberIds"]

Column: TypeAlias = NDArray[Any]
MemberIds: TypeAlias = NDArray[np.int64]

# Name and type of each column that has a row per member: 48 bytes a member with ``name_offset``.
COLUMNS: Mapping[str, type[np.generic]] = {
    "size": np.uint64,  # bytes of the member, decoded
    "compressed_size": np.uint64,
    "offset": np.uint64,  # of the block in its source (in a ZIP, of the local header)
    "crc32": np.uint32,  # of the decoded bytes
    "codec": np.uint16,  # ZIP's number of the compression method (APPNOTE 4.4.5)
    "flags": np.uint16,  # `MemberFlag`
    "timestamp": np.uint32,  # MS-DOS date and time (APPNOTE 4.4.6)
    "attributes": np.uint32,  # external file attributes (APPNOTE 4.4.15)
}

# The others: names in UTF-8 and where each begins (one row more than there are members); the bytes of those names
# that stand otherwise in the archive; and, where blocks do not follow one another in the order of the members,
# the member whose block comes next in the source.
_OTHERS: Mapping[str, type[np.generic]] = {
    "names": np.uint8,
    "name_offset": np.uint64,
    "raw_member": np.uint32,
    "raw_offset": np.uint64,
    "raw_names": np.uint8,
    "successor": np.uint32,
}
_NO_SUCCESSOR = 0xFFFFFFFF


class Index:
    """Where the members of an archive lie.

    Parameters
    ----------
    columns : mapping of str to buffer
        The bytes of each column: those of `COLUMNS`, ``names`` and ``name_offset``, and the optional ones.
    first_block : sequence of int, optional
        The first member of each source, and the number of all. Default: one source.
    data_end : sequence of int
        For each source, where the part of it that holds blocks ends.

    Immutable, so safe for any number of threads.
    """

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        data_end: Sequence[int],
        first_block: Sequence[int] | None = None,
    ) -> None:
        dtypes = {**COLUMNS, **_OTHERS}
        self.columns: dict[str, Column] = {}
        for name, data in columns.items():
            column = np.frombuffer(data, dtypes[name]) if len(data) else np.empty(0, dtypes[name])
            column.flags.writeable = False
            self.columns[name] = column
        bounds = [0, len(self)] if first_block is None else first_block
        self.first_block = np.asarray(bounds, np.uint64)
        self.data_end = tuple(data_end)

    def __len__(self) -> int:
        return len(self.columns["name_offset"]) - 1

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]

    @property
    def nbytes(self) -> int:
        """Memory of the columns, in bytes."""
        return sum(column.nbytes for column in self.columns.values())

    def name(self, member: int) -> str:
        """Return the name of a member."""
        begin, end = self["name_offset"][member : member + 2].tolist()
        return self["names"][begin:end].tobytes().decode()

    def raw_name(self, member: int) -> bytes:
        """Return the name of a member as its bytes stand in the archive."""
        if int(self["flags"][member]) & MemberFlag.RAW_NAME_BIT:
            row = int(np.searchsorted(self["raw_member"], member))
            begin, end = self["raw_offset"][row : row + 2].tolist()
            return self["raw_names"][begin:end].tobytes()
        return self.name(member).encode()

    def source_of(self, member: int) -> int:
        """Return which source holds a member."""
        return int(np.searchsorted(self.first_block, member, side="right")) - 1

    def select_names(self, members: MemberIds) -> tuple[Column, Column]:
        """Gather the names of some members: (names, name_offset), as the columns of that name."""
        begin = self["name_offset"][:-1][members].astype(np.int64)
        length = self["name_offset"][1:][members].astype(np.int64) - begin
        offset = np.zeros(len(members) + 1, np.int64)
        np.cumsum(length, out=offset[1:])
        where = np.repeat(begin - offset[:-1], length) + np.arange(offset[-1])
        return self["names"][where], offset.astype(np.uint64)

    def table_of(self, members: MemberIds | None, *, raw: bool = False) -> NameTable:
        """Build a look-up table of some members' names, or of all; with `raw`, as they stand in the archive."""
        if raw and "raw_member" in self.columns:
            names = [self.raw_name(i) for i in (range(len(self)) if members is None else members.tolist())]
            offsets = np.cumsum([0, *map(len, names)], dtype=np.uint64)
            return NameTable(np.frombuffer(b"".join(names), np.uint8), offsets)
        if members is None:
            return NameTable(self["names"], self["name_offset"])
        return NameTable(*self.select_names(members))

    def fingerprint(self) -> str:
        """Return a digest that differs where the contents of the archive do."""
        digest = hashlib.blake2b(digest_size=16)
        for name in ("names", "offset", "size", "crc32"):
            digest.update(self[name].data)
        return digest.hexdigest()

    @classmethod
    def concatenate(cls, parts: Sequence[Index]) -> Index:
        """Put the members of several archives one after the other; sources keep that order."""
        if len(parts) == 1:
            return parts[0]
        counts = [len(part) for part in parts]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}
        columns["names"] = np.concatenate([part["names"] for part in parts])
        columns["name_offset"] = _join_offsets([part["name_offset"] for part in parts])
        raw = [(part, base) for part, base in zip(parts, first[:-1], strict=True) if "raw_member" in part.columns]
        if raw:
            columns["raw_member"] = np.concatenate([part["raw_member"] + np.uint32(base) for part, base in raw])
            columns["raw_offset"] = _join_offsets([part["raw_offset"] for part, _ in raw])
            columns["raw_names"] = np.concatenate([part["raw_names"] for part, _ in raw])
        if any("successor" in part.columns for part in parts):
            columns["successor"] = np.concatenate(
                [_successor(part, int(base)) for part, base in zip(parts, first[:-1], strict=True)]
            )
        return cls(
            columns,
            first_block=first.tolist(),
            data_end=[end for part in parts for end in part.data_end],
        )


def _join_offsets(parts: Sequence[Column]) -> Column:
    bases = np.cumsum([0] + [int(part[-1]) for part in parts[:-1]]).astype(np.uint64)
    shifted = [part[1:] + base for part, base in zip(parts, bases, strict=True)]
    return np.concatenate([np.zeros(1, np.uint64), *shifted])


def _successor(part: Index, base: int) -> Column:
    """Shift the order of a part to its place in the whole; a part without the column is in order."""
    n = len(part)
    if "successor" in part.columns:
        successor = part["successor"].astype(np.int64)
    else:
        successor = np.arange(1, n + 1)
        successor[-1:] = _NO_SUCCESSOR
    return np.where(successor == _NO_SUCCESSOR, _NO_SUCCESSOR, successor + base).astype(np.uint32)
