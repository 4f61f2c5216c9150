# How the members of a source lie in it.
cpdef enum Layout:
    ENTRIES = 0     # each behind a local header, compressed by itself: ZIP
    RANGES = 1      # each as it is, a range of the source: tar
    BLOCKS = 2      # each a range of the logical stream that the blocks of the source decode to: .tar.zst


# What a format found out about a member, beside its numbers: the `flags` column of an index.
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
    SPARSE_BIT = 0x200          # its extents are in the table of sparse members
    BROKEN_LINK_BIT = 0x400     # a hard link to a member that is not there before it
    SEGMENTED_BIT = 0x800       # its compressed data are segments, which are in the table of blocks
    CRC32C_BIT = 0x1000         # its `crc32` is a CRC-32C: TFRecord
    FORBIDDEN_BITS = 0x5E7      # any of those that make a member unreadable
    ELSEWHERE_BITS = 0x104      # any of those that mean that its offset is none in this file


# What is known of a block: the `block_flags` column of an index.
cpdef enum BlockFlag:
    CHECKED_BIT = 0x01          # its CRC-32 is known
