"""Brings batches to a device while the consumer works on those before: one copy each, on a stream of its own."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream.assembling import Assembled
from archivestream.finishing import Finish, finish_samples
from archivestream.orders import Order
from archivestream.prefetch import Prefetcher
from archivestream.slots import Laid, Ring, Slot
from archivestream.stats import TransferStats
from archivestream.tensors import Place, is_plain, map_leaves, place_of

try:
    import torch
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["Keep", "PinnedSlot", "Sent", "Staged", "Transfer"]

Keep: TypeAlias = Literal["batches", "slots"]

# So many steps of the consumer may be under way on the device while the host asks for another batch: each of them holds
# a batch in the memory of the device.
_RUN_AHEAD = 2
# Batches that are sent before the consumer asks for them.
_SENT_AHEAD = 2
# Batches in the memory of the device with keep="slots": those, one that the consumer has, and one whose last reader may
# still be at work.
_DEVICE_SLOTS = _SENT_AHEAD + 2
# Slots beyond those of the batches that are made ahead: what is sent, what the consumer is given, what is copied still.
_MORE_SLOTS = _SENT_AHEAD + 2
# Bytes of slots that are pinned at once. More are made where that many batches are really under way.
_AT_ONCE = 4 << 30


@dataclass(eq=False)
class Sent:
    """A batch on its way to the device.

    Attributes
    ----------
    memory : Tensor of uint8
        Where it will be.
    batch : object
        The batch, with a `Place` for each tensor.
    copied : Event
        Recorded behind the copy.
    """

    memory: torch.Tensor
    batch: Any
    copied: Any


class Transfer:
    """Copies batches from a ring of slots to a device.

    All that it needs is made at once, so that what is missing shows here: the slots are pinned, the stream is made, and
    a first copy has been through. Afterwards no call waits for the device, but where the host is too far ahead.

    Parameters
    ----------
    device : torch.device
        A CUDA device, or the CPU, which does the same with ordinary memory and no streams.
    ahead : int
        Batches that are made ahead.
    batches : int
        How many there are.
    batch_bytes : int
        What a batch takes, as far as one can tell; 0 where the first one has to show it.
    keep : "batches" or "slots"
        Whether each batch has memory of its own, or the memory of one is used again once the next is asked for.
    finish : callable, optional
        Applied on the device to the samples of each batch.
    labelled : bool
        Whether batches are (samples, labels).

    Any number of threads may take slots and lay batches in them; one at a time may have batches arrive.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        ahead: int,
        batches: int,
        batch_bytes: int,
        keep: Keep = "batches",
        finish: Finish | None = None,
        labelled: bool = False,
    ) -> None:
        self.device = device
        self._api: Any = torch.cuda if device.type == "cuda" else torch.cpu
        self._keep = keep
        self._finish = finish
        self._labelled = labelled
        if batch_bytes > _AT_ONCE:
            batch_bytes = 0  # whether members are so large shows when they are read
        slots = min(ahead + _MORE_SLOTS, batches, _AT_ONCE // max(1, batch_bytes))
        with self._here():
            self._stream = self._api.Stream(device)
            self._ring = Ring(slots, batch_bytes, pinned=device.type == "cuda")
        self._lock = threading.RLock()
        self._sent: weakref.WeakSet[Sent] = weakref.WeakSet()
        self._sends_ahead = True
        # With keep="slots": memory that no consumer uses, each with what to wait for before it is written.
        self._idle: deque[tuple[torch.Tensor, Sequence[Any]]] = deque()
        self._current: tuple[torch.Tensor, Any] | None = None  # of these, what the consumer has, and its stream
        self._steps: deque[Any] = deque()  # events: the ends of what the consumer had asked of the device
        self._copies = self._bytes = 0
        self.send(Laid(torch.zeros(1, dtype=torch.uint8, device="cpu"), None)).copied.synchronize()
        if keep == "slots":
            with self._here(), torch.inference_mode(False), self._api.stream(self._stream):
                self._idle.extend((self._new_memory(self._ring.slot_bytes), ()) for _ in range(_DEVICE_SLOTS))

    @property
    def stats(self) -> TransferStats:
        """What it has done, and the memory that it has for it."""
        sizes = self._ring.sizes
        return TransferStats(
            device=str(self.device),
            copies=self._copies,
            bytes=self._bytes,
            slots=len(sizes),
            slot_bytes=self._ring.slot_bytes,
            pinned_bytes=sum(sizes) if self.device.type == "cuda" else 0,
            grown=self._ring.grown,
        )

    def begin(self) -> None:
        """Count anew."""
        self._copies = self._bytes = 0
        self._sends_ahead = True

    def take(self) -> OutgoingSlot:
        """Return memory to make a batch in."""
        with self._here():
            return OutgoingSlot(self._ring.take(), self)

    def offer(self, laid: Laid) -> Laid | Sent:
        """Send a batch if there are not enough of them on their way."""
        with self._lock:
            return self.send(laid) if self._sends_ahead and len(self._sent) < _SENT_AHEAD else laid

    def send_what_is_asked_for(self) -> None:
        """Send nothing ahead from now on: samples were skipped, so batches will be made anew before they arrive."""
        self._sends_ahead = False

    def send(self, laid: Laid) -> Sent:
        """Begin the copy of a batch, behind those before it."""
        size = laid.memory.numel()
        # No inference mode: the memory may be written again outside of it.
        with self._lock, self._here(), torch.inference_mode(False), self._api.stream(self._stream):
            memory = self._device_memory(size)
            if memory.is_cuda:
                memory[:size].copy_(laid.memory, non_blocking=True)
            else:  # by NumPy: PyTorch copies with threads of OpenMP, for which a forked process would wait for ever
                np.copyto(memory[:size].numpy(), laid.memory.numpy())
            sent = Sent(memory, laid.batch, self._event(self._stream))
            self._ring.hold(laid.memory, sent.copied)
            self._sent.add(sent)
            self._copies += laid.batch is not None
            self._bytes += size
        return sent

    def arrive(self, batch: Laid | Sent) -> Any:
        """Return a batch on the device, for the stream that is current there: that waits for the copy, not the host.

        What was given before is taken to be read by nothing but what has been asked up to now of that stream, and of
        the one for which it was given.
        """
        with self._lock:
            sent = batch if isinstance(batch, Sent) else self.send(batch)
            self._sent.discard(sent)
        with self._here():
            stream = self._api.current_stream(self.device)
            step = self._event(stream)
            if self._keep == "slots":
                if self._current is not None:
                    memory, before = self._current
                    self._idle.append((memory, (step,) if before == stream else (step, self._event(before))))
                self._current = sent.memory, stream
            if sent.memory.is_cuda:
                # The memory belongs to the stream of the copies: once it is dropped, it waits for this one, too.
                sent.memory.record_stream(stream)
            self._steps.append(step)
            if len(self._steps) > _RUN_AHEAD:
                self._steps.popleft().synchronize()
            sent.copied.wait(stream)
        arrived = map_leaves(lambda leaf: self._arrived(leaf, sent.memory), sent.batch)
        if self._labelled and self._keep == "batches":
            # Who keeps the labels of an epoch should not keep all of its samples with them.
            samples, labels = arrived
            arrived = samples, map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, labels)
        return finish_samples(self._finish, arrived, labelled=self._labelled)

    def close(self) -> None:
        """Wait for the copies under way, and give the pinned memory back to the system."""
        with self._here():
            self._ring.close()
            self._idle.clear()
            self._current = None
            self._steps.clear()
            empty = getattr(getattr(torch, "accelerator", None), "empty_host_cache", None)
            if self.device.type == "cuda" and empty is not None:
                self._stream.synchronize()  # or else the memory that it has read counts as in use
                empty()

    def _here(self) -> AbstractContextManager[Any]:
        """Have the device current: other calls of CUDA would make a context on the one that is, in any thread."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _arrived(self, leaf: Any, memory: torch.Tensor) -> Any:
        if isinstance(leaf, Place):
            return leaf.view(memory)
        if isinstance(leaf, torch.Tensor):
            return leaf.to(self.device, non_blocking=True)
        return leaf.to(self.device) if hasattr(leaf, "to") else leaf

    def _event(self, stream: Any) -> Any:
        # Who waits for it sleeps: the threads that decode need the processor.
        event = self._api.Event(blocking=True) if self.device.type == "cuda" else self._api.Event()
        event.record(stream)
        return event

    def _device_memory(self, size: int) -> torch.Tensor:
        """Return memory on the device; the copy stream is current."""
        if self._keep == "batches" or not self._idle:  # a batch that was sent and not delivered takes one with it
            return self._new_memory(size)
        memory, read = self._idle.popleft()
        for event in read:
            event.wait(self._stream)
        return memory if memory.numel() >= size else self._new_memory(size)

    def _new_memory(self, size: int) -> torch.Tensor:
        # In few different sizes, of which the allocator finds one that was dropped.
        step = max(512, (1 << max(0, size - 1).bit_length()) // 8)
        return torch.empty(-(-size // step) * step, dtype=torch.uint8, device=self.device)


class OutgoingSlot:
    """A slot whose batch is on its way as soon as it is laid, if not enough of them are.

    Parameters
    ----------
    slot : Slot
        The memory.
    transfer : Transfer
        Sends it.
    """

    def __init__(self, slot: Slot, transfer: Transfer) -> None:
        self._slot = slot
        self._transfer = transfer
        self.allocate = slot.allocate
        self.release = slot.release

    def lay(self, batch: Any) -> Laid | Sent:
        """Bring a batch into the slot, and maybe on its way."""
        return self._transfer.offer(self._slot.lay(batch))


class Staged(Iterator[Assembled]):
    """Results of a prefetcher, of which the next are on their way to the device before they are asked for.

    Parameters
    ----------
    results : Prefetcher
        Makes batches in slots.
    transfer : Transfer
        Takes them to the device.
    """

    def __init__(self, results: Prefetcher[Order, Assembled], transfer: Transfer) -> None:
        self._results = results
        self._transfer = transfer
        self._staged: deque[Assembled | Exception] = deque()

    @property
    def waited(self) -> float:
        """Seconds that the consumer has waited."""
        return self._results.waited

    def __next__(self) -> Assembled:
        """Return the next result, or raise what went wrong with it."""
        if not self._staged:
            self._staged.append(self._stage())
        while len(self._staged) <= _SENT_AHEAD and self._results.is_ready():
            self._staged.append(self._stage())
        result = self._staged.popleft()
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # or its traceback leads back to itself
        return result

    def _stage(self) -> Assembled | Exception:
        try:
            result = next(self._results)
        except Exception as error:  # whatever it is: it is raised in its turn
            return error
        if result.errors:
            self._transfer.send_what_is_asked_for()
        elif isinstance(result.batch, Laid):
            result.batch = self._transfer.offer(result.batch)
        return result

    def close(self, *, wait: bool = True) -> None:
        """Call off what is not delivered; see `Prefetcher.close`."""
        self._results.close(wait=wait)
        self._staged.clear()


class PinnedSlot:
    """Page-locked memory for one batch that stays on the host, and goes with the batch.

    It comes from PyTorch's allocator of such memory, which keeps what was pinned once. It is not ours to use again:
    only PyTorch knows which streams still read a batch that its consumer has dropped.
    """

    def __init__(self, finish: Finish | None, *, labelled: bool) -> None:
        self._finish = finish
        self._labelled = labelled
        self._tensors: list[torch.Tensor] = []

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes, not initialised."""
        tensor = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
        self._tensors.append(tensor)
        memory: NDArray[np.uint8] = tensor.numpy()
        return memory

    def release(self) -> None:
        """Forget it: it is PyTorch's."""
        self._tensors.clear()

    def lay(self, batch: Any) -> Any:
        """Return the batch with all its tensors in page-locked memory."""
        return map_leaves(self._pin, finish_samples(self._finish, batch, labelled=self._labelled))

    def _pin(self, leaf: Any) -> Any:
        for tensor in self._tensors if is_plain(leaf) and not leaf.requires_grad else ():
            place = place_of(leaf, tensor.data_ptr(), tensor.numel())
            if place is not None:
                return place.view(tensor)  # of that storage, whose readers PyTorch notes
        return leaf.pin_memory() if hasattr(leaf, "pin_memory") else leaf
