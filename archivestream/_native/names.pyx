"""Look-up of names: an open-addressed table of positions over the names of an index.

The table holds one 32-bit position a slot and compares names where they lie, so it costs about six bytes a
member.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from os import urandom

from archivestream._native.buffers cimport Buffer
from archivestream._native.siphash cimport siphash

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    EMPTY = 0xFFFFFFFF


@cython.final
@cython.no_gc_clear    # finalizers may use it as long as it is there
cdef class NameTable:
    """Position of each name; of equal names, the last one.

    Parameters
    ----------
    names : buffer of uint8
        The names, one after the other, in UTF-8.
    begin, end : buffer of uint64, shape (n,)
        Where in it each one begins and ends.

    Raises
    ------
    ValueError
        If one does not lie in it, or there are more than can be counted.

    Immutable once made, so any number of threads may ask it.
    """

    cdef const uint8_t[::1] names
    cdef const uint64_t[::1] begin
    cdef const uint64_t[::1] end
    cdef Buffer slots
    cdef uint64_t capacity, k0, k1
    cdef readonly size_t duplicates     # members whose name a later one has, too

    def __cinit__(
        self, const uint8_t[::1] names not None, const uint64_t[::1] begin not None, const uint64_t[::1] end not None
    ):
        cdef uint64_t n = begin.shape[0]
        cdef uint64_t size = names.shape[0]
        cdef uint64_t i
        cdef bint ok = n == <uint64_t> end.shape[0] and n < EMPTY
        if ok:
            with nogil:
                for i in range(n):
                    ok &= begin[i] <= end[i] and end[i] <= size
        if not ok:
            raise ValueError("names that do not lie in the column of names, or more than can be counted")
        self.names = names
        self.begin = begin
        self.end = end
        self.capacity = n + n // 2 + 1      # two thirds full
        self.slots = Buffer(4 * self.capacity)
        key = urandom(16)
        self.k0 = int.from_bytes(key[:8], "little")
        self.k1 = int.from_bytes(key[8:], "little")
        with nogil:
            self._fill(n)

    cdef void _fill(self, uint64_t n) noexcept nogil:
        cdef uint32_t *slots = <uint32_t *> self.slots.data
        cdef const uint8_t *names = &self.names[0] if self.names.shape[0] else NULL
        cdef uint64_t i, slot
        memset(slots, 0xFF, 4 * self.capacity)
        for i in range(n):
            slot = self._slot(names + self.begin[i], self.end[i] - self.begin[i])
            self.duplicates += slots[slot] != EMPTY
            slots[slot] = <uint32_t> i

    cdef uint64_t _slot(self, const uint8_t *name, size_t size) noexcept nogil:
        """The slot that holds the name, or the empty one where it belongs."""
        cdef const uint32_t *slots = <const uint32_t *> self.slots.data
        cdef uint64_t slot = siphash(self.k0, self.k1, name, size) % self.capacity
        cdef uint64_t begin
        while slots[slot] != EMPTY:
            begin = self.begin[slots[slot]]
            if self.end[slots[slot]] - begin == size and (
                size == 0 or memcmp(&self.names[begin], name, size) == 0
            ):
                break
            slot += 1
            if slot == self.capacity:
                slot = 0
        return slot

    def find(self, name):
        """Return the position of a name (str, or its UTF-8 bytes), or -1."""
        cdef Py_ssize_t size
        cdef const char *text
        cdef uint32_t found
        if isinstance(name, str):
            try:
                text = PyUnicode_AsUTF8AndSize(name, &size)
            except UnicodeEncodeError:      # a lone surrogate: a byte in no encoding
                return self.find(name.encode("utf-8", "surrogatepass"))
        else:
            encoded = <bytes?> name
            text = PyBytes_AS_STRING(encoded)
            size = len(encoded)
        found = (<uint32_t *> self.slots.data)[self._slot(<const uint8_t *> text, size)]
        return -1 if found == EMPTY else found
