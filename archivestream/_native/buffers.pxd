from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef void settle_malloc() noexcept nogil
cdef void *take_memory(size_t size, size_t *capacity) noexcept nogil
cdef void give_memory(void *memory, size_t capacity) noexcept nogil


cdef class Buffer:
    cdef uint8_t *data
    cdef size_t size        # bytes that the buffer protocol shows
    cdef size_t capacity    # bytes that are there
    cdef bint adopted       # of malloc, by somebody else

    @staticmethod
    cdef Buffer adopt(void *memory, size_t size)
