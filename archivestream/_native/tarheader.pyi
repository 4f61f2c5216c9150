from enum import IntEnum

from _typeshed import ReadableBuffer

class Fault(IntEnum):
    NONE = 0
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
    TOO_MANY_EXTENTS = 20
    TOO_MANY_MEMBERS = 21
    TOO_MANY_BYTES = 22
    OUT_OF_MEMORY = 23
    READ_FAILED = 24
    LONG_INHERITANCE = 25
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

def is_header(block: ReadableBuffer) -> bool: ...
