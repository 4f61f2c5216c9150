"""Protocol buffers: the fields of a message (protobuf.dev, "Encoding"), as the runtime of Python ("upb") reads them.

A cursor goes through a message once; inside of a submessage its end is the end of that. What is wrong stops it where it
is: after a fault it is at no end, and is moved no more.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


# What is wrong with a message, and, from MISSING on, with an example that ought to have certain features.
cpdef enum ExampleFault:
    SOUND
    CUT             # it ends within a field
    BAD_VARINT      # more than ten bytes, or, of a tag or a length, five
    BAD_TAG         # no such field number or wire type, or the end of no group
    BAD_LENGTH      # beyond 2**31 - 1
    BAD_PACKED      # packed floats that are no multiple of four bytes
    BAD_KEY         # not UTF-8
    GROUP
    CHANGED         # it is another one the second time
    MISSING
    WRONG_KIND
    WRONG_COUNT
    WRONG_SIZE


cdef enum WireType:
    VARINT = 0
    FIXED64 = 1
    DELIMITED = 2
    START_GROUP = 3
    END_GROUP = 4
    FIXED32 = 5


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    ExampleFault fault


cdef inline bint more(const Cursor *cursor) noexcept nogil:
    return cursor.fault == SOUND and cursor.at < cursor.end


cdef inline uint64_t read_varint(Cursor *cursor, int longest) noexcept nogil:
    """Read up to `longest` bytes of seven bits each, the lowest first; bits beyond the 64th are dropped."""
    cdef uint64_t value = 0
    cdef uint8_t byte
    cdef int i
    for i in range(longest):
        if cursor.at + i == cursor.end:
            cursor.fault = CUT
            return 0
        byte = cursor.at[i]
        value |= <uint64_t> (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            cursor.at += i + 1
            return value
    cursor.fault = BAD_VARINT
    return 0


cdef inline uint32_t read_tag(Cursor *cursor) noexcept nogil:
    """Read the number and the wire type of a field; 0 where there is a fault."""
    cdef const uint8_t *begin = cursor.at
    cdef uint64_t tag = read_varint(cursor, 5)
    if cursor.fault == SOUND and (tag >> 3 == 0 or tag >> 32):
        cursor.fault = BAD_TAG
        cursor.at = begin
    return <uint32_t> tag if cursor.fault == SOUND else 0


cdef inline size_t read_length(Cursor *cursor) noexcept nogil:
    """Read the length of what follows, which is there; 0 where there is a fault."""
    cdef uint64_t length = read_varint(cursor, 5)
    if cursor.fault == SOUND:
        if length >> 31:
            cursor.fault = BAD_LENGTH
        elif length > <uint64_t> (cursor.end - cursor.at):
            cursor.fault = CUT
    return <size_t> length if cursor.fault == SOUND else 0


cdef inline const uint8_t *enter(Cursor *cursor) noexcept nogil:
    """Go into a submessage; return where what it lies in ends."""
    cdef const uint8_t *outer = cursor.end
    cdef size_t length = read_length(cursor)
    if cursor.fault == SOUND:
        cursor.end = cursor.at + length
    return outer


cdef inline void leave(Cursor *cursor, const uint8_t *outer) noexcept nogil:
    cursor.end = outer


cdef inline void pass_over(Cursor *cursor, size_t size) noexcept nogil:
    if size > <size_t> (cursor.end - cursor.at):
        cursor.fault = CUT
    else:
        cursor.at += size


cdef inline void skip_field(Cursor *cursor, uint32_t tag) noexcept nogil:
    """Pass over a field that is not known, behind its tag."""
    cdef uint32_t wire_type = tag & 7
    if cursor.fault != SOUND:
        return
    if wire_type == VARINT:
        read_varint(cursor, 10)
    elif wire_type == FIXED64:
        pass_over(cursor, 8)
    elif wire_type == DELIMITED:
        pass_over(cursor, read_length(cursor))
    elif wire_type == FIXED32:
        pass_over(cursor, 4)
    else:
        cursor.fault = GROUP if wire_type == START_GROUP else BAD_TAG
