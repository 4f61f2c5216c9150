from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libcpp cimport bool as cpp_bool
from libcpp.memory cimport shared_ptr

from archivestream._native.plan cimport Plan

cdef extern from "thread_pool.hpp" namespace "archivestream" nogil:
    cdef cppclass Job:
        Job(void (*work)(void *, size_t), void *context, size_t items)
        cpp_bool help(double seconds)
        void cancel()
        cpp_bool done()
        cpp_bool wait(double seconds)

    cdef cppclass ThreadPool:
        @staticmethod
        ThreadPool &instance()
        @staticmethod
        uint64_t generation()
        void run(const shared_ptr[Job] &job, size_t helpers)


cdef class Work:
    cdef Plan plan
    cdef shared_ptr[Job] job
    cdef uint64_t generation    # of the process that began it
    cdef bint finished
    cdef object owners          # what keeps the memory in place

    cdef int start(self, size_t threads, bint helping) except -1
    cdef int finish(self) except -1
    cdef void rewind(self) noexcept nogil
    cdef list failures(self)


cdef class PendingRead:
    cdef Work work
