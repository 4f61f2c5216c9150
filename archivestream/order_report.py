"""What an order costs, and how well it mixes: measured on some of its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream._native.columns import Layout
from archivestream.block_order import Runs, sample_ranges
from archivestream.placement import Placement

__all__ = ["Decoding", "OrderReport", "measure_mixing"]

Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class OrderReport:
    """What an order costs, and how well it mixes.

    Attributes
    ----------
    read_amplification : float or None
        Bytes that an epoch decodes for each byte of its samples, as far as compressed blocks that samples share go
        (1.0 where each member is compressed by itself, or not at all; of blocks, what stands between the members is
        decoded, too). A block is decoded once where the blocks that the order goes back and forth between fit the
        memory for decoded blocks; where only a part p of them fits, what a batch needs is there with probability p.
        Such blocks count as decoded whole, so that this is an upper bound within a single zstd frame. None where it
        is not known where samples lie.
    mixing : float
        From how many places of the data set a batch draws, relative to a global shuffle. With batches of B samples,
        the data set is cut into B stretches of equal length, and those that a batch has a sample of are counted, on
        average. Of a global shuffle, that is (1 - 1/e) B or so, and this is 1.0; in the order of the archive it is
        about 0.
    runs : int or None
        Into how many runs that lie together block order cuts the samples.
    windows : int or None
        Over how many windows their samples are mixed, each by itself; None in any other order.
    """

    read_amplification: float | None
    mixing: float
    runs: int | None
    windows: int | None


def measure_mixing(batches: Sequence[Ints], length: int) -> float:
    """Return `OrderReport.mixing` of some batches of one size, of a data set of so many samples."""
    size = len(batches[0])
    if length < 2 or size < 2:
        return 1.0
    stretches = min(size, length)
    found = sum(len(np.unique(batch * stretches // length)) for batch in batches) / len(batches)
    # How many a batch of different samples has on average: the stretches are of `length / stretches` samples.
    missed = float(np.prod(1 - np.minimum(1, length / stretches / (length - np.arange(size)))))
    return (found - 1) / max(stretches * (1 - missed) - 1, 1e-9)


@dataclass(frozen=True)
class Decoding:
    """What an order has decoded, of samples that lie in runs.

    Attributes
    ----------
    placement : Placement
        Of the members.
    bounds : ndarray of int64, or None
        The first member of each sample.
    runs : Runs
        Of the samples.
    shuffle : "global", "block" or False
    window : int or None
        Of block order.
    """

    placement: Placement
    bounds: Ints | None
    runs: Runs
    shuffle: str | Literal[False]
    window: int | None

    def amplification(self, batches: Sequence[Ints]) -> float:
        """Return `OrderReport.read_amplification`, for some batches of the order."""
        if not self.runs.size:
            return 1.0
        once = (self.runs.decoded if self.window is not None else self.runs.blocks_size) / self.runs.size
        there = self._share_there()
        if there == 1:
            return once
        alone = [self._alone(batch) for batch in batches]
        each = sum(decoded for decoded, _ in alone) / max(1, sum(size for _, size in alone))
        return there * once + (1 - there) * max(once, each)

    def _share_there(self) -> float:
        """Return which part of the blocks that the order goes back and forth between is in memory."""
        if not self.placement.cache:
            return 0
        if not self.shuffle:
            return 1
        between = int(self.runs.footprints.sum())
        if self.window is not None:
            between = min(between, max(self.window, int(self.runs.footprints.max())))
        return min(1.0, self.placement.cache / max(1, between))

    def _alone(self, batch: Ints) -> tuple[int, int]:
        """Return how many bytes a batch decodes if nothing is there yet, and how many it has."""
        index = self.placement.index
        decoded = total = 0
        for source, begin, end in sample_ranges(self.placement, self.bounds, batch):
            size = int((end - begin).sum())
            total += size
            first, last = index.first_block[source : source + 2].tolist()
            if index.layouts[source] != Layout.BLOCKS or first == last:
                decoded += size
                continue
            starts = index["block_start"][first:last].astype(np.int64)
            ends = starts + index["block_size"][first:last].astype(np.int64)
            low = starts[np.searchsorted(starts, begin, side="right") - 1]
            high = ends[np.searchsorted(starts, np.maximum(end - 1, begin), side="right") - 1]
            order = np.argsort(low)
            low, high = low[order], np.maximum.accumulate(high[order])
            decoded += int(np.maximum(0, high - np.maximum(low, np.append(0, high[:-1]))).sum())
        return decoded, total
