"""What tells an archive from another, and from what it was before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TypeAlias

from archivestream._native.codecs import crc32
from archivestream.sources import Source
from archivestream.sources.gzip import GzipSource

__all__ = ["describe", "identify", "whole_crc32"]

Progress: TypeAlias = Callable[[int, int], object]

_ENDS = 64 << 10  # bytes at each end
_PIECE = 1 << 20


def whole_crc32(source: Source, progress: Progress | None = None) -> int:
    """Read all of a source, for its CRC-32; `progress` is told the bytes that are done, and of how many."""
    buffer = bytearray(min(_PIECE, source.size))
    view = memoryview(buffer)
    crc = done = 0
    while done < source.size and (got := source.readinto_at(done, view)):
        crc = crc32(view[:got], crc)
        done += got
        if progress is not None:
            progress(done, source.size)
    return crc


def describe(source: Source) -> dict[str, str]:
    """Describe a source: its size, the hash of its ends, and the time of modification where it has one."""
    ends = hashlib.blake2b(source.read_at(0, _ENDS), digest_size=32)
    ends.update(source.read_at(max(0, source.size - _ENDS), _ENDS))
    found = {"archive_size": str(source.size), "archive_ends": ends.hexdigest()}
    if source.descriptor >= 0:
        found["archive_mtime_ns"] = str(os.fstat(source.descriptor).st_mtime_ns)
    return found


def identify(source: Source) -> bytes | None:
    """Tell a source, as it is now, from all others on this machine; None where nothing does but the object itself.

    A file is told by where it lies and when it was last changed, which no user can set (stat(2), ctime); bytes by
    their hash.
    """
    if isinstance(source, GzipSource):
        source = source.base
    if source.descriptor >= 0:
        found = os.fstat(source.descriptor)
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return hashlib.blake2b(repr(state).encode(), digest_size=16).digest()
    if source.memory is not None:
        return hashlib.blake2b(source.memory, digest_size=16).digest()
    return None
