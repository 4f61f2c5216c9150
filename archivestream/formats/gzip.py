"""gzip (RFC 1952): a tar, records or a single file, compressed; and zlib streams (RFC 1950) of records.

The first open decodes all of it once, finds the members, and makes the index that later reads go by. That takes as
long as rapidgzip does: some 400 MB of decoded bytes a second, in parallel from four threads on. What does not end as
one member does, and in strict mode every file, is decoded a second time, on one thread, for the lengths of members
that rapidgzip does not check.

A member of a file (2.3)::

     0  1F 8B 08                            10  u16 length and extra field, if bit 2 of the flags
     3  u8 flags                             .  name in Latin-1, up to a zero, if bit 3
     4  u32 time of modification (Unix)      .  comment, up to a zero, if bit 4
     8  u8 extra flags                       .  u16 CRC of the header, if bit 1
     9  u8 operating system                  .  the deflate stream
                                             .  u32 CRC-32, u32 size modulo 2**32 (ISIZE)

A zlib stream has two bytes in front, and the Adler-32 of what it decodes to behind it, which rapidgzip does not check.

What the stream decodes to is cut into blocks of 256 KiB, each with a CRC-32 that every later read is checked with.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from archivestream._native.codecs import DEFLATE_EXPANSION, Codec, adler32, crc32
from archivestream._native.columns import BlockFlag, Layout
from archivestream.columns import DTYPES
from archivestream.errors import CorruptArchiveError, UnsupportedFeatureError
from archivestream.fingerprint import whole_crc32
from archivestream.formats.content import Content, single_member
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import Source
from archivestream.sources.gzip import GzipDecoder, GzipSource
from archivestream.threads import processors

__all__ = ["SIGNATURE", "open_decoded", "read_index"]

SIGNATURE = b"\x1f\x8b"
_FEXTRA, _FNAME = 4, 8
_HEAD = struct.Struct("<3sBL2x")
_END = struct.Struct("<Q")  # in front of the seek points: where the last member of the file ends
_LONGEST_HEADER = 128 << 10  # of which a name is looked for
_BLOCK = 256 << 10
_STEP = 4 * _BLOCK  # decoded at a time
_PIECE = 256 << 10
_SMALLEST_STEP = 512
_SUFFIXES = {".gz": "", ".tgz": ".tar", ".taz": ".tar"}

Progress: TypeAlias = Callable[[int, int], object]


def read_index(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    threads: int | None,
    progress: Progress | None,
) -> tuple[Index, GzipSource, int]:
    """Decode a gzip file once, and index it; see `archivestream.formats.read_index`.

    Returns
    -------
    Index, GzipSource, int
        Of the decoded stream; that stream; and the CRC-32 of the file.

    Raises
    ------
    CorruptArchiveError
        If anything in the file contradicts the format; in strict mode also where zeros follow the last member.
    ImportError
        If rapidgzip is not installed.
    """

    def decode(end: int, threads: int) -> _Decoded:
        content = Content(source, strict=strict, limits=limits, metadata_encoding=metadata_encoding)
        return _decode(source, end, threads, progress, content)

    end = source.size
    try:
        found = decode(end, threads or processors())
    except CorruptArchiveError as error:
        # Say what is wrong and where; or find where padding begins.
        end = _check_members(source, strict, progress)
        if end == source.size and error.__cause__ is None:  # what it decodes to is wrong
            raise
        try:
            found = decode(end, 1)  # which reads through the source: a read that fails is no damage
        except CorruptArchiveError as again:
            if end != source.size:
                raise
            message = f"zlib decodes it and rapidgzip does not ({again.reason})"
            raise UnsupportedFeatureError(message, archive=source.name) from again
    else:
        # Several members, a wrong one, or something behind a zlib stream. Several may end as one does, which is why
        # strict mode looks at all.
        if strict or not _has_trailer(source, found):
            end = _check_members(source, strict, progress)
            if end != source.size:
                found = decode(end, 1)
    suffix = "gz" if _is_gzip(source) else "zlib"
    columns = _block_columns(found, end)
    if found.members is None:
        modified, in_header = _read_header(source, metadata_encoding)
        name = _name_of(source) or in_header or "data"
        columns |= single_member(name, found.size, crc32=found.crc32, timestamp=_dos_time(modified))
    else:
        columns |= {name: np.frombuffer(data, DTYPES[name]) for name, data in found.members.items()}
    columns["codec"] = np.full(len(columns["size"]), Codec.DEFLATE, np.uint16)
    columns["compressed_size"] = (columns["size"] * (source.size / max(1, found.size))).astype(np.uint64)
    crc = found.base_crc32 if end == source.size and found.base_crc32 is not None else whole_crc32(source)
    index = Index(
        columns,
        data_end=[found.size],
        layouts=[Layout.BLOCKS],
        formats=[suffix if found.kind is None else f"{found.kind}.{suffix}"],
    )
    return index, open_decoded(source, index), crc


def open_decoded(source: Source, index: Index) -> GzipSource:
    """Open what a gzip file decodes to, with the seek points of its index.

    Raises
    ------
    CorruptArchiveError
        If the index, which may come from a file, cannot be of this source.
    """
    saved = index["gzip_index"].tobytes()
    size, sizes = index.data_end[0], index["block_size"]
    if (
        len(saved) < _END.size
        or (end := _END.unpack_from(saved)[0]) > source.size
        or size > DEFLATE_EXPANSION * end
        or sizes.max(initial=0) > _BLOCK
        or not np.array_equal(index["block_compressed_size"], sizes)
    ):
        raise CorruptArchiveError(
            "its saved index does not fit it; delete that, and open it again", archive=source.name
        )
    return GzipSource(source, size, saved[_END.size :], end)


@dataclass(frozen=True)
class _Decoded:
    """What one pass over a file has found."""

    size: int
    crc32: int
    block_crc32: array[int]
    index: bytes
    base_crc32: int | None
    members: Mapping[str, Any] | None
    kind: str | None
    adler32: int


def _decode(
    source: Source,
    end: int,
    threads: int,
    progress: Progress | None,
    content: Content,
) -> _Decoded:
    """Decode a file from its beginning to its end."""
    buffer = bytearray(_STEP)
    crcs = array("I")
    size = crc = 0
    adler = 1
    decoder = GzipDecoder(source, end, threads=threads)
    try:
        with memoryview(buffer) as view:
            while got := decoder.readinto_at(size, view):
                for at in range(0, got, _BLOCK):
                    block = view[at : min(at + _BLOCK, got)]
                    content.take(block)
                    crcs.append(crc32(block))
                    crc = crc32(block, crc)
                    adler = adler32(block, adler)
                size += got
                if progress is not None:
                    progress(min(decoder.position, end), source.size)
        index = decoder.export() if size else b""
        base_crc32 = decoder.base_crc32
    finally:
        decoder.close()
    members = content.finish()
    return _Decoded(size, crc, crcs, index, base_crc32, members, content.kind, adler)


def _is_gzip(source: Source) -> bool:
    return bytes(source.read_at(0, 2)) == SIGNATURE


def _has_trailer(source: Source, found: _Decoded) -> bool:
    """Whether the file ends as its one member does: with CRC-32 and ISIZE, or the Adler-32 of zlib (RFC 1950, 2.2).

    rapidgzip checks neither of the last two; and where the header of another member is damaged, so that it goes on to
    the end of the file, it stops in front of that. The CRC-32 behind it is then that of the other. Some damage it takes
    for the end of the file, and decodes nothing.
    """
    if not found.size:
        return False
    end = bytes(source.read_at(max(0, source.size - 8), 8))
    if _is_gzip(source):
        return end == struct.pack("<2L", found.crc32, found.size & 0xFFFFFFFF)
    return end[-4:] == found.adler32.to_bytes(4, "big")


def _check_members(source: Source, strict: bool, progress: Progress | None) -> int:
    """Decode all members with zlib, which checks what stands behind each; return where the last one ends."""

    def corrupt(message: str) -> CorruptArchiveError:
        return CorruptArchiveError(message, archive=source.name)

    is_gzip = _is_gzip(source)
    what, wbits = ("gzip member", 31) if is_gzip else ("zlib stream", zlib.MAX_WBITS)
    at = begin = number = 0  # of what is read next; of the member; its place among the others
    data = memoryview(b"")
    while True:
        if not data:
            data = memoryview(source.read_at(at, _PIECE))
            at += len(data)
        begin = at - len(data)
        if number and not data:
            return begin
        if number and not (is_gzip and data[: len(SIGNATURE)] == SIGNATURE[: len(data)]):
            return _check_padding(source, begin, strict, what)
        decoder = zlib.decompressobj(wbits)
        step = _SMALLEST_STEP  # the decoder makes a copy of what it leaves: of no more than a small member has
        while not decoder.eof:
            if not data:
                data = memoryview(source.read_at(at, _PIECE))
                at += len(data)
                if not data:
                    raise corrupt(f"the file ends within the {what} at offset {begin}: it was truncated")
                if progress is not None:
                    progress(at, source.size)
            try:
                decoder.decompress(data[:step], _BLOCK)  # no more at a time: what it expands to is of any size
            except zlib.error as error:
                reason = str(error).rpartition(": ")[2]
                raise corrupt(f"the {what} at offset {begin} is damaged: {reason}") from error
            left = len(decoder.unused_data or decoder.unconsumed_tail)  # the former at its end only
            data = data[min(step, len(data)) - left :]
            step = min(2 * step, _PIECE)
        number += 1


def _check_padding(source: Source, begin: int, strict: bool, what: str) -> int:
    """Let zeros stand behind the last member, as tapes leave them and gzip accepts; nothing else."""
    for at in range(begin, source.size, _BLOCK):
        if any(source.read_at(at, _BLOCK)):
            message = f"what follows the last {what}, at offset {begin}, is none"
            raise CorruptArchiveError(message, archive=source.name)
    if strict:
        raise CorruptArchiveError(
            f"{source.size - begin} zero bytes follow the last {what}, at offset {begin}", archive=source.name
        )
    return begin


def _block_columns(found: _Decoded, end: int) -> dict[str, Any]:
    """Cut the decoded stream into blocks, each of which lies in it as it is."""
    m = len(found.block_crc32)
    starts = np.arange(m, dtype=np.uint64) * np.uint64(_BLOCK)
    sizes = np.minimum(np.uint64(_BLOCK), np.uint64(found.size) - starts)
    return {
        "block_start": starts,
        "block_size": sizes,
        "block_offset": starts,
        "block_compressed_size": sizes,
        "block_codec": np.full(m, Codec.STORED, np.uint16),
        "block_flags": np.full(m, BlockFlag.CHECKED_BIT, np.uint16),
        "block_crc32": np.array(found.block_crc32, np.uint32),
        "aux": np.empty(0, np.uint8),
        "aux_offset": np.zeros(m + 1, np.uint64),
        "gzip_index": np.frombuffer(_END.pack(end) + found.index, np.uint8),
    }


def _name_of(source: Source) -> str | None:
    """Return the name of the file without its suffix, as gunzip names what it unpacks."""
    path = getattr(source, "path", None)
    if path is None:
        return None
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() not in _SUFFIXES or not stem:
        return None
    name: str = stem + _SUFFIXES[suffix.lower()]
    return name


def _read_header(source: Source, encoding: str | None) -> tuple[int, str | None]:
    """Read the time of modification and the name in the header of the first member; 0 and None where there are none."""
    head = bytes(source.read_at(0, _LONGEST_HEADER))
    _, flags, modified = _HEAD.unpack_from(head)
    at = _HEAD.size
    if flags & _FEXTRA:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    end = head.find(b"\0", at)
    if not flags & _FNAME or end < 0:
        return modified, None
    name = head[at:end].decode(encoding or "latin-1", "replace")
    return modified, name.rpartition("/")[2] or None  # "with any directory components removed" (2.3.1)


def _dos_time(seconds: int) -> int:
    """Convert Unix time to MS-DOS date and time, which begin with 1980; 0 where it is not known."""
    t = time.gmtime(seconds)
    if t.tm_year < 1980:
        return 0
    return (t.tm_year - 1980) << 25 | t.tm_mon << 21 | t.tm_mday << 16 | t.tm_hour << 11 | t.tm_min << 5 | t.tm_sec >> 1
