from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

RECYCLED_BYTES: Final[int]
ALIGNMENT: Final[int]

@final
class Buffer:
    def __new__(cls, size: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def clear_tails(rows: NDArray[np.uint8], lengths: NDArray[np.int64]) -> None: ...
