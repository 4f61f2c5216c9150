"""tar: the fields of one header.

Header block of 512 bytes (POSIX pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format")::

      0  name, 100 bytes           257  magic and version: "ustar\\0" "00", or GNU's "ustar  \\0"
    100  mode, 8                   265  user name, 32
    108  uid, 8                    297  group name, 32
    116  gid, 8                    329  device numbers, 2 of 8
    124  size, 12                  345  ustar: prefix of the name, 155 (star: 131)
    136  mtime, 12                 386  old GNU sparse: 4 times (place, size), 12 bytes each
    148  checksum, 8               482  old GNU sparse: whether more of the map follows
    156  type                      483  old GNU sparse: real size, 12
    157  name of the link, 100     508  star: "tar\\0"
"""

from libc.string cimport memchr, memcmp, memcpy

# The first and the last time that MS-DOS can express: 1980-01-01 00:00:00 and 2107-12-31 23:59:58.
cdef int64_t FIRST_TIME = 315532800
cdef int64_t LAST_TIME = 4354819198


cdef bint read_number(const uint8_t *field, size_t size, int64_t *value) noexcept nogil:
    """Read a numeric field; False where it is none, or does not fit 63 bits.

    Octal digits, with spaces in front and spaces or NULs behind, or none: "unterminated". With the highest bit
    of the first byte set, a big-endian number in two's complement, whose sign is the bit after it (GNU).
    """
    cdef size_t i = 0
    cdef uint64_t result
    cdef bint negative
    if field[0] & 0x80:
        negative = field[0] & 0x40
        result = 0xFFFFFFFFFFFFFFFFULL if negative else 0
        for i in range(size):
            # What a shift drops, and the sign that stays, must all be copies of the sign.
            if result >> 55 != (0x1FF if negative else 0):
                return False
            result = (result << 8) | (field[i] if i or negative else field[i] & 0x7F)
        value[0] = <int64_t> result
        return True
    result = 0
    while i < size and field[i] == b" ":
        i += 1
    while i < size and b"0" <= field[i] <= b"7":
        if result >> 60:
            return False
        result = (result << 3) | (field[i] - <uint8_t> b"0")
        i += 1
    while i < size and field[i] == b" ":
        i += 1
    if i < size and field[i] != 0:
        return False
    value[0] = <int64_t> result
    return True


cdef bint read_decimal(const uint8_t *text, size_t size, uint64_t *value) noexcept nogil:
    """Read a decimal number of PAX: digits alone, at least one, below 2**63."""
    cdef uint64_t result = 0
    cdef size_t i
    for i in range(size):
        if not b"0" <= text[i] <= b"9" or result > 0x7FFFFFFFFFFFFFFFULL // 10 - 1:
            return False
        result = 10 * result + (text[i] - <uint8_t> b"0")
    value[0] = result
    return size > 0


cdef bint read_time(const uint8_t *text, size_t size, int64_t *seconds) noexcept nogil:
    """Read a time of PAX: decimal seconds with a sign and a fraction, or without. Rounds down."""
    cdef bint negative = size > 0 and text[0] == b"-"
    cdef size_t whole = negative
    cdef size_t i
    cdef uint64_t value
    cdef bint fraction = False
    while whole < size and text[whole] != b".":
        whole += 1
    if not read_decimal(text + negative, whole - negative, &value):
        return False
    for i in range(whole + 1, size):
        if not b"0" <= text[i] <= b"9":
            return False
        fraction = fraction or text[i] != b"0"
    seconds[0] = -<int64_t> value - fraction if negative else <int64_t> value
    return True


cdef bint is_zero(const uint8_t *data, size_t size) noexcept nogil:
    """Nothing but zero bytes."""
    return size == 0 or (data[0] == 0 and memcmp(data, data + 1, size - 1) == 0)


cdef bint has_valid_checksum(const uint8_t *header) noexcept nogil:
    """The sum of all bytes, the checksum itself taken as spaces: unsigned, or signed as some old systems had it."""
    cdef int64_t checksum
    cdef uint64_t word
    # Eight bytes at a time: four sums of pairs, and eight counts of bytes above 127. No lane can run over.
    cdef uint64_t pairs = 0
    cdef uint64_t high = 0
    cdef int64_t total = 8 * 32
    cdef int64_t negative = 0
    cdef size_t i
    if not read_number(header + CHECKSUM_AT, 8, &checksum):
        return False
    for i in range(0, <size_t> BLOCK, 8):
        memcpy(&word, header + i, 8)
        pairs += (word & 0x00FF00FF00FF00FFULL) + ((word >> 8) & 0x00FF00FF00FF00FFULL)
        high += (word >> 7) & 0x0101010101010101ULL
    for i in range(0, 64, 16):
        total += (pairs >> i) & 0xFFFF
    for i in range(0, 64, 8):
        negative += (high >> i) & 0xFF
    for i in range(<size_t> CHECKSUM_AT, <size_t> TYPE_AT):
        total -= header[i]
        negative -= header[i] >> 7
    # A byte above 127 is 256 less where bytes are signed.
    return checksum == total or checksum == total - 256 * negative


cdef bint is_header_like(const uint8_t *block) noexcept nogil:
    """Whether a block that has no valid checksum may be a damaged header: no single damage hides all three."""
    cdef int64_t value
    return (
        memcmp(block + MAGIC_AT, b"ustar", 5) == 0
        or (block[CHECKSUM_AT] != 0 and read_number(block + CHECKSUM_AT, 8, &value))
        or (block[SIZE_AT] != 0 and read_number(block + SIZE_AT, 12, &value))
    )


cdef bint has_ustar_magic(const uint8_t *header) noexcept nogil:
    """POSIX ustar or PAX, whose names have a prefix: not GNU's magic, and not v7, which has none."""
    return memcmp(header + MAGIC_AT, b"ustar\0", 6) == 0


cdef size_t text_size(const uint8_t *field, size_t size) noexcept nogil:
    """Length of a text that ends at the first NUL, or with its field."""
    cdef const uint8_t *nul = <const uint8_t *> memchr(field, 0, size) if size else NULL
    return nul - field if nul != NULL else size


cdef bint is_clean_text(const uint8_t *field, size_t size) noexcept nogil:
    """Nothing but NULs behind the first one: else readers disagree on what the text is."""
    cdef size_t used = text_size(field, size)
    return is_zero(field + used, size - used)


cdef size_t prefix_size(const uint8_t *header) noexcept nogil:
    return STAR_PREFIX_SIZE if memcmp(header + 508, b"tar\0", 4) == 0 else PREFIX_SIZE


cdef size_t header_name(const uint8_t *header, uint8_t *joined, const uint8_t **name) noexcept nogil:
    """Find the name that a header gives, and return its size; one with a prefix is put together in `joined`."""
    cdef size_t size = text_size(header + NAME_AT, NAME_SIZE)
    cdef size_t prefix
    name[0] = header + NAME_AT
    # Where others have the prefix, an old GNU header has the map of a sparse file.
    if header[PREFIX_AT] == 0 or not has_ustar_magic(header) or header[TYPE_AT] == b"S":
        return size
    prefix = text_size(header + PREFIX_AT, prefix_size(header))
    memcpy(joined, header + PREFIX_AT, prefix)
    joined[prefix] = b"/"
    memcpy(joined + prefix + 1, header + NAME_AT, size)
    name[0] = joined
    return prefix + 1 + size


cdef uint32_t file_type_of(const uint8_t *header) noexcept nogil:
    """The file type of a member; what is not known is a regular file (POSIX)."""
    cdef uint8_t kind = header[TYPE_AT]
    cdef size_t size
    if kind == 0:
        # Before there was a type for folders, they were files whose name ends with a slash.
        size = text_size(header + NAME_AT, NAME_SIZE)
        return S_IFDIR if size and header[NAME_AT + size - 1] == b"/" else S_IFREG
    if kind == b"2":
        return S_IFLNK
    if kind == b"3":
        return S_IFCHR
    if kind == b"4":
        return S_IFBLK
    if kind == b"5" or kind == b"D":    # D: GNU's list of what a folder holds
        return S_IFDIR
    if kind == b"6":
        return S_IFIFO
    return S_IFREG


cdef uint64_t padded(uint64_t size) noexcept nogil:
    """The size of a payload in whole blocks."""
    return (size + BLOCK - 1) & ~<uint64_t> (BLOCK - 1)


cdef Fault check_fields(const uint8_t *header) noexcept nogil:
    """What strict mode minds in a header."""
    cdef int64_t value
    cdef uint8_t kind = header[TYPE_AT]
    if memcmp(header + MAGIC_AT, b"ustar", 5) and kind != 0 and kind != b"1" and kind != b"2":
        return NO_MAGIC     # v7 had no other types
    if not (
        read_number(header + MODE_AT, 8, &value) and read_number(header + UID_AT, 8, &value)
        and read_number(header + GID_AT, 8, &value) and read_number(header + MTIME_AT, 12, &value)
    ):
        return BAD_FIELD
    if not (
        is_clean_text(header + NAME_AT, NAME_SIZE) and is_clean_text(header + LINK_AT, LINK_SIZE)
        and is_clean_text(header + USER_AT, OWNER_SIZE) and is_clean_text(header + GROUP_AT, OWNER_SIZE)
        and (not has_ustar_magic(header) or is_clean_text(header + PREFIX_AT, prefix_size(header)))
    ):
        return DIRTY_TEXT
    return NONE


cdef uint32_t dos_time(int64_t seconds) noexcept nogil:
    """MS-DOS date and time of a Unix time, in UTC: from 1980 to 2107, in steps of two seconds."""
    cdef int64_t bounded = min(max(seconds, FIRST_TIME), LAST_TIME)
    cdef int64_t day = bounded // 86400
    cdef int64_t second = bounded % 86400
    # Days to a date of the calendar in years that begin in March, so that the leap day comes last.
    cdef int64_t shifted = day + 719468
    cdef int64_t era = shifted // 146097
    cdef int64_t day_of_era = shifted % 146097
    cdef int64_t year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    cdef int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef int64_t month_from_march = (5 * day_of_year + 2) // 153
    cdef int64_t month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    cdef int64_t year = year_of_era + 400 * era + (month <= 2)
    cdef int64_t date = ((year - 1980) << 9) | (month << 5) | (day_of_year - (153 * month_from_march + 2) // 5 + 1)
    cdef int64_t time = (second // 3600 << 11) | (second // 60 % 60 << 5) | second % 60 // 2
    return <uint32_t> (date << 16 | time)


def is_header(const unsigned char[::1] block not None):
    """Whether a file that begins with this block is a tar: its checksum holds, and it says what every header does.

    A block of zeros is none, though an empty tar begins with one.
    """
    cdef int64_t value
    cdef const uint8_t *header
    if block.shape[0] < BLOCK:
        return False
    header = &block[0]
    if not has_valid_checksum(header):
        return False
    # Where no magic says so (v7), the numbers that every writer fills in must be there.
    return memcmp(header + MAGIC_AT, b"ustar", 5) == 0 or (
        header[CHECKSUM_AT] != 0
        and read_number(header + MODE_AT, 8, &value)
        and read_number(header + SIZE_AT, 12, &value)
        and value >= 0
    )
