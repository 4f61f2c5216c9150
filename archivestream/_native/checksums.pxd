from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.plan cimport Columns


cdef uint32_t crc32c_of(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil
cdef uint32_t masked(uint32_t crc) noexcept nogil
cdef uint32_t unmasked(uint32_t crc) noexcept nogil
cdef bint has_checksum(const Columns *columns, uint32_t source, uint32_t member) noexcept nogil
cdef uint32_t member_checksum(
    const Columns *columns, uint32_t member, uint32_t crc, const uint8_t *data, size_t size) noexcept nogil
cdef uint32_t combine_checksums(
    const Columns *columns, uint32_t member, uint32_t first, uint32_t second, uint64_t size) noexcept nogil
