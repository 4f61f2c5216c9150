"""TFRecord: records one behind the other, each with a CRC-32C of its length and one of its data.

Native code (`archivestream._native.tfscan`, which has the format) skips from header to header and checks each length.
The checksums of the data become part of the index, and are compared when a record is read. The name of a record is its
number in the file.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from archivestream._native.codecs import Codec
from archivestream._native.columns import Layout, MemberFlag
from archivestream._native.tfscan import RecordFault, RecordScanner, begins_with_record
from archivestream.columns import DTYPES
from archivestream.errors import CorruptArchiveError, LimitExceededError, SourceError
from archivestream.formats.scanning import NO_TIME, REGULAR_FILE, scan
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = ["check", "finish", "is_in_zlib", "is_named_so", "is_tfrecord", "new_scanner", "read_index"]

_ROW = 48 + 10  # most bytes of a row in the index, with its name
_HEAD = 12
_SUFFIXES = "tfrec", "tfrecord", "tfrecords"


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 12 or more, holds records: the first length has its checksum."""
    return begins_with_record(head)


def is_in_zlib(head: bytes, name: str) -> bool:
    """Whether a file that begins with these bytes is a zlib stream (RFC 1950) of records."""
    if len(head) < 2 or head[0] & 0x0F != zlib.DEFLATED or int.from_bytes(head[:2], "big") % 31:
        return False
    try:
        decoded = zlib.decompressobj().decompress(head, _HEAD)
    except zlib.error:
        decoded = b""
    return is_tfrecord(decoded) or is_named_so(name)


def is_named_so(name: str) -> bool:
    """Whether a file is named like one of records, which settles what an empty or damaged one is."""
    # "train.tfrecord-00000-of-00010", "train.tfrecords.gz"
    parts = os.path.basename(name).lower().split(".")[1:]
    return any(part.partition("-")[0] in _SUFFIXES for part in parts)


def read_index(source: Source, *, limits: Limits, progress: Callable[[int, int], object] | None) -> Index:
    """Read the headers of all records; see `archivestream.formats.read_index`."""
    scanner = new_scanner(source, limits=limits)
    scan(source, scanner, lambda fault: check(scanner, fault, source, limits), progress)
    columns = finish(scanner, source.size, source, limits=limits)
    return Index(columns, data_end=[source.size], layouts=[Layout.RANGES], formats=["tfrecord"])


def new_scanner(source: Source, *, limits: Limits) -> RecordScanner:
    """Make a scanner for one stream of records: a file, or what it decodes to."""
    return RecordScanner(max_records=min(limits.max_members, limits.index_room(source.size)[0] // _ROW))


def finish(scanner: RecordScanner, size: int, source: Source, *, limits: Limits) -> dict[str, Any]:
    """Turn what was fed to a scanner into the columns of an index, once the stream is known to have `size` bytes.

    Raises
    ------
    CorruptArchiveError
        If the stream ends within a record.
    """
    check(scanner, scanner.end(size), source, limits)
    columns = {name: np.frombuffer(memoryview(data), DTYPES[name]) for name, data in scanner.finish().items()}
    n = len(columns["size"])
    constant = {
        "timestamp": NO_TIME,
        "attributes": REGULAR_FILE,
        "codec": Codec.STORED,
        "flags": MemberFlag.CRC32C_BIT,
    }
    columns |= {name: np.full(n, value, DTYPES[name]) for name, value in constant.items()}
    columns["compressed_size"] = columns["size"]
    return columns


def check(scanner: RecordScanner, fault: int, source: Source, limits: Limits) -> None:
    """Raise the exception for a fault of a scanner, unless it is none.

    Raises
    ------
    CorruptArchiveError, LimitExceededError, SourceError, MemoryError
        As the fault is; the message says which record, and where it begins.
    """
    if fault == RecordFault.FINE:
        return
    archive = source.name
    if fault == RecordFault.NO_ROOM:
        raise MemoryError(f"{archive}: no memory for the index")
    if fault == RecordFault.UNREADABLE:
        error = SourceError(f"reading failed: {os.strerror(scanner.read_errno)}", archive=archive)
        error.errno = scanner.read_errno
        raise error
    if fault == RecordFault.TOO_MANY_RECORDS:
        room, limit = limits.index_room(source.size)
        if limits.max_members <= room // _ROW:
            limit = f"Limits.max_members = {limits.max_members}"
        raise LimitExceededError(
            f"there are more records than {limit} allows a file of {source.size} bytes; raise that for one that you "
            "trust",
            archive=archive,
        )
    last = fault in (RecordFault.CUT_DATA, RecordFault.CUT_CHECKSUM)
    number = scanner.count - 1 if last else scanner.count
    reason = _FAULTS[RecordFault(fault)].format(size=scanner.last_size)
    raise CorruptArchiveError(f"record {number} (offset {scanner.offset}): {reason}", archive=archive)


_CUT = "it was truncated, or is still being written"
_FAULTS = {
    RecordFault.BAD_LENGTH_CHECKSUM: "its length does not have its checksum: it is damaged, or this is no record",
    RecordFault.IMPOSSIBLE_LENGTH: "its length is more than any file has",
    RecordFault.CUT_HEADER: f"the file ends within its header: {_CUT}, or something else stands behind the records",
    RecordFault.CUT_DATA: f"the file ends within its data, which have {{size}} bytes: {_CUT}",
    RecordFault.CUT_CHECKSUM: f"the file ends within the checksum of its data: {_CUT}",
}
