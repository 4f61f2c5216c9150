from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


# What can be wrong with a tar.
cpdef enum Fault:
    NONE = 0
    # In any mode.
    BAD_CHECKSUM = 1
    BAD_NUMBER = 2
    BAD_SIZE = 3
    TRUNCATED_HEADER = 4
    TRUNCATED_DATA = 5
    LONG_EXTENSION = 6
    MANY_EXTENSIONS = 7
    STRAY_EXTENSION = 8
    BAD_RECORD = 9
    BAD_VALUE = 10
    BAD_MAP = 11
    UNKNOWN_SPARSE = 12
    TRUNCATED_EXTENSION = 13
    # Bounds.
    TOO_MANY_EXTENTS = 20
    TOO_MANY_MEMBERS = 21
    TOO_MANY_BYTES = 22
    OUT_OF_MEMORY = 23
    READ_FAILED = 24
    LONG_INHERITANCE = 25
    # In strict mode alone.
    SIZE_WITHOUT_DATA = 30
    BAD_FIELD = 31
    DIRTY_TEXT = 32
    NOT_UTF8 = 33
    NUL_IN_RECORD = 34
    REPEATED_RECORD = 35
    GLOBAL_RECORD = 36
    MIXED_EXTENSIONS = 37
    BAD_CHARSET = 38
    NO_MAGIC = 39
    MAP_DIFFERS = 40
    BEHIND_END = 41


# Where the fields of a header lie: the table is in `tarheader.pyx`.
cdef enum:
    BLOCK = 512
    NAME_AT = 0
    NAME_SIZE = 100
    MODE_AT = 100
    UID_AT = 108
    GID_AT = 116
    SIZE_AT = 124
    MTIME_AT = 136
    CHECKSUM_AT = 148
    TYPE_AT = 156
    LINK_AT = 157
    LINK_SIZE = 100
    MAGIC_AT = 257
    USER_AT = 265
    GROUP_AT = 297
    OWNER_SIZE = 32
    PREFIX_AT = 345
    PREFIX_SIZE = 155
    STAR_PREFIX_SIZE = 131
    JOINED_SIZE = 256       # of a prefix, a slash and a name
    # Old GNU sparse maps: entries of 24 bytes, 4 in the header, 21 in each block behind it.
    ENTRY = 24
    HEADER_ENTRIES = 4
    ENTRIES_AT = 386
    IS_EXTENDED_AT = 482
    REAL_SIZE_AT = 483
    BLOCK_ENTRIES = 21
    BLOCK_IS_EXTENDED_AT = 504

# The file types of st_mode.
cdef enum:
    S_IFIFO = 0o010000
    S_IFCHR = 0o020000
    S_IFDIR = 0o040000
    S_IFBLK = 0o060000
    S_IFREG = 0o100000
    S_IFLNK = 0o120000


cdef bint read_number(const uint8_t *field, size_t size, int64_t *value) noexcept nogil
cdef bint read_decimal(const uint8_t *text, size_t size, uint64_t *value) noexcept nogil
cdef bint read_time(const uint8_t *text, size_t size, int64_t *seconds) noexcept nogil
cdef bint is_zero(const uint8_t *data, size_t size) noexcept nogil
cdef bint has_valid_checksum(const uint8_t *header) noexcept nogil
cdef bint is_header_like(const uint8_t *block) noexcept nogil
cdef bint has_ustar_magic(const uint8_t *header) noexcept nogil
cdef size_t text_size(const uint8_t *field, size_t size) noexcept nogil
cdef bint is_clean_text(const uint8_t *field, size_t size) noexcept nogil
cdef size_t header_name(const uint8_t *header, uint8_t *joined, const uint8_t **name) noexcept nogil
cdef uint32_t file_type_of(const uint8_t *header) noexcept nogil
cdef Fault check_fields(const uint8_t *header) noexcept nogil
cdef uint64_t padded(uint64_t size) noexcept nogil
cdef uint32_t dos_time(int64_t seconds) noexcept nogil
