"""What is asked for, in turn: the numbers of some samples, as a sampler has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from archivestream.sampling import ArchiveSampler

__all__ = ["Order", "makes_batches", "orders"]


@dataclass(frozen=True)
class Order:
    """What is asked for: some samples, and where the first of them stands in the order of this rank."""

    indices: Sequence[int]
    begin: int


def orders(sampler: Any, batch_size: int | None, *, drop_last: bool) -> Iterator[Order]:
    """Take batches from a sampler, or make them of its samples."""
    begin = 0
    if batch_size is None or makes_batches(sampler):
        for item in sampler:
            indices = [*item] if hasattr(item, "__len__") else [item]
            yield Order(indices, begin)
            begin += len(indices)
        return
    indices_of_all = iter(sampler)
    while indices := [*itertools.islice(indices_of_all, batch_size)]:
        if drop_last and len(indices) < batch_size:
            return
        yield Order(indices, begin)
        begin += len(indices)


def makes_batches(sampler: Any) -> bool:
    """Whether a sampler of ours yields batches."""
    return isinstance(sampler, ArchiveSampler) and sampler.batch_size is not None
