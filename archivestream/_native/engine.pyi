from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray
from typing_extensions import Self

from archivestream._native.cache import BlockCache
from archivestream._native.checkpoints import Dictionary
from archivestream._native.meter import Meter
from archivestream._native.view import IndexView
from archivestream._native.work import Consumer, PendingRead

_Bytes: TypeAlias = ReadableBuffer | NDArray[Any]

_Failure: TypeAlias = tuple[int, int, int, int]
_Fetched: TypeAlias = Sequence[_Bytes | None] | None
_Fetch: TypeAlias = Callable[[int, int, int], _Bytes | int] | None

@final
class Reader:
    def __new__(
        cls,
        index: IndexView,
        cache: BlockCache,
        *,
        threads: int,
        verify: bool,
        dictionaries: Sequence[tuple[int, Dictionary]] = (),
        meter: Meter | None = None,
    ) -> Self: ...
    def read(self, block: int, fetch: _Fetch = None) -> bytes | tuple[int, int]: ...
    def payload(self, block: int, fetched: _Bytes | None = None) -> bytes | tuple[int, int]: ...
    def data_offset(self, block: int, header: _Bytes) -> int | tuple[int, int]: ...
    def refusals(self, blocks: NDArray[np.int64]) -> list[tuple[int, int]]: ...
    def ranges(self, blocks: NDArray[np.int64]) -> list[tuple[int, int, int] | None]: ...
    def read_many(
        self, blocks: NDArray[np.int64], fetched: _Fetched = None, fetch: _Fetch = None
    ) -> tuple[list[bytes], list[_Failure]]: ...
    def feed(
        self, blocks: NDArray[np.int64], consumer: Consumer, fetched: _Fetched = None, fetch: _Fetch = None
    ) -> list[_Failure]: ...
    def offsets(self, blocks: NDArray[np.int64], offsets: NDArray[np.int64]) -> _Failure | None: ...
    def read_into(
        self,
        blocks: NDArray[np.int64],
        out: _Bytes,
        targets: NDArray[np.int64],
        fetched: _Fetched = None,
        fetch: _Fetch = None,
    ) -> list[_Failure]: ...
    def submit(
        self,
        blocks: NDArray[np.int64],
        out: _Bytes,
        targets: NDArray[np.int64],
        fetched: _Fetched = None,
        fetch: _Fetch = None,
    ) -> PendingRead: ...
    def read_stream(
        self, source: int, begin: int, out: _Bytes, fetch: _Fetch = None, *, check: bool = False
    ) -> tuple[int, int]: ...
    def read_slots(
        self,
        blocks: NDArray[np.int64],
        out: _Bytes,
        prefix: _Bytes,
        fetched: _Fetched = None,
        fetch: _Fetch = None,
    ) -> list[_Failure]: ...
    def check(self, blocks: NDArray[np.int64], fetched: _Fetched = None, fetch: _Fetch = None) -> list[_Failure]: ...
