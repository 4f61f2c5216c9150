from enum import IntEnum
from typing import final

from _typeshed import ReadableBuffer
from typing_extensions import Self

from archivestream._native.buffers import Buffer

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
    FORBIDDEN_BITS = 0x1E7
    ELSEWHERE_BITS = 0x104

class Fault(IntEnum):
    NONE = 0
    MORE = 1
    BAD_SIGNATURE = 2
    BAD_EXTRA = 3
    SHORT_ZIP64 = 4
    SECOND_ZIP64 = 5
    BAD_UNICODE_PATH = 6
    OUT_OF_MEMORY = 7
    TOO_MANY = 8

@final
class DirectoryScanner:
    @property
    def count(self) -> int: ...
    def __new__(cls, directory_size: int, prefix: int, keep_raw: bool = False) -> Self: ...
    def feed(self, chunk: ReadableBuffer) -> tuple[int, int]: ...
    def finish(self) -> dict[str, Buffer]: ...
