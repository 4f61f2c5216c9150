from typing import final

import numpy as np
from _typeshed import WriteableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

def read_files(paths: list[bytes], sizes: list[int], target: WriteableBuffer) -> tuple[int, int]: ...
def compare_words(descriptor: int, offsets: NDArray[np.uint64], expected: NDArray[np.uint32]) -> tuple[int, int]: ...

@final
class Descriptor:
    @property
    def number(self) -> int: ...
    def __new__(cls, number: int) -> Self: ...
