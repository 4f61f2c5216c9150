# distutils: language = c++
"""zstd: the sections of a compressed block, and its sequences (RFC 8878, 3.1.1.3).

A checkpoint must know the repeat offsets, and which bytes of the window are read after it. For that, the sequences of a
block are decoded, but not executed: no literals, no copies.

Block, 3.1.1.3::

    literals section: header (1 to 5 bytes), Huffman tree description, streams
    number of sequences (1 to 3 bytes), modes (1 byte), descriptions of up to three FSE tables
    the bits of the sequences, read from their end
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from archivestream._native.codecs cimport BAD_DATA, OK
from archivestream._native.entropy cimport LITERALS_LENGTHS, MATCH_LENGTHS, OFFSETS, Cell, describe_table, take_table
from archivestream._native.loads cimport u64

cdef extern from *:
    """
    static inline int highest_bit(unsigned value) { return 31 - __builtin_clz(value); }
    """
    int highest_bit(uint32_t value) noexcept nogil


cdef Status parse_sections(const uint8_t *content, size_t size, Sections *sections) noexcept nogil:
    """Find the parts of a compressed block."""
    cdef const uint8_t *at = content
    cdef const uint8_t *end = content + size
    cdef uint8_t kind, size_format, modes
    cdef uint64_t header
    cdef size_t header_size, stored, tree
    cdef int used, i
    memset(sections, 0, sizeof(Sections))
    if size < 2:
        return BAD_DATA
    # 3.1.1.3.1.1: the header of the literals section.
    kind = at[0] & 3
    size_format = at[0] >> 2 & 3
    header = 0
    for i in range(min(<int> size, 5)):
        header |= <uint64_t> at[i] << (8 * i)
    if kind < 2:        # raw, or one byte repeated
        header_size = 1 if not size_format & 1 else 2 if size_format == 1 else 3
        stored = (header & ((1 << 8 * header_size) - 1)) >> (3 if header_size == 1 else 4)
        if kind == 1:
            stored = 1
    else:
        header_size = 3 if size_format < 2 else 4 if size_format == 2 else 5
        stored = header >> (14 if header_size == 3 else 18 if header_size == 4 else 22)
        stored &= 0x3FF if header_size == 3 else 0x3FFF if header_size == 4 else 0x3FFFF
    if size - header_size < stored or size < header_size:
        return BAD_DATA
    if kind == 2:
        # 4.2.1: FSE-coded weights of that many bytes, or half a byte for each.
        if stored == 0:
            return BAD_DATA
        tree = at[header_size]
        tree = 1 + tree if tree < 128 else 1 + (tree - 127 + 1) // 2
        if tree > stored:
            return BAD_DATA
        sections.huffman = at + header_size
        sections.huffman_size = <uint16_t> tree
    sections.treeless = kind == 3
    at += header_size + stored
    # 3.1.1.3.2.1: the header of the sequences section.
    if at >= end:
        return BAD_DATA
    sections.count = at[0]
    used = 1 if at[0] < 128 else 2 if at[0] < 255 else 3
    if end - at < used:
        return BAD_DATA
    if used == 2:
        sections.count = ((<uint32_t> at[0] - 128) << 8) + at[1]
    elif used == 3:
        sections.count = at[1] + (<uint32_t> at[2] << 8) + 0x7F00
    at += used
    if sections.count == 0:
        return OK if at == end else BAD_DATA
    if at >= end or at[0] & 3:      # the lowest two bits are reserved
        return BAD_DATA
    modes = at[0]
    at += 1
    for i in range(3):
        sections.modes[i] = modes >> (6 - 2 * i) & 3
        sections.descriptions[i] = at
        used = describe_table(i, sections.modes[i], at, end - at)
        if used < 0:
            return BAD_DATA
        sections.sizes[i] = <uint16_t> used
        at += used
    if at >= end or (end - 1)[0] == 0:   # the highest bit that is set marks the end of the bits
        return BAD_DATA
    sections.bits = at
    sections.bits_size = end - at
    return OK


cdef Status take_tables(Entropy *entropy, const Sections *sections) noexcept nogil:
    """Take over the tables that a block describes."""
    cdef int i
    if sections.huffman_size:
        memcpy(entropy.huffman, sections.huffman, sections.huffman_size)
        entropy.huffman_size = sections.huffman_size
    elif sections.treeless and not entropy.huffman_size:
        return BAD_DATA
    if sections.count:
        for i in range(3):
            if not take_table(&entropy.tables[i], i, sections.modes[i], sections.descriptions[i], sections.sizes[i]):
                return BAD_DATA
    return OK


cdef inline uint64_t _load(const uint8_t *bits, int64_t at) noexcept nogil:
    """The bits from position `at` on, at least 57."""
    return u64(bits + (at >> 3)) >> (at & 7)


cdef inline uint64_t _low(uint64_t value, unsigned bits) noexcept nogil:
    return value & ((<uint64_t> 1 << bits) - 1)


cdef inline void _mark(uint64_t *bitmap, uint64_t begin, uint64_t count) noexcept nogil:
    cdef uint64_t *word = bitmap + (begin >> 6)
    cdef unsigned shift = begin & 63
    if shift + count <= 64:
        word[0] |= (~<uint64_t> 0 >> (64 - count)) << shift
        return
    word[0] |= ~<uint64_t> 0 << shift
    count -= 64 - shift
    word += 1
    while count >= 64:
        word[0] = ~<uint64_t> 0
        word += 1
        count -= 64
    if count:
        word[0] |= ~<uint64_t> 0 >> (64 - count)


cdef Status follow_sequences(
    Entropy *entropy, const Sections *sections, const uint8_t *bits, Window *window
) noexcept nogil:
    """Decode the sequences of a block: repeat offsets change, and what matches read of the window is marked.

    `bits` is a copy of `sections.bits` with `BITS_MARGIN` readable bytes before and behind it: what runs over is
    noticed behind each sequence only. The tables of the block have been taken.
    """
    cdef const Cell *lengths = entropy.tables[LITERALS_LENGTHS].cells
    cdef const Cell *offsets = entropy.tables[OFFSETS].cells
    cdef const Cell *matches = entropy.tables[MATCH_LENGTHS].cells
    cdef Cell length, distance, match
    cdef uint32_t first = entropy.repeats[0]
    cdef uint32_t second = entropy.repeats[1]
    cdef uint32_t third = entropy.repeats[2]
    cdef uint32_t literals, copied, offset, kind
    cdef uint64_t value, back
    cdef uint64_t at = window.at
    cdef bint marks = window.bitmap != NULL
    cdef uint32_t left = sections.count
    cdef uint32_t state_l, state_o, state_m
    cdef unsigned extra
    # 3.1.1.3.2.1.2: from the marker down; first the three initial states.
    cdef int64_t bit = 8 * <int64_t> sections.bits_size - 8 + highest_bit(bits[sections.bits_size - 1])
    bit -= entropy.tables[LITERALS_LENGTHS].log
    state_l = _low(_load(bits, bit), entropy.tables[LITERALS_LENGTHS].log)
    bit -= entropy.tables[OFFSETS].log
    state_o = _low(_load(bits, bit), entropy.tables[OFFSETS].log)
    bit -= entropy.tables[MATCH_LENGTHS].log
    state_m = _low(_load(bits, bit), entropy.tables[MATCH_LENGTHS].log)
    while True:
        length, distance, match = lengths[state_l], offsets[state_o], matches[state_m]
        # The offset stands highest, then the match length, then the literals length.
        extra = length.extra + distance.extra + match.extra
        bit -= extra
        if extra <= 56:
            value = _load(bits, bit)
            literals = length.base + <uint32_t> _low(value, length.extra)
            value >>= length.extra
            copied = match.base + <uint32_t> _low(value, match.extra)
            value >>= match.extra
            offset = distance.base + <uint32_t> _low(value, distance.extra)
        else:
            literals = length.base + <uint32_t> _low(_load(bits, bit), length.extra)
            copied = match.base + <uint32_t> _low(_load(bits, bit + length.extra), match.extra)
            offset = distance.base + <uint32_t> _low(
                _load(bits, bit + length.extra + match.extra), distance.extra)
        if bit < 0:
            return BAD_DATA
        # 3.1.1.5: values up to 3 are repeat offsets; shifted by one where there are no literals.
        if offset > 3:
            offset -= 3
            third, second, first = second, first, offset
        else:
            kind = offset - 1 + (literals == 0)
            if kind == 0:
                offset = first
            elif kind == 1:
                offset = second
                second, first = first, offset
            else:
                offset = third if kind == 2 else first - 1
                if offset == 0:
                    return BAD_DATA
                third, second, first = second, first, offset
        if marks:
            at += literals
            if offset > at:
                back = offset - at
                if back > window.available:
                    return BAD_DATA
                _mark(window.bitmap, window.size - back, copied if copied < back else back)
            at += copied
        left -= 1
        if left == 0:
            break
        bit -= length.bits + distance.bits + match.bits
        value = _load(bits, bit)
        state_o = distance.next + <uint32_t> _low(value, distance.bits)
        value >>= distance.bits
        state_m = match.next + <uint32_t> _low(value, match.bits)
        value >>= match.bits
        state_l = length.next + <uint32_t> _low(value, length.bits)
    entropy.repeats[0], entropy.repeats[1], entropy.repeats[2] = first, second, third
    return OK if bit == 0 else BAD_DATA
