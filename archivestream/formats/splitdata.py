"""Records in bins, as the package splitdataloader 0.0.1 writes them.

A folder holds ``index.dat`` and ``bin00000000.dat``, ``bin00000001.dat`` and so on. All numbers are little-endian u32::

    index.dat       for each record: the number of its bin, the position of its size in it, its size
    bin########.dat for each record: its size, and its bytes

There is no signature and no checksum: the file is told by its name, and the sizes in the bins must be those of the
index. What that package appends shows in the index once it is written to it.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from archivestream._native.files import compare_words
from archivestream.errors import ArchiveWarning, CorruptArchiveError
from archivestream.formats.records import Ints, index_records, open_files, read_table
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import LocalSource, Source

__all__ = ["TABLE", "is_table", "read_index"]

TABLE = "index.dat"
_ROW = 12
_SIZE = 4  # bytes in front of each record
_ROWS = 1024  # whose sizes are compared in one native call, during which nobody can interrupt


def is_table(source: Source) -> bool:
    """Whether a file is the index of bins: it is named so, and the bin of its first record is there."""
    if not isinstance(source, LocalSource) or os.path.basename(source.path) != TABLE:
        return False
    first = bytes(source.read_at(0, 4)).ljust(4, b"\0")
    return os.path.exists(os.path.join(os.path.dirname(source.path), _bin(int.from_bytes(first, "little"))))


def _bin(number: int) -> str:
    return f"bin{number:08d}.dat"


def read_index(
    source: Source, *, strict: bool, limits: Limits, progress: Callable[[int, int], object] | None
) -> tuple[Index, list[Source], Ints | None]:
    """Read the index of bins.

    Returns
    -------
    index : Index
        Bin by bin; a record is named by its number.
    bins : list of Source
    order : ndarray of int64, shape (n,), or None
        The rows of the index in the order of the records.

    Raises
    ------
    CorruptArchiveError
        If a bin is not there, or does not have a record where the index says; with `strict`, if the index ends within
        an entry.
    LimitExceededError
        If the index is larger than the limits allow.
    """
    assert isinstance(source, LocalSource)
    data = read_table(source, limits)
    rest = len(data) % _ROW
    if rest:
        reason = f"it ends with {rest} bytes of an entry of {_ROW}: writing it was interrupted"
        if strict:
            raise CorruptArchiveError(reason, archive=source.name)
        warnings.warn(f"{source.name}: {reason}; the {len(data) // _ROW} whole ones are read", ArchiveWarning, 2)
    table = np.frombuffer(data, "<u4", len(data) // _ROW * 3).reshape(-1, 3)
    numbers, file = np.unique(table[:, 0], return_inverse=True)
    bins = open_files(source, [_bin(number) for number in numbers.tolist()]) or [source]
    try:
        offset, size = table[:, 1].astype(np.int64) + _SIZE, table[:, 2].astype(np.int64)
        del data, table
        index, order = index_records(
            source, bins, "splitdata", file=file, offset=offset, size=size, margin=_SIZE, limits=limits
        )
        done, total = 0, sum(one.size for one in bins)
        for number, one in enumerate(bins):
            first, last = index.first_member[number : number + 2].tolist()
            for begin in range(first, last, _ROWS):
                rows = slice(begin, min(begin + _ROWS, last))
                offsets = index["offset"][rows] - np.uint64(_SIZE)
                _check_sizes(one, offsets, index["size"][rows].astype(np.uint32))
                if progress is not None:
                    progress(done + int(offsets[-1]), total)
            done += one.size
        if progress is not None:
            progress(total, total)
    except BaseException:
        for one in bins:
            one.close()
        raise
    return index, bins, order


def _check_sizes(source: Source, offsets: NDArray[np.uint64], sizes: NDArray[np.uint32]) -> None:
    """Compare the sizes in front of the records of a bin with those of the index."""
    count, status = compare_words(source.descriptor, offsets, sizes)
    if status == errno.EILSEQ:
        raise CorruptArchiveError(
            f"there is no record of {sizes[count]} bytes at offset {offsets[count]}, where the index has one",
            archive=source.name,
        )
    if status:
        raise OSError(status, os.strerror(status), source.name)
