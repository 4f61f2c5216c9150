from typing import final

from typing_extensions import Self

@final
class TarTable:
    def __new__(cls, max_members: int, max_bytes: int) -> Self: ...
