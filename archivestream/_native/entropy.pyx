# distutils: language = c++
"""zstd: the entropy tables that blocks share, and the repeat offsets (RFC 8878, 3.1.1.3.2.1 and 4.1).

A dictionary holds them in the encoding that blocks use, so a checkpoint copies the bytes that described them last.
"""

from libc.string cimport memcpy, memset

from archivestream._native.loads cimport u32

cdef extern from *:
    """
    static inline int highest_bit(unsigned value) { return 31 - __builtin_clz(value); }
    """
    int highest_bit(uint32_t value) noexcept nogil

# 3.1.1.3.2.1.1: for each code the smallest value and the number of bits to add.
cdef uint32_t[36] LITERALS_BASE = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 40, 48, 64, 128, 256, 512,
    1024, 2048, 4096, 8192, 16384, 32768, 65536]
cdef uint8_t[36] LITERALS_EXTRA = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
cdef uint32_t[53] MATCH_BASE = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    33, 34, 35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99, 131, 259, 515, 1027, 2051, 4099, 8195, 16387, 32771, 65539]
cdef uint8_t[53] MATCH_EXTRA = [
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2,
    3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
cdef unsigned[3] LAST_SYMBOL = [35, 31, 52]
cdef int[3] LARGEST_LOG = [9, 8, 9]

# 3.1.1.3.2.2: the default distributions, written as a block would describe them (4.1.1).
cdef uint8_t[20] DEFAULT_LITERALS = [
    0x51, 0x10, 0x63, 0x8C, 0x31, 0xC6, 0x18, 0x63, 0x0C, 0x21, 0xC4, 0x18, 0x63, 0x66, 0x66, 0x86, 0x46, 0x92, 0x04,
    0x00]
cdef uint8_t[14] DEFAULT_OFFSETS = [
    0x20, 0x84, 0x10, 0x42, 0x66, 0x46, 0x44, 0x44, 0x44, 0x44, 0x24, 0x49, 0x02, 0x00]
cdef uint8_t[29] DEFAULT_MATCHES = [
    0x21, 0x14, 0xC4, 0x18, 0x63, 0x8C, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x44, 0x44,
    0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x24, 0x09, 0x00, 0x00]
cdef const uint8_t *DEFAULTS[3]
DEFAULTS[0], DEFAULTS[1], DEFAULTS[2] = DEFAULT_LITERALS, DEFAULT_OFFSETS, DEFAULT_MATCHES
cdef uint16_t[3] DEFAULT_SIZES = [20, 14, 29]

# Two symbols with a weight of 1: stands in a dictionary where no block has had a Huffman tree yet.
cdef uint8_t[2] ANY_HUFFMAN = [0x80, 0x10]


cdef void reset_entropy(Entropy *entropy) noexcept nogil:
    """Forget all tables, as at the beginning of a frame (3.1.1.5)."""
    cdef int i
    for i in range(3):
        entropy.tables[i].kind = UNSET
    entropy.huffman_size = 0
    entropy.repeats[0], entropy.repeats[1], entropy.repeats[2] = 1, 4, 8


# ---- FSE tables, 4.1.1 ------------------------------------------------------------------------------------------

cdef inline uint32_t _peek(const uint8_t *data, size_t size, size_t bit, int count) noexcept nogil:
    """Up to 16 bits, the first lowest; zeros behind the end."""
    cdef uint32_t value = 0
    cdef size_t at = bit >> 3
    cdef int i
    if at + 4 <= size:
        value = u32(data + at)
    else:
        for i in range(3):
            if at + i < size:
                value |= <uint32_t> data[at + i] << (8 * i)
    return value >> (bit & 7) & ((1U << count) - 1)


cdef int _read_counts(
    const uint8_t *data, size_t size, int which, int16_t *counts, unsigned *symbols, int *log
) noexcept nogil:
    """Read the distribution of a table; return how many bytes describe it, or -1."""
    cdef size_t bit = 4
    cdef unsigned symbol = 0
    cdef int remaining, bits
    cdef int value, low, threshold
    cdef uint32_t repeat
    log[0] = <int> _peek(data, size, 0, 4) + 5
    if size == 0 or log[0] > LARGEST_LOG[which]:
        return -1
    remaining = (1 << log[0]) + 1
    while remaining > 1 and symbol <= LAST_SYMBOL[which]:
        # A value is at most `remaining`; small ones take a bit less than the others.
        bits = highest_bit(remaining) + 1
        value = _peek(data, size, bit, bits)
        low = (1 << (bits - 1)) - 1
        threshold = (1 << bits) - 1 - remaining
        if (value & low) < threshold:
            value &= low
            bit += bits - 1
        else:
            if value > low:
                value -= threshold
            bit += bits
        counts[symbol] = <int16_t> (value - 1)
        symbol += 1
        remaining -= 1 if value == 0 else value - 1     # 0 stands for a probability below 1
        if remaining < 1:
            return -1
        if value == 1:
            # A symbol that does not occur is followed by how many more do not.
            while True:
                repeat = _peek(data, size, bit, 2)
                bit += 2
                if symbol + repeat > LAST_SYMBOL[which] + 1:
                    return -1
                memset(&counts[symbol], 0, repeat * sizeof(int16_t))
                symbol += repeat
                if repeat != 3:
                    break
    if remaining != 1 or bit > 8 * size or bit > 8 * LONGEST_FSE:
        return -1
    symbols[0] = symbol
    return <int> ((bit + 7) >> 3)


cdef inline void _set_symbol(Cell *cell, int which, unsigned symbol) noexcept nogil:
    if which == LITERALS_LENGTHS:
        cell.base, cell.extra = LITERALS_BASE[symbol], LITERALS_EXTRA[symbol]
    elif which == MATCH_LENGTHS:
        cell.base, cell.extra = MATCH_BASE[symbol], MATCH_EXTRA[symbol]
    else:
        cell.base, cell.extra = 1U << symbol, <uint8_t> symbol


cdef bint _build(Table *table, int which, const uint8_t *data, size_t size) noexcept nogil:
    """Make the states of a table from its description."""
    cdef int16_t[64] counts
    cdef uint16_t[64] next_
    cdef uint8_t[512] spread
    cdef unsigned symbols = 0
    cdef unsigned symbol, states, high, step, state
    cdef unsigned at = 0
    cdef int log, i, _i
    if _read_counts(data, size, which, counts, &symbols, &log) != <int> size:
        return False
    states = 1U << log
    high = states - 1
    step = (states >> 1) + (states >> 3) + 3
    for symbol in range(symbols):
        next_[symbol] = <uint16_t> (1 if counts[symbol] < 0 else counts[symbol])
        if counts[symbol] < 0:
            spread[high] = <uint8_t> symbol
            high -= 1
    for symbol in range(symbols):
        for _i in range(counts[symbol]):
            spread[at] = <uint8_t> symbol
            at = (at + step) & (states - 1)
            while at > high:
                at = (at + step) & (states - 1)
    if at != 0:
        return False
    for state in range(states):
        symbol = spread[state]
        i = next_[symbol]
        next_[symbol] += 1
        table.cells[state].bits = <uint8_t> (log - highest_bit(i))
        table.cells[state].next = <uint16_t> ((i << table.cells[state].bits) - states)
        _set_symbol(&table.cells[state], which, symbol)
    table.log = log
    return True


cdef int describe_table(int which, uint8_t mode, const uint8_t *data, size_t size) noexcept nogil:
    """Return how many bytes describe a table that a block brings, or -1."""
    cdef int16_t[64] counts
    cdef unsigned symbols
    cdef int log
    if mode == RLE_MODE:
        return 1 if size and data[0] <= LAST_SYMBOL[which] else -1
    return _read_counts(data, size, which, counts, &symbols, &log) if mode == FSE_MODE else 0


cdef bint take_table(Table *table, int which, uint8_t mode, const uint8_t *data, uint16_t size) noexcept nogil:
    if mode == REPEAT_MODE:
        return table.kind != UNSET
    if mode == RLE_MODE:
        table.kind = RLE
        table.log = 0
        table.cells[0].bits = 0
        table.cells[0].next = 0
        _set_symbol(&table.cells[0], which, data[0])
        return True
    if mode == PREDEFINED_MODE:
        if table.kind == PREDEFINED:
            return True
        table.kind = PREDEFINED
        data, size = DEFAULTS[which], DEFAULT_SIZES[which]
    else:
        table.kind = FSE
    memcpy(table.bytes, data, size)
    table.size = size
    return _build(table, which, data, size)


# ---- the state as a dictionary holds it, 5 ----------------------------------------------------------------------

cdef bint is_expressible(const Entropy *entropy, uint32_t count, const uint8_t *modes) noexcept nogil:
    """Whether a dictionary can stand for this state, before a block with that many sequences and these modes.

    It has no way to write a table of a single symbol (RLE). That does no harm where the next sequences bring a table
    of their own.
    """
    cdef int i
    for i in range(3):
        if entropy.tables[i].kind == RLE and (count == 0 or modes[i] == REPEAT_MODE):
            return False
    return True


cdef size_t save_entropy(const Entropy *entropy, uint8_t *target) noexcept nogil:
    """Write the part of a dictionary between its id and its content; at most `LONGEST_STATE` bytes."""
    cdef uint8_t *at = target
    cdef const Table *table
    cdef int order, i, j
    if entropy.huffman_size:
        memcpy(at, entropy.huffman, entropy.huffman_size)
        at += entropy.huffman_size
    else:
        memcpy(at, ANY_HUFFMAN, sizeof(ANY_HUFFMAN))
        at += sizeof(ANY_HUFFMAN)
    for order in range(3):
        # Offsets, match lengths, literals lengths.
        i = OFFSETS if order == 0 else MATCH_LENGTHS if order == 1 else LITERALS_LENGTHS
        table = &entropy.tables[i]
        if table.kind == FSE:
            memcpy(at, table.bytes, table.size)
            at += table.size
        else:
            memcpy(at, DEFAULTS[i], DEFAULT_SIZES[i])
            at += DEFAULT_SIZES[i]
    for i in range(3):
        for j in range(4):
            at[0] = <uint8_t> (entropy.repeats[i] >> 8 * j)
            at += 1
    return at - target


cdef bint load_entropy(Entropy *entropy, const uint8_t *state, size_t size) noexcept nogil:
    """Read back what `save_entropy` wrote; whether it is that."""
    cdef const uint8_t *at = state
    cdef const uint8_t *end = state + size
    cdef size_t tree
    cdef int used, order, i
    if size == 0:
        return False
    tree = 1 + <size_t> at[0] if at[0] < 128 else 1 + (<size_t> at[0] - 127 + 1) // 2
    if tree > size:
        return False
    memcpy(entropy.huffman, at, tree)
    entropy.huffman_size = <uint16_t> tree
    at += tree
    for order in range(3):
        i = OFFSETS if order == 0 else MATCH_LENGTHS if order == 1 else LITERALS_LENGTHS
        used = describe_table(i, FSE_MODE, at, end - at)
        if used < 0 or not take_table(&entropy.tables[i], i, FSE_MODE, at, <uint16_t> used):
            return False
        at += used
    if end - at != 12:
        return False
    for i in range(3):
        entropy.repeats[i] = u32(at + 4 * i)
        if entropy.repeats[i] == 0:
            return False
    return True
