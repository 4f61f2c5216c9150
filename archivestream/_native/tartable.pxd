from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp.vector cimport vector

from archivestream._native.tarheader cimport Fault
from archivestream._native.tarpax cimport Extent

cdef extern from "tar_columns.hpp" namespace "archivestream" nogil:
    cdef cppclass TarMember:
        uint64_t size
        uint64_t stored_size
        uint64_t offset
        uint32_t timestamp
        uint32_t attributes
        uint16_t flags

    cdef cppclass TarColumns:
        vector[uint64_t] size
        vector[uint64_t] compressed_size
        vector[uint64_t] offset
        vector[uint64_t] name_offset
        vector[uint32_t] timestamp
        vector[uint32_t] attributes
        vector[uint16_t] flags
        vector[uint8_t] names
        vector[uint32_t] raw_member
        vector[uint64_t] raw_offset
        vector[uint8_t] raw_names
        vector[uint32_t] sparse_member
        vector[uint64_t] sparse_offset
        vector[uint64_t] extent_place
        vector[uint64_t] extent_offset
        vector[uint64_t] extent_size
        vector[uint32_t] link_member
        vector[uint64_t] link_offset
        vector[uint8_t] link_names


cdef class TarTable:
    cdef TarColumns columns
    cdef uint64_t left, max_members

    cdef bint charge(self, uint64_t cost) noexcept nogil
    cdef Fault add_member(self, TarMember *member, const uint8_t *name, size_t size) noexcept nogil
    cdef Fault add_link(self, const uint8_t *target, size_t size) noexcept nogil
    cdef Fault add_extents(self, const vector[Extent] &extents, uint64_t payload) noexcept nogil
    cdef Fault add_text(
        self, vector[uint8_t] *names, const uint8_t *raw, size_t size, bint *escaped) noexcept nogil
    cdef Fault resolve_links(self)
    cdef object last_name(self)
    cdef dict finish(self)
