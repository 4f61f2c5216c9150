from typing import Any, TypeAlias

from _typeshed import ReadableBuffer
from numpy.typing import NDArray

_Bytes: TypeAlias = ReadableBuffer | NDArray[Any]

class NameTable:
    @property
    def duplicates(self) -> int: ...
    def __init__(self, names: _Bytes, offsets: _Bytes) -> None: ...
    def find(self, name: str | bytes) -> int: ...
