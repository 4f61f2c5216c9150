"""The loader: batches of an archive, made ahead in threads."""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Literal, TypeAlias

from archivestream.archive import Archive
from archivestream.devices import choose_device
from archivestream.errors import ArchiveWarning
from archivestream.orders import makes_batches, orders
from archivestream.prefetch import Prefetcher, Workers
from archivestream.sampling import ArchiveSampler
from archivestream.stats import LoaderStats
from archivestream.threads import MOST_THREADS, processors

try:
    from archivestream.assembling import Assembler, HostMemory, Memory, OnError, overrides
    from archivestream.collating import Collator
    from archivestream.cuda import Keep, PinnedSlot, Staged, Transfer
    from archivestream.dataset import ArchiveDataset
    from archivestream.finishing import Finish, finish_samples
    from archivestream.iteration import Delivered, Iteration
    from archivestream.tensors import array_as_tensor, map_leaves
except ImportError as error:  # PyTorch is not there; a loader that is asked for CUDA says that in its own way
    _missing: ImportError | None = error
else:
    _missing = None

__all__ = ["ArchiveLoader"]

Shuffle: TypeAlias = bool | Literal["global", "block"]

# What a forked process has from its parent, and must not free: to do that, it would have to speak to CUDA.
_of_parents: list[object] = []


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
    collate_fn : "pad", "packed", "list", callable or None
        What a batch is. None: bytes become a `Padded` of uint8, each row as long as the longest of the batch; arrays
        and images of one shape and type one tensor, decoded straight to their places; all else is what
        `torch.utils.data.default_collate` makes of it. ``"pad"``: arrays of different shapes become a `Padded`, too.
        ``"packed"``: bytes become a `Packed`, one after the other. ``"list"``: a list of the samples. A callable gets
        the list of the samples. With labels, a batch is (samples, labels).
    pin_memory : bool
        Without a device: make the batches in page-locked memory, from where they come faster to a GPU, and without
        holding up the host (``tensor.to(device, non_blocking=True)``). Where there is no CUDA, that is a warning.
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
    device : str, torch.device or None
        Where batches arrive: ``"cuda"`` (the current device), ``"cuda:1"``, ``"auto"`` (CUDA, or None where there is
        none: `stats` says why), ``"cpu"`` (in the same way as CUDA, which takes a copy more than None). See Notes.
    keep : "batches" or "slots"
        With a device: give each batch memory of its own there. Or use that of one again, for callers who promise to be
        done with a batch, and with all that shares its memory, before they ask for the next.
    finish : callable, optional
        Applied to the samples of each batch: `archivestream.Normalize`, for example. With a device, on its current
        stream; else in the threads that make batches, several at a time. Of a batch that is (samples, labels) by the
        dataset's own labels, it gets the samples; else, the batch.

    Raises
    ------
    CudaUnavailableError
        If CUDA is asked for, and is not there; it says why.
    ImportError
        If PyTorch is not installed.
    ValueError, TypeError
        If an argument has no such value.

    Notes
    -----
    An iteration that is left early (``break``, an exception, Ctrl-C) ends its threads as soon as it is dropped or
    another one begins; `close` does so at once. Iterations of one loader do not overlap: the later ends the earlier.

    With a device, members are decoded into a ring of slots of page-locked memory, which is made with the loader, and
    each batch, with its labels, lengths and offsets, crosses the bus in one copy, on a stream of the loader's own. A
    batch is what it would be on the CPU, in tensors and whatever holds them (NumPy's arrays become tensors, and so do
    the bytes in a ``"list"``, as views of one tensor); what is no tensor stays as it is. It is ready for the stream
    that is current when it is asked for; another stream has to wait for that one (and ``record_stream`` to be told of
    it). The next two are copied while the consumer works on this one; the host gets at most two steps ahead of the
    device. The ring is kept until the loader is dropped or closed. While a CUDA graph is captured, other threads pin
    memory and ask for events: capture with ``capture_error_mode="thread_local"``.

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
        device: Any = None,
        keep: Keep = "batches",
        finish: Finish | None = None,
    ) -> None:
        self.device, self._fallback = choose_device(device)
        if _missing is not None:
            raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from _missing
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
        if keep not in ("batches", "slots"):
            raise ValueError(f"keep must be 'batches' or 'slots', not {keep!r}")
        if keep == "slots" and device is None:
            raise ValueError("keep='slots' is for batches on a device: give device=")
        ordered = sampler is not None or batch_sampler is not None
        if ordered and (shuffle or rank is not None or world_size is not None or pad or window is not None):
            raise ValueError(
                "a sampler says which samples come and in which order: shuffle, rank, world_size, pad and window "
                "do not go with it"
            )
        if batch_sampler is not None and (sampler is not None or batch_size != 1 or drop_last):
            raise ValueError("a batch_sampler makes the batches: batch_size, sampler and drop_last do not go with it")
        if batch_size is not None and makes_batches(sampler):
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
        self.pin_memory = pin_memory and self.device is None and _can_pin()
        self.worker_init_fn = worker_init_fn
        self.on_error = on_error
        self.keep = keep
        self.finish = finish
        self._collator = Collator(collate_fn, on_device=device is not None)
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
        self._stats = LoaderStats(workers=num_workers, fallback=self._fallback)
        # The iteration belongs to whoever iterates: it ends when he drops it.
        self._iteration: weakref.ref[Iteration] | None = None
        self._delivered: Delivered | None = None
        self._workers: Workers | None = None
        self._leaving: list[Workers] = []  # which nobody has waited for yet: see `Prefetcher.close`
        self._transfer: Transfer | None = None
        self._process = os.getpid()
        self._begin_transfer()

    def __len__(self) -> int:
        """Return how many batches an iteration has."""
        count = len(self.sampler)
        if self.batch_size is None or makes_batches(self.sampler):
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
        transfer = self._begin_transfer()
        assembler = self._assembler(dataset)
        self._stats = LoaderStats(workers=self.num_workers, fallback=self._fallback)
        with contextlib.suppress(TypeError):  # a sampler need not know
            self._stats.expected_steps = len(self)
        self._delivered = Delivered()
        results = Prefetcher(
            assembler,
            orders(self.sampler, self.batch_size, drop_last=self.drop_last),
            workers,
            ahead=self._ahead,
            in_order=self.in_order,
            timeout=self.timeout,
        )
        iteration = Iteration(
            results if transfer is None else Staged(results, transfer),
            assembler,
            transfer=transfer,
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
        if self._transfer is not None:
            self._stats.transfer = self._transfer.stats
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
        """End the iteration, and its threads, and give back the memory that is kept for a device."""
        self._end()
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.stop()
        self._stats = self.stats
        transfer = self._give_up_transfer()
        if transfer is not None:
            transfer.close()

    def __enter__(self) -> ArchiveLoader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _ahead(self) -> int:
        return max(1, self.num_workers * self.prefetch_factor)

    @property
    def _labelled(self) -> bool:
        """Whether batches are (samples, labels)."""
        dataset = self.dataset
        return (
            isinstance(dataset, ArchiveDataset)
            and not overrides(dataset, "__getitem__", "__getitems__")
            and dataset.labelled
            and not callable(self._collator.how)
        )

    def _begin_transfer(self) -> Transfer | None:
        """Make what brings batches to the device, or have it count anew."""
        if self.device is None:
            return None
        if self._process != os.getpid():
            self._give_up_transfer()
        if self._transfer is None:
            batch_size = 1 if not self._batched else self.batch_size or getattr(self.sampler, "batch_size", 0)
            expected = self._assembler(self.dataset, HostMemory).expected_bytes(batch_size) if batch_size else 0
            batches = self._ahead
            with contextlib.suppress(TypeError):
                batches = len(self)
            self._transfer = Transfer(
                self.device,
                ahead=self._ahead,
                batches=batches,
                batch_bytes=expected,
                keep=self.keep,
                finish=self.finish,
                labelled=self._labelled,
            )
        self._transfer.begin()
        return self._transfer

    def _give_up_transfer(self) -> Transfer | None:
        """Return it for the last time, where it is of this process."""
        transfer, self._transfer = self._transfer, None
        process, self._process = self._process, os.getpid()
        if process != self._process:
            _of_parents.append(transfer)
            return None
        return transfer

    def _assembler(self, dataset: Any, memory: Callable[[], Memory] | None = None) -> Assembler:
        if memory is None:
            memory = self._memory()
        return Assembler(dataset, self._collator, self.on_error, memory, batched=self._batched)

    def _memory(self) -> Callable[[], Memory]:
        """Return what makes the memory of a batch."""
        if self._transfer is not None:
            return self._transfer.take
        finish, labelled, fallback = self.finish, self._labelled, self._fallback
        if self.pin_memory:
            return lambda: PinnedSlot(finish, labelled=labelled)
        if finish is None and not fallback:
            return HostMemory

        def finished(batch: Any) -> Any:
            # With device="auto", batches hold what they would on a device.
            batch = map_leaves(array_as_tensor, batch) if fallback else batch
            return finish_samples(finish, batch, labelled=labelled)

        return lambda: HostMemory(finished)

    def _end(self) -> None:
        """End the iteration under way, and wait for the threads of those that were collected."""
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.close()
        while self._leaving:
            self._leaving.pop().stop()

    def _release(self, workers: Workers | None, *, wait: bool, stuck: bool) -> None:
        """End the threads of an iteration with it, unless they are kept for the next one."""
        if workers is None or (self.persistent_workers and not stuck):
            return
        if self._workers is workers:
            self._workers = None
        # A thread in a batch that ran into the timeout cannot be ended, and is not waited for.
        workers.stop(None if wait and not stuck else 0)
        if not wait and not stuck:
            self._leaving.append(workers)


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


def _can_pin() -> bool:
    import torch

    if torch.cuda.is_available():
        return True
    warnings.warn("pin_memory=True does nothing: PyTorch finds no CUDA device", ArchiveWarning, stacklevel=3)
    return False
