"""Batches: what reading many members gives, and the memory that it goes to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from archivestream.reader import PendingMembers

__all__ = ["Batch", "PendingBatch", "as_bytes", "as_rows"]


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


def as_bytes(out: Any) -> NDArray[np.uint8] | None:
    """View the caller's memory as bytes.

    Raises
    ------
    ValueError, TypeError
        If it is read-only, not contiguous, holds Python objects, or is no memory.
    """
    if out is None:
        return None
    try:
        view = memoryview(out)
    except TypeError:
        if not hasattr(out, "numpy"):
            raise
        view = memoryview(out.numpy())  # a tensor of PyTorch, in the memory of the CPU
    if "O" in re.sub(":[^:]*:", "", view.format):  # PEP 3118: a pointer to one; names stand between colons
        raise TypeError("out holds Python objects")
    if view.readonly:
        raise ValueError("out is read-only")
    if not view.c_contiguous:
        raise ValueError("out is not contiguous")
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)


def as_rows(out: Any) -> Any:
    """Check the caller's memory for rows of bytes; what makes some is checked when it has.

    Raises
    ------
    ValueError, TypeError
        If it is read-only, or no contiguous array of such.
    """
    if out is None or callable(out):
        return out
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.ndim != 2 or not out.flags.c_contiguous:
        raise TypeError("out must be a C-contiguous array of uint8 with two dimensions")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out
