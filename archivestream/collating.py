"""From samples to a batch: stacked, padded with lengths, or a list."""

from __future__ import annotations

from array import array as plain_array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from archivestream.tensors import as_tensor

try:
    import torch
    from torch.utils.data import default_convert
    from torch.utils.data._utils.collate import collate, default_collate_fn_map
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["Chunk", "Collator", "Packed", "Padded"]

_ALIGNMENT = 16  # bytes, of each member of a `Packed`: what the widest load of a GPU takes


class Padded(NamedTuple):
    """Samples of different sizes in one tensor.

    Attributes
    ----------
    data : Tensor, shape (n, longest, ...)
        Each sample at the start of its row, and zeros behind it.
    lengths : Tensor of int64, shape (n,)
        The length of each sample; of samples with several dimensions their shapes, (n, dimensions).
    """

    data: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, eq=False)
class Packed(Sequence[Any]):
    """Bytes of different sizes, one after the other in one tensor.

    A sequence of its members: each is a view of `data`, with no copy, and asking for it does not wait for the device.

    Attributes
    ----------
    data : Tensor of uint8, shape (total,)
        Each member begins at a multiple of 16 bytes, with zeros behind the one before.
    offsets, lengths : Tensor of int64, shape (n,)
        Member i is ``data[offsets[i]:offsets[i] + lengths[i]]``.
    """

    data: torch.Tensor
    offsets: torch.Tensor
    lengths: torch.Tensor
    _bounds: plain_array[int] = field(repr=False)  # begins and ends, on the host wherever the tensors are

    @classmethod
    def of(cls, data: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
        """Make it of arrays, in the same memory."""
        bounds = plain_array("q", np.stack([offsets, offsets + lengths], axis=1).tobytes())
        return cls(as_tensor(data), torch.from_numpy(offsets), torch.from_numpy(lengths), bounds)

    def __len__(self) -> int:
        return len(self._bounds) // 2

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.data[self._bounds[2 * place] : self._bounds[2 * place + 1]]


@dataclass(frozen=True)
class Chunk:
    """Samples that are no batch yet.

    Attributes
    ----------
    data : ndarray of shape (n, ...), or list
        The samples: rows of one array where they are of one kind, or objects.
    lengths : ndarray of int64 or None
        How much of each row is the sample, where rows are padded.
    offsets : ndarray of int64 or None
        Where each sample begins, with as many bytes as `lengths` says, where `data` are all of their bytes.
    targets : ndarray, list or None
        Their labels.
    ordinals : ndarray of int64
        Where each stands in the order of the epoch, on this rank.
    """

    data: NDArray[Any] | list[Any]
    lengths: NDArray[np.int64] | None
    targets: NDArray[Any] | list[Any] | None
    ordinals: NDArray[np.int64]
    offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ordinals)

    def take(self, places: NDArray[np.int64] | slice) -> Chunk:
        """Return some of the samples; a slice copies nothing, but of bytes one after the other."""
        if self.offsets is not None:
            return self.listed().take(places)

        def some(values: Any) -> Any:
            if isinstance(values, list):
                return values[places] if isinstance(places, slice) else [values[i] for i in places]
            return None if values is None else values[places]

        return Chunk(some(self.data), some(self.lengths), some(self.targets), self.ordinals[places])

    def listed(self) -> Chunk:
        """Return the samples as a list, without their padding."""
        if isinstance(self.data, list):
            return self
        if self.lengths is None:
            return replace(self, data=[*self.data])
        if self.offsets is not None:
            bounds = zip(self.offsets.tolist(), self.lengths.tolist(), strict=True)
            parts = [self.data[begin : begin + size].tobytes() for begin, size in bounds]
            return replace(self, data=parts, lengths=None, offsets=None)
        rows = [row[:size].tobytes() for row, size in zip(self.data, self.lengths.tolist(), strict=True)]
        return replace(self, data=rows, lengths=None)

    @staticmethod
    def join(chunks: Sequence[Chunk]) -> Chunk:
        """Put samples one after the other; of different kinds, they become a list."""
        if len(chunks) == 1:
            return chunks[0]
        chunks = [chunk if chunk.offsets is None else chunk.listed() for chunk in chunks]
        arrays = [c.data for c in chunks if not isinstance(c.data, list)]
        padded = all(c.lengths is not None for c in chunks)
        data: Any
        if padded:
            data = _join_rows(arrays)
        elif len(arrays) == len(chunks) and len({(a.dtype, a.shape[1:]) for a in arrays}) == 1:
            data = np.concatenate(arrays)
        else:
            data = [sample for c in chunks for sample in c.listed().data]
        targets: Any = [c.targets for c in chunks]
        if targets[0] is None:
            targets = None
        elif any(isinstance(part, list) for part in targets):
            targets = [target for part in targets for target in part]
        else:
            targets = np.concatenate(targets)
        lengths = np.concatenate([np.asarray(c.lengths) for c in chunks]) if padded else None
        return Chunk(data, lengths, targets, np.concatenate([c.ordinals for c in chunks]))


def _join_rows(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    joined = np.zeros((sum(map(len, parts)), max(part.shape[1] for part in parts)), parts[0].dtype)
    begin = 0
    for part in parts:
        joined[begin : begin + len(part), : part.shape[1]] = part
        begin += len(part)
    return joined


class Collator:
    """Makes batches of tensors.

    Parameters
    ----------
    how : {"pad", "packed", "list"}, callable or None
        As `archivestream.ArchiveLoader` has it.
    on_device : bool
        Whether batches go to a device: then bytes in a list become tensors, which are views of one.
    """

    def __init__(self, how: str | Callable[[list[Any]], Any] | None, *, on_device: bool = False) -> None:
        if how not in (None, "pad", "packed", "list") and not callable(how):
            raise ValueError(f"collate_fn must be 'pad', 'packed', 'list', a callable or None, not {how!r}")
        self.how = how
        self._on_device = on_device

    @property
    def packs(self) -> bool:
        """Whether bytes are wanted one after the other."""
        return self.how == "packed" or (self.how == "list" and self._on_device)

    def __call__(self, chunk: Chunk) -> Any:
        """Make a batch: of the samples, or, where there are labels, (samples, labels)."""
        if callable(self.how):
            samples = chunk.listed().data
            if chunk.targets is not None:
                samples = list(zip(samples, chunk.targets, strict=True))
            return self.how([*samples])
        batch = self._samples(chunk)
        if chunk.targets is None:
            return batch
        if isinstance(chunk.targets, list):
            return batch, _collate(chunk.targets, _DEFAULT)
        return batch, torch.from_numpy(chunk.targets)

    def _samples(self, chunk: Chunk) -> Any:
        if self.how == "packed":
            return _pack(chunk)
        if chunk.offsets is not None:
            return [*_pack(chunk)]
        if chunk.lengths is not None:
            rows, longest = np.asarray(chunk.data), int(chunk.lengths.max(initial=0))
            if rows.shape[1] > longest:  # a longer one is not among them any more
                rows = np.ascontiguousarray(rows[:, :longest])
            return Padded(as_tensor(rows), torch.from_numpy(chunk.lengths))
        if not isinstance(chunk.data, list):
            return as_tensor(chunk.data)
        if self.how == "list":
            return [self._convert(sample) for sample in chunk.data]
        return _collate(chunk.data, _PADDING if self.how == "pad" else _DEFAULT)

    def _convert(self, sample: Any) -> Any:
        if self._on_device and isinstance(sample, bytes | bytearray | memoryview):
            return as_tensor(np.frombuffer(sample, np.uint8))
        return default_convert(sample)  # type: ignore[no-untyped-call]


def _pack(chunk: Chunk) -> Packed:
    data, offsets, lengths = chunk.data, chunk.offsets, chunk.lengths
    if offsets is None or lengths is None:
        try:
            parts = [np.frombuffer(sample, np.uint8) for sample in chunk.listed().data]
        except (TypeError, ValueError, BufferError) as error:
            raise TypeError(f"collate_fn='packed' is for bytes: {error}") from error
        lengths = np.array([part.size for part in parts], np.int64)
        room = -(-lengths // _ALIGNMENT) * _ALIGNMENT
        offsets = np.cumsum(room) - room
        data = np.zeros(int(room.sum()), np.uint8)
        for part, begin in zip(parts, offsets.tolist(), strict=True):
            data[begin : begin + part.size] = part
    return Packed.of(np.asarray(data), offsets, lengths)


def _collate(samples: list[Any], rules: dict[Any, Any]) -> Any:
    if isinstance(samples[0], dict):
        keys = {key for sample in samples for key in sample}
        lacking = sorted(str(key) for key in keys if not all(key in sample for sample in samples))
        if lacking:
            raise ValueError(
                f"some samples of a batch lack {', '.join(map(repr, lacking))}: fill them in with transform=, or use "
                "collate_fn='list'"
            )
    try:
        return collate(samples, collate_fn_map=rules)
    except RuntimeError as error:
        shapes = {tuple(sample.shape) for sample in samples if isinstance(sample, torch.Tensor)}
        if len(shapes) < 2:
            raise
        raise _differ(shapes) from error


def _differ(shapes: set[tuple[int, ...]]) -> ValueError:
    some = ", ".join(map(str, sorted(shapes)[:4]))
    return ValueError(
        f"the samples of a batch differ in shape ({some}{', ...' if len(shapes) > 4 else ''}): make them equal with "
        "transform=, or use collate_fn='pad' or collate_fn='list'"
    )


def _stack_arrays(batch: Sequence[NDArray[Any]], **_: Any) -> torch.Tensor:
    shapes = {array.shape for array in batch}
    if len(shapes) > 1:
        raise _differ(shapes)
    return as_tensor(np.stack(batch))


def _pad_bytes(batch: Sequence[Any], **_: Any) -> Padded:
    return _pad_arrays([np.frombuffer(sample, np.uint8) for sample in batch])


def _pad_tensors(batch: Sequence[torch.Tensor], **_: Any) -> Padded:
    return _pad_arrays([sample.numpy() for sample in batch])


def _pad_arrays(batch: Sequence[NDArray[Any]], **_: Any) -> Padded:
    dimensions = {array.ndim for array in batch}
    if len(dimensions) > 1 or 0 in dimensions:
        raise ValueError(f"arrays of {sorted(dimensions)} dimensions cannot be padded to one batch")
    shapes = np.array([array.shape for array in batch], np.int64)
    rows = np.zeros((len(batch), *shapes.max(axis=0)), np.result_type(*{array.dtype for array in batch}))
    for row, array in zip(rows, batch, strict=True):
        row[tuple(map(slice, array.shape))] = array
    lengths = shapes[:, 0].copy() if dimensions == {1} else shapes
    return Padded(as_tensor(rows), torch.from_numpy(lengths))


# By the type of a sample, and of what it contains: see `torch.utils.data.default_collate`.
_DEFAULT: dict[Any, Any] = {
    **default_collate_fn_map,
    **dict.fromkeys((bytes, bytearray, memoryview), _pad_bytes),
    np.ndarray: _stack_arrays,
}
_PADDING: dict[Any, Any] = {**_DEFAULT, torch.Tensor: _pad_tensors, np.ndarray: _pad_arrays}
