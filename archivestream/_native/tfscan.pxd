from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from archivestream._native.scanning cimport HeaderScanner

cdef extern from "growing.hpp" namespace "archivestream" nogil:
    cdef cppclass Bytes:
        uint8_t *data
        size_t size
        bint append(const void *bytes, size_t count) noexcept


# What is wrong with a TFRecord file.
cpdef enum RecordFault:
    FINE
    BAD_LENGTH_CHECKSUM
    IMPOSSIBLE_LENGTH       # that no file can have
    CUT_HEADER              # the file ends within a header …
    CUT_DATA                # … or within the data of the last record
    CUT_CHECKSUM            # … or within the checksum behind them
    TOO_MANY_RECORDS
    NO_ROOM                 # no memory for the index
    UNREADABLE


cdef class RecordScanner(HeaderScanner):
    cdef Bytes sizes, offsets, crcs
    cdef uint8_t[16] unit       # the checksum behind a record, and the header of the next one
    cdef size_t have            # of its bytes
    cdef uint64_t at, records, max_records
    cdef RecordFault fault
    cdef readonly uint64_t offset

    cdef RecordFault step(self) noexcept nogil
    cdef RecordFault end_record(self) noexcept nogil
