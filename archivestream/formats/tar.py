"""tar: v7, ustar, GNU and PAX.

Native code skips from header to header (`archivestream._native.tarscan`). The formats that have a tar inside of
something feed the scanner themselves: `new_scanner`, `check` and `finish` are theirs, too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from archivestream._native.columns import Layout
from archivestream._native.tarheader import Fault, is_header
from archivestream._native.tarscan import TarScanner
from archivestream.errors import CorruptArchiveError, LimitExceededError, SourceError, UnsupportedFeatureError
from archivestream.formats import names
from archivestream.formats.scanning import scan as scan_headers
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = ["HEADER", "check", "finish", "is_tar", "may_be_empty", "new_scanner", "read_index", "scan"]

HEADER = 512  # bytes
_SUFFIXES = ".tgz", ".taz", ".tzst"  # of names that do without ".tar"

_FAULTS = {
    Fault.BAD_CHECKSUM: "the checksum of a header does not match: it is damaged, or no header where one must be",
    Fault.BAD_NUMBER: "a number in a header is none",
    Fault.BAD_SIZE: "a size in a header is negative, or more than any file has",
    Fault.TRUNCATED_HEADER: "the archive ends within a header: it was truncated",
    Fault.TRUNCATED_DATA: "the archive ends within the data of this member: it was truncated",
    Fault.TRUNCATED_EXTENSION: "the archive ends within an extension header or a map: it was truncated",
    Fault.LONG_EXTENSION: "an extension header claims more than 1 MiB",
    Fault.LONG_INHERITANCE: "a global PAX header gives a path or a link of more than 4,096 bytes to all members",
    Fault.MANY_EXTENSIONS: "more than 16 extension headers stand before a member",
    Fault.STRAY_EXTENSION: "the archive ends behind an extension header, whose member is missing",
    Fault.BAD_RECORD: "a record of a PAX header is malformed",
    Fault.BAD_VALUE: "a record of a PAX header has a value that is none of its kind",
    Fault.BAD_MAP: "the map of a sparse member is malformed, out of order, or does not fit its size",
    Fault.TOO_MANY_EXTENTS: "sparse members have more than 10,000 extents, or links multiply them",
    Fault.SIZE_WITHOUT_DATA: "a member that has no data claims some",
    Fault.BAD_FIELD: "the mode, the owner or the time in a header is no number",
    Fault.DIRTY_TEXT: "a text in a header goes on behind its end",
    Fault.NOT_UTF8: "a name in an extension header is not UTF-8",
    Fault.NUL_IN_RECORD: "a record of a PAX header contains a NUL",
    Fault.REPEATED_RECORD: "a PAX header says the same thing twice",
    Fault.GLOBAL_RECORD: "a global PAX header gives a path, a link or a size to all members",
    Fault.MIXED_EXTENSIONS: "extension headers of GNU and of PAX, or global ones, stand before the same member",
    Fault.BAD_CHARSET: "a PAX header is in an encoding that is not defined",
    Fault.NO_MAGIC: "a header without a magic number has a type that came with it",
    Fault.MAP_DIFFERS: "the map of a sparse member does not account for all that is stored",
    Fault.BEHIND_END: "something follows the end of the archive",
}
_BOUNDS = Fault.LONG_EXTENSION, Fault.LONG_INHERITANCE, Fault.MANY_EXTENSIONS, Fault.TOO_MANY_EXTENTS


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 512 or more, is a tar; one that begins with zeros is not decided."""
    return is_header(head[:HEADER])


def may_be_empty(head: bytes, name: str) -> bool:
    """Whether a file that begins with these bytes may be a tar with no members, which is zeros: its name decides."""
    base = os.path.basename(name).lower()
    return not head[:HEADER].strip(b"\0") and (".tar" in base or base.endswith(_SUFFIXES))


def read_index(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    progress: Callable[[int, int], object] | None,
) -> Index:
    """Read all headers of a tar; see `archivestream.formats.read_index`."""
    columns = scan(source, strict=strict, limits=limits, metadata_encoding=metadata_encoding, progress=progress)
    return Index(columns, data_end=[source.size], layouts=[Layout.RANGES], formats=["tar"])


def scan(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Read all headers of a tar into the columns of an index."""
    scanner = new_scanner(source, strict=strict, limits=limits)
    scan_headers(source, scanner, lambda fault: check(scanner, fault, source, limits), progress)
    return finish(scanner, source.size, source, strict=strict, limits=limits, metadata_encoding=metadata_encoding)


def new_scanner(source: Source, *, strict: bool, limits: Limits) -> TarScanner:
    """Make a scanner for the stream of one tar: a file, or what it decodes to."""
    room, _ = limits.index_room(source.size)
    return TarScanner(strict=strict, max_members=limits.max_members, max_bytes=room)


def finish(
    scanner: TarScanner, size: int, source: Source, *, strict: bool, limits: Limits, metadata_encoding: str | None
) -> dict[str, Any]:
    """Turn what was fed to a scanner into the columns of an index, once the stream is known to have `size` bytes.

    Raises
    ------
    CorruptArchiveError
        If the tar is truncated, or has a name that is not in `metadata_encoding`, or one that strict mode minds.
    LimitExceededError
        If links to sparse members multiply their extents.
    """
    check(scanner, scanner.end(size), source, limits)
    columns: dict[str, Any] = dict(scanner.finish())
    if metadata_encoding is not None:
        names.decode_names(columns, metadata_encoding, source.name)
    if strict:
        _check_names(columns, source.name)
    return columns


def check(scanner: TarScanner, fault: int, source: Source, limits: Limits) -> None:
    """Raise the exception for a fault of a scanner, unless it is none.

    Raises
    ------
    CorruptArchiveError, UnsupportedFeatureError, LimitExceededError, SourceError, MemoryError
        As the fault is; the message says where.
    """
    if fault == Fault.NONE:
        return
    archive = source.name
    if fault == Fault.TRUNCATED_DATA:
        raise CorruptArchiveError(
            f"{_FAULTS[Fault.TRUNCATED_DATA]} (offset {scanner.offset})", archive=archive, member=scanner.last_name
        )
    where = f"(header {scanner.count}, offset {scanner.offset})"
    if fault == Fault.OUT_OF_MEMORY:
        raise MemoryError(f"{archive}: no memory for the index")
    if fault == Fault.READ_FAILED:
        error = SourceError(f"reading failed: {os.strerror(scanner.read_errno)} {where}", archive=archive)
        error.errno = scanner.read_errno
        raise error
    if fault == Fault.TOO_MANY_MEMBERS:
        raise LimitExceededError(
            f"there are more members than Limits.max_members = {limits.max_members}", archive=archive
        )
    if fault == Fault.TOO_MANY_BYTES:
        room, limit = limits.index_room(source.size)
        raise LimitExceededError(
            f"its index takes more than the {room} bytes that {limit} allows a file of {source.size} bytes; raise that "
            "for an archive that you trust",
            archive=archive,
        )
    if fault == Fault.UNKNOWN_SPARSE:
        raise UnsupportedFeatureError(
            f"a member is sparse in a way that is not known {where}; extract it with GNU tar", archive=archive
        )
    kind = LimitExceededError if fault in _BOUNDS else CorruptArchiveError
    raise kind(f"{_FAULTS[Fault(fault)]} {where}", archive=archive)


def _check_names(columns: dict[str, Any], archive: str) -> None:
    blob = bytes(columns["names"])
    offsets = np.frombuffer(columns["name_offset"], np.uint64).tolist()
    for begin, end in itertools.pairwise(offsets):
        name = blob[begin:end].decode("utf-8", "surrogatepass")
        reason = names.objection(name)
        if reason is not None:
            raise CorruptArchiveError(reason, archive=archive, member=name)
