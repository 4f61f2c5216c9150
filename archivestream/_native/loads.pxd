"""Little-endian loads from bytes, at any alignment."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef inline uint16_t u16(const uint8_t *at) noexcept nogil:
    return <uint16_t> (at[0] | (at[1] << 8))


cdef inline uint32_t u32(const uint8_t *at) noexcept nogil:
    return at[0] | (at[1] << 8) | (at[2] << 16) | (<uint32_t> at[3] << 24)


cdef inline uint64_t u64(const uint8_t *at) noexcept nogil:
    return u32(at) | (<uint64_t> u32(at + 4) << 32)
