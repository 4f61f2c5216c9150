from typing import final

from typing_extensions import Self

ROBUST: bool
SMALLEST: int

@final
class Region:
    descriptor: int
    def __new__(cls, descriptor: int, size: int) -> Self: ...

@final
class SharedStore:
    def __new__(cls, descriptor: int, limit: int, lru: bool, *, name_space: int, create: bool) -> Self: ...
    @property
    def descriptor(self) -> int: ...
    def statistics(self) -> tuple[int, int, int, int, int]: ...
    def clear(self) -> None: ...
    def close(self) -> None: ...
