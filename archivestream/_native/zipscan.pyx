# distutils: language = c++
"""ZIP: from the bytes of a central directory to the columns of an index, and the check of a local header.

The section numbers are those of PKWARE's APPNOTE.TXT 6.3.10. The end of central directory records, of which
there are one or two in an archive, are read in `archivestream.formats.zip`.

Central directory header, 4.3.12 (all little-endian)::

     0  u32 signature 50 4B 01 02     24  u32 uncompressed size
     4  u16 version made by           28  u16 name length
     6  u16 version needed            30  u16 extra field length
     8  u16 general purpose flags     32  u16 comment length
    10  u16 compression method        34  u16 disk number
    12  u16 time, 14 u16 date         36  u16 internal attributes
    16  u32 CRC-32                    38  u32 external attributes
    20  u32 compressed size           42  u32 offset of the local header
    46  name, extra field, comment
"""

cimport cython
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy
from libcpp.vector cimport vector

from archivestream._native.buffers cimport Buffer
from archivestream._native.codecs cimport BAD_LOCAL_SIGNATURE, DEFLATE, NAME_DIFFERS, OK, TRUNCATED
from archivestream._native.columns cimport (
    ALIAS_BIT, BAD_NAME_BIT, ELSEWHERE_BITS, ENCRYPTED_BIT, OTHER_DISK_BIT, OUT_OF_RANGE_BIT, PATCHED_BIT,
    RAW_NAME_BIT, UTF8_BIT, VERSION_BIT)
from archivestream._native.loads cimport u16, u32
from archivestream._native.text cimport cp437_to_utf8, is_ascii, is_utf8
from archivestream._native.zipextra cimport (
    BAD_SIGNATURE, CENTRAL_HEADER, MORE, NONE, OUT_OF_MEMORY, TOO_MANY, Entry, Fault, read_extra)

cdef extern from "zip_columns.hpp" namespace "archivestream":
    bint cpp_append_raw "archivestream::append_raw"(
        vector[uint32_t] &members, vector[uint64_t] &offsets, vector[uint8_t] &names, uint32_t member,
        const uint8_t *raw, size_t size) noexcept nogil
    void cpp_order_members "archivestream::order_members"(
        const uint64_t *offsets, const uint64_t *name_offsets, const uint8_t *names, uint32_t n,
        uint32_t *successor, uint16_t *flags, uint16_t alias, uint16_t elsewhere) except + nogil

# Positions of members fit 32 bits, and all ones means none.
cdef uint64_t MEMBERS_LIMIT = 0xFFFFFFFEULL

cdef enum:
    HIGHEST_VERSION = 63


cdef Status check_local_header(
    const uint8_t *header, size_t available, const uint8_t *name, size_t name_size, uint32_t *span
) noexcept nogil:
    """Compare signature and name of a local header (4.3.7); `span` is how far the data lie behind it.

    The lengths in the local header decide where the data begin: writers put other extra fields there than
    in the directory.
    """
    if available < LOCAL_HEADER:
        return TRUNCATED
    if header[0] != 0x50 or header[1] != 0x4B or header[2] != 0x03 or header[3] != 0x04:
        return BAD_LOCAL_SIGNATURE
    if u16(header + 26) != name_size:
        return NAME_DIFFERS
    if available - LOCAL_HEADER < name_size:
        return TRUNCATED
    if memcmp(header + LOCAL_HEADER, name, name_size):
        return NAME_DIFFERS
    span[0] = <uint32_t> (LOCAL_HEADER + name_size + u16(header + 28))
    return OK


@cython.final
cdef class DirectoryScanner:
    """Turns a central directory, fed in pieces, into columns.

    Parameters
    ----------
    directory_size : int
        Bytes of the whole directory: bounds the number of members, and so the memory.
    prefix : int
        What to add to the offsets: bytes in front of the archive that they do not count, or, as a negative
        number, bytes lost there.
    keep_raw : bool
        Keep the bytes of all names that are not marked as UTF-8, even of those that are ASCII.

    Not thread-safe: one thread feeds it.
    """

    cdef uint64_t capacity, previous
    cdef int64_t prefix
    cdef uint64_t names_size, names_capacity
    cdef uint64_t *size
    cdef uint64_t *compressed_size
    cdef uint64_t *offset
    cdef uint64_t *name_offset
    cdef uint32_t *crc32
    cdef uint32_t *timestamp
    cdef uint32_t *attributes
    cdef uint16_t *codec
    cdef uint16_t *flags
    cdef uint8_t *names
    cdef vector[uint32_t] raw_member
    cdef vector[uint64_t] raw_offset
    cdef vector[uint8_t] raw_names
    cdef vector[uint32_t] segment_member
    cdef vector[uint64_t] segment_offset
    cdef vector[uint8_t] segment_fields
    cdef bint in_order, keep_raw
    cdef readonly uint64_t count

    def __cinit__(self, uint64_t directory_size, int64_t prefix, bint keep_raw=False):
        # Pages that nothing is written to take no memory, so the bounds can be generous.
        cdef uint64_t n = directory_size // CENTRAL_HEADER
        self.capacity = n
        self.prefix = prefix
        self.in_order = True
        self.keep_raw = keep_raw
        self.names_capacity = directory_size - n * CENTRAL_HEADER + 1
        self.size = <uint64_t *> malloc(8 * n + 1)
        self.compressed_size = <uint64_t *> malloc(8 * n + 1)
        self.offset = <uint64_t *> malloc(8 * n + 1)
        self.name_offset = <uint64_t *> malloc(8 * (n + 1))
        self.crc32 = <uint32_t *> malloc(4 * n + 1)
        self.timestamp = <uint32_t *> malloc(4 * n + 1)
        self.attributes = <uint32_t *> malloc(4 * n + 1)
        self.codec = <uint16_t *> malloc(2 * n + 1)
        self.flags = <uint16_t *> malloc(2 * n + 1)
        self.names = <uint8_t *> malloc(self.names_capacity)
        if (
            self.size == NULL or self.compressed_size == NULL or self.offset == NULL
            or self.name_offset == NULL or self.crc32 == NULL or self.timestamp == NULL
            or self.attributes == NULL or self.codec == NULL or self.flags == NULL
            or self.names == NULL
        ):
            raise MemoryError(f"cannot allocate the index of a directory of {directory_size} bytes")
        self.name_offset[0] = 0

    def __dealloc__(self):
        free(self.size)
        free(self.compressed_size)
        free(self.offset)
        free(self.name_offset)
        free(self.crc32)
        free(self.timestamp)
        free(self.attributes)
        free(self.codec)
        free(self.flags)
        free(self.names)

    def feed(self, const unsigned char[::1] chunk not None):
        """Take the whole entries at the start of a chunk.

        Returns
        -------
        consumed : int
            Bytes that were taken; feed the rest again, with what follows it.
        fault : int
            `Fault.MORE` where the chunk ends in or after an entry, else what is wrong with the entry there.
        """
        cdef size_t size = chunk.shape[0]
        cdef size_t consumed = 0
        cdef const uint8_t *start = &chunk[0] if size else NULL
        cdef Fault fault
        with nogil:
            fault = self._parse(start, size, &consumed)
        return consumed, fault

    cdef Fault _parse(self, const uint8_t *start, size_t size, size_t *consumed) noexcept nogil:
        cdef const uint8_t *at
        cdef size_t name_size, extra_size, entry_size
        cdef Fault fault
        cdef Entry entry
        cdef uint64_t i
        while True:
            at = start + consumed[0]
            if size - consumed[0] < CENTRAL_HEADER:
                return MORE
            if at[0] != 0x50 or at[1] != 0x4B or at[2] != 0x01 or at[3] != 0x02:
                return BAD_SIGNATURE
            name_size = u16(at + 28)
            extra_size = u16(at + 30)
            entry_size = CENTRAL_HEADER + name_size + extra_size + u16(at + 32)
            if size - consumed[0] < entry_size:
                return MORE
            i = self.count
            if i == self.capacity or i == MEMBERS_LIMIT:
                return TOO_MANY
            entry.compressed_size = u32(at + 20)
            entry.size = u32(at + 24)
            entry.disk = u16(at + 34)
            entry.offset = u32(at + 42)
            entry.flags = 0
            entry.unicode_path = NULL
            entry.unicode_path_size = 0
            entry.segments = NULL
            entry.segments_size = 0
            if extra_size:
                fault = read_extra(at, name_size, extra_size, &entry)
                if fault != NONE:
                    return fault
            self._flag(at, &entry)
            if not self._add_name(at + CENTRAL_HEADER, name_size, &entry):
                return OUT_OF_MEMORY
            if entry.segments != NULL and u16(at + 10) == DEFLATE and not cpp_append_raw(
                self.segment_member, self.segment_offset, self.segment_fields, <uint32_t> i,
                entry.segments, entry.segments_size
            ):
                return OUT_OF_MEMORY
            self.size[i] = entry.size
            self.compressed_size[i] = entry.compressed_size
            self.offset[i] = entry.offset
            self.crc32[i] = u32(at + 16)
            self.timestamp[i] = u32(at + 12)
            self.attributes[i] = u32(at + 38)
            self.codec[i] = u16(at + 10)
            self.flags[i] = entry.flags
            self.in_order = (
                self.in_order and (i == 0 or entry.offset > self.previous) and not entry.flags & ELSEWHERE_BITS)
            self.previous = entry.offset
            self.count = i + 1
            consumed[0] += entry_size

    cdef void _flag(self, const uint8_t *at, Entry *entry) noexcept nogil:
        """Set the flags of one entry, and add the prefix to its offset."""
        cdef uint16_t bits = u16(at + 8)
        # Bit 0: encrypted; bit 6: strong encryption; method 99: AES (4.4.4, 4.4.5).
        if bits & 0x0041 or u16(at + 10) == 99:
            entry.flags |= ENCRYPTED_BIT
        if bits & 0x0020:
            entry.flags |= PATCHED_BIT
        if bits & 0x0800:
            entry.flags |= UTF8_BIT
        if u16(at + 6) & 0xFF > HIGHEST_VERSION:
            entry.flags |= VERSION_BIT
        if entry.disk != 0:
            entry.flags |= OTHER_DISK_BIT
        # What no file can hold is listed, as empty, and refused when it is read.
        if not self._shift(&entry.offset) or entry.size >> 63 or entry.compressed_size >> 63:
            entry.flags |= OUT_OF_RANGE_BIT
            entry.size = 0
            entry.compressed_size = 0

    cdef bint _shift(self, uint64_t *offset) noexcept nogil:
        """Add the prefix to an offset; False where the result lies before the file or past all files."""
        if self.prefix < 0:
            if offset[0] < <uint64_t> -self.prefix:
                return False
            offset[0] -= <uint64_t> -self.prefix
        else:
            if offset[0] > 0x7FFFFFFFFFFFFFFFULL - <uint64_t> self.prefix:
                return False
            offset[0] += <uint64_t> self.prefix
        return offset[0] >> 63 == 0

    cdef bint _add_name(self, const uint8_t *raw, size_t raw_size, Entry *entry) noexcept nogil:
        """Append a name as UTF-8; where that is not what the archive holds, keep the raw bytes, too."""
        cdef const uint8_t *shown = raw
        cdef size_t shown_size = raw_size
        cdef const uint8_t *nul
        cdef bint convert = False
        cdef uint8_t *to
        if entry.unicode_path != NULL:
            shown = entry.unicode_path
            shown_size = entry.unicode_path_size
            entry.flags |= UTF8_BIT
        elif self.keep_raw and not entry.flags & UTF8_BIT:
            convert = True
        elif not is_ascii(raw, raw_size):
            if not entry.flags & UTF8_BIT:
                convert = True
            elif not is_utf8(raw, raw_size):
                entry.flags |= BAD_NAME_BIT
                convert = True      # unreadable, but listed
        # zipfile cuts a name at its first NUL; so does every reader written in C.
        nul = <const uint8_t *> memchr(shown, 0, shown_size) if shown_size else NULL
        if nul != NULL:
            shown_size = nul - shown
        if convert or nul != NULL or shown != raw:
            entry.flags |= RAW_NAME_BIT
            if not cpp_append_raw(
                self.raw_member, self.raw_offset, self.raw_names, <uint32_t> self.count, raw, raw_size
            ):
                return False
        if not self._reserve(3 * shown_size if convert else shown_size):
            return False
        to = self.names + self.names_size
        if convert:
            self.names_size += cp437_to_utf8(shown, shown_size, to)
        else:
            memcpy(to, shown, shown_size)
            self.names_size += shown_size
        self.name_offset[self.count + 1] = self.names_size
        return True

    cdef bint _reserve(self, size_t more) noexcept nogil:
        cdef uint64_t wanted
        cdef void *grown
        if self.names_capacity - self.names_size >= more:
            return True
        wanted = self.names_capacity + self.names_capacity // 2 + more
        grown = realloc(self.names, wanted)
        if grown == NULL:
            return False
        self.names = <uint8_t *> grown
        self.names_capacity = wanted
        return True

    def finish(self):
        """Hand over the columns, each as a `Buffer`; the scanner is empty after it.

        The fields that say how members are segmented, as they stand in the directory, are ``segment_fields``:
        `archivestream.formats.zip_segments` makes columns of them.
        """
        cdef uint32_t n = <uint32_t> self.count
        cdef uint32_t *successor = NULL
        if not self.in_order:
            successor = <uint32_t *> malloc(4 * <size_t> n)
            if successor == NULL:
                raise MemoryError("cannot allocate the order of the members")
            columns = {"successor": Buffer.adopt(successor, 4 * <size_t> n)}
            with nogil:
                cpp_order_members(
                    self.offset, self.name_offset, self.names, n, successor, self.flags, ALIAS_BIT, ELSEWHERE_BITS)
        else:
            columns = {}
        columns["size"] = hand_over(<void **> &self.size, 8 * self.count)
        columns["compressed_size"] = hand_over(<void **> &self.compressed_size, 8 * self.count)
        columns["offset"] = hand_over(<void **> &self.offset, 8 * self.count)
        columns["name_offset"] = hand_over(<void **> &self.name_offset, 8 * (self.count + 1))
        columns["crc32"] = hand_over(<void **> &self.crc32, 4 * self.count)
        columns["timestamp"] = hand_over(<void **> &self.timestamp, 4 * self.count)
        columns["attributes"] = hand_over(<void **> &self.attributes, 4 * self.count)
        columns["codec"] = hand_over(<void **> &self.codec, 2 * self.count)
        columns["flags"] = hand_over(<void **> &self.flags, 2 * self.count)
        columns["names"] = hand_over(<void **> &self.names, self.names_size)
        if not self.raw_member.empty():
            self.raw_offset.push_back(self.raw_names.size())
            columns["raw_member"] = copy_of(self.raw_member.data(), 4 * self.raw_member.size())
            columns["raw_offset"] = copy_of(self.raw_offset.data(), 8 * self.raw_offset.size())
            columns["raw_names"] = copy_of(self.raw_names.data(), self.raw_names.size())
        if not self.segment_member.empty():
            self.segment_offset.push_back(self.segment_fields.size())
            columns["segment_member"] = copy_of(self.segment_member.data(), 4 * self.segment_member.size())
            columns["segment_offset"] = copy_of(self.segment_offset.data(), 8 * self.segment_offset.size())
            columns["segment_fields"] = copy_of(self.segment_fields.data(), self.segment_fields.size())
        self.capacity = 0
        self.count = 0
        return columns


cdef Buffer hand_over(void **column, size_t size):
    """Give the memory of a column to a buffer, without the part that was not used."""
    cdef void *shrunk = realloc(column[0], size if size else 1)
    if shrunk == NULL:
        shrunk = column[0]      # shrinking failed: keep it as it is
    column[0] = NULL
    return Buffer.adopt(shrunk, size)


cdef Buffer copy_of(const void *data, size_t size):
    cdef Buffer buffer = Buffer(size)
    if size:    # an empty vector may lie at NULL, which C forbids here
        memcpy(buffer.data, data, size)
    return buffer
