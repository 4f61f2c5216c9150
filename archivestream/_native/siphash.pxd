"""SipHash-1-3 (Aumasson and Bernstein, 2012; the variant of CPython and Rust).

Under a random key: names come from strangers, and nobody can choose them to collide.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline uint64_t rotate(uint64_t x, int by) noexcept nogil:
    return (x << by) | (x >> (64 - by))


cdef inline void siphash_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] = rotate(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] = rotate(v[2], 32)


cdef inline uint64_t siphash(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size) noexcept nogil:
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef size_t left = size
    v[0] = k0 ^ 0x736F6D6570736575ULL
    v[1] = k1 ^ 0x646F72616E646F6DULL
    v[2] = k0 ^ 0x6C7967656E657261ULL
    v[3] = k1 ^ 0x7465646279746573ULL
    while left >= 8:
        memcpy(&word, data, 8)
        v[3] ^= word
        siphash_round(v)
        v[0] ^= word
        data += 8
        left -= 8
    word = 0
    if left:
        memcpy(&word, data, left)
    word |= <uint64_t> size << 56
    v[3] ^= word
    siphash_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    siphash_round(v)
    siphash_round(v)
    siphash_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
