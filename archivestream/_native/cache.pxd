from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t
from libcpp cimport bool as cpp_bool


cdef extern from "memory.hpp":     # which the next one includes
    pass

cdef extern from "block_cache.hpp" namespace "archivestream" nogil:
    cdef cppclass Blocks "archivestream::BlockCache":
        Blocks(
            size_t limit, void *(*take)(size_t, size_t *) noexcept nogil, void (*give)(void *, size_t) noexcept nogil
        ) except +
        Entry *acquire(uint64_t key, size_t upto, size_t size, cpp_bool begins, cpp_bool *more)
        Entry *find(uint64_t key, size_t upto)
        void publish(Entry *entry, size_t decoded)
        void abandon(Entry *entry)
        void release(Entry *entry)
        Statistics statistics()

    cdef cppclass Entry "archivestream::BlockCache::Entry":
        uint8_t *data
        size_t decoded
        cpp_bool ready

    cdef cppclass Statistics "archivestream::BlockCache::Statistics":
        uint64_t hits
        uint64_t misses
        uint64_t bytes
        uint64_t blocks


cdef class BlockCache:
    cdef Blocks *blocks
    cdef readonly size_t limit
