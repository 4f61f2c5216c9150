from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "positional_io.hpp":      # which the next one includes
    pass

cdef extern from "meter.hpp" namespace "archivestream" nogil:
    cdef cppclass MeterCounts "archivestream::Meter":
        MeterCounts() except +
        void add_fetch(uint64_t nanoseconds, uint64_t bytes)

    long long read_at(MeterCounts *meter, int fd, void *into, size_t size, uint64_t offset)
    long long read_parts(MeterCounts *meter, int fd, const iovec *parts, int n, uint64_t offset)
    void count_decoded(MeterCounts *meter, uint64_t bytes)


cdef class Meter:
    cdef MeterCounts *counts
