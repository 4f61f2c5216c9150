"""libdeflate: whole-buffer DEFLATE, zlib and gzip, as in the PyPI package ``deflate``.

>>> from archivestream import deflate
>>> packed = deflate.gzip_compress(b"hello world!" * 1000, 6)
>>> bytes(deflate.gzip_decompress(packed)) == b"hello world!" * 1000
True

The GIL is released around the work, and every function is safe for any number of threads. Data can
be any contiguous buffer; it must not be changed meanwhile.

Where that package is trusting, this one checks: a stream is decoded and verified even where no
bytes are expected of it, and no more memory is taken than the stream can fill.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from archivestream._native import codecs

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

    # Before Python 3.12, type checkers do not see that an array is a buffer.
    Buffer: TypeAlias = ReadableBuffer | NDArray[Any]

__all__ = [
    "DeflateError",
    "adler32",
    "crc32",
    "deflate_compress",
    "deflate_decompress",
    "gzip_compress",
    "gzip_decompress",
    "zlib_compress",
    "zlib_decompress",
]

_RAW, _ZLIB, _GZIP = 0, 1, 2

# What libdeflate makes of -1; a system's older one does not know that number.
_DEFAULT_LEVEL = 6


class DeflateError(Exception):
    """Compressing or decompressing failed."""


def crc32(data: Buffer, initial: int = 0) -> int:
    """Return the CRC-32 of a buffer, going on from `initial` (its lower 32 bits)."""
    return codecs.crc32(_bytes_of(data), initial & 0xFFFFFFFF)


def adler32(data: Buffer, initial: int = 1) -> int:
    """Return the Adler-32 of a buffer, going on from `initial` (its lower 32 bits)."""
    return codecs.adler32(_bytes_of(data), initial & 0xFFFFFFFF)


def deflate_compress(data: Buffer, compresslevel: int = -1) -> bytearray:
    """Compress to a raw DEFLATE stream (RFC 1951).

    Parameters
    ----------
    data : bytes-like
        What to compress.
    compresslevel : int
        -1 (the default level, 6), 0 (stored) or 1 to 12.

    Raises
    ------
    ValueError
        If there is no such level.
    """
    return _compress(data, compresslevel, _RAW)


def zlib_compress(data: Buffer, compresslevel: int = -1) -> bytearray:
    """Compress to a zlib stream (RFC 1950); see `deflate_compress`."""
    return _compress(data, compresslevel, _ZLIB)


def gzip_compress(data: Buffer, compresslevel: int = -1) -> bytearray:
    """Compress to a gzip member (RFC 1952); see `deflate_compress`."""
    return _compress(data, compresslevel, _GZIP)


def deflate_decompress(data: Buffer, originalsize: int | None = None, *, bufsize: int | None = None) -> bytearray:
    """Decompress a raw DEFLATE stream (RFC 1951).

    Parameters
    ----------
    data : bytes-like
        The stream; bytes after its end are passed over.
    originalsize, bufsize : int
        How many bytes it holds at the most; two names of one argument, of which one must be given.

    Returns
    -------
    bytearray
        What the stream holds, which may be less than `originalsize`. No data and a size of 0 make
        an empty one, too.

    Raises
    ------
    DeflateError
        If the stream is damaged, or holds more than `originalsize` bytes.
    """
    return _decompress(data, _one_of(originalsize, bufsize), _RAW)


def zlib_decompress(data: Buffer, originalsize: int | None = None, *, bufsize: int | None = None) -> bytearray:
    """Decompress a zlib stream (RFC 1950) and check its Adler-32; see `deflate_decompress`."""
    return _decompress(data, _one_of(originalsize, bufsize), _ZLIB)


def gzip_decompress(data: Buffer, originalsize: int = 0, *, bufsize: int | None = None) -> bytearray:
    """Decompress the first member of gzip data (RFC 1952) and check its CRC-32.

    Parameters
    ----------
    data : bytes-like
        The member; bytes after its end are passed over.
    originalsize, bufsize : int, optional
        How many bytes it holds at the most; two names of one argument. Default, or 0: what the last
        four bytes of the data say, which is right where nothing follows the member.

    Raises
    ------
    ValueError
        If no size is given, and the data do not begin as gzip data do.
    DeflateError
        If the member is damaged, or holds more than `originalsize` bytes.
    """
    size = _one_of(originalsize or None, bufsize or None, default=0)
    view = _bytes_of(data)
    if not size:
        # 10 bytes of header, at least 2 of DEFLATE (an empty block), 4 of CRC and 4 of size
        if len(view) < 20 or bytes(view[:2]) != b"\x1f\x8b":
            raise ValueError("Invalid gzip data")
        size = int.from_bytes(view[-4:], "little")
    return _decompress(view, size, _GZIP)


def _bytes_of(data: Any) -> memoryview:
    # By way of NumPy, which takes any contiguous buffer: memoryview.cast knows only some formats.
    return np.frombuffer(data, np.uint8).data


def _one_of(originalsize: int | None, bufsize: int | None, default: int | None = None) -> int:
    if originalsize is not None and bufsize is not None:
        raise TypeError("originalsize and bufsize are two names of one argument")
    size = bufsize if originalsize is None else originalsize
    if size is None:
        size = default
    if size is None:
        raise TypeError("missing required argument 'originalsize'")
    if size < 0:
        raise ValueError(f"originalsize must not be negative, is {size}")
    return size


def _compress(data: Buffer, level: int, wrapper: int) -> bytearray:
    view = _bytes_of(data)
    level = index(level)
    if not -1 <= level <= 12:
        raise ValueError("compresslevel must be between -1 (default) and 12")
    packed = codecs.compress(view, _DEFAULT_LEVEL if level == -1 else level, wrapper)
    if packed is None:
        raise DeflateError("Compression failed")
    return packed


def _decompress(data: Buffer, size: int, wrapper: int) -> bytearray:
    view = _bytes_of(data)
    if wrapper != _GZIP and not size and not len(view):
        return bytearray()  # nothing in, nothing out, as in that package
    result, _ = codecs.decompress(view, min(size, codecs.DEFLATE_EXPANSION * len(view)), wrapper)
    if isinstance(result, bytearray):
        return result
    if result == codecs.Status.TOO_MANY_BYTES:
        raise DeflateError(f"Decompression failed: the data hold more than {size} bytes")
    if result == codecs.Status.NO_MEMORY:
        raise MemoryError("no memory for a decompressor")
    raise DeflateError("Decompression failed: the data are damaged")
