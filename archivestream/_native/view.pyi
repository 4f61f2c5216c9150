from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

_Bytes: TypeAlias = ReadableBuffer | NDArray[Any]

@final
class IndexView:
    def __new__(
        cls,
        columns: dict[str, NDArray[Any]],
        first_member: NDArray[np.uint64],
        first_block: NDArray[np.uint64],
        sources: Sequence[tuple[int, _Bytes | None, int, int, int, int]],
        owner: object,
        *,
        largest: int,
        max_window: int,
        strict: bool,
        allow_overlap: bool,
    ) -> Self: ...
