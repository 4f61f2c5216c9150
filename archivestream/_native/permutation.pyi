from typing import SupportsIndex, final

from numpy import int64
from numpy.typing import NDArray
from typing_extensions import Self

@final
class Permutation:
    def __new__(cls, n: int, *, seed: SupportsIndex, epoch: SupportsIndex = 0, stream: SupportsIndex = 0) -> Self: ...
    def __len__(self) -> int: ...
    def apply(self, positions: NDArray[int64]) -> None: ...
