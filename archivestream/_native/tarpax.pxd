from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cpp_bool
from libcpp.vector cimport vector

from archivestream._native.tarheader cimport Fault

# More extents are no file that somebody made, but an attack on memory.
cdef enum:
    MOST_EXTENTS = 10_000


cdef extern from "tar_columns.hpp" namespace "archivestream" nogil:
    cdef cppclass Extent:
        uint64_t place
        uint64_t size

    cdef cppclass Extension:
        vector[uint8_t] path
        vector[uint8_t] link
        vector[uint8_t] sparse_name
        uint64_t link_place
        uint64_t size
        int64_t mtime
        cpp_bool has_path
        cpp_bool has_link
        cpp_bool has_size
        cpp_bool has_mtime
        cpp_bool pax_path
        cpp_bool sparse
        cpp_bool has_real_size
        cpp_bool has_sparse_name
        cpp_bool has_entries
        cpp_bool half       # a place has come, whose size has not
        uint64_t place
        uint64_t real_size
        uint64_t major
        uint64_t minor
        uint64_t entries
        vector[Extent] map
        void clear() noexcept

    bint cpp_append "archivestream::append"(
        vector[uint8_t] &to, const uint8_t *data, size_t size) noexcept
    bint cpp_append_extent "archivestream::append_extent"(
        vector[Extent] &to, uint64_t place, uint64_t size) noexcept


cdef Fault read_pax(
    const uint8_t *payload, size_t size, uint64_t place, bint is_global, bint strict, Extension *into
) noexcept nogil
cdef Fault read_entries(const uint8_t *entries, int count, Extension *into) noexcept nogil
cdef Fault read_map(const uint8_t *text, size_t size, size_t *used, Extension *into) noexcept nogil
cdef Fault check_map(const vector[Extent] &extents, uint64_t size, uint64_t stored, bint strict) noexcept nogil
