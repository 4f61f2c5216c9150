from libc.stddef cimport size_t
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t

cdef enum:
    # Bytes that a description of a table takes at most: 53 symbols at 10 bits and 2 of a repeat flag, and 4 bits.
    LONGEST_FSE = 80
    LONGEST_HUFFMAN = 129           # 4.2.1: a length byte below 128, or 128 weights of half a byte
    LONGEST_STATE = LONGEST_HUFFMAN + 3 * LONGEST_FSE + 12


cdef enum TableKind:
    UNSET = 0
    PREDEFINED = 1
    RLE = 2
    FSE = 3


# One state of an FSE table, with what its symbol stands for.
cdef struct Cell:
    uint16_t next
    uint8_t bits
    uint8_t extra
    uint32_t base


# One of the three tables of sequences, and the bytes in the file that it was made of.
cdef struct Table:
    TableKind kind
    int log
    uint16_t size
    uint8_t[LONGEST_FSE] bytes
    Cell[512] cells


# All that a block takes over from the blocks before it, but for the window.
cdef struct Entropy:
    Table[3] tables                 # literals lengths, offsets, match lengths
    uint16_t huffman_size           # 0: none yet
    uint8_t[LONGEST_HUFFMAN] huffman
    uint32_t[3] repeats             # repeat offsets


cdef enum:
    LITERALS_LENGTHS = 0
    OFFSETS = 1
    MATCH_LENGTHS = 2

# 3.1.1.3.2.1: how a block describes a table.
cdef enum:
    PREDEFINED_MODE = 0
    RLE_MODE = 1
    FSE_MODE = 2
    REPEAT_MODE = 3


cdef int describe_table(int which, uint8_t mode, const uint8_t *data, size_t size) noexcept nogil
cdef bint take_table(Table *table, int which, uint8_t mode, const uint8_t *data, uint16_t size) noexcept nogil
cdef void reset_entropy(Entropy *entropy) noexcept nogil
cdef bint is_expressible(const Entropy *entropy, uint32_t count, const uint8_t *modes) noexcept nogil
cdef size_t save_entropy(const Entropy *entropy, uint8_t *target) noexcept nogil
cdef bint load_entropy(Entropy *entropy, const uint8_t *state, size_t size) noexcept nogil
