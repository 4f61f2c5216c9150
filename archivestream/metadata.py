"""Metadata of members: where they come from, and one table of them, a row for each member.

They are in a member of the archive (`archivestream.tables.MEMBER`, the last one of its file), which is then shown no
more than a directory is; or in the table that lists the members.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from archivestream.errors import ArchiveWarning
from archivestream.formats.acumen import SHAPE, parse_shape
from archivestream.index import Index, MemberIds
from archivestream.reader import MemberReader
from archivestream.sources import Source
from archivestream.tables import KEY, MEMBER, MakeTable, arrow, join_tables, read_ipc

__all__ = ["Metadata", "Part", "find_part", "shown_rows"]

_LOOKED_AT = 64  # members at the end of a file, among which metadata may be found that are not the last of them


@dataclass(frozen=True)
class Part:
    """What one file that was opened has brought in.

    Attributes
    ----------
    file : Source
        The file.
    holders : tuple of Source
        What each of its sources in the index is called: the file itself, or those that it refers to.
    rows : int
        How many rows of the index are its own.
    order : ndarray of int64, or None
        Those that are members, in order, from 0; None for all of them.
    member : int or None
        The one of them that holds metadata.
    table : callable, optional
        Makes the metadata, where they are no member.
    """

    file: Source
    holders: tuple[Source, ...]
    rows: int
    order: MemberIds | None = None
    member: int | None = None
    table: MakeTable | None = None

    @property
    def has_metadata(self) -> bool:
        """Whether there are any."""
        return self.member is not None or self.table is not None


def find_part(
    file: Source, holders: Sequence[Source], index: Index, order: MemberIds | None, table: MakeTable | None
) -> Part:
    """Describe a file, and find the member that holds its metadata: the last one, if it has that name."""
    n = len(index)
    if n and order is None and table is None and index.name(n - 1) == MEMBER:
        return Part(file, tuple(holders), n, np.arange(n - 1), n - 1)
    if any(index.name(row) == MEMBER for row in range(max(0, n - _LOOKED_AT), n - 1)):
        warnings.warn(
            f"{file.name}: {MEMBER!r}, its metadata, is not its last member any more, so that they are not used: "
            "something was appended by another program",
            ArchiveWarning,
            stacklevel=2,
        )
    return Part(file, tuple(holders), n, order, None, table)


def shown_rows(parts: Sequence[Part]) -> MemberIds | None:
    """Return the rows of the members of several files, in order; None where they are all rows."""
    if all(part.order is None for part in parts):
        return None
    starts = np.cumsum([0, *(part.rows for part in parts)])
    return np.concatenate(
        [
            start + (np.arange(part.rows) if part.order is None else part.order)
            for start, part in zip(starts.tolist(), parts, strict=False)
        ]
    )


class Metadata:
    """The metadata of an archive, read when they are first asked for.

    Parameters
    ----------
    parts : sequence of Part
        Of the files, in the order of the index.
    rows : ndarray of int64, or None
        As `shown_rows` returns them.
    reader : MemberReader
        Of the members.

    Safe for any number of threads.
    """

    def __init__(self, parts: Sequence[Part], rows: MemberIds | None, reader: MemberReader) -> None:
        self._parts = parts
        self._rows = rows
        self._reader = reader

    def take(self, rows: MemberIds | None) -> Any:
        """Return a table of some rows of the index: a `pyarrow.Table`; None, of all members in order."""
        if rows is None or rows is self._rows:
            return self._table
        return self._table.take(rows if self._place is None else self._place[rows])

    def shapes(self, rows: MemberIds) -> list[tuple[int, ...] | None] | None:
        """Return the shapes of arrays that are stored without a header, where the metadata have them."""
        pyarrow = arrow()
        if SHAPE not in self._table.column_names or self._table[SHAPE].type not in (
            pyarrow.string(),
            pyarrow.large_string(),
        ):
            return None
        return [None if text is None else parse_shape(text) for text in self.take(rows)[SHAPE].to_pylist()]

    @cached_property
    def _place(self) -> MemberIds | None:
        """The row of the table for each row of the index."""
        if self._rows is None:
            return None
        place = np.empty(len(self._reader.index), np.int64)
        place[self._rows] = np.arange(len(self._rows))
        return place

    @cached_property
    def _table(self) -> Any:
        starts = itertools.accumulate((part.rows for part in self._parts), initial=0)
        tables = [self._read(part, start) for part, start in zip(self._parts, starts, strict=False)]
        return join_tables(tables).drop_columns([KEY])

    def _read(self, part: Part, start: int) -> Any:
        """Make the table of one file, with a column that keeps the number of rows where there is no other."""
        pyarrow = arrow()
        names = self._names(start, part.rows - (part.member is not None))
        if part.member is not None:
            found = read_ipc(self._reader.read(start + part.member), part.file.name)
            keys = found[KEY].combine_chunks().cast(pyarrow.large_binary())
            if not keys.equals(names):  # other programs may have put members in another order, or left some out
                found = found.take(pyarrow.compute.index_in(names, value_set=keys))
            return found.set_column(found.column_names.index(KEY), KEY, pyarrow.nulls(len(names)))
        keys = pyarrow.nulls(len(names))
        return pyarrow.table({KEY: keys}) if part.table is None else part.table().append_column(KEY, keys)

    def _names(self, start: int, count: int) -> Any:
        """Return the names of some rows of the index, as an array of Arrow."""
        pyarrow = arrow()
        index = self._reader.index
        offsets = index["name_offset"][start : start + count + 1].astype(np.int64)
        buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(index["names"])]
        return pyarrow.Array.from_buffers(pyarrow.large_binary(), count, buffers)
