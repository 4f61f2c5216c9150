from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from archivestream._native.codecs cimport Status
from archivestream._native.plan cimport Columns, Plan, Task


cdef Status find_data(
    const Columns *columns, const Task *task, const uint8_t *header, uint64_t available, uint32_t *span
) noexcept nogil
cdef void run_group(void *plan, size_t group) noexcept nogil
cdef void run_single(Plan *plan, Task *task) noexcept nogil
