"""From the numbers of some samples to a batch: read, decoded, transformed and collated on one thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream.collating import Chunk, Collator
from archivestream.dataset import ArchiveDataset
from archivestream.decoding import ArrayDecoder, NumpyDecoder
from archivestream.orders import Order
from archivestream.reader import Allocate, empty_bytes, without_frames

__all__ = ["Assembled", "Assembler", "HostMemory", "Memory", "OnError", "Times", "overrides"]

OnError: TypeAlias = Callable[[Exception], Any]
# From the numbers of samples to samples; what it takes and what is bad, by place, is noted in the others.
_Way: TypeAlias = Callable[[NDArray[np.int64], Allocate, "Times", dict[int, Exception]], Chunk]


# Bytes of each sample besides its own: a label, an offset and a length, and what aligns it.
_BESIDES = 64
_DRAWN = 1 << 20  # samples at most that are drawn to estimate what a batch takes


class Memory(Protocol):
    """What a batch is made in."""

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """Return the next so many bytes, not initialised and aligned for any type."""
        ...

    def lay(self, batch: Any) -> Any:
        """Return the batch as its consumer takes it."""
        ...

    def release(self) -> None:
        """Give the memory back: no batch comes of it."""
        ...


class HostMemory:
    """Memory of the process, as it comes.

    Parameters
    ----------
    finish : callable, optional
        Applied to each batch.
    """

    allocate = staticmethod(empty_bytes)

    def __init__(self, finish: Callable[[Any], Any] | None = None) -> None:
        self._finish = finish

    def lay(self, batch: Any) -> Any:
        """Return the batch as it is, or finished."""
        return batch if self._finish is None else self._finish(batch)

    def release(self) -> None:
        """Do nothing: it goes when nothing refers to it."""


@dataclass
class Times:
    """Seconds that a thread spent on the stages of a batch."""

    read: float = 0.0
    decode: float = 0.0
    transform: float = 0.0
    collate: float = 0.0

    def add(self, other: Times) -> None:
        """Add those of another batch."""
        self.read += other.read
        self.decode += other.decode
        self.transform += other.transform
        self.collate += other.collate


@dataclass
class Assembled:
    """What became of an order.

    Attributes
    ----------
    size : int
        How many samples were asked for.
    end : int
        Where the sample after them stands in the order of the rank.
    chunk : Chunk or None
        Those that are good, where batches may have to be made anew.
    batch : object
        The batch; None where samples are missing.
    errors : list of Exception
        What was wrong with each sample that was skipped, in order.
    bytes : int
        Size of the members of the samples, decoded.
    """

    size: int
    end: int
    chunk: Chunk | None = None
    batch: Any = None
    errors: list[Exception] = field(default_factory=list)
    bytes: int = 0
    times: Times = field(default_factory=Times)


class Assembler:
    """Makes batches of a dataset. Safe for any number of threads, where the dataset is.

    Parameters
    ----------
    dataset : map-style dataset
        An `ArchiveDataset` is read a batch at a time, and, where nothing in Python has to look at each sample, decoded
        straight into the batch.
    collator : Collator
        Makes a batch of samples.
    on_error : "raise", "skip" or callable
        As `archivestream.ArchiveLoader` has it.
    memory : callable
        Returns the memory for another batch.
    batched : bool
        Whether what is asked for becomes a batch; else it is one sample, which stays as it is.
    """

    def __init__(
        self,
        dataset: Any,
        collator: Collator,
        on_error: str | OnError,
        memory: Callable[[], Memory] = HostMemory,
        *,
        batched: bool = True,
    ) -> None:
        self._dataset = dataset
        self._collator = collator
        self._on_error = on_error
        self._memory = memory
        self._batched = batched
        self._make = self._way()

    def _way(self) -> _Way:
        """Choose how samples are made: directly in a batch, where nobody has to see each by itself."""
        dataset = self._dataset
        if not isinstance(dataset, ArchiveDataset) or overrides(dataset, "__getitem__", "__getitems__"):
            return self._ask_dataset
        if (
            not self._batched
            or dataset.bounds is not None
            or dataset.transform is not None
            or overrides(dataset, "decode_sample", "finish_sample", "label")
        ):
            return self._decode_each
        if dataset.decode is None and self._collator.how in (None, "pad"):
            return self._read_padded
        if dataset.decode is None and self._collator.packs:
            return self._read_packed
        if self._collator.how is None and isinstance(dataset.decode, NumpyDecoder):
            return self._read_arrays
        if self._collator.how is None and isinstance(dataset.decode, ArrayDecoder):
            return self._decode_into
        return self._decode_each

    def expected_bytes(self, batch_size: int) -> int:
        """Estimate what a batch takes, in bytes, from the index and one member; 0 where that does not tell."""
        if self._make in (self._ask_dataset, self._decode_each) or not len(self._dataset):
            return 0
        batch_size = min(batch_size, len(self._dataset))
        if self._make == self._decode_into:
            decoder: ArrayDecoder = self._dataset.decode
            try:
                shape, dtype = decoder.shape(memoryview(self._dataset.archive.read(0)))
            except Exception:  # whatever is wrong with it: it is raised in its batch
                return 0
            return batch_size * math.prod(shape) * np.dtype(dtype).itemsize
        sizes = self._dataset.archive.sizes.astype(np.float64)  # they may be anything
        # Nine batches of ten, in the order of the archive and at random; more is taken where one needs it.
        draws = np.random.default_rng(0).integers(len(sizes), size=(min(64, 1 + _DRAWN // batch_size), batch_size))
        whole = sizes[: len(sizes) // batch_size * batch_size].reshape(-1, batch_size)
        batches = [
            rows.sum(axis=1) if self._make == self._read_packed else rows.max(axis=1) * batch_size
            for rows in (sizes[draws], whole)
        ]
        return int(max(np.quantile(each, 0.9) for each in batches)) + _BESIDES * batch_size

    def __call__(self, order: Order) -> Assembled:
        """Make a batch, or say what is missing from it. Raises the error of the first bad sample, if it is to raise."""
        memory = self._memory()
        try:
            return self._assemble(order, memory)
        except BaseException:
            memory.release()  # who keeps the exception keeps its frames, and what they refer to
            raise

    def _assemble(self, order: Order, memory: Memory) -> Assembled:
        indices = np.asarray(order.indices, np.int64)
        result = Assembled(len(indices), order.begin + len(indices))
        errors: dict[int, Exception] = {}
        chunk = self._make(indices, memory.allocate, result.times, errors)
        if errors:
            chunk = self._settle(chunk, errors)
        result.errors = [errors[place] for place in sorted(errors)]
        chunk = replace(chunk, ordinals=chunk.ordinals + order.begin)
        result.bytes = self._bytes(indices, chunk, errors)
        if not errors:
            result.batch = self.collate(chunk, result.times, memory)
        if self._on_error != "raise":
            result.chunk = chunk
        return result

    def collate(self, chunk: Chunk, times: Times, memory: Memory | None = None) -> Any:
        """Make a batch of samples, in the memory where they are, if that is known."""
        started = time.perf_counter()
        if self._batched:
            batch = self._collator(chunk)
        else:
            (sample,) = chunk.data
            batch = sample if chunk.targets is None else (sample, chunk.targets[0])
        batch = (memory or self._memory()).lay(batch)
        times.collate += time.perf_counter() - started
        return batch

    def _bytes(self, indices: NDArray[np.int64], chunk: Chunk, errors: dict[int, Exception]) -> int:
        dataset = self._dataset
        if chunk.lengths is not None:
            return int(chunk.lengths.sum())
        if not isinstance(dataset, ArchiveDataset):
            return 0
        good = np.delete(indices, [*errors]) if errors else indices
        members = good if dataset.bounds is None else dataset.members_of(good)[0]
        return int(dataset.archive.sizes[members].sum())

    def _settle(self, chunk: Chunk, errors: dict[int, Exception]) -> Chunk:
        """Raise, leave out what is bad, or put in its place what the caller has for it; those are no errors then."""
        if self._on_error == "raise":
            error = errors[min(errors)]
            errors.clear()
            try:
                raise error
            finally:
                del error  # which would keep itself, and all that its frames refer to
        replaced: dict[int, Any] = {}
        if callable(self._on_error):
            replaced = {place: self._on_error(error) for place, error in errors.items()}
        for place, error in [*errors.items()]:
            if replaced.get(place) is not None:
                del errors[place]
            else:
                errors[place] = without_frames(error)
        if any(sample is not None for sample in replaced.values()):
            chunk = chunk.listed()
            samples = [*chunk.data]
            for place, sample in replaced.items():
                samples[place] = sample
            chunk = replace(chunk, data=samples)
        good = np.delete(np.arange(len(chunk)), [*errors])
        return chunk.take(good)

    def _ask_dataset(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        """Have the dataset make its samples; it alone knows what of that is reading."""
        started = time.perf_counter()
        keys = indices.tolist()
        samples: list[Any] = []
        if self._on_error == "raise" and hasattr(self._dataset, "__getitems__"):
            samples = [*self._dataset.__getitems__(keys)]
        else:
            for place, key in enumerate(keys):
                try:
                    samples.append(self._dataset[key])
                except Exception as error:  # of whatever type: the caller has said what to do with it
                    if self._on_error == "raise":
                        raise
                    samples.append(None)
                    errors[place] = error
        times.transform += time.perf_counter() - started
        return Chunk(samples, None, None, np.arange(len(keys)))

    def _targets(
        self, indices: NDArray[np.int64], times: Times, errors: dict[int, Exception]
    ) -> NDArray[Any] | list[Any] | None:
        dataset = self._dataset
        if not dataset.labelled:
            return None
        if dataset.target_transform is None:
            targets: NDArray[Any] = dataset.targets[indices]
            return targets
        started = time.perf_counter()
        found: list[Any] = []
        for place, index in enumerate(indices.tolist()):
            try:
                found.append(dataset.label(index))
            except Exception as error:
                if self._on_error == "raise":
                    raise
                found.append(None)
                errors[place] = error
        times.transform += time.perf_counter() - started
        return found

    def _read_padded(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        started = time.perf_counter()
        rows, lengths = self._dataset.archive.read_padded(indices, allocate, errors=errors)
        times.read += time.perf_counter() - started
        return Chunk(rows, lengths, self._targets(indices, times, errors), np.arange(len(indices)))

    def _read_packed(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        started = time.perf_counter()
        data, offsets, lengths = self._dataset.archive.read_packed(indices, allocate, errors=errors)
        times.read += time.perf_counter() - started
        return Chunk(data, lengths, self._targets(indices, times, errors), np.arange(len(indices)), offsets)

    def _read_arrays(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        started = time.perf_counter()
        try:
            rows = self._dataset.archive.read_arrays(indices, allocate, errors=errors)
        finally:
            times.read += time.perf_counter() - started
        return Chunk(rows, None, self._targets(indices, times, errors), np.arange(len(indices)))

    def _decode_into(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        """Decode each member to its place in one array, as long as they are of one shape."""
        started = time.perf_counter()
        members = self._dataset.archive.read_many(indices, errors=errors)
        times.read += time.perf_counter() - started
        started = time.perf_counter()
        decoder: ArrayDecoder = self._dataset.decode
        rows: NDArray[Any] | None = None
        others: dict[int, Any] = {}
        for place, (index, data) in enumerate(zip(indices.tolist(), members, strict=True)):
            if place in errors:
                continue
            view = memoryview(data)
            try:
                if rows is None:
                    shape, dtype = decoder.shape(view)
                    size = math.prod(shape) * np.dtype(dtype).itemsize
                    rows = allocate(len(members) * size).view(dtype).reshape(len(members), *shape)
                decoder.into(view, rows[place])
                continue
            except Exception:  # damaged, or of another shape: the dataset decodes it once more, and says what is wrong
                pass
            try:
                others[place] = self._dataset.decode_sample(index, [view])
            except Exception as error:
                if self._on_error == "raise":
                    raise
                errors[place] = error
        times.decode += time.perf_counter() - started
        data_: Any = rows
        if rows is None or any(
            np.shape(array) != rows.shape[1:] or array.dtype != rows.dtype for array in others.values()
        ):
            data_ = [others.get(i, None if rows is None else rows[i]) for i in range(len(indices))]
        else:
            for place, array in others.items():
                rows[place] = array
        return Chunk(data_, None, self._targets(indices, times, errors), np.arange(len(indices)))

    def _decode_each(
        self, indices: NDArray[np.int64], allocate: Allocate, times: Times, errors: dict[int, Exception]
    ) -> Chunk:
        """Decode and transform the samples one by one."""
        dataset = self._dataset
        started = time.perf_counter()
        positions, offsets = dataset.members_of(indices)
        bad: dict[int, Exception] = {}
        members = dataset.archive.read_many(positions, errors=bad)
        times.read += time.perf_counter() - started
        samples: list[Any] = []
        targets: list[Any] | None = [] if dataset.labelled else None
        bounds = offsets.tolist()
        for place, index in enumerate(indices.tolist()):
            begin, end = bounds[place : place + 2]
            sample: Any = None
            try:
                for part in range(begin, end) if bad else ():
                    if part in bad:
                        raise bad[part]
                started = time.perf_counter()
                decoded = dataset.decode_sample(index, members[begin:end])
                between = time.perf_counter()
                times.decode += between - started
                sample = dataset.finish_sample(index, decoded)
                times.transform += time.perf_counter() - between
            except Exception as error:
                if self._on_error == "raise":
                    raise
                errors[place] = error
                sample = (None, None) if targets is not None else None
            if targets is not None:
                sample, target = sample
                targets.append(target)
            samples.append(sample)
        plain = targets is not None and dataset.target_transform is None
        return Chunk(samples, None, dataset.targets[indices] if plain else targets, np.arange(len(samples)))


def overrides(dataset: ArchiveDataset, *methods: str) -> bool:
    """Whether a subclass makes its samples in its own way."""
    return any(getattr(type(dataset), name) is not getattr(ArchiveDataset, name) for name in methods)
