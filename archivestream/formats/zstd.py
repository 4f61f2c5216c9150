"""zstd (RFC 8878): a tar or a single file, in one frame or many.

The first open decodes all of it once, on one thread: the members, and the places where decoding can begin, are found in
the same pass, at about two and a half times the cost of decompressing it. A saved index spares that.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from archivestream._native.buffers import Buffer
from archivestream._native.codecs import Codec, Status, crc32
from archivestream._native.columns import Layout
from archivestream._native.frameindex import FrameIndexer
from archivestream._native.zstdscan import check_frame, parse_seek_table, seek_table_size
from archivestream.columns import DTYPES
from archivestream.errors import (
    ArchiveError,
    ArchiveWarning,
    CorruptArchiveError,
    LimitExceededError,
    UnsupportedFeatureError,
)
from archivestream.formats.content import Content, single_member
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = ["is_zstd", "read_index"]

_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # behind a byte 50 to 5F (3.1.2)
_PIECE = 1 << 20
_FOOTER = 9  # of a seek table
_FRAME_HEADER = 18  # bytes, at most
_BUDGET = 0.045  # of the size of the file: with what is spent before the spacing grows, 5 % at the usual levels
_MEMBER_BYTES = 100  # of an index, or so
_KEEP_EVERY = 10.0  # seconds between two savings of what has been found

_FAULTS = {
    Status.BAD_DATA: "its compressed data are damaged",
    Status.BAD_CHECKSUM: "a frame does not have its checksum",
    Status.TRUNCATED: "the file ends within a frame: it was truncated",
    Status.TRAILING_BYTES: "something that is no zstd frame follows",
    Status.TOO_FEW_BYTES: "a frame holds fewer bytes than its header declares",
    Status.TOO_MANY_BYTES: "a frame holds more bytes than its header declares",
}


def is_zstd(head: bytes) -> bool:
    """Whether a file that begins with these bytes is zstd: with a frame, or one to skip."""
    return head.startswith(_FRAME) or (head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50)


def read_index(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    progress: Callable[[int, int], object] | None,
    resume: Mapping[str, Any] | None = None,
    keep: Callable[[Mapping[str, Any]], object] | None = None,
    room: int = 0,
) -> tuple[Index, int, list[Buffer]]:
    """Decode a zstd file once, and index it; see `archivestream.formats.read_index`.

    Parameters
    ----------
    resume : mapping of str to ndarray, optional
        Columns that an interrupted call has kept: they are not made again.
    keep : callable, optional
        Called with such columns from time to time, and if the call is interrupted.
    room : int
        Return what the file decodes to, if it is no more than so many bytes.

    Returns
    -------
    Index, int, list of Buffer
        With the CRC-32 of the file, and what it decodes to, or nothing.
    """
    indexer = FrameIndexer(max_window=limits.max_window_bytes, budget=_BUDGET, resume=resume)
    content = Content(source, strict=strict, limits=limits, metadata_encoding=metadata_encoding)
    try:
        replay = _Replay(source, resume or {})
        crc, decoded = _decode(source, indexer, content, limits, progress, keep, room, replay)
        blocks = indexer.finish()
        if blocks is None:
            raise _fault(indexer, source, limits)
    except BaseException as error:
        if resume is not None and isinstance(error, CorruptArchiveError):
            # It may be the fault of what was kept, from an earlier state of the file.
            return read_index(
                source,
                strict=strict,
                limits=limits,
                metadata_encoding=metadata_encoding,
                progress=progress,
                keep=keep,
                room=room,
            )
        if keep is not None and not isinstance(error, ArchiveError):
            keep(_as_columns(indexer.snapshot()))
        raise
    _check_seek_table(source, strict)
    members = content.finish()
    columns = _as_columns(blocks)
    columns |= single_member(_name_of(source), content.size) if members is None else _as_columns(members)
    columns["codec"] = np.full(len(columns["size"]), Codec.ZSTD, np.uint16)
    columns["compressed_size"] = _shares(columns)
    name = "zst" if content.kind is None else f"{content.kind}.zst"
    index = Index(columns, data_end=[source.size], layouts=[Layout.BLOCKS], formats=[name])
    return index, crc, decoded


def _as_columns(buffers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.frombuffer(data, DTYPES[name]) for name, data in buffers.items()}


def _decode(
    source: Source,
    indexer: FrameIndexer,
    content: Content,
    limits: Limits,
    progress: Callable[[int, int], object] | None,
    keep: Callable[[Mapping[str, Any]], object] | None,
    room: int,
    replay: _Replay,
) -> tuple[int, list[Buffer]]:
    """Decode the whole file; return its CRC-32, and what it decodes to, if there is room for it."""
    buffer = memoryview(bytearray(min(_PIECE, source.size)))
    crc = done = 0
    decoded: list[Buffer] = []
    kept = time.monotonic()
    while done < source.size:
        got = source.readinto_at(done, buffer[: min(len(buffer), source.size - done)])
        if not got:
            raise CorruptArchiveError("the file became shorter while it was read", archive=source.name)
        crc = crc32(buffer[:got], crc)
        indexer.feed(buffer[:got])
        while (piece := indexer.next()) is not None:
            content.take(piece)
            replay.take(memoryview(piece))
            if content.size <= room:
                decoded.append(piece)
            else:
                decoded.clear()
        if indexer.status != Status.OK:
            raise _fault(indexer, source, limits)
        indexer.count(content.members * _MEMBER_BYTES)
        done += got
        if progress is not None:
            progress(done, source.size)
        if keep is not None and time.monotonic() - kept >= _KEEP_EVERY:
            keep(_as_columns(indexer.snapshot()))
            kept = time.monotonic()
    return crc, decoded


class _Replay:
    """Compares what is decoded once more with the blocks that an interrupted call has kept."""

    def __init__(self, source: Source, kept: Mapping[str, Any]) -> None:
        self._source = source
        self._crcs: list[int] = kept["block_crc32"][:-1].tolist() if kept else []  # with the last one, work goes on
        self._sizes: list[int] = kept["block_size"][: len(self._crcs)].tolist() if kept else []
        self._row = self._size = self._crc = 0

    def take(self, piece: memoryview) -> None:
        """Take the next decoded bytes."""
        while self._row < len(self._sizes) and piece:
            part = piece[: self._sizes[self._row] - self._size]
            self._crc = crc32(part, self._crc)
            self._size += len(part)
            piece = piece[len(part) :]
            if self._size == self._sizes[self._row]:
                if self._crc != self._crcs[self._row]:
                    raise CorruptArchiveError(
                        "what an interrupted build has kept is of other bytes", archive=self._source.name
                    )
                self._row, self._size, self._crc = self._row + 1, 0, 0


def _name_of(source: Source) -> str:
    """Return the name of the file without its suffix."""
    name = os.path.basename(source.name)
    return "" if name.startswith("<") else re.sub(r"\.tzst$", ".tar", name.removesuffix(".zst"))


def _shares(columns: Mapping[str, Any]) -> Any:
    """Share the compressed bytes of blocks among the members that lie in them."""
    starts, sizes = columns["block_start"], columns["block_size"]
    if not len(starts):
        return np.zeros(len(columns["size"]), np.uint64)
    bounds = np.append(starts, starts[-1] + sizes[-1])
    compressed = np.concatenate([[0], np.cumsum(columns["block_compressed_size"])])
    begin = columns["offset"]
    end = begin + columns["size"]
    return np.rint(np.interp(end, bounds, compressed) - np.interp(begin, bounds, compressed)).astype(np.uint64)


def _check_seek_table(source: Source, strict: bool) -> None:
    """Compare a seek table with the frames; one that is wrong is an error in strict mode, else not used.

    The frames themselves have been walked by now. What reads them next, and trusts the table, would go wrong.
    """
    try:
        size = seek_table_size(source.read_at(max(0, source.size - _FOOTER), _FOOTER), source.size)
        if not size:
            return
        table = parse_seek_table(source.read_at(source.size - size, size), source.size)
        frames = (
            np.frombuffer(memoryview(table[name]), np.uint64).tolist() for name in ("offset", "compressed_size", "size")
        )
        for offset, compressed_size, decoded in zip(*frames, strict=True):
            head = source.read_at(offset, min(_FRAME_HEADER, compressed_size))
            if not check_frame(head, compressed_size, decoded):
                raise ValueError(f"the frame at offset {offset} is not the one that the seek table lists")
    except CorruptArchiveError:  # of the file itself
        raise
    except ValueError as error:
        if strict:
            raise CorruptArchiveError(f"the seek table is wrong: {error}", archive=source.name) from error
        warnings.warn(
            f"{source.name}: the seek table is wrong, and was not used: {error}", ArchiveWarning, stacklevel=2
        )


def _fault(indexer: FrameIndexer, source: Source, limits: Limits) -> Exception:
    """Make the exception for what is wrong with a file."""
    status = Status(indexer.status)
    if status == Status.NO_MEMORY:
        return MemoryError(f"{source.name}: no memory to decode it")
    if status == Status.WINDOW_TOO_LARGE:
        return LimitExceededError(
            f"a window of {indexer.detail} bytes is more than Limits.max_window_bytes = {limits.max_window_bytes}; "
            "raise the limit to read it",
            archive=source.name,
        )
    if status == Status.DICTIONARY_REQUIRED:
        return UnsupportedFeatureError(
            f"the zstd dictionary {indexer.detail} is required to decode it, and is not in the file",
            archive=source.name,
        )
    if status == Status.UNSUPPORTED_METHOD:
        return UnsupportedFeatureError(
            f"a frame (offset {indexer.offset}) repeats a table in a way that leaves no place to begin decoding; "
            "compress it anew",
            archive=source.name,
        )
    if status == Status.OVER_LIMIT:
        message = "frames that need the dictionary are read whole, and this one is larger than 1 GiB"
        if not indexer.detail:
            message = (
                "it repeats itself over so wide a window that places to begin decoding would take more memory than the "
                "file has bytes"
            )
        return UnsupportedFeatureError(
            f"{message} (offset {indexer.offset}); compress it anew, in frames or with a smaller window",
            archive=source.name,
        )
    reason = _FAULTS.get(status, _FAULTS[Status.BAD_DATA])
    return CorruptArchiveError(f"{reason} (offset {indexer.offset})", archive=source.name)
