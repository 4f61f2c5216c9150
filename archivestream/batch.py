"""What reading many members gives: batches, pending ones, and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from archivestream.reader import PendingMembers

__all__ = ["Batch", "PendingBatch"]


class Batch(Sequence[memoryview]):
    """Members in one contiguous buffer.

    Attributes
    ----------
    data : ndarray of uint8, shape (total,)
        The bytes of all members, one after the other.
    offsets : ndarray of int64, shape (n + 1,)
        Where each member begins in `data`, and where the last one ends.
    """

    __slots__ = ("data", "offsets")

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, key: int) -> memoryview: ...
    @overload
    def __getitem__(self, key: slice) -> list[memoryview]: ...
    def __getitem__(self, key: int | slice) -> memoryview | list[memoryview]:
        """Return the bytes of one member, or of a slice of them, without a copy."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        n = len(self)
        if not -n <= key < n:
            raise IndexError(f"member {key} of a batch of {n}")
        begin, end = self.offsets[key % n : key % n + 2].tolist()
        return self.data.data[begin:end]

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} members, {self.data.size} bytes>"


class PendingBatch:
    """A batch that is read in the background. Made by `Archive.submit`; safe for any number of threads."""

    def __init__(self, pending: PendingMembers) -> None:
        self._pending = pending

    def done(self) -> bool:
        """Whether `result` would return without waiting for the threads."""
        return self._pending.done()

    def result(self) -> Batch:
        """Wait for the batch and return it.

        Raises
        ------
        ArchiveError
            What `Archive.read_batch` raises, for the first member that is bad.
        """
        self._pending.wait()
        return Batch(self._pending.data, self._pending.offsets)
