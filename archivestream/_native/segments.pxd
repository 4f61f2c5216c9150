from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from archivestream._native.buffers cimport Buffer
from archivestream._native.codecs cimport Status
from archivestream._native.entropy cimport LONGEST_STATE, Entropy
from archivestream._native.sequences cimport BITS_MARGIN, Window
from archivestream._native.zstdscan cimport LARGEST_BLOCK, FrameHeader

cdef extern from "growing.hpp" namespace "archivestream" nogil:
    cdef cppclass Bytes:
        uint8_t *data
        size_t size
        bint reserve(size_t wanted)
        bint append(const void *data, size_t count)
        bint append_varint(uint64_t value)
        void clear()
    cdef cppclass History:
        bint append(const uint8_t *data, size_t count, uint64_t reach, uint64_t limit)
        void copy(uint8_t *into, uint64_t back, size_t count)
        void clear()
    uint64_t find_bit(const uint64_t *bitmap, uint64_t size, uint64_t from_, bint flip)


# A row of the table of blocks.
cdef struct Row:
    uint64_t start
    uint64_t size
    uint64_t offset
    uint64_t compressed_size
    uint64_t aux_end
    uint32_t crc32
    uint16_t codec


cdef class Segmenter:
    # ---- settings
    cdef uint64_t spacing
    cdef double budget
    cdef uint64_t others            # bytes of the index that count, and are not checkpoints
    cdef uint64_t factor            # of the spacing, to keep the budget
    cdef uint64_t spare             # bytes that checkpoints may have besides half of the file's
    cdef uint64_t stretch           # of the spacing, to keep that
    # ---- the frame
    cdef FrameHeader header
    cdef uint64_t frame_offset      # in the file
    cdef uint64_t frame_start       # in the content of the file
    cdef uint64_t at                # bytes of its content so far
    cdef bint cuttable
    cdef Entropy entropy
    cdef History history
    cdef uint8_t[BITS_MARGIN + LARGEST_BLOCK + BITS_MARGIN] bits
    # ---- the segment
    cdef uint64_t segment_offset, segment_at, target
    cdef uint32_t segment_crc
    cdef uint8_t[LONGEST_STATE] state
    cdef size_t state_size
    cdef uint32_t farthest          # of its first repeat offsets
    cdef bint forced                # cut where no dictionary can stand for all that came before
    cdef Window window
    cdef Bytes bitmap
    cdef uint64_t content           # bytes of the dictionary, once it is packed; 0 before
    cdef uint64_t stop_offset, stop_at, stop_count
    cdef uint32_t stop_crc
    cdef Bytes stops
    # ---- the blocks that are complete
    cdef Bytes rows, aux, ranges, packed
    # ---- an interrupted pass
    cdef bint replaying
    cdef Row resume_row
    cdef Bytes resume_aux

    cdef Status begin_frame(self, const FrameHeader *header, uint64_t offset, uint64_t start) noexcept nogil
    cdef Status before_block(self, const uint8_t *block, uint64_t offset) noexcept nogil
    cdef Status after_block(
        self, const uint8_t *content, size_t size, uint64_t offset, bint last) noexcept nogil
    cdef Status end_frame(self, uint64_t offset) noexcept nogil
    cdef uint64_t _spacing(self) noexcept nogil
    cdef Status _resume(self, uint64_t offset) noexcept nogil
    cdef Status _cut(self, uint64_t offset) noexcept nogil
    cdef Status _open(self, uint64_t offset) noexcept nogil
    cdef Status _close(self, uint64_t offset, bint frame_ends) noexcept nogil
    cdef bint _stop(self, uint64_t offset) noexcept nogil
    cdef bint _describe(self, uint64_t offset) noexcept nogil
    cdef bint _pack(self) noexcept nogil
    cdef void load(self, columns) except *
    cdef dict columns(self)


cdef Buffer copy_bytes(const Bytes *source)
