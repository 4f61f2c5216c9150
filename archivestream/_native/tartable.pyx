"""tar: the columns of an index, as they grow."""

cimport cython
from libc.string cimport memset

from archivestream._native.buffers cimport Buffer
from archivestream._native.columns cimport BROKEN_LINK_BIT, RAW_NAME_BIT, SPARSE_BIT
from archivestream._native.tarheader cimport (
    NONE, OUT_OF_MEMORY, TOO_MANY_BYTES, TOO_MANY_EXTENTS, TOO_MANY_MEMBERS)
from archivestream._native.tarpax cimport cpp_append
from archivestream._native.text cimport escape_utf8, is_ascii, is_utf8

cdef extern from "tar_columns.hpp" namespace "archivestream":
    uint8_t *cpp_grow_names "archivestream::grow_names"(vector[uint8_t] &names, size_t more) noexcept nogil
    void cpp_shrink_names "archivestream::shrink_names"(vector[uint8_t] &names, size_t less) noexcept nogil
    bint cpp_append_member "archivestream::append_member"(TarColumns &to, const TarMember &member) noexcept nogil
    bint cpp_append_row "archivestream::append_row"(
        vector[uint32_t] &members, vector[uint64_t] &offsets, vector[uint8_t] &names, uint32_t member,
        const uint8_t *name, size_t size) noexcept nogil
    bint cpp_append_map "archivestream::append_map"(
        TarColumns &to, uint32_t member, const vector[Extent] &extents, uint64_t offset) noexcept nogil
    bint cpp_resolve_links "archivestream::resolve_links"(
        TarColumns &columns, uint16_t sparse, uint16_t broken, uint32_t type_bits, uint64_t most) except + nogil
    void *cpp_release "archivestream::release"[T](vector[T] &column) except +

# Positions of members fit 32 bits, and all ones means none.
cdef uint64_t MEMBERS_LIMIT = 0xFFFFFFFEULL
# The file type in the attributes.
cdef uint32_t TYPE_BITS = 0o170000 << 16
# What a row costs in each of the columns that all members, hard links (with what finds their targets), members with a
# raw name, sparse members, and extents have.
cdef enum:
    MEMBER_ROW = 48
    LINK_ROW = 32
    RAW_ROW = 12
    SPARSE_ROW = 12
    EXTENT_ROW = 24

# Extents that hard links to sparse members may have, where the archive has not as many itself.
cdef uint64_t LINKED_EXTENTS = 1 << 20


@cython.final
cdef class TarTable:
    """The members of a tar, one after the other.

    Parameters
    ----------
    max_members : int
        Most members.
    max_bytes : int
        Most bytes of the columns.
    """

    def __cinit__(self, uint64_t max_members, uint64_t max_bytes):
        self.max_members = min(max_members, MEMBERS_LIMIT)
        self.left = max_bytes

    cdef bint charge(self, uint64_t cost) noexcept nogil:
        """Take so many bytes of those that are left, before memory is; False where there are fewer."""
        if cost > self.left:
            return False
        self.left -= cost
        return True

    cdef Fault add_member(self, TarMember *member, const uint8_t *name, size_t size) noexcept nogil:
        """Add a member; its link or extents, if any, go first."""
        cdef bint escaped = False
        cdef uint32_t i = <uint32_t> self.columns.size.size()
        cdef Fault fault
        if i == self.max_members:
            return TOO_MANY_MEMBERS
        if not self.charge(MEMBER_ROW):
            return TOO_MANY_BYTES
        fault = self.add_text(&self.columns.names, name, size, &escaped)
        if fault != NONE:
            return fault
        if escaped:
            member.flags |= RAW_NAME_BIT
            if not self.charge(RAW_ROW + size):
                return TOO_MANY_BYTES
            if not cpp_append_row(
                self.columns.raw_member, self.columns.raw_offset, self.columns.raw_names, i, name, size
            ):
                return OUT_OF_MEMORY
        return NONE if cpp_append_member(self.columns, member[0]) else OUT_OF_MEMORY

    cdef Fault add_link(self, const uint8_t *target, size_t size) noexcept nogil:
        """Say that the next member is a hard link."""
        cdef bint escaped = False
        cdef uint32_t i = <uint32_t> self.columns.size.size()
        if not self.charge(LINK_ROW):
            return TOO_MANY_BYTES
        if not cpp_append_row(
            self.columns.link_member, self.columns.link_offset, self.columns.link_names, i, NULL, 0
        ):
            return OUT_OF_MEMORY
        return self.add_text(&self.columns.link_names, target, size, &escaped)

    cdef Fault add_extents(self, const vector[Extent] &extents, uint64_t payload) noexcept nogil:
        """Say that the next member is sparse."""
        if not self.charge(SPARSE_ROW + EXTENT_ROW * extents.size()):
            return TOO_MANY_BYTES
        if not cpp_append_map(self.columns, <uint32_t> self.columns.size.size(), extents, payload):
            return OUT_OF_MEMORY
        return NONE

    cdef Fault add_text(
        self, vector[uint8_t] *names, const uint8_t *raw, size_t size, bint *escaped
    ) noexcept nogil:
        """Append a name in UTF-8, or with lone surrogates for what is none."""
        cdef uint8_t *to
        escaped[0] = not is_ascii(raw, size) and not is_utf8(raw, size)
        if not self.charge(3 * size if escaped[0] else size):
            return TOO_MANY_BYTES
        if not escaped[0]:
            if not cpp_append(names[0], raw, size):
                return OUT_OF_MEMORY
        else:
            to = cpp_grow_names(names[0], 3 * size)
            if to == NULL:
                return OUT_OF_MEMORY
            cpp_shrink_names(names[0], 3 * size - escape_utf8(raw, size, to))
        return NONE

    cdef Fault resolve_links(self):
        """Give each hard link what it refers to, or the flag that says that it refers to nothing."""
        # Links could multiply the extents without bound.
        cdef uint64_t most = 2 * max(<uint64_t> self.columns.extent_place.size(), LINKED_EXTENTS)
        cdef bint resolved = True
        if not self.columns.link_member.empty():
            with nogil:
                resolved = cpp_resolve_links(self.columns, SPARSE_BIT, BROKEN_LINK_BIT, TYPE_BITS, most)
        return NONE if resolved else TOO_MANY_EXTENTS

    cdef object last_name(self):
        cdef size_t n = self.columns.size.size()
        cdef size_t begin, end
        if n == 0:
            return None
        begin, end = self.columns.name_offset[n - 1], self.columns.name_offset[n]
        return (<char *> self.columns.names.data())[begin:end].decode("utf-8", "surrogatepass")

    cdef dict finish(self):
        """Hand over the columns, each as a `Buffer`; the table is empty after it."""
        cdef size_t n = self.columns.size.size()
        cdef size_t rows = self.columns.raw_member.size()
        cdef size_t maps = self.columns.sparse_member.size()
        cdef size_t extents = self.columns.extent_place.size()
        cdef size_t names = self.columns.names.size()
        cdef size_t raw_names = self.columns.raw_names.size()
        if n == 0:
            self.columns.name_offset.push_back(0)
        columns = {
            "size": Buffer.adopt(cpp_release(self.columns.size), 8 * n),
            "compressed_size": Buffer.adopt(cpp_release(self.columns.compressed_size), 8 * n),
            "offset": Buffer.adopt(cpp_release(self.columns.offset), 8 * n),
            "name_offset": Buffer.adopt(cpp_release(self.columns.name_offset), 8 * (n + 1)),
            "crc32": zeros(4 * n),
            "timestamp": Buffer.adopt(cpp_release(self.columns.timestamp), 4 * n),
            "attributes": Buffer.adopt(cpp_release(self.columns.attributes), 4 * n),
            "codec": zeros(2 * n),      # stored
            "flags": Buffer.adopt(cpp_release(self.columns.flags), 2 * n),
            "names": Buffer.adopt(cpp_release(self.columns.names), names),
        }
        if rows:
            self.columns.raw_offset.push_back(raw_names)
            columns["raw_member"] = Buffer.adopt(cpp_release(self.columns.raw_member), 4 * rows)
            columns["raw_offset"] = Buffer.adopt(cpp_release(self.columns.raw_offset), 8 * (rows + 1))
            columns["raw_names"] = Buffer.adopt(cpp_release(self.columns.raw_names), raw_names)
        if maps:
            self.columns.sparse_offset.push_back(extents)
            columns["sparse_member"] = Buffer.adopt(cpp_release(self.columns.sparse_member), 4 * maps)
            columns["sparse_offset"] = Buffer.adopt(cpp_release(self.columns.sparse_offset), 8 * (maps + 1))
            columns["extent_place"] = Buffer.adopt(cpp_release(self.columns.extent_place), 8 * extents)
            columns["extent_offset"] = Buffer.adopt(cpp_release(self.columns.extent_offset), 8 * extents)
            columns["extent_size"] = Buffer.adopt(cpp_release(self.columns.extent_size), 8 * extents)
        return columns


cdef Buffer zeros(size_t size):
    cdef Buffer buffer = Buffer(size)
    memset(buffer.data, 0, size)
    return buffer
