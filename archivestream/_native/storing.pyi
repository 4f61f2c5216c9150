import numpy as np
from numpy.typing import NDArray

def store(
    names: list[bytes],
    contents: list[memoryview],
    timestamps: NDArray[np.uint32],
    attributes: NDArray[np.uint32],
    data: NDArray[np.uint8],
    directory: NDArray[np.uint8],
    crcs: NDArray[np.uint32],
) -> None: ...
def move(directory: NDArray[np.uint8], base: int) -> bool: ...
