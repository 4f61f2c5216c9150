# distutils: language = c++
"""A shuffle that is computed and not stored: a keyed bijection on [0, n).

A generalised Feistel network on Z_a x Z_b, with a x b just above n, and cycle walking back into the range: J. Black and
P. Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002. The round function is the 64-bit finaliser of
splitmix64 (S. Vigna, after D. Stafford's variant 13 of MurmurHash3's). It hides nothing from an adversary: it shuffles.

What it gives for a key never changes between versions and platforms: orders of training depend on it.
"""

import hashlib
import operator

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    # With ideal round functions, each two rounds on (Z_3, Z_2), which mix worst, halve the distance to all
    # permutations of 6 elements coming equally often: it is 0.0004 after so many. Wider halves need fewer.
    MOST_ROUNDS = 24
    FEWEST_ROUNDS = 12
    SMALL = 256
    LANES = 16

cdef uint64_t LARGEST = <uint64_t> 1 << 62
cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15ULL


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9ULL
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EBULL
    return x ^ (x >> 31)


cdef inline uint64_t turn(uint64_t value, uint64_t other, uint64_t key, uint64_t modulus) noexcept nogil:
    """Add a function of the other half to one half; the modulus is below 2**32."""
    value += ((mix(other ^ key) >> 32) * modulus) >> 32
    return value - modulus if value >= modulus else value


@cython.final
cdef class Permutation:
    """A permutation of [0, n) in constant memory.

    Parameters
    ----------
    n : int
        How many elements, up to 2**62.
    seed, epoch, stream : int
        Any integers. Each triple gives a permutation of its own, independent of the others.

    Immutable, so safe for any number of threads.
    """

    cdef uint64_t n, a, b
    cdef int rounds
    cdef uint64_t[MOST_ROUNDS] keys

    def __cinit__(self, n, *, seed, epoch=0, stream=0):
        cdef uint64_t key
        cdef int i
        if not 0 <= n <= LARGEST:
            raise ValueError(f"a permutation has from 0 to 2**62 elements, not {n}")
        self.n = n
        self.a = max(<uint64_t> 2, _root(self.n))
        self.b = max(<uint64_t> 1, (self.n + self.a - 1) // self.a)
        self.b += self.a & self.b & 1       # one of them even, or there would be no odd permutations
        self.rounds = MOST_ROUNDS if self.n < SMALL else FEWEST_ROUNDS
        key = _key(seed, epoch, stream)
        for i in range(self.rounds):
            key += GOLDEN
            self.keys[i] = mix(key)

    def __len__(self):
        return self.n

    def apply(self, int64_t[::1] positions not None):
        """Put in place of each position what the permutation has there.

        Parameters
        ----------
        positions : ndarray of int64
            From 0 to n - 1; overwritten.

        Raises
        ------
        IndexError
            If a position is not there; nothing was overwritten then.
        """
        cdef Py_ssize_t n = positions.shape[0]
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t bad, count
        cdef uint64_t[LANES] lanes
        with nogil:
            bad = self._find_outside(positions)
            if bad == n:
                while at < n:
                    count = min(<Py_ssize_t> LANES, n - at)
                    memcpy(lanes, &positions[at], count * sizeof(uint64_t))
                    self._permute(lanes, count)
                    memcpy(&positions[at], lanes, count * sizeof(uint64_t))
                    at += count
        if bad < n:
            raise IndexError(f"position {positions[bad]} of a permutation of {self.n}")

    cdef Py_ssize_t _find_outside(self, const int64_t[::1] positions) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(positions.shape[0]):
            if <uint64_t> positions[i] >= self.n:
                return i
        return positions.shape[0]

    cdef void _permute(self, uint64_t *x, Py_ssize_t count) noexcept nogil:
        """Permute up to LANES elements in place."""
        cdef Py_ssize_t j
        for j in range(count):
            x[j] = min(x[j], self.n - 1)    # another thread may have changed one since they were checked
        self._encipher(x, count)
        for j in range(count):
            while x[j] >= self.n:       # hardly ever: few elements of the two halves lie above
                self._encipher(x + j, 1)

    cdef void _encipher(self, uint64_t *x, Py_ssize_t count) noexcept nogil:
        """Send elements of Z_a x Z_b through the network, side by side: one alone would wait for its own products."""
        cdef uint64_t[LANES] left, right
        cdef Py_ssize_t j
        cdef int i
        for j in range(count):
            right[j] = x[j] // self.a
            left[j] = x[j] - right[j] * self.a
        for i in range(0, self.rounds, 2):
            for j in range(count):
                left[j] = turn(left[j], right[j], self.keys[i], self.a)
            for j in range(count):
                right[j] = turn(right[j], left[j], self.keys[i + 1], self.b)
        for j in range(count):
            x[j] = right[j] * self.a + left[j]


cdef uint64_t _root(uint64_t n):
    """The least number whose square is n or more."""
    cdef uint64_t low = 0
    cdef uint64_t high = <uint64_t> 1 << 31
    cdef uint64_t middle
    while low < high:
        middle = (low + high) // 2
        if middle * middle >= n:
            high = middle
        else:
            low = middle + 1
    return low


cdef uint64_t _key(seed, epoch, stream) except? 0:
    """A key from integers of any size."""
    digest = hashlib.blake2b(digest_size=8)
    for number in (seed, epoch, stream):
        number = operator.index(number)
        data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")
