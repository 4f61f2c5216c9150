"""The compression methods of ZIP that Python decodes: bzip2, LZMA and xz, and LZ4 where its package is installed.

They are rare, and but for LZ4 slow whatever decodes them; the native codecs are those that matter for speed.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol

from archivestream._native.codecs import Codec, Status, crc32

__all__ = ["FALLBACKS", "BadHeader", "WindowTooLarge", "decodable", "decode"]


class Decompressor(Protocol):
    """What `bz2` and `lzma` offer."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class BadHeader(Exception):
    """The first bytes of a stream are not those of its codec."""


class WindowTooLarge(Exception):
    """A decoder would take more memory than the limit."""


def _lzma1(head: bytes, size: int, max_window: int) -> tuple[Decompressor, int]:
    """Make a decoder of method 14 (APPNOTE 5.8.8): two bytes of version, the length of the properties, they."""
    if len(head) < 9 or int.from_bytes(head[2:4], "little") != 5 or head[4] >= 225:
        raise BadHeader
    properties = head[4]
    # References never reach further back than the first byte, so a larger dictionary than the member is waste.
    dictionary = min(int.from_bytes(head[5:9], "little"), max(size, 4096))
    if dictionary > max_window:
        raise WindowTooLarge
    filters = [
        {
            "id": lzma.FILTER_LZMA1,
            "dict_size": max(dictionary, 4096),
            "lc": properties % 9,
            "lp": properties // 9 % 5,
            "pb": properties // 45,
        }
    ]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters), 9


def _xz(head: bytes, size: int, max_window: int) -> tuple[Decompressor, int]:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=max_window), 0


def _bzip2(head: bytes, size: int, max_window: int) -> tuple[Decompressor, int]:
    return bz2.BZ2Decompressor(), 0


# Those that are decoded piece by piece.
FALLBACKS: Mapping[int, Callable[[bytes, int, int], tuple[Decompressor, int]]] = {
    Codec.BZIP2: _bzip2,
    Codec.LZMA: _lzma1,
    Codec.XZ: _xz,
}


def decodable() -> list[int]:
    """Return the codecs that `decode` handles here, with the packages that are installed."""
    return [*FALLBACKS, *([Codec.LZ4] if find_spec("lz4") else [])]


def decode(
    codec: int, data: bytes, size: int, checksum: int | None, *, strict: bool, max_window: int
) -> bytes | Status:
    """Decode one block: its bytes, or what is wrong with it.

    Parameters
    ----------
    codec : int
        One of `decodable`, or LZ4 all the same.
    data : bytes
        The compressed block.
    size : int
        How many bytes it must hold.
    checksum : int or None
        Their CRC-32; None leaves it unchecked.
    strict : bool
        Refuse bytes after the end of the stream.
    max_window : int
        Most memory for a dictionary, in bytes.
    """
    if not data and not size:
        return Status.BAD_CHECKSUM if checksum else b""  # declared empty, with no stream to say so
    decoded = _unlz4(data, size) if codec == Codec.LZ4 else _decode_stream(codec, data, size, strict, max_window)
    if checksum is not None and not isinstance(decoded, Status) and crc32(decoded) != checksum:
        return Status.BAD_CHECKSUM
    return decoded


def _unlz4(data: bytes, size: int) -> bytes | Status:
    """Decode one block (LZ4 Block Format), which knows neither its size nor its end: nothing may be left over.

    So DareBlopy 0.0.5 reads method 30 (fsal, ``ZipArchive.cpp``): no size in front, no frame.
    """
    try:
        import lz4.block
    except ImportError:
        return Status.PACKAGE_MISSING
    try:
        decoded: bytes = lz4.block.decompress(data, uncompressed_size=size)
    except MemoryError:
        return Status.NO_MEMORY
    except (lz4.block.LZ4BlockError, OverflowError):  # a block has less than 2 GiB
        return Status.BAD_DATA
    return decoded if len(decoded) == size else Status.TOO_FEW_BYTES


def _decode_stream(codec: int, data: bytes, size: int, strict: bool, max_window: int) -> bytes | Status:
    # An LZMA stream may end without a mark (APPNOTE 4.4.4, bit 1): then it is the size that ends it, and what a
    # decoder makes of the rest is noise. The others end themselves, so one byte more can be asked for.
    room = size if codec == Codec.LZMA else size + 1
    try:
        decompressor, start = FALLBACKS[codec](data[:9], size, max_window)
        decoded = decompressor.decompress(data[start:], room) if room else b""
        while len(decoded) < room and not decompressor.eof and not decompressor.needs_input:
            more = decompressor.decompress(b"", room - len(decoded))
            if not more:
                break
            decoded += more
    except BadHeader:
        return Status.BAD_DATA
    except MemoryError:
        return Status.NO_MEMORY
    except WindowTooLarge:
        return Status.WINDOW_TOO_LARGE
    except lzma.LZMAError as error:
        return Status.WINDOW_TOO_LARGE if "limit" in str(error) else Status.BAD_DATA
    except (OSError, EOFError, ValueError):
        return Status.BAD_DATA
    if len(decoded) != size:
        return Status.TOO_FEW_BYTES if len(decoded) < size else Status.TOO_MANY_BYTES
    if strict and decompressor.eof and decompressor.unused_data:
        return Status.TRAILING_BYTES
    if not decompressor.eof and codec != Codec.LZMA:
        return Status.BAD_DATA
    return decoded
