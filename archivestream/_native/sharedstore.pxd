from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport uint8_t, uint64_t
from libcpp cimport bool as cpp_bool

cdef extern from "shared_region.hpp" namespace "archivestream::shared" nogil:
    const cpp_bool cpp_robust "archivestream::kRobustMutexes"
    const uint64_t cpp_smallest "archivestream::shared::kSmallest"

    cdef cppclass Process "archivestream::Process":
        @staticmethod
        Process self()

    cdef cppclass Key "archivestream::shared::Key":
        uint64_t archive[2]
        uint64_t member

    cdef cppclass Place "archivestream::shared::Place":
        uint64_t at
        uint64_t size

    cdef enum class Outcome "archivestream::shared::SharedRegion::Claim":
        kOurs
        kTheirs
        kFull
        kGrow
        kBroken

    cdef enum class Copied "archivestream::shared::SharedRegion::Copied":
        kWell
        kDiffers
        kGone

    cdef cppclass Statistics "archivestream::shared::SharedRegion::Statistics":
        uint64_t hits
        uint64_t misses
        uint64_t bytes
        uint64_t evictions
        uint64_t members

    cdef cppclass SharedRegion:
        SharedRegion(uint8_t *base, int file) except +
        int initialise(uint64_t limit, cpp_bool lru, uint64_t name_space)
        cpp_bool is_whole()
        uint64_t limit()
        cpp_bool lru()
        uint64_t name_space()
        cpp_bool find(const Key *keys, size_t n, Place *places, cpp_bool wait)
        Copied copy(const Place &place, uint8_t *to, const uint8_t *prefix, uint64_t skip)
        void count(uint64_t hits, uint64_t misses)
        cpp_bool admits(uint64_t size)
        Outcome claim(const Key &key, uint64_t size, const Process &self, Place *place)
        int grow()
        void publish[Source](const Place *places, size_t n, unsigned writer, Source source)
        void abandon(const Place *places, size_t n, unsigned writer)
        ptrdiff_t loading(const Key *keys, size_t n)
        void doubt(const Key *keys, size_t n)
        cpp_bool sweep(double seconds)
        cpp_bool repair(cpp_bool force)
        Statistics statistics()


cdef class Region:
    cdef uint8_t *base
    cdef size_t size
    cdef readonly int descriptor
    cdef SharedRegion *region


cdef class SharedStore:
    cdef Region mapped

    cdef Region region(self)
