from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from archivestream._native.scanning cimport HeaderScanner
from archivestream._native.tarheader cimport Fault
from archivestream._native.tarpax cimport Extension
from archivestream._native.tartable cimport TarMember, TarTable


# What the scanner waits for.
cdef enum State:
    HEADER
    EXTENSION       # the payload of an extension header
    SPARSE_BLOCK    # the rest of an old GNU sparse map
    SPARSE_MAP      # the map of PAX 1.0
    TRAILER         # strict: nothing but zeros
    DONE


cdef class TarScanner(HeaderScanner):
    cdef TarTable table
    cdef Extension local        # of the next member
    cdef Extension common       # of all members
    cdef TarMember member
    cdef vector[uint8_t] name   # of the sparse member whose map is read
    cdef vector[uint8_t] partial
    cdef State state
    cdef Fault fault
    cdef uint8_t kind
    cdef bint strict, ignore_zeros, has_gnu, has_pax
    cdef int pending
    cdef uint64_t start, need, behind, header, stored
    cdef readonly bint finished

    cdef const uint8_t *collect(self, const uint8_t *data, size_t size) noexcept nogil
    cdef void expect(self, State state, uint64_t start, uint64_t need) noexcept nogil
    cdef Fault step(self, const uint8_t *unit) noexcept nogil
    cdef Fault read_header(self, const uint8_t *header) noexcept nogil
    cdef Fault read_extension_header(self, uint8_t kind, int64_t size) noexcept nogil
    cdef Fault read_extension(self, const uint8_t *payload) noexcept nogil
    cdef Fault read_member(self, const uint8_t *header, uint8_t kind, uint64_t size) noexcept nogil
    cdef size_t read_name(
        self, const uint8_t *header, bint is_folder, uint8_t *joined, const uint8_t **name) noexcept nogil
    cdef Fault read_link(self, const uint8_t *header, uint8_t kind) noexcept nogil
    cdef Fault begin_sparse(self, const uint8_t *header, uint8_t kind, uint64_t size) noexcept nogil
    cdef Fault read_sparse_map(self, const uint8_t *text) noexcept nogil
    cdef Fault end_sparse(self, uint64_t payload) noexcept nogil
    cdef void forget(self) noexcept nogil
