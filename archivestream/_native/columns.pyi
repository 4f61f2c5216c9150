from enum import IntEnum
from typing import Any, TypeAlias

from numpy.typing import NDArray

_Column: TypeAlias = NDArray[Any]

class Layout(IntEnum):
    ENTRIES = 0
    RANGES = 1
    BLOCKS = 2

class MemberFlag(IntEnum):
    ENCRYPTED_BIT = 0x01
    PATCHED_BIT = 0x02
    OUT_OF_RANGE_BIT = 0x04
    RAW_NAME_BIT = 0x08
    UTF8_BIT = 0x10
    BAD_NAME_BIT = 0x20
    ALIAS_BIT = 0x40
    VERSION_BIT = 0x80
    OTHER_DISK_BIT = 0x100
    SPARSE_BIT = 0x200
    BROKEN_LINK_BIT = 0x400
    SEGMENTED_BIT = 0x800
    CRC32C_BIT = 0x1000
    FORBIDDEN_BITS = 0x5E7
    ELSEWHERE_BITS = 0x104

class BlockFlag(IntEnum):
    CHECKED_BIT = 0x01

def is_ascending(offsets: _Column, end: int) -> bool: ...
def is_text(text: _Column, offsets: _Column) -> bool: ...
def is_contiguous(starts: _Column, sizes: _Column, first: _Column) -> bool: ...
def is_sparse(sizes: _Column, members: _Column, first: _Column, places: _Column, extents: _Column) -> bool: ...
