from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from archivestream._native.codecs cimport Status


cdef enum:
    LOCAL_HEADER = 30       # bytes before the name, APPNOTE 4.3.7


cdef Status check_local_header(
    const uint8_t *header, size_t available, const uint8_t *name, size_t name_size, uint32_t *span
) noexcept nogil
