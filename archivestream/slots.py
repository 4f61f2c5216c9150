"""The memory that batches are made in on their way to a device: a ring of slots, used in turn."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from archivestream.tensors import ALIGNMENT, Place, array_as_tensor, is_plain, map_leaves, place_of

try:
    import torch
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["Event", "Laid", "Ring", "Slot", "power_of_two"]

_LEAST = 1 << 12  # bytes of a slot: a page
# A batch that takes more than so many slots' worth is an exception: it passes through memory of its own, not pinned.
_LARGE = 4


class Event(Protocol):
    """What tells that a copy has ended: of `torch.cuda.Event` and `torch.cpu.Event`."""

    def query(self) -> bool:
        """Tell whether it has ended."""
        ...

    def synchronize(self) -> None:
        """Wait until it has."""
        ...


def power_of_two(size: int) -> int:
    """Round up: PyTorch pins memory in such sizes anyway."""
    return max(_LEAST, 1 << max(0, size - 1).bit_length())


@dataclass(frozen=True)
class Laid:
    """A batch whose tensors lie in one piece of memory.

    Attributes
    ----------
    memory : Tensor of uint8, shape (size,)
        What has to be copied, and nothing else.
    batch : object
        The batch, with a `Place` for each tensor in there.
    """

    memory: torch.Tensor
    batch: Any


class _Block:
    """A piece of memory of the ring."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        try:
            self.tensor = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        except RuntimeError as error:
            raise RuntimeError(
                f"{size:,} bytes of {'pinned ' if pinned else ''}memory are not to be had for a batch: lower "
                f"batch_size, num_workers or prefetch_factor ({error})"
            ) from error
        self.size = size
        self.address = self.tensor.data_ptr()


class _Lease:
    """The use of a block, which ends when no array and no tensor in its memory is left."""

    def __init__(self, block: _Block, ring: Ring) -> None:
        self._block = block
        self._ring: weakref.ref[Ring] | None = weakref.ref(ring)
        self.__array_interface__ = {
            "data": (block.address, False),
            "shape": (block.size,),
            "typestr": "|u1",
            "version": 3,
        }

    def give_up(self) -> None:
        """Do not give the block back: it is too small."""
        self._ring = None

    def end(self) -> None:
        """Give the block back, once."""
        ring = self._ring() if self._ring is not None else None
        self._ring = None
        if ring is not None:
            ring.give_back(self._block)

    __del__ = end


class Slot:
    """Memory for one batch, which is made in it: taken from its begin on, piece by piece, each of them aligned.

    Parameters
    ----------
    ring : Ring
        Has more, where this is not enough.
    lease : _Lease or None
        Of its memory; None where the size of a batch is not known yet.
    """

    def __init__(self, ring: Ring, lease: _Lease | None) -> None:
        self._ring = ring
        self._set(lease)

    def _set(self, lease: _Lease | None) -> None:
        self._lease = lease
        self._used = 0
        self._set_memory(np.empty(0, np.uint8) if lease is None else np.asarray(lease))

    def _set_memory(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self._address = memory.ctypes.data

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Return the next bytes, not initialised: in larger memory, where they do not fit any more."""
        begin = -(-self._used // ALIGNMENT) * ALIGNMENT
        if size > self.memory.size - begin:
            # Whatever lies in the memory up to now stays there, and is copied over once the batch is laid.
            self._enlarge(begin + size)
            begin = 0
        self._used = begin + size
        return self.memory[begin : self._used]

    def _enlarge(self, size: int) -> None:
        lease = self._ring.larger(size, grows=self._lease is not None)
        if lease is None:
            self._set(None)
            self._set_memory(np.empty(size, np.uint8))
            return
        if self._lease is not None:
            self._lease.give_up()
        self._set(lease)

    def lay(self, batch: Any) -> Laid:
        """Bring all tensors and arrays of a batch into this memory, where they are not in there already."""
        tensors: list[torch.Tensor] = []

        def note(leaf: Any) -> Any:
            leaf = array_as_tensor(leaf)
            if is_plain(leaf):
                tensors.append(leaf)
            return leaf

        batch = map_leaves(note, batch)
        if self._room([tensor for tensor in tensors if self._find(tensor) is None]) > self.memory.size:
            self._used = 0
            self._enlarge(self._room(tensors))
        laid = map_leaves(lambda leaf: self._place(leaf) if is_plain(leaf) else leaf, batch)
        return Laid(torch.from_numpy(self.memory[: self._used]), laid)

    def release(self) -> None:
        """Give the memory back though something may still refer to it: a failure, and whoever keeps that."""
        if self._lease is not None:
            self._lease.end()

    def _find(self, tensor: torch.Tensor) -> Place | None:
        return place_of(tensor, self._address, self.memory.size)

    def _room(self, tensors: Sequence[torch.Tensor]) -> int:
        """Return how much of the memory is in use, once there is a copy of these in there."""
        end = self._used
        for tensor in tensors:
            end = -(-end // ALIGNMENT) * ALIGNMENT + tensor.nbytes
        return end

    def _place(self, tensor: torch.Tensor) -> Place:
        found = self._find(tensor)
        if found is None:
            memory = self.allocate(tensor.nbytes)
            copied = torch.from_numpy(memory).view(tensor.dtype).view(tensor.shape)
            copied.copy_(tensor.detach())
            found = self._find(copied)
        assert found is not None
        return found


class Ring:
    """Slots that are used in turn: each again once its batch has been copied, and nothing else refers to it.

    Parameters
    ----------
    count : int
        How many slots there are at first. Where all are in use, another is added.
    size : int
        What a batch takes, in bytes, as far as one can tell; 0 where the first batch has to show it.
    pinned : bool
        Page-locked memory, which a device reads by itself while the host goes on.

    Attributes
    ----------
    slot_bytes : int
        Size of a slot, a power of two.
    grown : int
        How often a batch did not fit.

    Safe for any number of threads.
    """

    def __init__(self, count: int, size: int, *, pinned: bool) -> None:
        self.slot_bytes = power_of_two(size) if size else 0
        self.grown = 0
        self._pinned = pinned
        self._lock = threading.RLock()  # the collector may run in here, and what it ends come back
        self._free: deque[_Block] = deque()
        self._blocks: weakref.WeakSet[_Block] = weakref.WeakSet()
        # What is being copied, and what tells that it has been.
        self._copies: deque[tuple[Event, torch.Tensor]] = deque()
        self._exceptions = 0
        self._closed = False
        if size:
            self._free.extend(self._new(self.slot_bytes) for _ in range(count))

    @property
    def sizes(self) -> list[int]:
        """The size of each slot, in bytes."""
        with self._lock:
            return [block.size for block in self._blocks]

    def take(self) -> Slot:
        """Return the slot that has been free for longest; waits for the end of a copy where there is none."""
        self._forget_copies()
        while True:
            try:
                return Slot(self, _Lease(self._free.popleft(), self))
            except IndexError:
                if not self._wait_for_copy():
                    return Slot(self, _Lease(self._new(self.slot_bytes), self) if self.slot_bytes else None)

    def hold(self, memory: torch.Tensor, copied: Event) -> None:
        """Keep memory of a slot until it has been copied."""
        self._forget_copies()
        with self._lock:
            self._copies.append((copied, memory))

    def larger(self, size: int, *, grows: bool) -> _Lease | None:
        """Return a larger block, for good, or None where the batch is an exception."""
        size = power_of_two(size)
        with self._lock:
            self.slot_bytes = self.slot_bytes or size
            self.grown += grows
            if size > _LARGE * self.slot_bytes:
                self._exceptions += 1
                if self._exceptions <= len(self._blocks):
                    return None
                self.slot_bytes, self._exceptions = size, 0  # they are no exceptions
        return _Lease(self._new(size), self)

    def give_back(self, block: _Block) -> None:
        """Put a block behind the others."""
        if not self._closed:
            self._free.append(block)

    def close(self) -> None:
        """Wait for the copies under way, and let go of the memory, as soon as no batch is in there any more."""
        self._closed = True
        while self._wait_for_copy():
            pass
        self._free.clear()

    def _new(self, size: int) -> _Block:
        block = _Block(size, pinned=self._pinned)
        with self._lock:
            self._blocks.add(block)
        return block

    def _forget_copies(self) -> None:
        ended = []
        with self._lock:
            while self._copies and self._copies[0][0].query():
                ended.append(self._copies.popleft())
        # Their leases end here, and not under the lock.

    def _wait_for_copy(self) -> bool:
        with self._lock:
            if not self._copies:
                return False
            copied, memory = self._copies.popleft()
        copied.synchronize()
        del memory
        return True
