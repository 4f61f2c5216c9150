from cpython.object cimport PyObject
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t


cdef struct Entry:
    PyObject *data
    uint64_t key        # the number of the archive, and the member
    Entry *next         # in its bucket
    Entry *newer
    Entry *older


cdef class MemberStore:
    cdef size_t limit
    cdef bint lru
    cdef Entry **buckets
    cdef size_t table_size      # a power of two; 0 as long as there is nothing
    cdef int shift              # what leaves a bucket of a hash
    cdef Entry *newest
    cdef Entry *oldest
    cdef size_t held            # bytes of objects, entries and the table
    cdef size_t reserved        # … of what is being copied
    cdef size_t members
    cdef uint64_t hits
    cdef uint64_t misses
    cdef uint64_t evictions
    cdef dict archives          # their numbers
    cdef dict flights           # the lock that whoever reads a member holds, by key
    cdef int process

    cdef uint64_t number_of(self, bytes archive)
    cdef Entry **_bucket(self, uint64_t key) noexcept
    cdef Entry *find(self, uint64_t key) noexcept
    cdef void _list(self, Entry *entry) noexcept
    cdef void _unlist(self, Entry *entry) noexcept
    cdef void _free(self, Entry *entry) noexcept
    cdef void _drop_all(self) noexcept
    cdef void _evict(self) noexcept
    cdef bint _has_room(self, size_t size) noexcept
    cdef bint may_keep(self, size_t size) noexcept
    cdef bint _make_room(self, size_t size) noexcept
    cdef bint _grow(self) noexcept
    cdef bytes reserve(self, size_t size)
    cdef void unreserve(self, size_t size) noexcept
    cdef void insert(self, uint64_t key, bytes data, bint reserved) noexcept
    cdef void enter_process(self) noexcept
