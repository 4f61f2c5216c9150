from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    CENTRAL_HEADER = 46     # bytes before the name, APPNOTE 4.3.12


# What makes a directory unreadable as a whole.
cpdef enum Fault:
    NONE = 0
    MORE = 1                # the chunk ends within an entry
    BAD_SIGNATURE = 2
    BAD_EXTRA = 3
    SHORT_ZIP64 = 4
    SECOND_ZIP64 = 5
    BAD_UNICODE_PATH = 6
    OUT_OF_MEMORY = 7
    TOO_MANY = 8


cdef struct Entry:
    uint64_t size
    uint64_t compressed_size
    uint64_t offset
    uint32_t disk
    uint16_t flags
    const uint8_t *unicode_path
    size_t unicode_path_size
    const uint8_t *segments         # the content of that field; NULL where there is none
    size_t segments_size


cdef Fault read_extra(
    const uint8_t *header, size_t name_size, size_t extra_size, Entry *entry
) noexcept nogil
