"""ZIP: find the central directory and turn it into an index.

Sections are those of PKWARE's APPNOTE.TXT 6.3.10. The records at the end of an archive (little-endian)::

    end of central directory, 4.3.16       ZIP64 end of central directory, 4.3.14
     0  u32 signature 50 4B 05 06           0  u32 signature 50 4B 06 06
     4  u16 number of this disk             4  u64 size of what follows this field
     6  u16 disk of the directory          12  u16 version made by, 14 u16 version needed
     8  u16 entries on this disk           16  u32 number of this disk
    10  u16 entries in all                 20  u32 disk of the directory
    12  u32 size of the directory          24  u64 entries on this disk
    16  u32 offset of the directory        32  u64 entries in all
    20  u16 length of the comment          40  u64 size of the directory
    22  comment                            48  u64 offset of the directory

    ZIP64 locator, 4.3.15, right before the end record
     0  u32 signature 50 4B 06 07           8  u64 offset of the ZIP64 record
     4  u32 disk of that record            16  u32 number of disks
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from archivestream._native.zipextra import Fault
from archivestream._native.zipscan import DirectoryScanner
from archivestream.errors import CorruptArchiveError, LimitExceededError, UnsupportedFeatureError
from archivestream.formats import names, zip_segments, zip_strict
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = ["read_index"]

_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_SIGNATURE = b"PK\6\6"
_LOCATOR = struct.Struct("<4sLQL")
_LOCATOR_SIGNATURE = b"PK\6\7"
_LOCAL = struct.Struct("<4s14xL4x2H")  # 4.3.7: signature, compressed size, lengths of the name and the extra field
_LOCAL_SIGNATURE = b"PK\3\4"
_INNER_SIGNATURES = b"PK\1\2", b"PK\3\4", b"PK\7\x08"  # directory, member, data descriptor
_LONGEST_COMMENT = 0xFFFF
_MOST_HEADERS = 1 << 16  # that are followed one by one
_CHUNK = 4 << 20

_FAULTS = {
    Fault.BAD_SIGNATURE: "there is no central directory header where one must be",
    Fault.BAD_EXTRA: "an extra field in the central directory runs past its end",
    Fault.SHORT_ZIP64: "a ZIP64 extra field lacks a value that its header refers to",
    Fault.SECOND_ZIP64: "a header has two ZIP64 extra fields: its values are ambiguous",
    Fault.BAD_UNICODE_PATH: "a Unicode Path extra field is too short or not UTF-8",
    Fault.TOO_MANY: "there are more members than can be counted",
    Fault.MORE: "the central directory ends within a header",
}


@dataclass(frozen=True)
class Directory:
    """Where the central directory of an archive lies, and what the end records say of it."""

    start: int
    size: int
    count: int
    prefix: int  # what to add to the offsets in the directory
    disagreements: tuple[str, ...]  # what only strict mode minds


def read_index(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    progress: Callable[[int, int], object] | None,
) -> Index | None:
    """Read the central directory of a ZIP, or return None; see `archivestream.formats.read_index`."""
    end = _find_end(source)
    if end is None:
        return None
    directory = _find_directory(source, *end)
    if directory.size > limits.max_index_bytes:
        raise LimitExceededError(
            f"the central directory has {directory.size} bytes, more than "
            f"Limits.max_index_bytes = {limits.max_index_bytes}",
            archive=source.name,
        )
    # Names of ASCII bytes alone mean something else in an encoding that does not contain ASCII.
    odd = metadata_encoding is not None and not names.contains_ascii(metadata_encoding)
    columns = _scan(source, directory, limits, odd, progress)
    if metadata_encoding is not None:
        names.decode_names(columns, metadata_encoding, source.name)
    if "segment_fields" in columns:
        zip_segments.add_segments(columns)
    index = Index(columns, data_end=[directory.start])
    if _lies_in_a_member(source, directory, int(index["offset"].min(initial=directory.start))):
        raise CorruptArchiveError(
            "the only directory is that of an archive within the archive: the file was truncated", archive=source.name
        )
    if strict:
        disagreements = list(directory.disagreements)
        if directory.count != len(index):
            disagreements.append(f"the end record counts {directory.count} entries, and there are {len(index)}")
        zip_strict.check(source, index, directory.start, directory.size, disagreements)
    return index


def _find_end(source: Source) -> tuple[int, bytes] | None:
    """Find the last end record: (its offset, the bytes from there to the end of the file)."""
    size = min(source.size, _END.size + _LONGEST_COMMENT)
    tail = bytes(source.read_at(source.size - size, size))
    at = tail.rfind(_END_SIGNATURE, 0, max(0, len(tail) - _END.size + len(_END_SIGNATURE)))
    return None if at < 0 else (source.size - size + at, tail[at:])


def _find_directory(source: Source, at: int, record: bytes) -> Directory:
    """Find the central directory from the end record, whose bytes and those behind it are given."""

    def corrupt(message: str) -> CorruptArchiveError:
        return CorruptArchiveError(message, archive=source.name)

    fields = _END.unpack_from(record)
    _, disk, directory_disk, count_here, count, size, offset, comment = fields
    if comment > len(record) - _END.size:
        # Looking further back would let a comment choose the directory (CVE-2024-24789).
        raise corrupt("the archive comment runs past the end of the file")
    after = record[_END.size + comment :][:4]
    if after and any(signature.startswith(after) for signature in _INNER_SIGNATURES):
        # The end record of an archive that is a member, at the end of what is left of the whole.
        raise corrupt("more of a ZIP follows its end record: the file was truncated")
    disagreements = []
    if len(record) - _END.size > comment:
        disagreements.append(f"{len(record) - _END.size - comment} bytes follow the end of the archive")
    if _END_SIGNATURE in record[4:]:
        disagreements.append("there is a second end of central directory record in the comment")
    end = at
    record64 = _find_end64(source, at, fields)
    if record64 is not None:
        end, values = record64
        _, _, made_by, needed, disk64, directory_disk64, *rest = values
        count_here64, count64, size64, offset64 = rest
        if made_by & 0xFF > 63 or needed > 63:
            disagreements.append("the ZIP64 end record is of a version that is not known")
        if any(
            short not in (sentinel, long)
            for short, long, sentinel in (
                (count_here, count_here64, 0xFFFF),
                (count, count64, 0xFFFF),
                (size, size64, 0xFFFFFFFF),
                (offset, offset64, 0xFFFFFFFF),
            )
        ):
            disagreements.append("the end record and the ZIP64 end record disagree")
        # A disk number that is no sentinel counts as it stands, whatever the ZIP64 record says.
        disk = disk64 if disk == 0xFFFF else disk or disk64
        directory_disk = directory_disk64 if directory_disk == 0xFFFF else directory_disk or directory_disk64
        count_here, count, size, offset = count_here64, count64, size64, offset64
    if disk or directory_disk:
        raise UnsupportedFeatureError(
            "the archive spans several disks; join its parts first (zip -s 0)", archive=source.name
        )
    if count_here != count:
        disagreements.append(f"the end record counts {count_here} entries on its disk, {count} in all")
    if size > end:
        raise corrupt("the central directory is larger than the file")
    start = end - size
    if bytes(source.read_at(start, 4)) not in (b"PK\1\2", _END_SIGNATURE, _END64_SIGNATURE):
        raise corrupt(_FAULTS[Fault.BAD_SIGNATURE])
    prefix = start - offset
    if record64 is not None and not 0 <= prefix == end - _offset_of_end64(source, at):
        raise corrupt("the ZIP64 end record and its locator contradict each other")
    return Directory(start, size, count, prefix, tuple(disagreements))


def _lies_in_a_member(source: Source, directory: Directory, first: int) -> bool:
    """Whether the archive that was found, whose first member is at `first`, is itself data of a stored member."""
    at = 0
    for _ in range(_MOST_HEADERS):
        if at >= first:
            break
        header = source.read_at(at, _LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_SIGNATURE):
            return False  # something else stands in front, or a whole archive
        size, name, extra = _LOCAL.unpack(header)[-3:]
        if size == 0xFFFFFFFF:  # the ZIP64 field is all that an extra field needs here: 4.5.3
            field = source.read_at(at + _LOCAL.size + name, 20)
            size = int.from_bytes(field[12:20], "little") if field.startswith(b"\1\0") else 0
        at += _LOCAL.size + name + extra + size
    return at > directory.start + directory.size


def _offset_of_end64(source: Source, end: int) -> int:
    offset: int = _LOCATOR.unpack(source.read_at(end - _LOCATOR.size, _LOCATOR.size))[2]
    return offset


def _find_end64(source: Source, end: int, fields: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]] | None:
    """Find the ZIP64 end record that belongs to the end record at `end`: (its offset, its fields)."""
    _, disk, directory_disk, _, count, size, offset, _ = fields
    needed = 0xFFFF in (disk, directory_disk) or 0xFFFFFFFF in (size, offset)
    at = end - _LOCATOR.size
    locator = source.read_at(at, _LOCATOR.size) if at >= 0 else b""
    if not locator.startswith(_LOCATOR_SIGNATURE):
        if 0xFFFF in (disk, directory_disk):
            raise CorruptArchiveError("the end record refers to a ZIP64 record, and there is none", archive=source.name)
        return None  # 0xFFFF entries are just that many; sizes are checked against the file
    if not needed and 0 < size <= end - offset and source.read_at(end - size, 4) == b"PK\1\2":
        # The directory reaches to the end record, so what looks like a locator is a name or a comment in it.
        return None
    _, record_disk, record_offset, disks = _LOCATOR.unpack(locator)
    # Where the locator says; or, with bytes in front of the archive that it does not count, right before it.
    places = {record_offset, at - _END64.size}
    found = [
        (place, _END64.unpack(record))
        for place in sorted(places)
        if 0 <= place <= at - _END64.size
        and (record := bytes(source.read_at(place, _END64.size))).startswith(_END64_SIGNATURE)
    ]
    if len(found) > 1:
        raise CorruptArchiveError("there are two ZIP64 end records", archive=source.name)
    for place, values in found:
        if at - place - 12 != values[1]:
            raise CorruptArchiveError("the ZIP64 end record does not reach to its locator", archive=source.name)
        if record_disk or disks > 1:
            raise UnsupportedFeatureError(
                "the archive spans several disks; join its parts first (zip -s 0)", archive=source.name
            )
        if count not in (0xFFFF, values[7] & 0xFFFF):
            raise CorruptArchiveError(
                f"the end record counts {count} entries, the ZIP64 end record {values[7]}",
                archive=source.name,
            )
        return place, values
    if needed:
        raise CorruptArchiveError("the ZIP64 end record is not where its locator says", archive=source.name)
    return None  # a name or a comment that looks like a locator


def _scan(
    source: Source,
    directory: Directory,
    limits: Limits,
    keep_raw: bool,
    progress: Callable[[int, int], object] | None,
) -> dict[str, Any]:
    """Read the directory piece by piece into columns."""
    scanner = DirectoryScanner(directory.size, directory.prefix, keep_raw)
    chunk = memoryview(bytearray(min(directory.size, _CHUNK)))
    done = 0
    while done < directory.size:
        want = min(len(chunk), directory.size - done)
        got = source.readinto_at(directory.start + done, chunk[:want])
        if got < want:
            raise CorruptArchiveError("the file ends within the central directory", archive=source.name)
        consumed, fault = scanner.feed(chunk[:want])
        done += consumed
        if fault == Fault.OUT_OF_MEMORY:
            raise MemoryError("no memory for the names of the members")
        if fault != Fault.MORE or (consumed == 0 and done < directory.size):
            raise CorruptArchiveError(
                f"{_FAULTS[Fault(fault)]} (entry {scanner.count}, offset {directory.start + done})",
                archive=source.name,
            )
        if scanner.count > limits.max_members:
            raise LimitExceededError(
                f"there are more members than Limits.max_members = {limits.max_members}",
                archive=source.name,
            )
        if progress is not None:
            progress(done, directory.size)
    # 16 bits count to 65,535; archives with more and no ZIP64 record exist, and hold the count modulo 65,536.
    # Readers at large look at no more bits of a ZIP64 count, either.
    if (scanner.count - directory.count) & 0xFFFF:
        raise CorruptArchiveError(
            f"the end record counts {directory.count} entries, and the central directory holds {scanner.count}",
            archive=source.name,
        )
    return dict(scanner.finish())
