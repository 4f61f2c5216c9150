"""libdeflate: whole-buffer DEFLATE, zlib and gzip, with the interface of the PyPI package ``deflate``.

>>> from archivestream import deflate
>>> packed = deflate.gzip_compress(b"hello world!" * 1000, 6)
>>> bytes(deflate.gzip_decompress(packed)) == b"hello world!" * 1000
True

The GIL is released around the work, and every function is safe for any number of threads. Buffers must be
contiguous; they must not be changed meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from archivestream._native import codecs

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Buffer: TypeAlias = ReadableBuffer

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


class DeflateError(Exception):
    """Compressing or decompressing failed."""


def crc32(data: Buffer, initial: int = 0, /) -> int:
    """Return the CRC-32 of a buffer, going on from `initial`."""
    return codecs.crc32(_bytes(data), initial)


def adler32(data: Buffer, initial: int = 1, /) -> int:
    """Return the Adler-32 of a buffer, going on from `initial`."""
    return codecs.adler32(_bytes(data), initial)


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


def deflate_decompress(
    data: Buffer, originalsize: int | None = None, *, bufsize: int | None = None
) -> bytearray:
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
        What the stream holds, which may be less than `originalsize`.

    Raises
    ------
    DeflateError
        If the stream is damaged, or holds more than `originalsize` bytes.
    """
    return _decompress(data, _one_of(originalsize, bufsize), _RAW)


def zlib_decompress(
    data: Buffer, originalsize: int | None = None, *, bufsize: int | None = None
) -> bytearray:
    """Decompress a zlib stream (RFC 1950) and check its Adler-32; see `deflate_decompress`."""
    return _decompress(data, _one_of(originalsize, bufsize), _ZLIB)


def gzip_decompress(
    data: Buffer, originalsize: int = 0, *, bufsize: int | None = None
) -> bytearray:
    """Decompress the first member of gzip data (RFC 1952) and check its CRC-32.

    Parameters
    ----------
    data : bytes-like
        The stream; bytes after its end are passed over.
    originalsize, bufsize : int, optional
        How many bytes it holds at the most; two names of one argument. Default: what the last four bytes say.

    Raises
    ------
    ValueError
        If it is no gzip data, or says of itself that it holds more than it can.
    DeflateError
        If the stream is damaged, or holds more than `originalsize` bytes.
    """
    size = _one_of(originalsize or None, bufsize, needed=False)
    view = _bytes(data)
    if not size:
        if len(view) < 18 or view[:2] != b"\x1f\x8b":
            raise ValueError("Invalid gzip data")
        size = int.from_bytes(view[-4:], "little")
        if size > 1032 * len(view):
            raise ValueError(f"Invalid gzip data: {len(view)} bytes cannot hold {size}")
    return _decompress(view, size, _GZIP)


def _bytes(data: Buffer) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("the buffer is not C-contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _one_of(originalsize: int | None, bufsize: int | None, needed: bool = True) -> int:
    if originalsize is not None and bufsize is not None:
        raise TypeError("originalsize and bufsize are two names of one argument")
    size = bufsize if originalsize is None else originalsize
    if size is None:
        if needed:
            raise TypeError("missing required argument 'originalsize'")
        return 0
    if size < 0:
        raise ValueError(f"originalsize must not be negative, is {size}")
    return size


def _compress(data: Buffer, level: int, wrapper: int) -> bytearray:
    if not -1 <= level <= 12:
        raise ValueError("compresslevel must be between -1 (default) and 12")
    packed = codecs.compress(_bytes(data), level, wrapper)
    if packed is None:
        raise DeflateError("Compression failed")
    return packed


def _decompress(data: Buffer, size: int, wrapper: int) -> bytearray:
    result, _ = codecs.decompress(_bytes(data), size, wrapper)
    if isinstance(result, bytearray):
        return result
    if result == codecs.Status.TOO_MANY_BYTES:
        raise DeflateError(f"Decompression failed: the data hold more than {size} bytes")
    raise DeflateError("Decompression failed: the data are damaged")
