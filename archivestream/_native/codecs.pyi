from enum import IntEnum

from _typeshed import ReadableBuffer

DEFLATE_EXPANSION: int

class Codec(IntEnum):
    STORED = 0
    DEFLATE = 8
    BZIP2 = 12
    LZMA = 14
    LZ4 = 30
    ZSTD = 93
    XZ = 95
    DEFLATE_SEGMENT = 0xF008
    ZSTD_SEGMENT = 0xF05D

class Status(IntEnum):
    OK = 0
    BAD_DATA = 1
    TOO_FEW_BYTES = 2
    TOO_MANY_BYTES = 3
    TRAILING_BYTES = 4
    BAD_CHECKSUM = 5
    BAD_LOCAL_SIGNATURE = 6
    NAME_DIFFERS = 7
    TRUNCATED = 8
    OVERLAP = 9
    OUT_OF_BOUNDS = 10
    IMPOSSIBLE_SIZE = 11
    BAD_NAME = 12
    BROKEN_LINK = 13
    BAD_INDEX = 14
    ENCRYPTED = 20
    PATCHED = 21
    UNSUPPORTED_METHOD = 22
    UNSUPPORTED_VERSION = 23
    OTHER_DISK = 24
    DICTIONARY_REQUIRED = 25
    OVER_LIMIT = 26
    WINDOW_TOO_LARGE = 27
    PACKAGE_MISSING = 28
    READ_FAILED = 40
    NO_MEMORY = 41
    PREFIX_DIFFERS = 60
    NOT_NATIVE = 61
    NOT_RUN = 62
    IN_PIECES = 63
    NOT_FETCHED = 64

def crc32(data: ReadableBuffer, initial: int = 0) -> int: ...
def adler32(data: ReadableBuffer, initial: int = 1) -> int: ...
def compress(data: ReadableBuffer, level: int, wrapper: int) -> bytearray | None: ...
def decompress(data: ReadableBuffer, capacity: int, wrapper: int) -> tuple[bytearray, int] | tuple[int, int]: ...
