"""The extra fields of a central directory header: see `archivestream._native.zipscan`.

The section numbers are those of PKWARE's APPNOTE.TXT 6.3.10.
"""

from archivestream._native.codecs cimport crc32_of
from archivestream._native.loads cimport u16, u32, u64
from archivestream._native.text cimport is_utf8

# In a 32-bit or 16-bit field: the value is in the ZIP64 field (4.4.1.4).
cdef uint32_t SENTINEL32 = 0xFFFFFFFFU
cdef uint16_t SENTINEL16 = 0xFFFFU

cdef enum:
    ZIP64_EXTRA = 0x0001
    SEGMENTS_EXTRA = 0x5341         # ours: `archivestream.formats.zip_segments`
    UNICODE_PATH_EXTRA = 0x7075


cdef Fault read_extra(
    const uint8_t *header, size_t name_size, size_t extra_size, Entry *entry
) noexcept nogil:
    """Read the ZIP64 (4.5.3), the Unicode Path (4.6.9) and the segments field of a central header.

    One to three stray bytes at the end are tolerated: alignment tools leave them.
    """
    cdef const uint8_t *at = header + CENTRAL_HEADER + name_size
    cdef const uint8_t *end = at + extra_size
    cdef const uint8_t *field
    cdef size_t size
    cdef uint16_t kind
    cdef bint seen = False
    cdef bint has_crc = False
    cdef uint32_t crc = 0       # of the name: once, however many fields want to compare it
    while end - at >= 4:
        kind = u16(at)
        size = u16(at + 2)
        field = at + 4
        if <size_t> (end - field) < size:
            return BAD_EXTRA
        at = field + size
        if kind == ZIP64_EXTRA and (
            u32(header + 20) == SENTINEL32 or u32(header + 24) == SENTINEL32
            or u32(header + 42) == SENTINEL32 or u16(header + 34) == SENTINEL16
        ):
            if seen:
                return SECOND_ZIP64
            seen = True
            if not read_zip64(header, field, size, entry):
                return SHORT_ZIP64
        elif kind == SEGMENTS_EXTRA:
            entry.segments = field
            entry.segments_size = size
        elif kind == UNICODE_PATH_EXTRA:
            if size < 5:
                return BAD_UNICODE_PATH
            if not has_crc:
                crc = crc32_of(0, header + CENTRAL_HEADER, name_size)
                has_crc = True
            # Version 1, and the CRC-32 of the name that it stands for: else it is stale.
            if field[0] == 1 and u32(field + 1) == crc:
                if not is_utf8(field + 5, size - 5):
                    return BAD_UNICODE_PATH
                if size > 5:
                    entry.unicode_path = field + 5
                    entry.unicode_path_size = size - 5
    return NONE


cdef bint read_zip64(
    const uint8_t *header, const uint8_t *field, size_t size, Entry *entry
) noexcept nogil:
    """Take the values whose 32-bit fields hold the sentinel, in the order of 4.5.3; False if too short."""
    if u32(header + 24) == SENTINEL32:
        if size < 8:
            return False
        entry.size = u64(field)
        field += 8
        size -= 8
    if u32(header + 20) == SENTINEL32:
        if size < 8:
            return False
        entry.compressed_size = u64(field)
        field += 8
        size -= 8
    if u32(header + 42) == SENTINEL32:
        if size < 8:
            return False
        entry.offset = u64(field)
        field += 8
        size -= 8
    if u16(header + 34) == SENTINEL16:
        if size < 4:
            return False
        entry.disk = u32(field)
    return True
