"""One pass of a loader: batches in turn, made full again where samples were skipped, and what is counted."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from archivestream.archive import Archive
from archivestream.assembling import Assembled, Assembler, Times
from archivestream.collating import Chunk
from archivestream.cuda import Staged, Transfer
from archivestream.orders import Order
from archivestream.prefetch import Prefetcher, Workers
from archivestream.stats import LoaderStats

__all__ = ["Delivered", "Iteration"]


@dataclass
class Delivered:
    """What a loader knows of its last iteration, also when that is gone."""

    samples: int = 0  # of the order of this rank, with those that were skipped
    finished: bool = False
    stuck: bool = False


class Release(Protocol):
    """Ends the threads of an iteration, if they are its own."""

    def __call__(self, workers: Workers | None, *, wait: bool, stuck: bool) -> object:
        """Do so, and `wait` for that; they may be `stuck` in what does not end."""
        ...


class Iteration(Iterator[Any]):
    """One pass over the samples. One thread at a time may ask for batches.

    Parameters
    ----------
    results : Prefetcher or Staged
        What becomes of each order, in turn.
    assembler : Assembler
        Makes them, and batches of samples that were carried over.
    transfer : Transfer or None
        Brings batches to a device.
    archive : Archive or None
        Counts what reading costs, where that is known.
    workers : Workers or None
        The threads.
    stats : LoaderStats
        Kept up to date.
    delivered : Delivered
        Kept up to date, too.
    drop_last : bool
        Leave out what does not fill a batch.
    shared : bool
        Whether other ranks make as many steps.
    release : Release
        Called with `workers` once it has ended.
    """

    _closed = True  # until it has begun

    def __init__(
        self,
        results: Prefetcher[Order, Assembled] | Staged,
        assembler: Assembler,
        *,
        transfer: Transfer | None,
        archive: Archive | None,
        workers: Workers | None,
        stats: LoaderStats,
        delivered: Delivered,
        drop_last: bool,
        shared: bool,
        release: Release,
    ) -> None:
        self._results = results
        self._assembler = assembler
        self._transfer = transfer
        self._archive = archive
        self._workers = workers
        self._stats = stats
        self._delivered = delivered
        self._drop_last = drop_last
        self._shared = shared
        self._release = release
        self._started = time.perf_counter()
        self._idle = 0.0 if workers is None else workers.idle_seconds
        self._times = Times()
        # Batches that are owed, and good samples to make them of, once one was skipped.
        self._owed: deque[int] = deque()
        self._carried: list[Chunk] = []
        # The first good samples, for a rank that runs out of them before the others do.
        self._spare: Chunk | None = None
        self._closed = False

    def __next__(self) -> Any:
        """Return the next batch; raises what went wrong with it."""
        if self._closed:
            raise StopIteration
        try:
            batch = self._take()
        except StopIteration:
            self._delivered.finished = not self._closed  # by another thread, in the middle
            self.close()
            raise
        except TimeoutError:
            self._delivered.stuck = True
            raise
        finally:
            self._stats.seconds = time.perf_counter() - self._started
        self._stats.batches += 1
        return batch

    def _take(self) -> Any:
        while not self._owed or sum(map(len, self._carried)) < self._owed[0]:
            try:
                result = next(self._results)
            except StopIteration:
                return self._take_last()
            self._times.add(result.times)
            self._stats.bytes += result.bytes
            self._stats.skipped += result.errors
            if self._shared and self._spare is None and result.chunk is not None and len(result.chunk):
                self._spare = result.chunk.take(np.arange(len(result.chunk)))  # a copy: the batch is the caller's
            if not result.errors and not self._carried:
                return self._deliver(result.batch, result.size, result.end)
            self._owed.append(result.size)
            if result.chunk is not None and len(result.chunk):
                self._carried.append(result.chunk)
        return self._cut(self._owed.popleft())

    def _cut(self, size: int) -> Any:
        """Make a batch of the first of the samples that were carried over."""
        chunk = Chunk.join(self._carried)
        rest = chunk.take(slice(size, None))
        self._carried = [rest] if len(rest) else []
        chunk = chunk.take(slice(0, size))
        batch = self._assembler.collate(chunk, self._times)
        return self._deliver(batch, len(chunk), int(chunk.ordinals.max()) + 1)

    def _deliver(self, batch: Any, size: int, end: int) -> Any:
        if self._transfer is not None:
            batch = self._transfer.arrive(batch)
        self._stats.samples += size
        self._delivered.samples = max(self._delivered.samples, end)
        return batch

    def _take_last(self) -> Any:
        """Make do with what is left when samples were skipped."""
        carried = sum(map(len, self._carried))
        if self._stats.skipped and not self._stats.samples and not carried:
            raise self._stats.skipped[0]
        if self._spare is not None and self._owed and self._stats.batches < self._stats.expected_steps:
            # Other ranks count on this step: samples come twice.
            size = self._owed.popleft()
            self._carried.append(self._spare.take(np.resize(np.arange(len(self._spare)), size - carried)))
            self._stats.repeated += size - carried
            return self._cut(size)
        self._owed.clear()
        if carried and not self._drop_last:
            return self._cut(carried)
        raise StopIteration

    def count(self) -> None:
        """Bring the statistics up to date."""
        stats, times = self._stats, self._times
        stats.waiting_for_data = self._results.waited
        if self._workers is not None:
            stats.waiting_for_consumer = self._workers.idle_seconds - self._idle
        stats.transform, stats.collate = times.transform, times.collate
        if self._archive is None:
            stats.decode = times.read + times.decode
            return
        counters = self._archive.counters
        stats.fetch = min(counters.fetch_seconds, times.read)
        stats.decode = times.read - stats.fetch + times.decode
        if stats.bytes:
            stats.read_amplification = counters.decoded_bytes / stats.bytes
        if self._archive.cache is not None:
            stats.cache = self._archive.cache.stats

    def close(self, *, wait: bool = True) -> None:
        """End the iteration: nothing more is made, and the threads end, unless they are kept for the next one.

        The collector of reference cycles does not `wait` for what they are doing: see `Prefetcher.close`.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self.count()
        finally:  # whatever is raised, as by Ctrl-C, the threads end
            try:
                self._results.close(wait=wait)
            finally:
                self._carried.clear()
                self._release(self._workers, wait=wait, stuck=self._delivered.stuck)

    def __del__(self) -> None:
        # CPython's collector marks what it finalizes before it calls this, and whoever drops the last reference after.
        self.close(wait=not gc.is_finalized(self))
