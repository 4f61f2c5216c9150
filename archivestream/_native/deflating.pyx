# distutils: language = c++
"""DEFLATE for the packers: whole streams, and segments of a stream that can each be decoded alone.

libdeflate makes whole streams only. A segment is one whose last block is not marked as such (RFC 1951, 3.2.3) and
which an empty stored block ends on a byte boundary, as zlib's full flush does: segments one after the other, and a
whole stream behind them, are one stream again.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from archivestream._native.codecs cimport deflate_bound, deflate_into

cdef extern from "deflate_blocks.hpp" namespace "archivestream":
    cdef cppclass BlockWalker:
        BlockWalker(const uint8_t *data, size_t size) except +
        bint find_last(uint64_t *begin, uint64_t *end) nogil

cdef enum:
    FLUSH = 5       # bytes of an empty stored block, at most: its header may need a byte of its own (3.2.4)
    MARGIN = 8      # what the walker may read behind the stream


def deflate(const unsigned char[::1] data not None, int level, bint last=True):
    """Compress to a DEFLATE stream; where it is not the last one of a member, to a segment of one.

    Parameters
    ----------
    data : bytes-like
        What to compress.
    level : int
        From 0 (stored) to 12.
    last : bool
        Whether the stream ends here.

    Raises
    ------
    MemoryError
        If there is no memory for it.
    """
    cdef size_t size = data.shape[0]
    cdef uint8_t nothing = 0
    cdef const uint8_t *start = &data[0] if size else &nothing
    cdef size_t bound = deflate_bound(level, size)
    cdef size_t written
    cdef uint8_t *target
    cdef BlockWalker *walker
    output = PyByteArray_FromStringAndSize(NULL, bound + FLUSH + MARGIN)
    target = <uint8_t *> PyByteArray_AS_STRING(output)
    with nogil:
        written = deflate_into(level, start, size, target, bound)
    if written == 0:
        raise MemoryError("no memory for a compressor")
    if not last:
        walker = new BlockWalker(target, written)
        try:
            with nogil:
                written = to_segment(walker, target, written)
        finally:
            del walker
        if written == 0:
            raise RuntimeError("libdeflate made a stream that is none")
    PyByteArray_Resize(output, written)
    return output


cdef size_t to_segment(BlockWalker *walker, uint8_t *stream, size_t size) noexcept nogil:
    """Unmark the last block of a stream and append an empty stored one; return the new size, or 0."""
    cdef uint64_t begin = 0
    cdef uint64_t end = 0
    if not walker.find_last(&begin, &end):
        return 0
    stream[begin >> 3] &= <uint8_t> ~(1 << (begin & 7))
    if 8 * <uint64_t> size - end < 3:
        stream[size] = 0        # the three bits of its header do not fit the last byte
        size += 1
    memcpy(stream + size, b"\x00\x00\xff\xff", 4)
    return size + 4
