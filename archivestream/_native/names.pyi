from typing import Any, TypeAlias, final

from _typeshed import ReadableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

_Bytes: TypeAlias = ReadableBuffer | NDArray[Any]

@final
class NameTable:
    @property
    def duplicates(self) -> int: ...
    def __new__(cls, names: _Bytes, begin: _Bytes, end: _Bytes) -> Self: ...
    def find(self, name: str | bytes) -> int: ...
