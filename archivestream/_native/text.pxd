from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef bint is_ascii(const uint8_t *text, size_t size) noexcept nogil
cdef bint is_utf8(const uint8_t *text, size_t size) noexcept nogil
cdef bint is_generalized_utf8(const uint8_t *text, size_t size) noexcept nogil
cdef size_t cp437_to_utf8(const uint8_t *text, size_t size, uint8_t *to) noexcept nogil
cdef size_t escape_utf8(const uint8_t *text, size_t size, uint8_t *to) noexcept nogil
