"""Block order: runs of samples that lie together are shuffled, and samples are mixed over a window of runs.

A run is cut where it costs little to cut. In a stream of compressed blocks that is between two samples that share no
block; elsewhere, what they share is decoded once for each side, so that such cuts stand far enough apart. A window is
as many shuffled runs as fit the memory for decoded blocks twice: for the window that ends, and the one that begins
while batches of the former are still being read. So each block is decoded about once an epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream._native.codecs import Codec
from archivestream._native.columns import Layout
from archivestream._native.permutation import Permutation
from archivestream.index import Index
from archivestream.placement import Placement

__all__ = ["DEFAULT_WINDOW", "BlockOrder", "Runs", "cut_runs", "sample_ranges"]

Ints: TypeAlias = NDArray[np.int64]

DEFAULT_WINDOW = 32 << 20  # bytes, where no decoded blocks are kept
_RUN_OF_FILE = 1 << 20  # bytes of a file that are read about as fast as found
_SHORTEST_RUN = 64 << 10  # decoded bytes: shorter ones mix no better, and each has a price in memory
_CAPACITY = 64 << 10  # what the memory of a cached block is a multiple of
_STOP = 512 << 10  # decoded bytes between the places where the decoding of a segment may end
_MOST_DECODED = 0.08  # more bytes are decoded than the samples have, if that can be;
_FEWEST_REPEATED = 0.02  # but so many more may be decoded twice in any case
_LARGEST = 1 << 61  # the sum of two fits


@dataclass(frozen=True)
class Runs:
    """Samples in runs that lie together.

    Attributes
    ----------
    starts : ndarray of int64, shape (r + 1,)
        Where each run begins among the samples in the order of the archive, and how many there are.
    footprints : ndarray of int64, shape (r,)
        Bytes of memory that the decoded blocks of each run take.
    by_place : ndarray of int64, shape (n,), or None
        The samples in the order of the archive; None where they are in it.
    size : int
        Bytes of all samples.
    blocks_size : int
        Bytes of the blocks that they lie in.
    decoded : int
        Bytes that are decoded where each run is decoded once.
    """

    starts: Ints
    footprints: Ints
    by_place: Ints | None
    size: int
    blocks_size: int
    decoded: int


class BlockOrder:
    """The order of one epoch.

    The shuffled runs are dealt out to lanes, each with windows of its own, and the order takes a sample of each lane in
    turn: where there are as many ranks as lanes, no two read the same blocks.

    Parameters
    ----------
    runs : Runs
        Of the samples.
    window : int
        Most bytes of memory for the decoded blocks of the runs whose samples are mixed; one run at least.
    lanes : int
        How many there are.
    seed, epoch : int
        What the order follows from, besides.

    Attributes
    ----------
    windows : int
        How many windows there are.

    Immutable, so safe for any number of threads.
    """

    def __init__(self, runs: Runs, window: int, *, lanes: int, seed: int, epoch: int) -> None:
        order = np.arange(len(runs.footprints))
        Permutation(len(order), seed=seed, epoch=epoch).apply(order)
        length = np.diff(runs.starts)[order]
        self._end = np.cumsum(length)
        self._shift = runs.starts[:-1][order] - (self._end - length)  # from the shuffled runs to the order of places
        n = int(runs.starts[-1])
        lanes = max(1, min(lanes, n))
        share, more = divmod(n, lanes)
        number = np.arange(lanes + 1)
        self._lane = number * share + np.minimum(number, more)
        self._window = _fill_windows(self._end, np.cumsum(runs.footprints[order]), self._lane.tolist(), window)
        self._by_place = runs.by_place
        self._seed, self._epoch = seed, epoch
        self.windows = len(self._window) - 1

    def take(self, positions: Ints) -> Ints:
        """Return the samples at some positions of the order."""
        turn, lane = np.divmod(positions, len(self._lane) - 1)
        place = self._lane[lane] + turn
        window = np.searchsorted(self._window, place, side="right") - 1
        by_window = np.argsort(window, kind="stable")
        changes = np.flatnonzero(np.diff(window[by_window])) + 1
        for chosen in np.split(by_window, changes) if len(place) else ():
            number = int(window[chosen[0]])
            first, last = self._window[number : number + 2].tolist()
            within = place[chosen] - first
            Permutation(last - first, seed=self._seed, epoch=self._epoch, stream=1 + number).apply(within)
            place[chosen] = within + first
        place += self._shift[np.searchsorted(self._end, place, side="right")]
        return place if self._by_place is None else self._by_place[place]


def _fill_windows(end: Ints, footprint: Ints, lanes: list[int], window: int) -> Ints:
    """Say where each window begins, and the last one ends.

    Parameters
    ----------
    end, footprint : ndarray of int64, shape (r,)
        Of each run and all before it, how many samples they have, and bytes of memory.
    lanes : list of int
        Where each lane begins, and the last one ends.
    window : int
        Most bytes of memory.
    """
    begins = []
    for begin, stop in itertools.pairwise(lanes):
        while begin < stop:
            begins.append(begin)
            run = int(np.searchsorted(end, begin, side="right"))
            before = int(footprint[run - 1]) if run else 0
            last = max(run, int(np.searchsorted(footprint, before + window, side="right")) - 1)
            begin = min(stop, int(end[last]))
    return np.array([*begins, lanes[-1]], np.int64)


def cut_runs(placement: Placement, bounds: Ints | None, window: int) -> Runs:
    """Cut the samples of an archive into runs.

    Parameters
    ----------
    placement : Placement
        Of the members.
    bounds : ndarray of int64, shape (n + 1,), optional
        The first member of each sample, and the number of members; default: each member is a sample. A sample lies
        where its first member lies.
    window : int
        Bytes of memory for decoded blocks that a run should fit, whatever it costs to cut it.
    """
    index = placement.index
    samples = _whole(placement, bounds) or _gather(placement, bounds)
    starts, footprints = [], []
    blocks_size = decoded = 0
    for source, (first, last) in enumerate(itertools.pairwise(samples.sources)):
        if first == last:
            continue
        part = samples.part(first, last)
        if index.layouts[source] == Layout.BLOCKS and index.stream_size(source):
            cuts, memory, size, repeated = _cut_stream(_Blocks(index, source, part), part, window)
        else:
            cuts, memory = _cut_file(part)
            size, repeated = part.total, 0
        starts.append(cuts + first)
        footprints.append(memory)
        blocks_size += size
        decoded += size + repeated
    none = [np.empty(0, np.int64)]
    return Runs(
        np.concatenate([*starts, np.array([samples.sources[-1]])]),
        np.concatenate(footprints or none),
        samples.by_place,
        samples.total,
        blocks_size,
        decoded,
    )


@dataclass(frozen=True)
class _Samples:
    """Samples in the order of the archive: columns of the index, or arrays made for it."""

    begin: NDArray[Any]  # where each lies in its file or stream
    size: NDArray[Any]  # bytes of each
    ends: Callable[[Any], Ints]  # where some of them end
    sources: list[int]  # the first sample of each source, and the number of all
    by_place: Ints | None = None
    whole: bool = False  # whether there is nothing between them

    def part(self, first: int, last: int) -> _Samples:
        """Return those of one source."""
        begin, size = self.begin[first:last], self.size[first:last]
        return _Samples(begin, size, lambda at: self.ends(at + first), [0, last - first], None, self.whole)

    @property
    def total(self) -> int:
        return int(self.size.sum())


def _int64(values: Any) -> Ints:
    # What does not fit is no place in any file.
    return np.asarray(np.minimum(values, _LARGEST), np.int64)


def _whole(placement: Placement, bounds: Ints | None) -> _Samples | None:
    """Take the columns of the index themselves, if the samples are all members, in the order of the archive."""
    index = placement.index
    begin, size, sources = index["offset"], index["size"], index.first_member.tolist()
    if placement.rows is not None or bounds is not None:
        return None
    for first, last in itertools.pairwise(sources):
        part = begin[first:last]
        if np.any(part[1:] < part[:-1]):
            return None
    return _Samples(begin, size, lambda at: _int64(begin[at]) + _int64(size[at]), sources, whole=True)


def _gather(placement: Placement, bounds: Ints | None) -> _Samples:
    """Put samples in the order of the archive."""
    index = placement.index
    rows = np.arange(len(index)) if placement.rows is None else placement.rows
    size = _int64(index["size"][rows])
    first = last = rows
    if bounds is not None:
        first, last = rows[bounds[:-1]], rows[bounds[1:] - 1]
        size = np.add.reduceat(size, bounds[:-1]) if len(first) else size[:0]
    source = np.searchsorted(index.first_member, first, side="right") - 1
    begin = _int64(index["offset"][first])
    end = _int64(index["offset"][last]) + _int64(index["size"][last])
    by_place = None
    if np.any((source[1:] < source[:-1]) | ((source[1:] == source[:-1]) & (begin[1:] < begin[:-1]))):
        by_place = np.lexsort((begin, source))
        source, begin, end, size = source[by_place], begin[by_place], end[by_place], size[by_place]
    sources = np.searchsorted(source, np.arange(len(index.layouts) + 1)).tolist()
    return _Samples(begin, size, end.__getitem__, sources, by_place)


def _cut_file(samples: _Samples) -> tuple[Ints, Ints]:
    """Cut what lies in a file as it is, or compressed by itself: any cut is free."""
    begin = samples.begin
    low, high = int(begin[0]) // _RUN_OF_FILE, int(begin[-1]) // _RUN_OF_FILE
    if high - low < len(begin):
        marks = np.arange(low + 1, high + 1, dtype=begin.dtype) * begin.dtype.type(_RUN_OF_FILE)
        cuts = np.searchsorted(begin, marks)
    else:
        cuts = np.flatnonzero(np.diff(begin // begin.dtype.type(_RUN_OF_FILE))) + 1
    cuts = np.unique(np.concatenate([np.zeros(1, np.int64), cuts]))
    return cuts, _int64(np.add.reduceat(samples.size, cuts))


class _Blocks:
    """The blocks of a stream, as far as samples lie in them."""

    def __init__(self, index: Index, source: int, samples: _Samples) -> None:
        first, last = index.first_block[source : source + 2].tolist()
        self.start = index["block_start"][first:last].astype(np.int64)
        size = index["block_size"][first:last].astype(np.int64)
        memory = -(-size // _CAPACITY) * _CAPACITY
        self.segment = index["block_codec"][first:last] == int(Codec.ZSTD_SEGMENT)
        if not samples.whole:
            begin, end = self.of(samples.begin, samples.ends(np.arange(len(samples.begin))))
            n = len(size)
            used = np.cumsum(np.bincount(begin, minlength=n) - np.bincount(end + 1, minlength=n + 1)[:n]) > 0
            size, memory = np.where(used, size, 0), np.where(used, memory, 0)
        self.size = size
        self.decoded = np.concatenate([np.zeros(1, np.int64), np.cumsum(size)])
        self.memory = np.concatenate([np.zeros(1, np.int64), np.cumsum(memory)])

    def of(self, begin: Any, end: Any) -> tuple[Ints, Ints]:
        """Return the first and the last block of some ranges; of an empty one, the block that it lies in."""
        begin = _int64(begin)
        first = np.searchsorted(self.start, begin, side="right") - 1
        return first, np.searchsorted(self.start, np.maximum(_int64(end) - 1, begin), side="right") - 1

    def upto(self, block: Ints, end: Ints) -> Ints:
        """Return how much of some blocks is decoded where they are wanted up to a place in the stream."""
        wanted = np.where(self.segment[block], end - self.start[block] + _STOP, _LARGEST)
        return np.minimum(self.size[block], wanted)


def _cut_stream(blocks: _Blocks, samples: _Samples, window: int) -> tuple[Ints, Ints, int, int]:
    """Cut a stream of blocks where the least is decoded twice.

    Returns
    -------
    cuts : ndarray of int64, shape (r,)
        The first sample of each run.
    footprints : ndarray of int64, shape (r,)
    size, repeated : int
        Bytes of all blocks, and of what is decoded twice.
    """
    total = int(blocks.decoded[-1])
    first = np.unique(np.searchsorted(samples.begin, blocks.start.astype(samples.begin.dtype)))  # sample in each block
    first = first[(first > 0) & (first < len(samples.begin))]
    begins, _ = blocks.of(samples.begin[first], samples.begin[first])
    at = blocks.decoded[begins]
    far = np.flatnonzero(np.diff(at // _SHORTEST_RUN, prepend=0))
    first, begins, at = first[far], begins[far], at[far]
    end = samples.ends(first - 1)
    _, ends = blocks.of(samples.begin[first - 1], end)
    shared = blocks.decoded[ends] - blocks.decoded[begins] + blocks.upto(ends, end)
    cost = np.where(ends >= begins, shared, 0)
    chosen = _choose(at, cost, total, _slack(total, samples.total))
    # The memory of all blocks before a run that begins there, and of those of the run that ends there and all before.
    starting, _ = blocks.of(samples.begin[:1], samples.begin[:1])
    _, last = blocks.of(samples.begin[-1:], samples.ends(np.array([len(samples.begin) - 1])))
    before = blocks.memory[np.append(starting, begins)]
    upto = blocks.memory[np.append(ends, last) + 1]
    chosen = _split(before, upto, chosen, window)
    footprints = upto[np.append(chosen, len(first))] - before[np.append(0, chosen + 1)]
    return np.append(0, first[chosen]), footprints, total, int(cost[chosen].sum())


def _slack(decoded: int, size: int) -> float:
    """Return which part of the decoded bytes may be decoded twice."""
    return max(_FEWEST_REPEATED, _MOST_DECODED - (decoded / max(1, size) - 1))


def _choose(at: Ints, cost: Ints, total: int, slack: float) -> Ints:
    """Choose cuts: all that are free, and between those as many of the others, evenly, as may be paid for.

    Parameters
    ----------
    at, cost : ndarray of int64
        Where each possible cut lies, in decoded bytes, and what is decoded twice there.
    total : int
        Decoded bytes in all.
    slack : float
        Which part of them may be decoded twice.
    """
    free = cost == 0
    stretch = np.cumsum(free)  # between two free cuts
    begin = np.append(0, at[free])
    length = np.diff(np.append(begin, total))
    paid = np.flatnonzero(~free)
    where = stretch[paid]
    count = np.bincount(where, minlength=len(begin))
    mean = np.bincount(where, cost[paid], minlength=len(begin)) / np.maximum(count, 1)
    pieces = 1 + np.floor(length * slack / np.maximum(mean, 1))
    # The number of the piece that each lies in, if its stretch were cut evenly: cut where that changes.
    piece = np.floor((at[paid] - begin[where]) / np.maximum(length[where], 1) * pieces[where])
    before = np.where(np.diff(where, prepend=-1) == 0, np.append(0, piece[:-1])[: len(piece)], 0)
    return np.sort(np.append(np.flatnonzero(free), paid[piece > before]))


def _split(before: Ints, upto: Ints, chosen: Ints, window: int) -> Ints:
    """Cut runs that do not fit the window, at any price: what does not stay in memory is decoded again and again.

    Parameters
    ----------
    before : ndarray of int64, shape (c + 1,)
        Bytes of memory in front of a run that begins with the first sample, or at each possible cut.
    upto : ndarray of int64, shape (c + 1,)
        And up to the end of one that ends at each possible cut, or with the last sample.
    chosen : ndarray of int64
        The cuts so far.
    """
    begins, ends = np.append(0, chosen + 1), np.append(chosen, len(upto) - 1)
    more = []
    for run in np.flatnonzero(upto[ends] - before[begins] > window).tolist():
        begin, end = int(begins[run]), int(ends[run])
        while begin < end and upto[end] - before[begin] > window:
            cut = max(begin, int(np.searchsorted(upto, before[begin] + window, side="right")) - 1)
            more.append(cut)
            begin = cut + 1
    return np.sort(np.append(chosen, np.array(more, np.int64)))


def sample_ranges(placement: Placement, bounds: Ints | None, samples: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """Say for some samples where they lie: for each source that has any, its number, and their begins and ends."""
    index = placement.index
    first, last = (samples, samples) if bounds is None else (bounds[samples], bounds[samples + 1] - 1)
    if placement.rows is not None:
        first, last = placement.rows[first], placement.rows[last]
    source = np.searchsorted(index.first_member, first, side="right") - 1
    for number in np.unique(source).tolist():
        chosen = source == number
        begin, end = first[chosen], last[chosen]
        yield number, _int64(index["offset"][begin]), _int64(index["offset"][end]) + _int64(index["size"][end])
