"""The tensors of a batch: found in whatever holds them, and laid into one piece of memory."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import torch
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["ALIGNMENT", "Place", "array_as_tensor", "as_tensor", "is_plain", "map_leaves", "place_of"]

# Of each tensor in the memory of a batch: that of memory from cudaMalloc (CUDA C++ Programming Guide, "Device Memory
# Accesses"), so that a view is as good as memory of its own.
ALIGNMENT = 256


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the memory of a batch.

    Attributes
    ----------
    offset : int
        In bytes.
    dtype : torch.dtype
        Its type.
    shape, stride : tuple of int
        In elements.
    """

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, memory: torch.Tensor) -> torch.Tensor:
        """Return the tensor, as a view of memory: uint8 of one dimension, aligned as `ALIGNMENT` says."""
        if 0 in self.shape:
            return memory[:0].view(self.dtype).reshape(self.shape)
        if self.stride == _contiguous(self.shape):
            size = math.prod(self.shape) * self.dtype.itemsize
            return memory[self.offset : self.offset + size].view(self.dtype).view(self.shape)
        size = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        elements = memory[self.offset : self.offset + size * self.dtype.itemsize].view(self.dtype)
        return elements.as_strided(self.shape, self.stride)


@functools.lru_cache(maxsize=256)
def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def place_of(tensor: torch.Tensor, address: int, size: int) -> Place | None:
    """Return where a tensor lies in a piece of memory; None where it does not, or as something else than its values."""
    offset = tensor.data_ptr() - address if tensor.numel() else 0
    if not 0 <= offset <= size - tensor.nbytes or offset % tensor.dtype.itemsize:
        return None
    if tensor.is_conj() or tensor.is_neg():
        return None
    return Place(offset, tensor.dtype, tuple(tensor.shape), tensor.stride())


def is_plain(leaf: Any) -> bool:
    """Tell tensors that are nothing but numbers on the host; others, sparse ones say, have ways of their own."""
    return (
        type(leaf) is torch.Tensor
        and leaf.device.type == "cpu"
        and leaf.layout == torch.strided
        and not (leaf.is_quantized or leaf.is_nested)
    )


def array_as_tensor(leaf: Any) -> Any:
    """Make a tensor of an array; all else, and arrays of types that PyTorch has not, stay what they are."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    try:
        return as_tensor(leaf)
    except TypeError:
        return leaf


def as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Make a tensor of an array, in the same memory where PyTorch can have it."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array)


def map_leaves(function: Callable[[Any], Any], batch: Any) -> Any:
    """Apply a function to all that a batch holds: in mappings, lists, tuples and dataclasses, which are made anew.

    What moves itself between devices (it has a method `to`, as a PackedSequence does), is one leaf, unless it is a
    mapping.
    """
    if isinstance(batch, torch.Tensor | Place):
        return function(batch)
    if isinstance(batch, Mapping):
        items = {key: map_leaves(function, value) for key, value in batch.items()}
        if not isinstance(batch, MutableMapping):
            return items
        other: Any = copy.copy(batch)  # it may have more than its items
        other.update(items)
        return other
    if hasattr(batch, "to"):
        return function(batch)
    if isinstance(batch, tuple | list):
        values = [map_leaves(function, value) for value in batch]
        if isinstance(batch, tuple):
            return type(batch)._make(values) if hasattr(batch, "_make") else type(batch)(values)
        other = copy.copy(batch)
        other[:] = values
        return other
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        other = copy.copy(batch)  # as it is: what makes one of other fields may look at them
        for each in dataclasses.fields(batch):
            object.__setattr__(other, each.name, map_leaves(function, getattr(batch, each.name)))
        return other
    return function(batch)
