# distutils: language = c++
"""Checksums of members: CRC-32, or CRC-32C where the flag of a member says so; and the mask of TFRecord."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.codecs cimport crc32_combine, crc32_of
from archivestream._native.columns cimport CRC32C_BIT, ENTRIES
from archivestream._native.plan cimport NO_MEMBER

cdef extern from "crc32c.hpp" namespace "archivestream::crc32c" nogil:
    uint32_t cpp_update "archivestream::crc32c::update"(uint32_t crc, const uint8_t *data, size_t size) noexcept
    uint32_t cpp_by_tables "archivestream::crc32c::by_tables"(uint32_t crc, const uint8_t *data, size_t size) noexcept
    uint32_t cpp_combine "archivestream::crc32c::combine"(uint32_t first, uint32_t second, uint64_t size) noexcept

# So that a CRC of bytes that hold a CRC is no fixed value (tensorflow/tsl/lib/hash/crc32c.h).
cdef uint32_t MASK = 0xA282EAD8U


cdef uint32_t crc32c_of(uint32_t crc, const uint8_t *data, size_t size) noexcept nogil:
    """Continue a CRC-32C."""
    return cpp_update(crc, data, size)


cdef uint32_t masked(uint32_t crc) noexcept nogil:
    """A CRC-32C as it stands in a TFRecord file."""
    return (crc >> 15 | crc << 17) + MASK


cdef uint32_t unmasked(uint32_t crc) noexcept nogil:
    """A CRC-32C from how it stands in a TFRecord file."""
    crc -= MASK
    return crc >> 17 | crc << 15


cdef bint has_checksum(const Columns *columns, uint32_t source, uint32_t member) noexcept nogil:
    """Whether the index knows the checksum of a member, and not only those of blocks, or none."""
    if member == NO_MEMBER:
        return False
    return columns.sources[source].layout == ENTRIES or columns.flags[member] & CRC32C_BIT


cdef uint32_t member_checksum(
    const Columns *columns, uint32_t member, uint32_t crc, const uint8_t *data, size_t size
) noexcept nogil:
    """Continue the checksum of a member."""
    return cpp_update(crc, data, size) if columns.flags[member] & CRC32C_BIT else crc32_of(crc, data, size)


cdef uint32_t combine_checksums(
    const Columns *columns, uint32_t member, uint32_t first, uint32_t second, uint64_t size
) noexcept nogil:
    """The checksum of two parts of a member, one after the other."""
    if columns.flags[member] & CRC32C_BIT:
        return cpp_combine(first, second, size)
    return crc32_combine(first, second, size)


def crc32c(const unsigned char[::1] data not None, uint32_t initial=0, *, bint portable=False):
    """Continue a CRC-32C over a contiguous buffer; with `portable` as on a processor that has no instruction for it."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *start = &data[0] if size else NULL
    with nogil:
        initial = ~cpp_by_tables(~initial, start, size) if portable else cpp_update(initial, start, size)
    return initial
