from typing import final

from _typeshed import ReadableBuffer
from typing_extensions import Self

from archivestream._native.buffers import Buffer

@final
class Dictionary:
    @property
    def id(self) -> int: ...
    def __new__(cls, data: ReadableBuffer) -> Self: ...
    def decode(self, data: ReadableBuffer, size: int) -> tuple[int, Buffer]: ...

def extent_of_segment(aux: ReadableBuffer, upto: int) -> tuple[int, int, int]: ...
def restore_segment(
    aux: ReadableBuffer,
    data: ReadableBuffer,
    upto: int,
    size: int,
    verify: bool = True,
    *,
    before: int = 134217728,
    max_window: int = 134217728,
) -> tuple[int, Buffer]: ...
