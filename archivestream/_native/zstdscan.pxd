from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.codecs cimport Status
from archivestream._native.loads cimport u32

cdef enum:
    LARGEST_FRAME_HEADER = 18       # bytes, with the magic number
    SKIPPABLE_HEADER = 8            # bytes, with the magic number
    BLOCK_HEADER = 3                # bytes
    LARGEST_BLOCK = 128 << 10       # what a block decodes to, and what it holds, at most

cdef enum BlockType:
    RAW_BLOCK = 0
    RLE_BLOCK = 1
    COMPRESSED_BLOCK = 2
    RESERVED_BLOCK = 3


cdef struct FrameHeader:
    size_t size                 # bytes of the header
    uint64_t window             # how far back matches may reach
    uint64_t content_size
    uint32_t dictionary_id      # 0: none
    uint8_t window_byte         # the Window_Descriptor of the smallest window that holds `window`
    bint has_content_size
    bint has_checksum


cdef Status parse_frame_header(const uint8_t *data, size_t available, FrameHeader *header) noexcept nogil
cdef uint64_t window_of(uint8_t window_byte) noexcept nogil


# 3.1.1: the magic numbers.
cdef inline bint is_frame(const uint8_t *data) noexcept nogil:
    return u32(data) == 0xFD2FB528U


cdef inline bint is_skippable(const uint8_t *data) noexcept nogil:
    return u32(data) & 0xFFFFFFF0U == 0x184D2A50U


# 3.1.1.2: Last_Block is bit 0, Block_Type bits 1 and 2, Block_Size the other 21.
cdef inline bint is_last(const uint8_t *block) noexcept nogil:
    return block[0] & 1


cdef inline BlockType type_of(const uint8_t *block) noexcept nogil:
    return <BlockType> (block[0] >> 1 & 3)


cdef inline uint32_t block_size(const uint8_t *block) noexcept nogil:
    return (block[0] | (block[1] << 8) | (block[2] << 16)) >> 3


cdef inline uint32_t span_of_block(const uint8_t *block) noexcept nogil:
    """Bytes that a block takes in the file, with its header: one of content where it repeats a byte."""
    return BLOCK_HEADER + (1 if type_of(block) == RLE_BLOCK else block_size(block))
