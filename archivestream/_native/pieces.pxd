from archivestream._native.codecs cimport Status
from archivestream._native.plan cimport BlockTask, Plan


cdef void fail_block(Plan *plan, BlockTask *task, Status status, int error) noexcept nogil
cdef Status make_pieces(Plan *plan) noexcept nogil
cdef void reset_pieces(Plan *plan) noexcept nogil
cdef void settle_pieces(Plan *plan) noexcept nogil
