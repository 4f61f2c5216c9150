"""The loader: batches of an archive, made ahead in threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from archivestream.archive import Archive
from archivestream.assembling import Assembler, OnError, Order, Times, overrides
from archivestream.collating import Chunk, Collator, Padded
from archivestream.dataset import ArchiveDataset
from archivestream.errors import ArchiveWarning
from archivestream.prefetch import Prefetcher, Workers
from archivestream.sampling import ArchiveSampler
from archivestream.stats import LoaderStats
from archivestream.threads import MOST_THREADS, processors

__all__ = ["ArchiveLoader", "Padded"]

Shuffle: TypeAlias = bool | Literal["global", "block"]


class ArchiveLoader:
    """Batches of samples from an archive, read, decoded, transformed and collated ahead by threads.

    The arguments are those of `torch.utils.data.DataLoader`, where it has them; workers are threads, which share the
    index, the caches and the memory of the batches.

    Parameters
    ----------
    dataset : ArchiveDataset, Archive, what `archivestream.open` takes, or another map-style dataset
        An archive stands for an `ArchiveDataset` of it. Its transforms, and another dataset altogether, are called by
        several threads at a time.
    batch_size : int or None
        Samples of a batch; None for single samples, not collated.
    shuffle : bool, "global" or "block"
        As `ArchiveSampler` has it; True is "global".
    sampler, batch_sampler : iterable, optional
        Which samples, or which batches, in place of shuffle, seed, rank and world_size. An `ArchiveSampler` can be
        resumed.
    num_workers : int, optional
        How many threads; default: as many as there are processors. 0 makes each batch when it is asked for.
    collate_fn : "pad", "list", callable or None
        What a batch is. None: bytes become a `Padded` of uint8, each row as long as the longest of the batch; arrays
        and images of one shape and type one tensor, decoded straight to their places; all else is what
        `torch.utils.data.default_collate` makes of it. ``"pad"``: arrays of different shapes become a `Padded`, too.
        ``"list"``: a list of the samples. A callable gets the list of the samples. With labels, a batch is (samples,
        labels).
    pin_memory : bool
        Put the batches into page-locked memory, from where they come faster to a GPU; without one, that is a warning.
    drop_last : bool
        Leave out what does not fill a batch, on any rank.
    timeout : float
        Seconds to wait for a batch; 0 for any time.
    worker_init_fn : callable, optional
        Called with its number in each thread that is started.
    generator : torch.Generator, optional
        Draws the seed, in place of `seed`.
    prefetch_factor : int
        Batches to make ahead, for each thread.
    persistent_workers : bool
        Keep the threads from one iteration to the next.
    in_order : bool
        Deliver batches in the order of the sampler; else as they are ready, and then there is no `state_dict`.
    seed : int
        Of the order; the same on all ranks.
    rank, world_size : int, optional
        As `ArchiveSampler` has them.
    pad : bool
        Repeat samples so that all ranks have as many.
    window : int, optional
        As `ArchiveSampler` has it, for ``shuffle="block"``.
    on_error : "raise", "skip" or callable
        What is done with a sample that cannot be read, decoded or transformed. ``"raise"``: its exception is raised in
        place of the batch, and the next batch can be asked for after it. ``"skip"``: it is left out, listed in `stats`,
        and the next one is pulled in, so that batches stay full; a rank that runs out of samples before the others do
        repeats some. A callable gets the exception, in the thread that met it, and returns a sample to put in its
        place, not yet collated, or None to skip it.

    Raises
    ------
    ImportError
        If PyTorch is not installed.
    ValueError, TypeError
        If an argument has no such value.

    Notes
    -----
    An iteration that is left early (``break``, an exception, Ctrl-C) ends its threads as soon as it is dropped or
    another one begins; `close` does so at once. Iterations of one loader do not overlap: the later ends the earlier.

    Examples
    --------
    >>> dataset = ArchiveDataset("images.zip", decode="image", labels="folder")
    >>> loader = ArchiveLoader(dataset, batch_size=256, shuffle=True, num_workers=8)
    >>> for images, labels in loader:  # uint8 (256, H, W, 3), int64 (256,)
    ...     train(images, labels)
    >>> print(loader.stats)
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: Shuffle = False,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int | None = None,
        collate_fn: str | Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], object] | None = None,
        *,
        generator: Any = None,
        prefetch_factor: int = 2,
        persistent_workers: bool = False,
        in_order: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        pad: bool = False,
        window: int | None = None,
        on_error: Literal["raise", "skip"] | OnError = "raise",
    ) -> None:
        if _is_archive(dataset):
            dataset = ArchiveDataset(dataset)
        if not hasattr(dataset, "__getitem__"):
            raise TypeError(f"a {type(dataset).__name__} is neither an archive nor a map-style dataset")
        if num_workers is None:
            num_workers = processors()
        if not 0 <= num_workers <= MOST_THREADS:
            raise ValueError(f"num_workers must be from 0 to {MOST_THREADS}, not {num_workers}")
        if prefetch_factor < 1:
            raise ValueError(f"prefetch_factor must be 1 or more, not {prefetch_factor}")
        if timeout < 0:
            raise ValueError(f"timeout must be 0 or more seconds, not {timeout}")
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ValueError(f"on_error must be 'raise', 'skip' or a callable, not {on_error!r}")
        ordered = sampler is not None or batch_sampler is not None
        if ordered and (shuffle or rank is not None or world_size is not None or pad or window is not None):
            raise ValueError(
                "a sampler says which samples come and in which order: shuffle, rank, world_size, pad and window "
                "do not go with it"
            )
        if batch_sampler is not None and (sampler is not None or batch_size != 1 or drop_last):
            raise ValueError("a batch_sampler makes the batches: batch_size, sampler and drop_last do not go with it")
        if (
            sampler is not None
            and batch_size is not None
            and isinstance(sampler, ArchiveSampler)
            and sampler.batch_size
        ):
            raise ValueError("this sampler makes batches: give it as batch_sampler")
        if generator is not None:
            import torch

            seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
        self.dataset = dataset
        self.batch_size = None if batch_sampler is not None else batch_size
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.timeout = timeout
        self.prefetch_factor = prefetch_factor
        self.persistent_workers = persistent_workers
        self.in_order = in_order
        self.pin_memory = pin_memory and _can_pin()
        self.worker_init_fn = worker_init_fn
        self.on_error = on_error
        self._collator = Collator(collate_fn)
        self._batched = batch_size is not None or batch_sampler is not None
        if not ordered:
            sampler = ArchiveSampler(
                dataset,
                batch_size=batch_size,
                shuffle=shuffle,
                seed=seed,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last and batch_size is not None,
                pad=pad,
                window=window,
            )
        self.sampler: Any = batch_sampler if batch_sampler is not None else sampler
        self._stats = LoaderStats(workers=num_workers)
        # The iteration belongs to whoever iterates: it ends when he drops it.
        self._iteration: weakref.ref[_Iteration] | None = None
        self._delivered: _Delivered | None = None
        self._workers: Workers | None = None

    def __len__(self) -> int:
        """Return how many batches an iteration has."""
        count = len(self.sampler)
        if self.batch_size is None or _makes_batches(self.sampler):
            return count
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Begin an iteration, and end the one before."""
        self._end()
        if self.num_workers and (self._workers is None or self._workers.process != os.getpid()):
            self._workers = Workers(self.num_workers, self.worker_init_fn)
        self._stats = LoaderStats(workers=self.num_workers)
        self._delivered = _Delivered()
        iteration = _Iteration(self, self._workers, self._stats, self._delivered)
        self._iteration = weakref.ref(iteration)
        return iteration

    @property
    def stats(self) -> LoaderStats:
        """What the iteration under way, or the last one, has done so far."""
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.count()
        return self._stats

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration: that of an epoch."""
        self._delivered = None
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration stands: what has been delivered, not what is made ahead.

        See `ArchiveSampler.state_dict`. With several ranks, where samples were skipped, each rank has its own.

        Raises
        ------
        TypeError
            If the sampler is not an `ArchiveSampler`.
        ValueError
            If batches are delivered as they come (``in_order=False``).
        """
        if not isinstance(self.sampler, ArchiveSampler):
            raise TypeError(f"the position of a {type(self.sampler).__name__} is not known: use an ArchiveSampler")
        if not self.in_order:
            raise ValueError("with in_order=False, what was delivered is no part of the order: use in_order=True")
        if self._delivered is None or self._delivered.finished:
            return self.sampler.state_dict()
        return self.sampler.state_dict(self._delivered.samples)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the next iteration: see `ArchiveSampler.load_state_dict`."""
        if not isinstance(self.sampler, ArchiveSampler):
            raise TypeError(f"the position of a {type(self.sampler).__name__} cannot be set: use an ArchiveSampler")
        self._end()
        self._delivered = None
        self.sampler.load_state_dict(state)

    def close(self) -> None:
        """End the iteration, and its threads."""
        self._end()
        self._stop()

    def __enter__(self) -> ArchiveLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _end(self) -> None:
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.close()

    def _stop(self) -> None:
        workers, self._workers = self._workers, None
        if workers is not None:
            # A thread in a batch that ran into the timeout cannot be ended, and is not waited for.
            workers.stop(0 if self._delivered is not None and self._delivered.stuck else None)


def _is_archive(source: Any) -> bool:
    """Tell an archive, or what stands for one, from a dataset, which may be a list."""
    if isinstance(source, list | tuple):
        return bool(source) and _is_archive(source[0])
    is_path = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview)
    return is_path or isinstance(source, Archive) or (hasattr(source, "read") and not hasattr(source, "__getitem__"))


@dataclass
class _Delivered:
    """What a loader knows of its last iteration, also when that is gone."""

    samples: int = 0  # of the order of this rank, with those that were skipped
    finished: bool = False
    stuck: bool = False


class _Iteration(Iterator[Any]):
    """One pass over the samples. One thread at a time may ask for batches."""

    def __init__(
        self, loader: ArchiveLoader, workers: Workers | None, stats: LoaderStats, delivered: _Delivered
    ) -> None:
        self._loader = loader
        self._workers = workers
        self._stats = stats
        self._delivered = delivered
        self._archive, dataset = _for_threads(loader.dataset, None if workers is None else 1)
        self._assembler = Assembler(
            dataset,
            loader._collator,
            loader.on_error,
            _pin if loader.pin_memory else None,
            batched=loader._batched,
        )
        with contextlib.suppress(TypeError):  # a sampler need not know
            stats.expected_steps = len(loader)
        self._started = time.perf_counter()
        self._idle = 0.0 if workers is None else workers.idle_seconds
        self._times = Times()
        self._closed = False
        # Batches that are owed, and good samples to make them of, once one was skipped.
        self._owed: deque[int] = deque()
        self._carried: list[Chunk] = []
        # The first good samples, for a rank that runs out of them before the others do.
        self._spare: Chunk | None = None
        self._shared = isinstance(loader.sampler, ArchiveSampler) and loader.sampler.world_size > 1
        self._results = Prefetcher(
            self._assembler,
            _orders(loader.sampler, loader.batch_size, drop_last=loader.drop_last),
            workers,
            ahead=max(1, loader.num_workers * loader.prefetch_factor),
            in_order=loader.in_order,
            timeout=loader.timeout,
        )

    def __next__(self) -> Any:
        """Return the next batch; raises what went wrong with it."""
        if self._closed:
            raise StopIteration
        try:
            batch = self._take()
        except StopIteration:
            self._delivered.finished = True
            self.close()
            raise
        except TimeoutError:
            self._delivered.stuck = True
            raise
        finally:
            self._stats.seconds = time.perf_counter() - self._started
        self._stats.steps += 1
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
            self._stats.skipped += [error for _, error in result.errors]
            if self._shared and self._spare is None and result.chunk is not None and len(result.chunk):
                self._spare = result.chunk.take(np.arange(len(result.chunk)))  # a copy: the batch is the caller's
            if result.batch is not None and not self._carried:
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
        self._stats.samples += size
        self._delivered.samples = max(self._delivered.samples, end)
        return batch

    def _take_last(self) -> Any:
        """Make do with what is left when samples were skipped."""
        carried = sum(map(len, self._carried))
        if self._stats.skipped and not self._stats.samples and not carried:
            raise self._stats.skipped[0]
        if self._spare is not None and self._owed and self._stats.steps < self._stats.expected_steps:
            # Other ranks count on this step: samples come twice.
            size = self._owed.popleft()
            self._carried.append(self._spare.take(np.resize(np.arange(len(self._spare)), size - carried)))
            self._stats.repeated += size - carried
            return self._cut(size)
        self._owed.clear()
        if carried and not self._loader.drop_last:
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

    def close(self) -> None:
        """End the iteration: nothing more is made, and the threads end, unless they are kept for the next one."""
        if self._closed:
            return
        self._closed = True
        self.count()
        self._results.close()
        self._carried.clear()
        if not self._loader.persistent_workers or self._delivered.stuck:
            self._loader._stop()

    def __del__(self) -> None:
        if hasattr(self, "_results"):
            self.close()


def _for_threads(dataset: Any, threads: int | None) -> tuple[Archive | None, Any]:
    """Have a dataset read with so many threads in each of those that call it, and count what that costs."""
    if not isinstance(dataset, ArchiveDataset) or overrides(dataset, "__getitem__", "__getitems__"):
        return None, dataset
    other = copy(dataset)
    other.archive = archive = dataset.archive.metered(threads)
    return archive, other


def _orders(sampler: Any, batch_size: int | None, *, drop_last: bool) -> Iterator[Order]:
    """Take batches from a sampler, or make them of its samples."""
    begin = 0
    if batch_size is None or _makes_batches(sampler):
        for item in sampler:
            indices = [*item] if _makes_batches(sampler) or hasattr(item, "__len__") else [item]
            yield Order(indices, begin)
            begin += len(indices)
        return
    indices_of_all = iter(sampler)
    while indices := [*itertools.islice(indices_of_all, batch_size)]:
        if drop_last and len(indices) < batch_size:
            return
        yield Order(indices, begin)
        begin += len(indices)


def _makes_batches(sampler: Any) -> bool:
    return isinstance(sampler, ArchiveSampler) and sampler.batch_size is not None


def _can_pin() -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    warnings.warn("pin_memory=True does nothing: PyTorch finds no CUDA device", ArchiveWarning, stacklevel=3)
    return False


def _pin(batch: Any) -> Any:
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(batch)  # type: ignore[no-untyped-call]
