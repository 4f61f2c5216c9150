from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from archivestream._native.codecs cimport Status


cdef enum:
    LOCAL_HEADER = 30       # bytes before the name, APPNOTE 4.3.7


# What the directory says about a member, beside its numbers: the `flags` column of an index.
cpdef enum MemberFlag:
    ENCRYPTED_BIT = 0x01        # general purpose bit 0 or 6, or method 99
    PATCHED_BIT = 0x02          # general purpose bit 5: compressed patched data
    OUT_OF_RANGE_BIT = 0x04     # a size or an offset that no file can have
    RAW_NAME_BIT = 0x08         # the name's bytes in the archive are in the table of raw names
    UTF8_BIT = 0x10             # general purpose bit 11, or a Unicode Path field
    BAD_NAME_BIT = 0x20         # bit 11, and not valid UTF-8
    ALIAS_BIT = 0x40            # shares the local header of a later member of the same name
    VERSION_BIT = 0x80          # needs a version of the specification above 6.3
    OTHER_DISK_BIT = 0x100      # begins on another disk
    FORBIDDEN_BITS = 0x1E7      # any of those that make a member unreadable
    ELSEWHERE_BITS = 0x104      # any of those that mean that its offset is none in this file


cdef Status check_local_header(
    const uint8_t *header, size_t available, const uint8_t *name, size_t name_size, uint32_t *span
) noexcept nogil
