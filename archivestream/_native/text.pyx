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


cdef enum:
    LAST_BEFORE_SURROGATES = 0x9F   # behind a byte ED, which begins U+D000 to U+DFFF


cdef inline size_t utf8_sequence(const uint8_t *text, size_t size, uint8_t highest_after_ed) noexcept nogil:
    """Length of the character at the start of a text in UTF-8, or 0 (RFC 3629, section 4: no overlong forms)."""
    cdef uint8_t lead = text[0]
    cdef uint8_t low = 0x80
    cdef uint8_t high = 0xBF
    cdef size_t follow, i
    if lead < 0x80:
        return 1
    if 0xC2 <= lead <= 0xDF:
        follow = 1
    elif 0xE0 <= lead <= 0xEF:
        follow = 2
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = highest_after_ed
    elif 0xF0 <= lead <= 0xF4:
        follow = 3
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    else:
        return 0
    if size - 1 < follow or not low <= text[1] <= high:
        return 0
    for i in range(2, follow + 1):
        if not 0x80 <= text[i] <= 0xBF:
            return 0
    return follow + 1


cdef bint is_utf8(const uint8_t *text, size_t size) noexcept nogil:
    """Well-formed UTF-8."""
    return is_well_formed(text, size, LAST_BEFORE_SURROGATES)


cdef bint is_generalized_utf8(const uint8_t *text, size_t size) noexcept nogil:
    """The same with surrogates in it, as Python's error handler ``surrogatepass`` writes them."""
    return is_well_formed(text, size, 0xBF)


cdef inline bint is_well_formed(const uint8_t *text, size_t size, uint8_t highest_after_ed) noexcept nogil:
    cdef size_t i = 0
    cdef size_t length
    cdef uint64_t word
    while i < size:
        if size - i >= 8:
            memcpy(&word, text + i, 8)
            if not word & 0x8080808080808080ULL:
                i += 8
                continue
        length = utf8_sequence(text + i, size - i, highest_after_ed)
        if length == 0:
            return False
        i += length
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


cdef size_t escape_utf8(const uint8_t *text, size_t size, uint8_t *to) noexcept nogil:
    """Put a lone surrogate, U+DC80 to U+DCFF, for each byte that is not part of UTF-8 (PEP 383), as three bytes.

    Python reads the result with the error handler ``surrogatepass``. Returns its size: at most three times that of
    the text.
    """
    cdef uint8_t *start = to
    cdef size_t i = 0
    cdef size_t length
    while i < size:
        length = utf8_sequence(text + i, size - i, LAST_BEFORE_SURROGATES)
        if length:
            memcpy(to, text + i, length)
            to += length
            i += length
        else:
            to[0] = 0xED
            to[1] = <uint8_t> (0xB0 | (text[i] >> 6))
            to[2] = <uint8_t> (0x80 | (text[i] & 0x3F))
            to += 3
            i += 1
    return to - start
