# distutils: language = c++
"""TFRecord: from the bytes of a stream to the columns of an index.

A record is (tensorflow/core/lib/io/record_writer.h, all little-endian)::

     0  u64 length of the data
     8  u32 masked CRC-32C of these eight bytes
    12  the data
     .  u32 masked CRC-32C of the data

The scan skips from header to header, and takes the checksum of the data along: it stands before the next header.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from archivestream._native.buffers cimport Buffer
from archivestream._native.checksums cimport crc32c_of, masked, unmasked
from archivestream._native.loads cimport u32, u64

cdef enum:
    HEADER = 12
    FOOTER = 4

cdef uint64_t LARGEST = 0x7FFFFFFFFFFFFFFFULL
cdef uint64_t MOST_RECORDS = 0xFFFFFFFEULL      # positions of members fit 32 bits, and all ones means none


cdef inline bint is_header(const uint8_t *header) noexcept nogil:
    return unmasked(u32(header + 8)) == crc32c_of(0, header, 8)


cdef inline void store_u32(uint8_t *at, uint32_t value) noexcept nogil:
    at[0], at[1], at[2], at[3] = value & 0xFF, value >> 8 & 0xFF, value >> 16 & 0xFF, value >> 24


def begins_with_record(const unsigned char[::1] head not None):
    """Whether bytes begin with the header of a record: a length that has its checksum."""
    return head.shape[0] >= HEADER and is_header(&head[0])


def frame(const unsigned char[::1] data not None):
    """Return what stands before the data of a record and what stands behind them."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t *start = &data[0] if size else NULL
    cdef uint8_t[HEADER] header
    cdef uint8_t[FOOTER] footer
    cdef uint32_t crc
    with nogil:
        crc = crc32c_of(0, start, size)
    store_u32(header, <uint32_t> size)
    store_u32(header + 4, <uint32_t> (<uint64_t> size >> 32))
    store_u32(header + 8, masked(crc32c_of(0, header, 8)))
    store_u32(footer, masked(crc))
    return PyBytes_FromStringAndSize(<char *> header, HEADER), PyBytes_FromStringAndSize(<char *> footer, FOOTER)


@cython.final
cdef class RecordScanner(HeaderScanner):
    """Turns the stream of a TFRecord file, fed in pieces of any size, into columns.

    Parameters
    ----------
    max_records : int
        Most records.

    Not thread-safe: one thread feeds it.
    """

    def __cinit__(self, *, uint64_t max_records):
        self.max_records = min(max_records, MOST_RECORDS)
        self.have = FOOTER      # there is no record before the first
        self.fault = FINE

    @property
    def count(self):
        """Records so far."""
        return self.records

    @property
    def last_size(self):
        """Bytes of the last record."""
        return (<uint64_t *> self.sizes.data)[self.records - 1] if self.records else 0

    cdef uint64_t next_wanted(self) noexcept nogil:
        return self.at

    cdef int fail(self, bint unreadable) noexcept nogil:
        self.fault = UNREADABLE if unreadable else CUT_HEADER
        return self.fault

    cdef int take(self, const uint8_t *data, size_t size, uint64_t offset) noexcept nogil:
        cdef uint64_t skip
        cdef size_t count
        while self.fault == FINE:
            skip = self.at - offset
            if skip >= size:
                if size:
                    self.adapt(skip - size, size)
                break
            count = min(sizeof(self.unit) - self.have, size - skip)
            memcpy(self.unit + self.have, data + skip, count)
            self.have += count
            self.at += count
            if self.have == sizeof(self.unit):
                self.fault = self.step()
        return self.fault

    cdef RecordFault step(self) noexcept nogil:
        """Take in the end of one record and the header of the next."""
        cdef const uint8_t *header = self.unit + FOOTER
        cdef uint64_t length = u64(header)
        cdef RecordFault fault = self.end_record()
        if fault != FINE:
            return fault
        self.offset = self.at - HEADER
        if not is_header(header):
            return BAD_LENGTH_CHECKSUM
        if self.at > LARGEST - FOOTER or length > LARGEST - FOOTER - self.at:
            return IMPOSSIBLE_LENGTH
        if self.records == self.max_records:
            return TOO_MANY_RECORDS
        if not self.offsets.append(&self.at, sizeof(self.at)) or not self.sizes.append(&length, sizeof(length)):
            return NO_ROOM
        self.records += 1
        self.at += length
        self.have = 0
        return FINE

    cdef RecordFault end_record(self) noexcept nogil:
        cdef uint32_t crc = unmasked(u32(self.unit))
        if self.records == 0:
            return FINE
        return FINE if self.crcs.append(&crc, sizeof(crc)) else NO_ROOM

    def end(self, uint64_t size):
        """Say that the stream has `size` bytes, all of which that were wanted have been fed.

        Returns
        -------
        fault : int
            As `feed`.
        """
        if self.fault != FINE:
            return self.fault
        if self.at > size:
            self.fault = CUT_DATA
        elif self.have < FOOTER:
            self.fault = CUT_CHECKSUM
        elif self.have > FOOTER:
            self.offset = self.at - (self.have - FOOTER)
            self.fault = CUT_HEADER
        else:
            self.fault = self.end_record()
        return self.fault

    def finish(self):
        """Hand over the columns, each as a `Buffer`, once `end` found no fault; the scanner is empty after it.

        The name of a record is its number.
        """
        cdef uint64_t n = self.records
        cdef uint64_t i, rest
        cdef uint64_t size = 0
        cdef uint64_t next_length = 10      # the first number that has a digit more
        cdef uint64_t digits = 1
        cdef Buffer bounds = Buffer(8 * (n + 1))
        cdef Buffer names
        cdef uint64_t *offsets = <uint64_t *> bounds.data
        cdef uint8_t *name
        offsets[0] = 0
        with nogil:
            for i in range(n):
                if i == next_length:
                    digits += 1
                    next_length *= 10
                size += digits
                offsets[i + 1] = size
        names = Buffer(size)
        with nogil:
            for i in range(n):
                name = names.data + offsets[i + 1]
                rest = i
                while name > names.data + offsets[i]:
                    name -= 1
                    name[0] = <uint8_t> (48 + rest % 10)
                    rest //= 10
        columns = {
            "size": release(&self.sizes),
            "offset": release(&self.offsets),
            "crc32": release(&self.crcs),
            "name_offset": bounds,
            "names": names,
        }
        self.records = 0
        return columns


cdef Buffer release(Bytes *column):
    cdef Buffer buffer = Buffer.adopt(column.data, column.size)
    column.data = NULL
    column.size = 0
    return buffer
