from typing import final

from _typeshed import WriteableBuffer
from typing_extensions import Self

def read_files(paths: list[bytes], sizes: list[int], target: WriteableBuffer) -> tuple[int, int]: ...

@final
class Descriptor:
    @property
    def number(self) -> int: ...
    def __new__(cls, number: int) -> Self: ...
