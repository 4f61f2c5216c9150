from collections.abc import Sequence
from types import TracebackType
from typing import Any, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

from archivestream._native.sharedstore import SharedStore

@final
class SharedView:
    def __new__(cls, store: SharedStore, archive: bytes) -> Self: ...
    def get(self, member: int) -> bytes | None: ...
    def get_many(self, members: NDArray[np.int64], found: list[Any], absent: NDArray[np.int64]) -> int: ...
    def copy(
        self,
        members: NDArray[np.int64],
        out: NDArray[np.uint8],
        targets: NDArray[np.int64],
        absent: NDArray[np.int64],
        *,
        prefix: ReadableBuffer | None = None,
        odd: list[int] | None = None,
    ) -> int: ...
    def claim(self, members: NDArray[np.int64], sizes: NDArray[np.uint64], *, wait: bool = True) -> SharedClaim: ...
    def claim_one(self, member: int, size: int) -> SharedClaim | None: ...

@final
class SharedClaim:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def own(self) -> list[int]: ...
    @property
    def others(self) -> list[int]: ...
    def keep(self, data: Sequence[object]) -> None: ...
    def store_from(
        self,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        sizes: NDArray[np.uint64],
        prefix: ReadableBuffer | None = None,
    ) -> None: ...
    def wait(self) -> bool: ...
