"""Names of members: ASCII, UTF-8 and code page 437."""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

# The upper half of code page 437, which names are in where bit 11 is clear (appendix D.1).
cdef uint16_t[128] CP437
for _i, _c in enumerate(bytes(range(128, 256)).decode("cp437")):
    CP437[_i] = ord(_c)


cdef bint is_ascii(const uint8_t *text, size_t size) noexcept nogil:
    """No byte above 127."""
    cdef size_t i = 0
    cdef uint64_t word
    while size - i >= 8:
        memcpy(&word, text + i, 8)
        if word & 0x8080808080808080ULL:
            return False
        i += 8
    while i < size:
        if text[i] & 0x80:
            return False
        i += 1
    return True


cdef bint is_utf8(const uint8_t *text, size_t size) noexcept nogil:
    """Well-formed UTF-8 as RFC 3629, section 4, has it: no overlong forms, no surrogates."""
    cdef size_t i = 0
    cdef size_t follow
    cdef uint8_t lead, low, high
    while i < size:
        lead = text[i]
        i += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            follow = 1
        elif 0xE0 <= lead <= 0xEF:
            follow = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            follow = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if size - i < follow:
            return False
        while follow:
            if not low <= text[i] <= high:
                return False
            low, high = 0x80, 0xBF
            i += 1
            follow -= 1
    return True


cdef size_t cp437_to_utf8(const uint8_t *text, size_t size, uint8_t *to) noexcept nogil:
    """Convert, and return the size of the result: at most three times that of the text."""
    cdef uint8_t *start = to
    cdef size_t i
    cdef uint16_t c
    for i in range(size):
        c = CP437[text[i] & 0x7F] if text[i] & 0x80 else text[i]
        if c < 0x80:
            to[0] = <uint8_t> c
            to += 1
        elif c < 0x800:
            to[0] = <uint8_t> (0xC0 | (c >> 6))
            to[1] = <uint8_t> (0x80 | (c & 0x3F))
            to += 2
        else:
            to[0] = <uint8_t> (0xE0 | (c >> 12))
            to[1] = <uint8_t> (0x80 | ((c >> 6) & 0x3F))
            to[2] = <uint8_t> (0x80 | (c & 0x3F))
            to += 3
    return to - start
