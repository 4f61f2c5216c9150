"""tar: the records of PAX extension headers, and maps of sparse files.

A record is ``"%d %s=%s\\n" % (length, key, value)``, where the length counts itself and the newline (POSIX pax, "pax
Extended Header"). Keys that concern no reader of contents are passed over.
"""

from libc.string cimport memchr, memcmp, strlen

from archivestream._native.tarheader cimport (
    BAD_CHARSET, BAD_MAP, BAD_RECORD, BAD_VALUE, ENTRY, GLOBAL_RECORD, LONG_INHERITANCE, MAP_DIFFERS, NONE, NOT_UTF8,
    NUL_IN_RECORD, OUT_OF_MEMORY, REPEATED_RECORD, TOO_MANY_EXTENTS, is_zero, read_decimal, read_number, read_time)
from archivestream._native.text cimport is_utf8

# The records that are read, as bits of a set: two of a kind in one header are ambiguous. The numbers of a map,
# which GNU.sparse.offset and GNU.sparse.numbytes give one by one, may come as often as there are extents.
cdef enum:
    PATH = 0x01
    LINK = 0x02
    SIZE = 0x04
    MTIME = 0x08

cdef enum:
    LONGEST_LINE = 20       # of a map: a number of 63 bits, and a newline
    LONGEST_INHERITED = 4096    # name or link of all members, each of which has a copy: the longest path of Linux


cdef bint equals(const uint8_t *text, size_t size, const char *other) noexcept nogil:
    return size == strlen(other) and memcmp(text, other, size) == 0


cdef Fault read_pax(
    const uint8_t *payload, size_t size, uint64_t place, bint is_global, bint strict, Extension *into
) noexcept nogil:
    """Read the records of one header, whose payload stands at `place` in the stream."""
    cdef size_t at = 0
    cdef size_t digits, key, key_size, value, value_size
    cdef uint64_t length
    cdef const uint8_t *found
    cdef uint32_t seen = 0
    cdef uint32_t kind = 0
    cdef Fault fault
    while at < size and payload[at] != 0:
        found = <const uint8_t *> memchr(payload + at, b" ", size - at)
        if found == NULL:
            return BAD_RECORD
        digits = found - (payload + at)
        # The shortest record there can be: "5 a=\n".
        if not read_decimal(payload + at, digits, &length) or length > size - at or length < digits + 4:
            return BAD_RECORD
        key = at + digits + 1
        at += length
        if payload[at - 1] != b"\n":
            return BAD_RECORD
        found = <const uint8_t *> memchr(payload + key, b"=", at - 1 - key)
        if found == NULL or found == payload + key:
            return BAD_RECORD
        key_size = found - (payload + key)
        value = key + key_size + 1
        value_size = at - 1 - value
        fault = take(payload + key, key_size, payload + value, value_size, place + value, is_global, into, &kind)
        if fault != NONE:
            return fault
        if strict:
            fault = check(payload + key, key_size, payload + value, value_size, is_global, kind)
            if fault != NONE:
                return fault
            if kind & seen:
                return REPEATED_RECORD
            seen |= kind
    # Some writers fill the block with NULs and count them.
    return NONE if is_zero(payload + at, size - at) and not into.half else BAD_RECORD


cdef Fault take(
    const uint8_t *key, size_t key_size, const uint8_t *value, size_t size, uint64_t place, bint is_global,
    Extension *into, uint32_t *kind
) noexcept nogil:
    """Take one record; `kind` is its bit, or 0."""
    kind[0] = 0
    if equals(key, key_size, b"path"):
        kind[0] = PATH
        if is_global and size > LONGEST_INHERITED:
            return LONG_INHERITANCE
        into.has_path = into.pax_path = True
        into.path.clear()
        return NONE if cpp_append(into.path, value, size) else OUT_OF_MEMORY
    if equals(key, key_size, b"linkpath"):
        kind[0] = LINK
        if is_global and size > LONGEST_INHERITED:
            return LONG_INHERITANCE
        into.has_link = True
        into.link_place = place
        into.link.clear()
        return NONE if cpp_append(into.link, value, size) else OUT_OF_MEMORY
    if equals(key, key_size, b"size"):
        kind[0] = SIZE
        into.has_size = True
        return NONE if read_decimal(value, size, &into.size) else BAD_VALUE
    if equals(key, key_size, b"mtime"):
        kind[0] = MTIME
        # A time that is none is left to strict mode: it is of no consequence.
        into.has_mtime = read_time(value, size, &into.mtime)
        return NONE
    if not is_global and key_size > 11 and memcmp(key, b"GNU.sparse.", 11) == 0:
        return take_sparse(key + 11, key_size - 11, value, size, into)
    return NONE


cdef Fault take_sparse(
    const uint8_t *key, size_t key_size, const uint8_t *value, size_t size, Extension *into
) noexcept nogil:
    """Take a record of a sparse file (GNU tar, "Storing Sparse Files"): versions 0.0, 0.1 and 1.0."""
    cdef uint64_t number = 0
    into.sparse = True
    if equals(key, key_size, b"name"):
        into.has_sparse_name = True
        into.sparse_name.clear()
        return NONE if cpp_append(into.sparse_name, value, size) else OUT_OF_MEMORY
    if equals(key, key_size, b"map"):
        return BAD_MAP if into.half or into.map.size() else read_list(value, size, into)
    if not read_decimal(value, size, &number):
        return BAD_VALUE
    if equals(key, key_size, b"realsize") or equals(key, key_size, b"size"):
        into.has_real_size = True
        into.real_size = number
    elif equals(key, key_size, b"major"):
        into.major = number
    elif equals(key, key_size, b"minor"):
        into.minor = number
    elif equals(key, key_size, b"numblocks"):
        into.has_entries = True
        into.entries = number
    elif equals(key, key_size, b"offset"):
        if into.half:
            return BAD_MAP
        into.half = True
        into.place = number
    elif equals(key, key_size, b"numbytes"):
        if not into.half:
            return BAD_MAP
        into.half = False
        return add_extent(into, into.place, number)
    return NONE


cdef Fault add_extent(Extension *into, uint64_t place, uint64_t size) noexcept nogil:
    if into.map.size() >= MOST_EXTENTS:
        return TOO_MANY_EXTENTS
    return NONE if cpp_append_extent(into.map, place, size) else OUT_OF_MEMORY


cdef Fault read_entries(const uint8_t *entries, int count, Extension *into) noexcept nogil:
    """Read the entries of one block of an old GNU sparse map; an empty one ends it."""
    cdef int64_t place, size
    cdef int i
    cdef Fault fault
    for i in range(count):
        if entries[ENTRY * i + 12] == 0:
            break
        if (
            not read_number(entries + ENTRY * i, 12, &place) or place < 0
            or not read_number(entries + ENTRY * i + 12, 12, &size) or size < 0
        ):
            return BAD_MAP
        fault = add_extent(into, <uint64_t> place, <uint64_t> size)
        if fault != NONE:
            return fault
    return NONE


cdef Fault read_list(const uint8_t *text, size_t size, Extension *into) noexcept nogil:
    """Read the map of version 0.1: "place,size,place,size"."""
    cdef const uint8_t *end = text + size
    cdef const uint8_t *comma
    cdef uint64_t[2] pair
    cdef size_t i
    cdef Fault fault
    if size == 0:
        return NONE
    while text <= end:      # one place behind it, once the last number was read
        for i in range(2):
            comma = <const uint8_t *> memchr(text, b",", end - text) if text < end else NULL
            if comma == NULL:
                comma = end
            if text >= end or not read_decimal(text, comma - text, &pair[i]):
                return BAD_MAP
            text = comma + 1
        fault = add_extent(into, pair[0], pair[1])
        if fault != NONE:
            return fault
    return NONE


cdef Fault read_map(const uint8_t *text, size_t size, size_t *used, Extension *into) noexcept nogil:
    """Read the map of version 1.0, which stands before the data: the number of extents, then place and size of each.

    Each number ends with a newline. `used` is how many bytes of the text are it, or 0 where there must be more.
    """
    cdef size_t at = 0
    cdef const uint8_t *end
    cdef uint64_t count = 0
    cdef uint64_t i = 0
    cdef uint64_t place = 0
    cdef uint64_t number
    cdef Fault fault
    used[0] = 0
    into.map.clear()
    while i <= 2 * count:
        # No longer one is read, so that the map is bounded by its number of extents.
        end = <const uint8_t *> memchr(text + at, b"\n", min(size - at, <size_t> LONGEST_LINE)) if at < size else NULL
        if end == NULL:
            return BAD_MAP if size - at >= LONGEST_LINE else NONE
        if not read_decimal(text + at, end - (text + at), &number):
            return BAD_MAP
        at = end - text + 1
        if i == 0:
            count = number
            if count > MOST_EXTENTS:
                return TOO_MANY_EXTENTS
        elif i & 1:
            place = number
        else:
            fault = add_extent(into, place, number)
            if fault != NONE:
                return fault
        i += 1
    used[0] = at
    return NONE


cdef Fault check_map(const vector[Extent] &extents, uint64_t size, uint64_t stored, bint strict) noexcept nogil:
    """The extents must be in order, within the member, and all there; in strict mode there is nothing else."""
    cdef uint64_t end = 0
    cdef uint64_t total = 0
    cdef size_t i
    for i in range(extents.size()):
        if extents[i].place < end or extents[i].place > size or extents[i].size > size - extents[i].place:
            return BAD_MAP
        if extents[i].size > stored - total:
            return BAD_MAP
        end = extents[i].place + extents[i].size
        total += extents[i].size
    return MAP_DIFFERS if strict and total != stored else NONE


cdef Fault check(
    const uint8_t *key, size_t key_size, const uint8_t *value, size_t size, bint is_global, uint32_t kind
) noexcept nogil:
    """What strict mode minds in a record."""
    cdef int64_t seconds
    if is_global and kind & (PATH | LINK | SIZE):
        return GLOBAL_RECORD
    if kind == MTIME and not read_time(value, size, &seconds):
        return BAD_VALUE
    if equals(key, key_size, b"hdrcharset") and not (
        equals(value, size, b"ISO-IR 10646 2000 UTF-8") or equals(value, size, b"BINARY")
    ):
        return BAD_CHARSET
    if memchr(key, 0, key_size) != NULL:
        return NUL_IN_RECORD
    if not is_utf8(key, key_size):
        return NOT_UTF8
    # The values of extended attributes are any bytes.
    if not has_binary_value(key, key_size):
        if size and memchr(value, 0, size) != NULL:
            return NUL_IN_RECORD
        if not is_utf8(value, size):
            return NOT_UTF8
    return NONE


cdef bint has_binary_value(const uint8_t *key, size_t size) noexcept nogil:
    """SCHILY.xattr.NAME, LIBARCHIVE.xattr.NAME, RHT.security.selinux and the like."""
    return (
        (size > 13 and memcmp(key, b"SCHILY.xattr.", 13) == 0)
        or (size > 17 and memcmp(key, b"LIBARCHIVE.xattr.", 17) == 0)
        or (size > 4 and memcmp(key, b"RHT.", 4) == 0)
    )
