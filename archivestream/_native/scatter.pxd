from libc.stddef cimport size_t


cdef void run_item(void *plan, size_t item) noexcept nogil
