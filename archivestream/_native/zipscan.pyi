from typing import final

from _typeshed import ReadableBuffer
from typing_extensions import Self

from archivestream._native.buffers import Buffer

@final
class DirectoryScanner:
    @property
    def count(self) -> int: ...
    def __new__(cls, directory_size: int, prefix: int, keep_raw: bool = False) -> Self: ...
    def feed(self, chunk: ReadableBuffer) -> tuple[int, int]: ...
    def finish(self) -> dict[str, Buffer]: ...
