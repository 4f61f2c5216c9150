from enum import IntEnum
from typing import final

from _typeshed import ReadableBuffer
from typing_extensions import Self

from archivestream._native.buffers import Buffer
from archivestream._native.scanning import HeaderScanner

class RecordFault(IntEnum):
    FINE = 0
    BAD_LENGTH_CHECKSUM = 1
    IMPOSSIBLE_LENGTH = 2
    CUT_HEADER = 3
    CUT_DATA = 4
    CUT_CHECKSUM = 5
    TOO_MANY_RECORDS = 6
    NO_ROOM = 7
    UNREADABLE = 8

def begins_with_record(head: ReadableBuffer) -> bool: ...
def frame(data: ReadableBuffer) -> tuple[bytes, bytes]: ...

@final
class RecordScanner(HeaderScanner):
    @property
    def offset(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def last_size(self) -> int: ...
    def __new__(cls, *, max_records: int) -> Self: ...
    def end(self, size: int) -> int: ...
    def finish(self) -> dict[str, Buffer]: ...
