from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from archivestream._native.plan cimport Columns


cdef class IndexView:
    cdef Columns columns
    cdef object owners
    cdef list views

    cdef const uint8_t *_u8(self, column) except? NULL
    cdef const uint16_t *_u16(self, column, uint64_t n) except? NULL
    cdef const uint32_t *_u32(self, column, uint64_t n) except? NULL
    cdef const uint64_t *_u64(self, column, uint64_t n) except? NULL
    cdef int _hold(self, view, uint64_t n) except -1
    cdef int _view_blocks(self, dict columns, const uint64_t[::1] first_block) except -1
