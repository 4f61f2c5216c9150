"""Members that are stored as they are, without a copy: views of the file, mapped into memory.

Everything else here reads a file by offset, so that a file which shrinks is an error. A mapped one is a part of this
process: what is written to the file shows in the views, and reading what was cut off ends the process (SIGBUS).
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream._native.codecs import Codec, Status
from archivestream._native.columns import Layout, MemberFlag
from archivestream.errors import ArchiveChangedError, ArchiveError, UnsupportedFeatureError
from archivestream.index import MemberIds
from archivestream.members import METHODS
from archivestream.npy import view_array, view_values
from archivestream.reader import MemberReader

__all__ = ["Mappings"]

_Bytes = NDArray[np.uint8]
_LONGEST_HEADER = 30 + 2 * 0xFFFF  # of a member of a ZIP: APPNOTE 4.3.7


class Mappings:
    """The files of an archive, mapped when they are first asked for, and until no view of them is left.

    Parameters
    ----------
    reader : MemberReader
        Of the members.

    Safe for any number of threads, and in forked processes.
    """

    def __init__(self, reader: MemberReader) -> None:
        self._reader = reader
        self._mapped: dict[int, _Bytes] = {}

    def arrays(
        self, rows: MemberIds, dtype: np.dtype[Any] | None, shapes: Sequence[tuple[int, ...] | None] | None
    ) -> list[NDArray[Any]]:
        """Return some members as arrays: see `archivestream.Archive.map_arrays`.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)
            Of the index.
        dtype : dtype, optional
            Of members that are values without a header; default: they are ``.npy`` files.
        shapes : sequence of n tuples or None, optional
            Of those members.
        """
        members = self._members(rows)
        arrays: list[NDArray[Any]] = []
        try:
            if dtype is None:
                for member in members:
                    arrays.append(view_array(member.data, None, None))
            else:
                for member, shape in zip(members, shapes or itertools.repeat(None), strict=False):
                    arrays.append(view_values(member, dtype, shape))
        except ArchiveError as error:
            row = int(rows[len(arrays)])
            names = {"archive": self._reader.archive_name(row), "member": self._reader.index.name(row)}
            raise type(error)(error.reason, **names) from error
        return arrays

    def _members(self, rows: MemberIds) -> list[_Bytes]:
        """Return read-only views of the bytes of some members."""
        reader, index = self._reader, self._reader.index
        for row in rows[reader.refused(rows)].tolist():
            reader.read(row)  # which says what forbids it
        sources = np.searchsorted(index.first_member.astype(np.int64), rows, "right") - 1
        for source in np.unique(sources).tolist():
            self._check_stored(rows[sources == source], source)
        files = {source: self._map(source) for source in np.unique(sources).tolist()}
        found = []
        places = (sources, index["offset"][rows], index["size"][rows])
        for row, source, offset, size in zip(rows.tolist(), *(column.tolist() for column in places), strict=True):
            whole, begin = files[source], offset
            if index.layouts[source] == Layout.ENTRIES:
                begin = reader.data_offset(row, whole[offset : offset + _LONGEST_HEADER])
            if begin > len(whole) or size > len(whole) - begin:
                raise reader.error(row, Status.TRUNCATED, 0)
            found.append(whole[begin : begin + size])
        return found

    def _check_stored(self, rows: MemberIds, source: int) -> None:
        """Raise for the first of some members of a source that is not stored as it is."""
        reader, index = self._reader, self._reader.index
        codec, sparse = index["codec"][rows], index["flags"][rows] & MemberFlag.SPARSE_BIT != 0
        if index.layouts[source] == Layout.BLOCKS or not reader.sources[source].is_native:
            row, how = rows[0], "lies in compressed blocks"
        elif (codec != Codec.STORED).any():
            row = rows[np.argmax(codec != Codec.STORED)]
            how = f"is compressed ({METHODS.get(int(index['codec'][row]), 'by a method that is not assigned')})"
        elif sparse.any():
            row, how = rows[np.argmax(sparse)], "is sparse"
        else:
            return
        raise UnsupportedFeatureError(
            f"it {how}, so that there is nothing to map: read_arrays decodes it, and repack(..., method='stored') "
            "makes an archive that can be mapped",
            archive=reader.archive_name(int(row)),
            member=index.name(int(row)),
        )

    def _map(self, number: int) -> _Bytes:
        source = self._reader.sources[number]
        change = source.change()
        if change is not None:
            raise ArchiveChangedError(
                f"the file is not the one that was indexed: {change}; open it again", archive=source.name
            )
        if number not in self._mapped:
            if source.memory is not None:
                whole = np.frombuffer(source.memory, np.uint8)
            elif source.descriptor < 0 or source.size == 0:
                whole = np.empty(0, np.uint8)  # nothing in it is stored
            else:
                # The mapping goes with the last view of it.
                whole = np.frombuffer(mmap.mmap(source.descriptor, source.size, access=mmap.ACCESS_READ), np.uint8)
            whole.flags.writeable = False
            self._mapped[number] = whole
        return self._mapped[number]
