from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp.vector cimport vector

from archivestream._native.examplewalk cimport Failure, Found, Hole, Messages, Target, Wanted
from archivestream._native.work cimport Consumer


cdef class Schema:
    cdef vector[Wanted] wanted
    cdef list names
    cdef uint64_t seen          # where in a message its large values lay: see `Messages`


cdef class Examples(Consumer):
    cdef Schema schema
    cdef list owners            # what keeps the messages in place
    cdef vector[const uint8_t *] begins
    cdef vector[const uint8_t *] ends
    cdef vector[Found] found
    cdef vector[Failure] failures
    cdef vector[Target] targets
    cdef vector[Hole] holes
    cdef vector[vector[const uint8_t *]] spans  # of features whose values are bytes objects
    cdef list places            # what keeps the targets in place
    cdef Messages messages

    cdef int add(self, record) except -1
    cdef void describe(self) noexcept
    cdef int each(self, void (*work)(void *, size_t) noexcept nogil, size_t threads) except -1
