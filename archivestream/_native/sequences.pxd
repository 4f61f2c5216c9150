from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from archivestream._native.codecs cimport Status
from archivestream._native.entropy cimport Entropy

cdef enum:
    # Readable bytes that the bit reader wants before and behind the bits.
    BITS_MARGIN = 16


# Where the parts of a compressed block lie.
cdef struct Sections:
    uint32_t count                  # sequences
    uint16_t huffman_size           # 0: no new table
    const uint8_t *huffman
    bint treeless
    uint8_t[3] modes
    uint16_t[3] sizes
    const uint8_t *descriptions[3]
    const uint8_t *bits
    size_t bits_size


# Which bytes before the segment its matches read: bit `size - n` is the n-th byte before its beginning.
cdef struct Window:
    uint64_t *bitmap                # NULL: not asked for
    uint64_t size                   # bits, a multiple of 64
    uint64_t available              # bytes there are
    uint64_t at                     # how far the segment has been decoded


cdef Status parse_sections(const uint8_t *content, size_t size, Sections *sections) noexcept nogil
cdef Status take_tables(Entropy *entropy, const Sections *sections) noexcept nogil
cdef Status follow_sequences(
    Entropy *entropy, const Sections *sections, const uint8_t *bits, Window *window) noexcept nogil
