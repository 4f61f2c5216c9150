from collections.abc import Iterable, Sequence
from typing import Any, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

from archivestream._native.work import Consumer

@final
class Schema:
    def __new__(cls, features: Iterable[tuple[bytes, int, int, int, bool, bool]]) -> Self: ...

@final
class Examples(Consumer):
    def __new__(
        cls,
        schema: Schema,
        records: Iterable[ReadableBuffer] | ReadableBuffer | int,
        offsets: NDArray[np.int64] | None = None,
        *,
        threads: int = 1,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def failed(self) -> list[tuple[int, int, int, int, int, int, int]]: ...
    def splits(self, feature: int, out: NDArray[np.int64]) -> None: ...
    def place(self, outputs: Sequence[tuple[Any, Any, Any]]) -> None: ...
    def fill(self, *, threads: int) -> list[list[bytes | None] | None]: ...
    def await_all(self) -> None: ...

def pack_varints(values: NDArray[np.int64]) -> bytes: ...
