from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef class HeaderScanner:
    cdef readonly size_t window     # how many bytes of a file are read at once
    cdef readonly int read_errno

    cdef uint64_t next_wanted(self) noexcept nogil
    cdef int take(self, const uint8_t *data, size_t size, uint64_t offset) noexcept nogil
    cdef int fail(self, bint unreadable) noexcept nogil
    cdef void adapt(self, uint64_t missed, size_t size) noexcept nogil
