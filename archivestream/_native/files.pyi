from typing import final

from typing_extensions import Self

@final
class Descriptor:
    @property
    def number(self) -> int: ...
    def __new__(cls, number: int) -> Self: ...
