"""The order of an epoch: seeded, dealt out to ranks, and taken up again where it was left, by any number of them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sized
from typing import Any, Literal, NamedTuple, Protocol, SupportsIndex, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from archivestream._native.permutation import Permutation
from archivestream.archive import Archive
from archivestream.block_order import DEFAULT_WINDOW, BlockOrder, Runs, cut_runs
from archivestream.errors import ArchiveChangedError
from archivestream.order_report import Decoding, OrderReport, measure_mixing
from archivestream.sharding import Shares, find_rank

__all__ = ["ArchiveSampler", "OrderReport"]

Shuffle: TypeAlias = Literal["global", "block", False]
State: TypeAlias = dict[str, Any]

_VERSION = 1  # of a state
_PIECE = 4096  # samples that are put in order at a time
_ASSUMED_BATCH = 256  # where the sampler makes none
_BATCHES = 64  # that a report looks at
_LARGEST = 1 << 62  # bytes of a window


class _Order(Protocol):
    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]: ...


class _GlobalOrder:
    def __init__(self, length: int, seed: int, epoch: int) -> None:
        self._permutation = Permutation(length, seed=seed, epoch=epoch)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        self._permutation.apply(positions)
        return positions


class _ArchiveOrder:
    def take(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return positions


class _Start(NamedTuple):
    """Where an iteration begins."""

    epoch: int
    position: int
    lanes: int  # of block order: the ranks that began the epoch


class _Iteration:
    """One pass over an epoch, or the rest of it, and how far it has come."""

    def __init__(self, start: _Start, shares: Shares) -> None:
        self.start = start
        self.shares = shares
        self.delivered = 0  # samples of this rank
        self.finished = False


class ArchiveSampler:
    """The order in which samples are read: seeded, dealt out to ranks, and resumed exactly.

    An iteration gives positions of samples, or lists of them with `batch_size`: a sampler, or a batch sampler, for
    ``torch.utils.data.DataLoader`` and torchdata's ``StatefulDataLoader``. It needs neither.

    Parameters
    ----------
    source : Archive, ArchiveDataset, anything with a length, or int
        What is sampled; an int is a number of samples. Block order needs one of the first two.
    batch_size : int, optional
        Give lists of so many positions.
    shuffle : "global", "block" or False
        "global" (or True): all samples are shuffled, in constant memory however many there are.
        "block": runs of samples that lie together are shuffled, and their samples mixed over a window of runs, so that
        blocks of compressed data that samples share are decoded about once an epoch, and reads are near each other;
        `report` says what that costs in mixing. Each rank has runs of its own, so that this order depends on how many
        ranks began the epoch. False: in order.
    seed : int
        Any integer. Seed and epoch together say what the order is, on every machine and in every version.
    rank, world_size : int, optional
        Which share of each epoch this process takes, and of how many. Default: of ``torch.distributed`` where it is
        initialised, else of ``RANK`` and ``WORLD_SIZE`` in the environment, else all.
    drop_last : bool
        Leave out the samples at the end that do not fill a step of all ranks (with `batch_size`, a batch of each).
    pad : bool
        Repeat samples from the start of the order until all ranks have as many. Without either, each sample
        comes exactly once, and all ranks have as many batches wherever that is possible: the last two steps are shared
        so that each has at least one sample in each. (It is not where there are fewer samples than ranks, or with
        batches of one and a number of samples that the ranks do not divide.)
    window : int, optional
        Bytes of decoded data over which block order mixes. Default: half of what the archive keeps of decoded blocks
        (``archivestream.open(cache=)``), so 32 MiB. More mixes better, and decodes blocks more than once. All ranks
        need the same.

    Attributes
    ----------
    batch_size, shuffle, seed, rank, world_size, drop_last, pad, window
        As they are used: with the defaults filled in, or as a loaded state has them.

    Raises
    ------
    ValueError
        If arguments contradict each other or have no such value.

    Notes
    -----
    Block order saves decoding in one process: in threads, as many as there are. Worker processes take batches in turn,
    so that each of them comes to decode nearly all blocks.

    A state counts samples of all ranks together: the state of any rank serves all, and what it leaves of the epoch is
    dealt out anew to however many ranks take it up. A finished iteration advances the epoch; one that is broken off
    does not, and the next begins the epoch anew.

    Each thread may have an iteration of its own; `state_dict` may be called from another thread, and speaks of the
    iteration that began last.

    Examples
    --------
    >>> sampler = ArchiveSampler(dataset, batch_size=256, shuffle="global", seed=7)
    >>> for batch in DataLoader(dataset, batch_sampler=sampler, num_workers=4):
    ...     train(batch)
    """

    def __init__(
        self,
        source: Archive | Sized | SupportsIndex,
        *,
        batch_size: int | None = None,
        shuffle: Shuffle | Literal[True] = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
        pad: bool = False,
        window: int | None = None,
    ) -> None:
        self.rank, self.world_size = find_rank(rank, world_size)
        self.batch_size = None if batch_size is None else operator.index(batch_size)
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
        if drop_last and pad:
            raise ValueError("drop_last leaves samples out and pad repeats some: choose one of them")
        self.drop_last, self.pad = bool(drop_last), bool(pad)
        self._source = source
        self._length = operator.index(source) if isinstance(source, SupportsIndex) else len(source)
        if self._length < 0:
            raise ValueError(f"a data set has 0 or more samples, not {self._length}")
        self._next = _Start(0, 0, self.world_size)
        self._current: _Iteration | None = None
        self._set_order("global" if shuffle is True else shuffle, operator.index(seed), window)

    def _set_order(self, shuffle: Any, seed: int, window: int | None) -> None:
        # A number would compare equal to False.
        if shuffle not in ("global", "block") and shuffle is not False:
            raise ValueError(f"shuffle must be 'global', 'block' or False, not {shuffle!r}")
        if shuffle != "block":
            if window is not None:
                raise ValueError("window is for block order: shuffle='block'")
        else:
            if not isinstance(self._archive, Archive):
                raise ValueError("block order needs an Archive or an ArchiveDataset, to know where samples lie")
            if window is None:
                window = self._archive.placement().cache // 2 or DEFAULT_WINDOW
            window = min(operator.index(window), _LARGEST)
            if window < 1:
                raise ValueError(f"window must be 1 byte or more, not {window}")
        self.shuffle: Shuffle = shuffle
        self.seed = seed
        self.window = window
        self._runs: Runs | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is of."""
        return self._next.epoch

    def set_epoch(self, epoch: int) -> None:
        """Say of which epoch the next iteration is: from its start, unless a state of that epoch was loaded.

        Raises
        ------
        ValueError
            If it is negative.
        """
        epoch = operator.index(epoch)
        if epoch < 0:
            raise ValueError(f"an epoch is 0 or more, not {epoch}")
        if epoch != self._next.epoch:
            self._next = _Start(epoch, 0, self.world_size)
        self._current = None

    def __len__(self) -> int:
        """How many items the next iteration gives on this rank: positions, or batches of them."""
        shares = self._shares(self._next.position)
        return shares.samples(self.rank) if self.batch_size is None else shares.batches(self.rank)

    def __iter__(self) -> Iterator[Any]:
        # A generator, so that a loaded state is taken up by the first item, and not by whoever only asks for an
        # iterator and then loads a state, as StatefulDataLoader does.
        start = self._next
        shares = self._shares(start.position)
        current = self._current = _Iteration(start, shares)
        self._next = _Start(start.epoch, 0, self.world_size)
        order = self._order(start)
        steps = shares.batches(self.rank)
        at_once = max(1, _PIECE // (self.batch_size or 1))
        for step in range(0, steps, at_once):
            stop = min(step + at_once, steps)
            begin = shares.end(step, self.rank)
            samples = self._take(order, shares, begin, shares.end(stop, self.rank))
            if self.batch_size is None:
                for sample in samples:
                    current.delivered += 1
                    yield sample
                continue
            for i in range(step, stop):
                first, last = shares.end(i, self.rank) - begin, shares.end(i + 1, self.rank) - begin
                current.delivered += last - first
                yield samples[first:last]
        if self._current is current:
            self._next = _Start(start.epoch + 1, 0, self.world_size)
            current.finished = True

    def _shares(self, begin: int) -> Shares:
        return Shares(begin, self._length, self.world_size, self.batch_size or 1, self.drop_last, self.pad)

    def _take(self, order: _Order, shares: Shares, first: int, last: int) -> list[int]:
        """Return some of the samples of this rank, by their number."""
        positions = np.arange(first, last) * self.world_size + (shares.begin + self.rank)
        if self.pad:
            positions %= max(1, self._length)
        return cast("list[int]", order.take(positions).tolist())

    def _order(self, start: _Start) -> _Order:
        if self.shuffle == "global":
            return _GlobalOrder(self._length, self.seed, start.epoch)
        if self.shuffle == "block":
            assert self.window is not None
            return BlockOrder(self._find_runs(), self.window, lanes=start.lanes, seed=self.seed, epoch=start.epoch)
        return _ArchiveOrder()

    @property
    def _archive(self) -> Any:
        """The archive that is sampled, where there is one."""
        return getattr(self._source, "archive", self._source)

    @property
    def _bounds(self) -> NDArray[np.int64] | None:
        return getattr(self._source, "bounds", None)

    def _find_runs(self) -> Runs:
        runs = self._runs
        if runs is None:  # two threads may find the same
            runs = self._runs = cut_runs(self._archive.placement(), self._bounds, self.window or DEFAULT_WINDOW)
        return runs

    def state_dict(self, delivered: int | None = None) -> State:
        """Return where the epoch stands, as a small dict of what JSON knows.

        Parameters
        ----------
        delivered : int, optional
            How many samples of this rank and of the iteration that began last have arrived, where it is read ahead.
            Default: as many as it has given; all of them, and it is over: the next epoch.

        Raises
        ------
        ValueError
            If so many have not been given.
        """
        current, start = self._current, self._next
        given = 0 if current is None else current.delivered
        if delivered is not None and not 0 <= operator.index(delivered) <= given:
            raise ValueError(f"this iteration has given {given} samples: delivered cannot be {delivered}")
        if current is not None and not (current.finished and delivered is None):
            position = current.shares.position(given if delivered is None else operator.index(delivered), self.rank)
            start = current.start._replace(position=position)
        return {
            "version": _VERSION,
            "epoch": start.epoch,
            "position": start.position,
            "length": self._length,
            "fingerprint": self._fingerprint(),
            "shuffle": self.shuffle,
            "seed": self.seed,
            "window": self.window,
            "lanes": start.lanes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next iteration go on where a state was taken; seed, shuffle and window become those of the state.

        Parameters
        ----------
        state : mapping
            What `state_dict` of any rank of any number has returned, maybe by way of JSON.

        Raises
        ------
        ArchiveChangedError
            If it is of another archive, or another selection of its members.
        ValueError
            If it is no such state, or one of another version; the sampler stays as it was then.
        """
        fault = _find_fault(state)
        if fault is not None:
            raise ValueError(f"this is no state of an ArchiveSampler that can be loaded: {fault}")
        mine, its = self._fingerprint(), state["fingerprint"]
        if state["length"] != self._length or (None not in (mine, its) and mine != its):
            raise ArchiveChangedError(
                f"the state is of another data set, of {state['length']} samples; this one has {self._length}: open "
                "the archive that it was saved with, select the same members, or begin anew without it",
                archive=self._archive.placement().archive if isinstance(self._archive, Archive) else None,
            )
        self._set_order(state["shuffle"], state["seed"], state["window"])
        # Those who began the epoch have dealt out its blocks.
        lanes = state["lanes"] if state["position"] else self.world_size
        self._next = _Start(state["epoch"], state["position"], lanes)
        self._current = None

    def _fingerprint(self) -> str | None:
        return getattr(self._source, "fingerprint", None)

    def report(self) -> OrderReport:
        """Say what the order costs and how well it mixes: see `OrderReport`.

        A batch is `batch_size` samples, or 256 where the sampler makes no batches. It looks at some batches of the next
        epoch, so that it takes milliseconds for millions of samples.
        """
        order = self._order(self._next)
        size = self.batch_size or _ASSUMED_BATCH
        shares = Shares(0, self._length, self.world_size, size, drop_last=False, pad=False)
        last = max(0, self._length // (size * self.world_size) - 1)
        batches = [
            np.array(self._take(order, shares, shares.end(step, self.rank), shares.end(step + 1, self.rank)), np.int64)
            for step in np.unique(np.linspace(0, last, _BATCHES).astype(np.int64)).tolist()
        ]
        mixing = measure_mixing(batches, self._length)
        if not isinstance(self._archive, Archive):
            return OrderReport(None, mixing, None, None)
        runs = self._find_runs()
        decoding = Decoding(self._archive.placement(), self._bounds, runs, self.shuffle, self.window)
        windows = order.windows if isinstance(order, BlockOrder) else None
        return OrderReport(decoding.amplification(batches), mixing, len(runs.footprints), windows)

    def __getstate__(self) -> dict[str, Any]:
        # An iteration belongs to its process; runs are found again.
        return {**self.__dict__, "_current": None, "_runs": None}

    def __repr__(self) -> str:
        return (
            f"<ArchiveSampler of {self._length} samples, shuffle={self.shuffle!r}, seed={self.seed}, "
            f"epoch {self.epoch}, rank {self.rank} of {self.world_size}>"
        )


def _find_fault(state: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a state, or None."""
    if not isinstance(state, Mapping):
        return f"it is a {type(state).__name__}"
    if state.get("version") != _VERSION:
        return f"its version is {state.get('version')!r}, not {_VERSION}"
    for name, least in (("epoch", 0), ("position", 0), ("length", 0), ("lanes", 1), ("seed", None)):
        value = state.get(name)
        if type(value) is not int or (least is not None and value < least):
            return f"its {name} is {value!r}"
    if state["position"] > state["length"]:
        return f"its position is {state['position']} of {state['length']}"
    if not isinstance(state.get("fingerprint", 0), str | None):
        return f"its fingerprint is {state.get('fingerprint')!r}"
    shuffle, window = state.get("shuffle"), state.get("window", 0)
    if shuffle is not False and shuffle not in ("global", "block"):
        return f"its shuffle is {shuffle!r}"
    if not (window is None if shuffle != "block" else type(window) is int and window > 0):
        return f"its window is {window!r}"
    return None
