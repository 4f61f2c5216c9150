"""What is packed, in which order and under which names: members from elsewhere, and samples in memory."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from archivestream._native.permutation import Permutation
from archivestream.packing.entries import FILE_MODE, Entry, Source, entry_of, find_outside
from archivestream.packing.pipeline import map_in_threads
from archivestream.threads import check_threads, processors

__all__ = ["Listing", "find_entries", "next_number", "shuffled"]

_DIGITS = 12  # of the names of samples that have none
_NAME = f"%0{_DIGITS}d"


class Listing(NamedTuple):
    """What there is to pack.

    Attributes
    ----------
    entries : iterable of Entry
        Lists take little memory: the contents of their members are elsewhere.
    sizes : list of int, or None
        About how many bytes each has, where that is known beforehand.
    is_shuffled : bool
        Whether they are in the random order that was asked for.
    """

    entries: Iterable[Entry]
    sizes: list[int] | None = None
    is_shuffled: bool = False


def find_entries(
    source: Source, *, listed: bool = False, shuffle: int | None = None, first: int = 0, n_jobs: int | None = None
) -> Listing:
    """Find what there is to pack.

    Parameters
    ----------
    source : Source
        As for `archivestream.packing.pack`.
    listed : bool
        List what is not in memory before any of it is read.
    shuffle : int, optional
        A seed: bring what can be listed into a random order.
    first : int
        The number that the first sample without a name is named by.
    n_jobs : int, optional
        Threads that make samples; -1 for as many as there are processors.
    """
    outside = find_outside(source)
    if outside is not None:
        if n_jobs is not None:
            raise ValueError("n_jobs is for samples; members of archives and files are read by threads=")
        if not listed and shuffle is None:
            return Listing(outside)
        entries = list(outside)
        if shuffle is not None:
            entries = [entries[i] for i in shuffled(len(entries), shuffle)]
        return Listing(entries, [entry.size for entry in entries], shuffle is not None)
    threads = processors() if n_jobs == -1 else 1 if n_jobs is None else n_jobs
    check_threads(threads)
    items: Iterable[Any] = source.items() if isinstance(source, Mapping) else cast("Iterable[Any]", source)
    numbers: Iterable[int] = itertools.count(first)
    sizes = None
    there = isinstance(items, Sequence)
    if isinstance(items, Sequence):
        if shuffle is not None:
            order = shuffled(len(items), shuffle)
            items, numbers = [items[i] for i in order], (first + i for i in order)
        known = [_size(item) for item in items]
        sizes = [size for size in known if size is not None]
        sizes = sizes if len(sizes) == len(known) else None
    return Listing(map_in_threads(_entry_of_sample, zip(numbers, items, strict=False), threads), sizes, there)


def shuffled(count: int, seed: int, epoch: int = 0) -> list[int]:
    """Return the numbers below one in a random order, which is the same on every platform."""
    order = np.arange(count)
    Permutation(count, seed=seed, epoch=epoch).apply(order)
    return order.tolist()


def _size(item: Any) -> int | None:
    """Return about how many bytes a sample has, if it is there already."""
    if isinstance(item, tuple | list) and len(item) == 2:
        item = item[1] if isinstance(item[0], str) else item[0]
    if isinstance(item, np.ndarray | np.generic):
        return item.nbytes
    return len(item) if isinstance(item, bytes | bytearray) else None


def _entry_of_sample(numbered: tuple[int, Any]) -> Entry:
    """Make a member of a sample; of one without a name, it is its number."""
    number, sample = numbered
    if type(sample) is bytes:  # most samples by far: spare them the questions below
        return Entry(_NAME % number, len(sample), FILE_MODE, sample)
    if callable(sample):
        sample = sample()
    name, metadata = _NAME % number, None
    if isinstance(sample, tuple | list):
        if len(sample) != 2:
            raise TypeError(
                f"sample {number} has {len(sample)} parts; samples are pairs of a name and data, or data and metadata"
            )
        if isinstance(sample[0], str):
            name, sample = sample
        else:
            sample, metadata = sample
            if not isinstance(metadata, Mapping):
                raise TypeError(f"the metadata of sample {number} are a dict, not {type(metadata).__name__}")
    try:
        return entry_of(name, sample, metadata=metadata)
    except TypeError as error:
        raise TypeError(f"sample {number}: {error}") from error


def next_number(names: Iterable[str]) -> int:
    """Return the number that follows those that samples without a name have been named by."""
    match = re.compile(rf"(\d{{{_DIGITS}}})(?:\.npy)?").fullmatch
    return max((int(found[1]) for found in map(match, names) if found is not None), default=-1) + 1
