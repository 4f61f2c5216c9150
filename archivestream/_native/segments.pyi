from typing import final

from typing_extensions import Self

@final
class Segmenter:
    def __new__(cls, *, spacing: int, budget: float, spare: int) -> Self: ...
