"""tar: from the bytes of a stream to the columns of an index.

A tar is a sequence of headers, each followed by its payload, in blocks of 512 bytes (POSIX pax, "ustar Interchange
Format"); `tarheader` has the fields. Extension headers (GNU's L and K, PAX's x and g) speak of the member behind them.
"""

cimport cython

from archivestream._native.columns cimport SPARSE_BIT
from archivestream._native.tarheader cimport (
    BAD_CHECKSUM, BAD_MAP, BAD_NUMBER, BAD_SIZE, BEHIND_END, BLOCK, BLOCK_ENTRIES, BLOCK_IS_EXTENDED_AT, DIRTY_TEXT,
    ENTRIES_AT, HEADER_ENTRIES, IS_EXTENDED_AT, JOINED_SIZE, LINK_AT, LINK_SIZE, LONG_EXTENSION, MANY_EXTENSIONS,
    MAP_DIFFERS, MIXED_EXTENSIONS, MODE_AT, MTIME_AT, NONE, NOT_UTF8, OUT_OF_MEMORY, READ_FAILED, REAL_SIZE_AT,
    SIZE_AT, SIZE_WITHOUT_DATA, STRAY_EXTENSION, S_IFDIR, S_IFREG, TRUNCATED_DATA, TRUNCATED_EXTENSION,
    TRUNCATED_HEADER, TYPE_AT, UNKNOWN_SPARSE, check_fields, dos_time, file_type_of, has_valid_checksum, header_name,
    is_clean_text, is_header_like, is_zero, padded, read_number, text_size)
from archivestream._native.tarpax cimport check_map, cpp_append, read_entries, read_map, read_pax
from archivestream._native.text cimport is_utf8

cdef enum:
    LONGEST_EXTENSION = 1 << 20
    MOST_PENDING = 16

cdef uint64_t LARGEST = 0x7FFFFFFFFFFFFFFFULL
cdef uint64_t NOWHERE = 0xFFFFFFFFFFFFFFFFULL


@cython.final
cdef class TarScanner(HeaderScanner):
    """Turns the stream of a tar, fed in pieces of any size, into columns.

    Parameters
    ----------
    strict : bool
        Refuse what readers disagree on.
    max_members : int
        Most members.
    max_bytes : int
        Most bytes of the columns.
    ignore_zeros : bool
        Go on behind the end mark: tars that were put one behind the other.

    Not thread-safe: one thread feeds it.
    """

    def __cinit__(self, *, bint strict, uint64_t max_members, uint64_t max_bytes, bint ignore_zeros=False):
        self.strict = strict
        self.ignore_zeros = ignore_zeros
        self.table = TarTable(max_members, max_bytes)
        self.fault = NONE
        self.expect(HEADER, 0, BLOCK)

    @property
    def count(self):
        """Members so far."""
        return self.table.columns.size.size()

    @property
    def offset(self):
        """Where the last header that was looked at begins."""
        return self.header

    @property
    def last_name(self):
        """The name of the last member."""
        return self.table.last_name()

    cdef uint64_t next_wanted(self) noexcept nogil:
        return NOWHERE if self.state == DONE else self.start + self.partial.size()

    cdef int fail(self, bint unreadable) noexcept nogil:
        self.fault = READ_FAILED if unreadable else TRUNCATED_HEADER
        return self.fault

    cdef int take(self, const uint8_t *data, size_t size, uint64_t offset) noexcept nogil:
        cdef uint64_t skip
        cdef const uint8_t *unit
        while self.fault == NONE and self.state != DONE:
            skip = self.next_wanted() - offset
            if skip >= size:
                if size:
                    self.adapt(skip - size, size)
                break
            if self.state == TRAILER:
                if not is_zero(data + skip, size - skip):
                    self.fault = BEHIND_END
                self.start = offset + size
                break
            unit = self.collect(data + skip, size - skip)
            if unit != NULL:
                self.fault = self.step(unit)
        return self.fault

    cdef const uint8_t *collect(self, const uint8_t *data, size_t size) noexcept nogil:
        """The whole of what is expected, where it begins in a piece or ends in it; else keep what there is of it."""
        if self.partial.empty() and size >= self.need:
            return data
        if not cpp_append(self.partial, data, min(size, self.need - self.partial.size())):
            self.fault = OUT_OF_MEMORY
            return NULL
        return self.partial.data() if self.partial.size() == self.need else NULL

    cdef void expect(self, State state, uint64_t start, uint64_t need) noexcept nogil:
        self.state = state
        self.start = start
        self.need = need
        self.partial.clear()

    cdef Fault step(self, const uint8_t *unit) noexcept nogil:
        cdef Fault fault
        if self.state == HEADER:
            return self.read_header(unit)
        if self.state == EXTENSION:
            return self.read_extension(unit)
        if self.state == SPARSE_BLOCK:
            fault = read_entries(unit, BLOCK_ENTRIES, &self.local)
            if fault != NONE:
                return fault
            if unit[BLOCK_IS_EXTENDED_AT]:
                self.expect(SPARSE_BLOCK, self.start + BLOCK, BLOCK)
                return NONE
            return self.end_sparse(self.start + BLOCK)
        return self.read_sparse_map(unit)

    cdef Fault read_header(self, const uint8_t *header) noexcept nogil:
        cdef int64_t size
        cdef uint64_t behind = self.behind
        cdef uint8_t kind = header[TYPE_AT]
        cdef bint is_number
        self.header = self.start
        self.behind = 0
        if is_zero(header, BLOCK):
            if self.pending:
                return STRAY_EXTENSION
            if self.ignore_zeros:
                self.expect(HEADER, self.start + BLOCK, BLOCK)
            else:
                # One block of zeros is enough: many writers leave it at one, or at none.
                self.finished = True
                self.expect(TRAILER if self.strict else DONE, self.start + BLOCK, BLOCK)
            return NONE
        if not has_valid_checksum(header):
            if behind and not is_header_like(header):
                self.expect(HEADER, self.start + padded(behind), BLOCK)
                return NONE
            return BAD_CHECKSUM
        is_number = read_number(header + SIZE_AT, 12, &size)
        if kind == b"L" or kind == b"K" or kind == b"x" or kind == b"X" or kind == b"g":
            if not is_number:
                return BAD_NUMBER
            return self.read_extension_header(kind, size)
        # The size of PAX counts, whatever the header says; and it is that of a file, of no header in between.
        if self.local.has_size:
            size = <int64_t> self.local.size
        elif self.common.has_size:
            size = <int64_t> self.common.size
        elif not is_number:
            return BAD_NUMBER
        if size < 0 or <uint64_t> size > LARGEST - 2 * BLOCK or <uint64_t> size > LARGEST - 2 * BLOCK - self.start:
            return BAD_SIZE
        return self.read_member(header, kind, <uint64_t> size)

    cdef Fault read_extension_header(self, uint8_t kind, int64_t size) noexcept nogil:
        if size < 0:
            return BAD_SIZE
        if size > LONGEST_EXTENSION:
            return LONG_EXTENSION
        if kind != b"g":
            self.pending += 1
            if self.pending > MOST_PENDING:
                return MANY_EXTENSIONS
            if kind == b"L" or kind == b"K":
                self.has_gnu = True
            else:
                self.has_pax = True
        if self.strict and self.pending and (kind == b"g" or (self.has_gnu and self.has_pax)):
            return MIXED_EXTENSIONS
        self.kind = kind
        self.expect(EXTENSION, self.start + BLOCK, <uint64_t> size)
        return self.read_extension(NULL) if size == 0 else NONE

    cdef Fault read_extension(self, const uint8_t *payload) noexcept nogil:
        cdef Fault fault
        cdef size_t size = self.need
        cdef vector[uint8_t] *text
        if self.kind == b"L" or self.kind == b"K":
            if self.strict and not is_clean_text(payload, size):
                return DIRTY_TEXT
            size = text_size(payload, size)
            if self.strict and not is_utf8(payload, size):
                return NOT_UTF8
            if self.kind == b"L":
                self.local.has_path = True
                self.local.pax_path = False
                text = &self.local.path
            else:
                self.local.has_link = True
                self.local.link_place = self.start
                text = &self.local.link
            text.clear()
            if not cpp_append(text[0], payload, size):
                return OUT_OF_MEMORY
        else:
            fault = read_pax(
                payload, size, self.start, self.kind == b"g", self.strict,
                &self.common if self.kind == b"g" else &self.local)
            if fault != NONE:
                return fault
        self.expect(HEADER, self.start + padded(self.need), BLOCK)
        return NONE

    cdef Fault read_member(self, const uint8_t *header, uint8_t kind, uint64_t size) noexcept nogil:
        cdef int64_t mode = 0
        cdef int64_t mtime = 0
        cdef uint32_t file_type = file_type_of(header)
        cdef uint64_t payload = self.start + BLOCK
        cdef uint8_t[JOINED_SIZE] joined
        cdef const uint8_t *name
        cdef size_t name_size
        cdef bint has_data
        cdef Fault fault
        if self.strict:
            fault = check_fields(header)
            if fault != NONE:
                return fault
        has_data = file_type == S_IFREG and kind != b"1"
        if not read_number(header + MODE_AT, 8, &mode):
            mode = 0
        if self.local.has_mtime:
            mtime = self.local.mtime
        elif self.common.has_mtime:
            mtime = self.common.mtime
        elif not read_number(header + MTIME_AT, 12, &mtime):
            mtime = 0
        self.member.size = size if has_data else 0
        self.member.stored_size = self.member.size
        self.member.offset = payload
        self.member.timestamp = dos_time(mtime)
        self.member.attributes = <uint32_t> ((mode & 0o7777) | file_type) << 16
        self.member.flags = 0
        if kind == b"1" or kind == b"2":
            fault = self.read_link(header, kind)
            if fault != NONE:
                return fault
        name_size = self.read_name(header, file_type == S_IFDIR, joined, &name)
        if has_data and (kind == b"S" or self.local.sparse):
            self.name.clear()
            return self.begin_sparse(header, kind, size) if cpp_append(self.name, name, name_size) else OUT_OF_MEMORY
        fault = self.table.add_member(&self.member, name, name_size)
        if fault != NONE:
            return fault
        if not has_data and kind != b"D":
            # POSIX: these have no data, whatever their size says. Some writers put data there all the same, which
            # `read_header` passes over when it finds no header in their place.
            self.behind = size
            size = 0
        if self.strict and (self.behind or (kind == b"V" and size)):
            return SIZE_WITHOUT_DATA
        self.forget()
        self.expect(HEADER, payload + padded(size), BLOCK)
        return NONE

    cdef void forget(self) noexcept nogil:
        """The extension headers concerned the member that was read."""
        if self.pending:
            self.local.clear()
            self.pending = 0
            self.has_gnu = self.has_pax = False

    cdef Fault begin_sparse(self, const uint8_t *header, uint8_t kind, uint64_t size) noexcept nogil:
        cdef int64_t real_size
        cdef Fault fault
        cdef uint64_t payload = self.start + BLOCK
        self.stored = size
        if kind == b"S":
            self.local.map.clear()
            self.local.has_entries = False
            if not read_number(header + REAL_SIZE_AT, 12, &real_size):
                return BAD_NUMBER
            if real_size < 0:
                return BAD_SIZE
            self.local.real_size = <uint64_t> real_size
            fault = read_entries(header + ENTRIES_AT, HEADER_ENTRIES, &self.local)
            if fault != NONE:
                return fault
            if header[IS_EXTENDED_AT]:
                self.expect(SPARSE_BLOCK, payload, BLOCK)
                return NONE
        elif not self.local.has_real_size:
            return BAD_MAP
        elif self.local.major == 1 and self.local.minor == 0:
            if size == 0:
                return BAD_MAP
            self.expect(SPARSE_MAP, payload, min(<uint64_t> BLOCK, size))
            return NONE
        elif self.local.major:
            return UNKNOWN_SPARSE
        return self.end_sparse(payload)

    cdef Fault read_sparse_map(self, const uint8_t *text) noexcept nogil:
        cdef size_t used
        cdef Fault fault = read_map(text, self.need, &used, &self.local)
        if fault != NONE:
            return fault
        if used:
            used = <size_t> padded(used)
            if used > self.stored:
                return BAD_MAP
            self.stored -= used
            return self.end_sparse(self.start + used)
        if self.need == self.stored:
            return BAD_MAP
        # Twice as much, so that reading it from the start each time costs no more than twice its size.
        if self.partial.empty() and not cpp_append(self.partial, text, self.need):
            return OUT_OF_MEMORY
        self.need = min(2 * self.need, self.stored)
        return NONE

    cdef Fault end_sparse(self, uint64_t payload) noexcept nogil:
        """Add a sparse member, whose map is known now, and whose extents begin at `payload`."""
        cdef Fault fault = check_map(self.local.map, self.local.real_size, self.stored, self.strict)
        if fault != NONE:
            return fault
        if self.strict and self.local.has_entries and self.local.entries != self.local.map.size():
            return MAP_DIFFERS
        self.member.size = self.local.real_size
        self.member.stored_size = self.stored
        self.member.offset = payload
        self.member.flags |= SPARSE_BIT
        fault = self.table.add_extents(self.local.map, payload)
        if fault == NONE:
            fault = self.table.add_member(&self.member, self.name.data(), self.name.size())
        if fault != NONE:
            return fault
        self.local.clear()
        self.forget()
        self.expect(HEADER, payload + padded(self.stored), BLOCK)
        return NONE

    cdef size_t read_name(
        self, const uint8_t *header, bint is_folder, uint8_t *joined, const uint8_t **name
    ) noexcept nogil:
        """Find the name of a member, and return its size."""
        cdef size_t size
        cdef bint is_pax = False
        if self.local.has_sparse_name:
            name[0] = self.local.sparse_name.data()
            size = self.local.sparse_name.size()
        elif self.local.has_path:
            name[0] = self.local.path.data()
            size = self.local.path.size()
            is_pax = self.local.pax_path
        elif self.common.has_path:
            name[0] = self.common.path.data()
            size = self.common.path.size()
            is_pax = True
        else:
            size = header_name(header, joined, name)
        # As tarfile has it.
        if is_folder or is_pax:
            while size and name[0][size - 1] == b"/":
                size -= 1
        return size

    cdef Fault read_link(self, const uint8_t *header, uint8_t kind) noexcept nogil:
        """The target of a link: where in the stream it stands, or which member it is."""
        cdef const uint8_t *target = header + LINK_AT
        cdef size_t size = text_size(target, LINK_SIZE)
        cdef uint64_t place = self.start + LINK_AT
        if self.local.has_link:
            target = self.local.link.data()
            size = self.local.link.size()
            place = self.local.link_place
        elif self.common.has_link:
            target = self.common.link.data()
            size = self.common.link.size()
            place = self.common.link_place
        if kind == b"1":
            return self.table.add_link(target, size)
        self.member.offset = place
        self.member.size = self.member.stored_size = size
        return NONE

    def end(self, uint64_t size):
        """Say that the stream has `size` bytes, all of which that were wanted have been fed; resolve hard links.

        Returns
        -------
        fault : int
            As `feed`.
        """
        if self.fault == NONE and self.state != DONE and self.state != TRAILER:
            if self.state != HEADER:
                self.fault = TRUNCATED_EXTENSION
            elif self.start > size:
                self.fault = TRUNCATED_DATA
            elif not self.partial.empty():
                self.fault = TRUNCATED_HEADER
            elif self.pending:
                self.fault = STRAY_EXTENSION
        if self.fault == NONE:
            self.fault = self.table.resolve_links()
        return self.fault

    def finish(self):
        """Hand over the columns, each as a `Buffer`, once `end` found no fault; the scanner is empty after it."""
        return self.table.finish()
