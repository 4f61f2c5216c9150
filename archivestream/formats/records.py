"""Records in several files, listed by a table: what splitdataloader and AcumenIndexer write have that in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream._native.columns import Layout
from archivestream.columns import DTYPES
from archivestream.errors import CorruptArchiveError, LimitExceededError
from archivestream.formats.scanning import NO_TIME
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import LocalSource, Source

__all__ = ["index_records", "open_files", "read_table"]

Ints = NDArray[np.int64]

_DIGITS = 8  # of the names of records, or as many as there must be
_SLICE = 1 << 20  # records that are compared at once: more take as many times the memory
_REGULAR_FILE = 0o100644 << 16


def read_table(source: Source, limits: Limits) -> bytearray:
    """Read the whole file that lists the records.

    Raises
    ------
    LimitExceededError
        If it is larger than the limits allow.
    """
    if source.size > limits.max_index_bytes:
        raise LimitExceededError(
            f"it has {source.size} bytes, more than Limits.max_index_bytes = {limits.max_index_bytes}",
            archive=source.name,
        )
    return source.read_at(0, source.size)


def open_files(table: LocalSource, names: Sequence[str]) -> list[Source]:
    """Open the files of records, whose names are relative to the folder of the table.

    Raises
    ------
    CorruptArchiveError
        If one is not there.
    OSError
        If it cannot be opened.
    """
    opened: list[Source] = []
    try:
        for name in names:
            # The name as the user gave it, so that messages show the path that they know.
            opened.append(LocalSource(os.path.join(os.path.dirname(table.name), name)))
    except BaseException as error:
        for source in opened:
            source.close()
        if isinstance(error, FileNotFoundError):
            raise CorruptArchiveError(f"it refers to {name}, which is not there", archive=table.name) from error
        raise
    return opened


def index_records(
    table: Source,
    files: Sequence[Source],
    kind: str,
    *,
    file: Ints,
    offset: Ints,
    size: Ints,
    margin: int,
    limits: Limits,
) -> tuple[Index, Ints | None]:
    """Make the index of records, once they are known to lie within their files, and not over one another.

    Parameters
    ----------
    table : Source
        What lists them, for messages.
    files : sequence of Source
        What they lie in.
    kind : str
        The name of the format.
    file, offset, size : ndarray of int64, shape (n,)
        Of each record, in the order of the table: the number of its file, and its place in it; none negative.
    margin : int
        Bytes in front of each record that belong to it.

    Returns
    -------
    index : Index
        File by file; records are named by their numbers in the table.
    order : ndarray of int64, shape (n,), or None
        The row of each record, in the order of the table; None where that is the order of the index.

    Raises
    ------
    CorruptArchiveError
        If a record lies outside its file, or over another one.
    LimitExceededError
        If there are more than the limits allow.
    """
    n = len(file)
    if n > limits.max_members:
        raise LimitExceededError(
            f"there are {n} records, more than Limits.max_members = {limits.max_members}", archive=table.name
        )
    _check_bounds(table, files, file, offset, size, margin)
    in_place = np.lexsort((offset, file))
    file, offset, size = file[in_place], offset[in_place], size[in_place]
    if not limits.allow_overlap:
        full = np.flatnonzero(size + margin)  # what is empty lies over nothing
        for begin in range(0, len(full) - 1, _SLICE):
            before = full[begin : begin + _SLICE]
            after = full[begin + 1 : begin + 1 + _SLICE]
            before = before[: len(after)]
            clash = (file[before] == file[after]) & (offset[after] - margin - offset[before] < size[before])
            if clash.any():
                at = int(np.argmax(clash))
                raise CorruptArchiveError(
                    f"records {in_place[before[at]]} and {in_place[after[at]]} lie over one another in "
                    f"{files[int(file[before[at]])].name}",
                    archive=table.name,
                )
        del full
    values: dict[str, Any] = {
        "size": size,
        "compressed_size": size,
        "offset": offset,
        "crc32": 0,
        "codec": 0,
        "flags": 0,
        "timestamp": NO_TIME,
        "attributes": _REGULAR_FILE,
    }
    columns: dict[str, Any] = {
        name: np.ascontiguousarray(np.broadcast_to(value, (n,)), DTYPES[name]) for name, value in values.items()
    }
    names = _number_names(in_place)
    columns["names"] = names.reshape(-1)
    columns["name_offset"] = np.arange(n + 1, dtype=np.uint64) * np.uint64(names.shape[1])
    index = Index(
        columns,
        data_end=[source.size for source in files],
        layouts=[Layout.RANGES] * len(files),
        formats=[kind] * len(files),
        first_member=np.searchsorted(file, np.arange(len(files) + 1)).tolist(),
        first_block=[0] * (len(files) + 1),
    )
    if np.array_equal(in_place, np.arange(n)):
        return index, None
    order = np.empty(n, np.int64)
    order[in_place] = np.arange(n)
    return index, order


def _check_bounds(table: Source, files: Sequence[Source], file: Ints, offset: Ints, size: Ints, margin: int) -> None:
    """Raise `CorruptArchiveError` for a record that does not lie within its file."""
    sizes = np.array([source.size for source in files] or [0], np.int64)
    for begin in range(0, len(file), _SLICE):
        rows = slice(begin, begin + _SLICE)
        room, start, length = sizes[file[rows]], offset[rows], size[rows]
        outside = (start < margin) | (start > room) | (length < 0) | (length > room - start)
        if not outside.any():
            continue
        at = begin + int(np.argmax(outside))
        source = files[int(file[at])]
        raise CorruptArchiveError(
            f"record {at} has {size[at]} bytes at offset {offset[at]} of {source.name}, which has {source.size} bytes",
            archive=table.name,
        )


def _number_names(numbers: Ints) -> NDArray[np.uint8]:
    """Write numbers below 2**32 in ASCII, each in a row of so many digits that they sort."""
    width = max(_DIGITS, len(str(numbers.max(initial=0))))
    names = np.empty((len(numbers), width), np.uint8)
    rest = numbers.astype(np.uint32)
    for column in range(width - 1, -1, -1):  # one at a time: all of them at once take eight times as much
        names[:, column] = rest % np.uint32(10)
        rest //= np.uint32(10)
    names += np.uint8(ord("0"))
    return names
