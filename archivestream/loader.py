"""The loader: batches of an archive, made ahead in threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Literal, TypeAlias

from archivestream.archive import Archive
from archivestream.assembling import Assembler, OnError, Order, overrides
from archivestream.collating import Collator, Padded
from archivestream.dataset import ArchiveDataset
from archivestream.errors import ArchiveWarning
from archivestream.iteration import Delivered, Iteration
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
        if batch_size is not None and _makes_batches(sampler):
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
        self._iteration: weakref.ref[Iteration] | None = None
        self._delivered: Delivered | None = None
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
        workers = None
        if self.num_workers:
            if self._workers is None or self._workers.process != os.getpid():
                self._workers = Workers(self.num_workers, self.worker_init_fn)
            workers = self._workers
        archive, dataset = _for_threads(self.dataset, None if workers is None else 1)
        finish = _pin if self.pin_memory else None
        assembler = Assembler(dataset, self._collator, self.on_error, finish, batched=self._batched)
        self._stats = LoaderStats(workers=self.num_workers)
        with contextlib.suppress(TypeError):  # a sampler need not know
            self._stats.expected_steps = len(self)
        self._delivered = Delivered()
        iteration = Iteration(
            Prefetcher(
                assembler,
                _orders(self.sampler, self.batch_size, drop_last=self.drop_last),
                workers,
                ahead=max(1, self.num_workers * self.prefetch_factor),
                in_order=self.in_order,
                timeout=self.timeout,
            ),
            assembler,
            archive=archive,
            workers=workers,
            stats=self._stats,
            delivered=self._delivered,
            drop_last=self.drop_last,
            shared=isinstance(self.sampler, ArchiveSampler) and self.sampler.world_size > 1,
            release=self._release,
        )
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

    def _release(self) -> None:
        """End the threads with their iteration, unless they are kept for the next one."""
        if not self.persistent_workers or (self._delivered is not None and self._delivered.stuck):
            self._stop()

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
