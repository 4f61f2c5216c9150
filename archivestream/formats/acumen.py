"""Arrays in chunks, as the package AcumenIndexer 0.0.1 writes them.

A folder holds ``index.csv`` and ``chunks/chunk_0.chnk``, ``chunks/chunk_1.chnk`` and so on. A row of the table says
where the values of an array lie (C order, nothing around them), its shape, and its metadata::

    ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape,label,...
    chunks/chunk_0.chnk,0,60,"(2, 3, 5)",7,...

The type of the values is nowhere: whoever reads them must know it (float16, where nothing else was said). There are no
checksums. With more than one job, that package writes offsets that are wrong, and all rows several times: such a
table is refused, as its records lie over one another.
"""

from __future__ import annotations

import csv
import io
import math
import re
from array import array
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from archivestream.errors import CorruptArchiveError, LimitExceededError
from archivestream.formats.records import Ints, index_records, open_files, read_table
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import LocalSource, Source
from archivestream.tables import MakeTable, read_csv

__all__ = ["SHAPE", "TABLE", "is_table", "read_index"]

TABLE = "index.csv"
SHAPE = "ai:shape"  # the column of the metadata that has the shapes
_PLACE = ("ai:chunk_name", "ai:offset_bytes", "ai:size_bytes")
_TUPLE = re.compile(r"\(\)|\((\d{1,18}),?\)|\((\d{1,18}(?:, ?\d{1,18}){1,63}),?\)")  # NumPy has 64 dimensions
_NUMBER = re.compile(r"\d{1,18}")  # what an int64 holds
_HEAD = 4096
_LARGEST_ITEM = 32  # bytes of a complex long double


def is_table(head: bytes, source: Source) -> bool:
    """Whether a file is a table of chunks: its first line names the columns."""
    if not isinstance(source, LocalSource) or b"ai:chunk_name" not in head:
        return False
    line = bytes(source.read_at(0, _HEAD)).decode("utf-8-sig", "replace").split("\n", 1)[0]
    try:
        return {*_PLACE, SHAPE} <= set(next(csv.reader([line.rstrip("\r")]), []))
    except csv.Error:
        return False


def read_index(source: Source, *, limits: Limits) -> tuple[Index, list[Source], Ints | None, MakeTable]:
    """Read a table of chunks.

    Returns
    -------
    index : Index
        Chunk by chunk; an array is named by the number of its row.
    chunks : list of Source
    order : ndarray of int64, shape (n,), or None
        The rows of the index in the order of the table.
    metadata : callable
        Makes the table of metadata, in that order: the shapes, and the columns that the user has written.

    Raises
    ------
    CorruptArchiveError
        If the table is none, a chunk is not there, or does not have a record where the table says.
    LimitExceededError
        If the table is larger than the limits allow.
    """
    assert isinstance(source, LocalSource)
    data = bytes(read_table(source, limits))
    places = _read_places(data, source.name, limits)
    chunks = places.chunks
    for name in chunks:
        if name.startswith("/") or "\\" in name or "\0" in name or {"", ".", ".."} & set(name.split("/")):
            raise CorruptArchiveError(f"it refers to {name!r}, which is no file in its folder", archive=source.name)
    opened = open_files(source, list(chunks)) or [source]
    try:
        index, order = index_records(
            source,
            opened,
            "acumen",
            file=np.frombuffer(places.file, np.int64),
            offset=np.frombuffer(places.offset, np.int64),
            size=np.frombuffer(places.size, np.int64),
            margin=0,
            limits=limits,
        )
    except BaseException:
        for one in opened:
            one.close()
        raise
    return index, opened, order, partial(read_csv, data, source.name, _PLACE)


def parse_shape(text: str) -> tuple[int, ...] | None:
    """Return the shape that the text of a tuple is; None where it is none."""
    found = _TUPLE.fullmatch(text.strip())
    return None if found is None else tuple(map(int, re.findall(r"\d+", text)))


class _Places(NamedTuple):
    """Where records lie: the numbers of the chunks, and of each record its chunk, its offset and its size."""

    chunks: dict[str, int]
    file: array[int]
    offset: array[int]
    size: array[int]


def _read_places(data: bytes, archive: str, limits: Limits) -> _Places:
    found = _Places({}, array("q"), array("q"), array("q"))
    try:
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), strict=True)
        header = next(rows)
        columns = [header.index(name) for name in (*_PLACE, SHAPE)]
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise _fault(rows, f"has {len(row)} fields, and the header has {len(header)}", archive)
            name, offset, size, shape = (row[column] for column in columns)
            if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(size):
                raise _fault(rows, f"has no offset and size: {offset[:99]!r}, {size[:99]!r}", archive)
            dimensions = parse_shape(shape)
            if dimensions is None or not _fits(dimensions, int(size)):
                raise _fault(rows, f"has the shape {shape[:99]!r} for {size} bytes", archive)
            if len(found.file) == limits.max_members:
                raise LimitExceededError(
                    f"there are more records than Limits.max_members = {limits.max_members}", archive=archive
                )
            found.file.append(found.chunks.setdefault(name, len(found.chunks)))
            found.offset.append(int(offset))
            found.size.append(int(size))
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptArchiveError(f"it is no CSV in UTF-8: {error}", archive=archive) from error
    return found


def _fits(shape: tuple[int, ...], size: int) -> bool:
    """Whether an array of that shape can take so many bytes."""
    count = math.prod(shape)
    return size == 0 if count == 0 else size % count == 0 and 0 < size // count <= _LARGEST_ITEM


def _fault(rows: Any, reason: str, archive: str) -> CorruptArchiveError:
    return CorruptArchiveError(f"line {rows.line_num} {reason}", archive=archive)
