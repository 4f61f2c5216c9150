from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport shared_ptr

from archivestream._native.plan cimport Columns, Consume, Foresee, Plan, Task

cdef extern from "thread_pool.hpp" namespace "archivestream" nogil:
    cdef cppclass Job:
        Job(void (*work)(void *, size_t), void *context, size_t items)
        cpp_bool help(double seconds)
        void cancel()
        cpp_bool done()
        cpp_bool begun()
        cpp_bool wait(double seconds)

    cdef cppclass ThreadPool:
        @staticmethod
        uint64_t generation()

        @staticmethod
        cpp_bool run(const shared_ptr[Job] &job, size_t helpers)


cdef int run_items(
    void (*work)(void *, size_t) noexcept nogil, void *context, size_t items, size_t threads) except -1


# What takes members as they are read: see `Reader.feed`.
cdef class Consumer:
    cdef Consume function       # NULL: not ready
    cdef Foresee foresee        # NULL: it takes members whole
    cdef size_t count           # positions of the batch
    cdef void *context


cdef class Work:
    cdef Plan plan
    cdef shared_ptr[Job] job
    cdef uint64_t generation    # of the process that began it
    cdef size_t threads
    cdef bint alone             # no thread of the pool takes part
    cdef bint is_long           # some of it takes a thread so long that the caller does none of it
    cdef bint is_private        # nobody else sees the memory before it is done
    cdef bint cancelled
    cdef bint finished
    cdef object owners          # what keeps the memory in place
    cdef list fetched           # … that of compressed blocks

    cdef bint has_long_item(self)
    cdef int leave(self) except -1
    cdef void call_off(self) noexcept
    cdef int start(self, size_t threads, bint helping, fetch) except -1
    cdef size_t fetch_blocks(self, fetch) except? 0
    cdef void release_blocks(self) noexcept
    cdef int finish(self) except -1
    cdef int ask_threads(self, size_t items, size_t helpers) except -1
    cdef int read_as_streams(self) except -1
    cdef int work_along(self) except -1
    cdef int begin_anew(self) except -1
    cdef bint is_idle(self)
    cdef list failures(self)


cdef bint is_long(const Columns *columns, const Task *task) noexcept nogil
cdef int drop_left_works() except -1


cdef class PendingRead:
    cdef Work work
