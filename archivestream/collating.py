"""From samples to a batch: stacked, padded with lengths, or a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import torch
    from torch.utils.data import default_convert
    from torch.utils.data._utils.collate import collate, default_collate_fn_map
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["Chunk", "Collator", "Padded"]


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


@dataclass(frozen=True)
class Chunk:
    """Samples that are no batch yet.

    Attributes
    ----------
    data : ndarray of shape (n, ...), or list
        The samples: rows of one array where they are of one kind, or objects.
    lengths : ndarray of int64 or None
        How much of each row is the sample, where rows are padded.
    targets : ndarray, list or None
        Their labels.
    ordinals : ndarray of int64
        Where each stands in the order of the epoch, on this rank.
    """

    data: NDArray[Any] | list[Any]
    lengths: NDArray[np.int64] | None
    targets: NDArray[Any] | list[Any] | None
    ordinals: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ordinals)

    def take(self, places: NDArray[np.int64] | slice) -> Chunk:
        """Return some of the samples; a slice copies nothing."""

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
        rows = [row[:size].tobytes() for row, size in zip(self.data, self.lengths.tolist(), strict=True)]
        return replace(self, data=rows, lengths=None)

    @staticmethod
    def join(chunks: Sequence[Chunk]) -> Chunk:
        """Put samples one after the other; of different kinds, they become a list."""
        if len(chunks) == 1:
            return chunks[0]
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
    how : {"pad", "list"}, callable or None
        As `archivestream.ArchiveLoader` has it.
    """

    def __init__(self, how: str | Callable[[list[Any]], Any] | None) -> None:
        if how not in (None, "pad", "list") and not callable(how):
            raise ValueError(f"collate_fn must be 'pad', 'list', a callable or None, not {how!r}")
        self.how = how

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
        if chunk.lengths is not None:
            rows, longest = np.asarray(chunk.data), int(chunk.lengths.max(initial=0))
            if rows.shape[1] > longest:  # a longer one is not among them any more
                rows = np.ascontiguousarray(rows[:, :longest])
            return Padded(as_tensor(rows), torch.from_numpy(chunk.lengths))
        if not isinstance(chunk.data, list):
            return as_tensor(chunk.data)
        if self.how == "list":
            return [default_convert(sample) for sample in chunk.data]  # type: ignore[no-untyped-call]
        return _collate(chunk.data, _PADDING if self.how == "pad" else _DEFAULT)


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Make a tensor of an array, in the same memory where PyTorch can have it."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


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
