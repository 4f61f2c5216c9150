"""What a loader has done, where its time went, and what would make it faster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from archivestream.threads import processors

__all__ = ["LoaderStats", "TransferStats", "advise"]

# Below this many batches, the first one, for which nothing was ready, is most of what was measured.
_FEWEST_BATCHES = 3
# A consumer that waits for data for a smaller share of its time has nothing to gain from a faster loader.
_SHORT_WAIT = 0.05
# Workers that stand still for a larger share of their time, while the consumer waits, too, lack room for batches.
_LONG_REST = 0.25
# Workers whose stages take a smaller share of their time than this are not limited by what they do.
_BUSY = 0.2
# Archives that decode so many times what they deliver gain from another order.
_HIGH_AMPLIFICATION = 1.5

# A cache that keeps what it has is full before its last byte is in use.
_FULL = 0.9

_STAGES = ("fetch", "decode", "transform", "collate")


class CacheCounts(Protocol):
    """What is asked of `archivestream.cache.CacheStats`."""

    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def limit(self) -> int: ...


@dataclass(frozen=True)
class TransferStats:
    """What an `ArchiveLoader` has brought to a device since an iteration began, and the memory that it has for it.

    Attributes
    ----------
    device : str
        Such as ``"cuda:0"``.
    copies : int
        From the host to the device: one for each batch.
    bytes : int
        How many were copied.
    slots : int
        Pieces of memory on the host that batches are made in.
    slot_bytes : int
        Size of such a slot, as far as batches are not exceptions; 0 before the first batch, where that shows the size.
    pinned_bytes : int
        Page-locked memory of all slots.
    grown : int
        How often a batch was too large for its slot, since the loader was made.
    """

    device: str
    copies: int
    bytes: int
    slots: int
    slot_bytes: int
    pinned_bytes: int
    grown: int


@dataclass
class LoaderStats:
    """What an `ArchiveLoader` has done since an iteration began.

    Attributes
    ----------
    samples, batches : int
        How many were delivered.
    bytes : int
        Decoded bytes of the members of these samples.
    seconds : float
        Since the iteration began, until the last batch was delivered.
    workers : int
        Threads that make batches; 0 where ``next()`` makes them itself.
    fetch, decode, transform, collate : float
        Seconds that the workers spent on reading bytes, on making samples of them, in `transform` and
        `target_transform`, and on putting samples together. Of all workers together, so that the sum may be as much
        as ``workers * seconds``. Seconds in Python include those of waiting for the GIL.
    waiting_for_consumer : float
        Seconds that workers stood still because enough batches were ready; of all workers together.
    waiting_for_data : float
        Seconds that the consumer spent in ``next()``.
    cache : CacheStats or None
        Of the archive's cache.
    read_amplification : float or None
        Bytes that were decoded for each byte that was delivered: above 1 where members share a block, of which some
        are not needed now; below 1 where a cache serves them.
    skipped : list of Exception
        The error of each sample that was left out.
    repeated : int
        Samples that came twice so that all ranks make the same number of steps.
    expected_steps : int
        Batches of the whole iteration, on this rank; 0 where that is not known.
    transfer : TransferStats or None
        Of the way to the device, where there is one.
    fallback : str
        Why ``device="auto"`` came to be the CPU; else empty.
    """

    samples: int = 0
    batches: int = 0
    bytes: int = 0
    seconds: float = 0.0
    workers: int = 0
    fetch: float = 0.0
    decode: float = 0.0
    transform: float = 0.0
    collate: float = 0.0
    waiting_for_consumer: float = 0.0
    waiting_for_data: float = 0.0
    cache: CacheCounts | None = None
    read_amplification: float | None = None
    skipped: list[Exception] = field(default_factory=list)
    repeated: int = 0
    expected_steps: int = 0
    transfer: TransferStats | None = None
    fallback: str = ""

    @property
    def samples_per_second(self) -> float:
        """Samples delivered in a second; 0 before the first."""
        return _ratio(self.samples, self.seconds)

    @property
    def megabytes_per_second(self) -> float:
        """Decoded bytes delivered in a second, in units of 10**6; 0 before the first."""
        return _ratio(self.bytes / 1e6, self.seconds)

    @property
    def shares(self) -> dict[str, float]:
        """The share of time in each stage, from 0 to 1.

        ``fetch``, ``decode``, ``transform``, ``collate`` and ``waiting_for_consumer`` are shares of the time of all
        workers (``workers * seconds``), and add up to 1 at most; without workers, of the time of the consumer.
        ``waiting_for_data`` is a share of the time of the consumer.
        """
        spent = {name: getattr(self, name) for name in (*_STAGES, "waiting_for_consumer")}
        # A stage that is under way was not counted yet, or was counted a moment after the whole.
        available = max(self.seconds * max(1, self.workers), sum(spent.values()))
        shares = {name: _ratio(seconds, available) for name, seconds in spent.items()}
        shares["waiting_for_data"] = min(1.0, _ratio(self.waiting_for_data, self.seconds))
        return shares

    @property
    def advice(self) -> str:
        """One sentence: which stage limits, and what to change."""
        return advise(self, processors())

    def __str__(self) -> str:
        """Make a short table for people."""
        shares = self.shares
        threads = "no workers" if not self.workers else _count(self.workers, "worker")
        lines = [
            f"{_count(self.samples, 'sample')} in {_count(self.batches, 'batch', 'batches')}, {self.seconds:,.2f} s, "
            f"{threads}: {self.samples_per_second:,.0f} samples/s, {self.megabytes_per_second:,.1f} MB/s"
        ]
        whose = "of the workers' time" if self.workers else "of the time"
        for name in (*_STAGES, "waiting_for_consumer"):
            lines.append(f"  {name.replace('_', ' '):<21}{shares[name]:>6.1%} {whose}")
        lines.append(f"  {'waiting for data':<21}{shares['waiting_for_data']:>6.1%} of the consumer's time")
        if self.cache is not None:
            cache = self.cache
            lines.append(
                f"  cache: {_hit_rate(cache):.1%} hits, {cache.bytes / 1e6:,.1f} of {cache.limit / 1e6:,.1f} MB, "
                f"{_count(cache.evictions, 'eviction')}"
            )
        if self.read_amplification is not None:
            lines.append(f"  read amplification: {self.read_amplification:.2f}")
        if self.transfer is not None:
            to = self.transfer
            lines.append(
                f"  to {to.device}: {_count(to.copies, 'copy', 'copies')}, {to.bytes / 1e6:,.1f} MB, from "
                f"{_count(to.slots, 'slot')} of {to.slot_bytes / 1e6:,.1f} MB"
            )
        if self.fallback:
            lines.append(f"  on the CPU: {self.fallback}")
        if self.skipped:
            lines.append(f"  skipped: {_count(len(self.skipped), 'sample')}, the first: {self.skipped[0]}")
        if self.repeated:
            lines.append(f"  repeated: {_count(self.repeated, 'sample')}")
        if self.expected_steps and self.batches != self.expected_steps:
            lines.append(f"  steps: {self.batches:,} of {self.expected_steps:,}")
        return "\n".join([*lines, self.advice])


def advise(stats: LoaderStats, available: int) -> str:
    """Say in one sentence which stage limits, and what to change.

    Parameters
    ----------
    stats : LoaderStats
        What was measured.
    available : int
        How many processors there are.

    Notes
    -----
    Time that the consumer does not spend in ``next()`` is its own: if that is nearly all, it limits. Else the loader
    does: if its workers stood still meanwhile, because batches come and go in bursts; or else in the stage that took
    most of their time.
    """
    if not stats.batches:
        if stats.skipped:
            return f"Nothing was delivered: every sample so far was skipped, the first one for: {stats.skipped[0]}"
        return "Nothing was delivered yet."
    if stats.batches < _FEWEST_BATCHES or not stats.seconds > 0:
        return f"It is too early to tell what limits: {_count(stats.batches, 'batch', 'batches')} so far."
    shares = stats.shares
    waited = shares["waiting_for_data"]
    rested = shares["waiting_for_consumer"]
    if waited < _SHORT_WAIT:
        idle = f", and the workers stand still for {rested:.0%} of theirs" if stats.workers else ""
        return (
            f"The consumer (the training step) limits: it waits for data for {waited:.0%} of its time{idle}; "
            "a faster loader would gain nothing."
        )
    if not stats.workers:
        return (
            f"Loading and training take turns, and loading takes {waited:.0%} of the time: "
            f"set num_workers={available}, so that batches are made ahead."
        )
    stage = max(_STAGES, key=lambda name: shares[name])
    if rested > _LONG_REST and rested > shares[stage]:
        return (
            f"Batches come or are taken in bursts: the consumer waits for {waited:.0%} of its time, though the workers "
            f"stand still for {rested:.0%} of theirs; raise prefetch_factor."
        )
    busy = sum(shares[name] for name in _STAGES)
    if busy < _BUSY:
        return (
            f"The loader limits (the consumer waits for {waited:.0%} of its time), though its stages take only "
            f"{busy:.0%} of the workers' time: other threads or programs hold the workers up."
        )
    return f"{_LIMITS[stage]} ({shares[stage]:.0%} of the workers' time): {_remedy(stage, stats, available)}."


_LIMITS = {
    "fetch": "Reading from the storage limits",
    "decode": "Decoding limits",
    "transform": "Transforms limit",
    "collate": "Putting samples together limits",
}


def _remedy(stage: str, stats: LoaderStats, available: int) -> str:
    """Say what to change where a stage limits."""
    more = f"raise num_workers from {stats.workers}"
    if stage == "transform":
        return (
            "move them to the GPU, or to whole batches after the loader; if they hold the GIL, more threads do not "
            "help, but the worker processes of torch's DataLoader over the same dataset do"
        )
    if stage == "collate":
        return (
            "samples of one shape and type need no collating, they are decoded to their places in the batch; "
            "else make collate_fn cheaper"
        )
    amplification = stats.read_amplification
    if amplification is not None and amplification >= _HIGH_AMPLIFICATION:
        return f"each byte is decoded {amplification:.1f} times, because members share blocks: use shuffle='block'"
    remedies = []
    if stage == "fetch":  # threads that wait need no processor
        remedies.append(f"{more}, so that more reads are under way")
    elif stats.workers < available:
        remedies.append(f"{more} (there are {available} processors)")
    else:
        remedies.append(
            f"all {available} processors work on it, so store samples in a form that is decoded faster (smaller "
            "images; `archivestream repack --method stored` where it is the decompression that costs)"
        )
    remedies += _cache_remedy(stats.cache)
    return ", or ".join(remedies)


def _cache_remedy(cache: CacheCounts | None) -> list[str]:
    if cache is None:
        return ["keep decoded members in memory: open(path, cache=archivestream.Cache(bytes))"]
    if cache.evictions:
        return [
            f"raise the limit of the cache (it serves {_hit_rate(cache):.0%}) or, where an epoch reads each sample "
            "once, give it policy='keep'"
        ]
    if cache.bytes < _FULL * cache.limit:
        return []  # it still fills
    return [f"raise the limit of the cache (it serves {_hit_rate(cache):.0%})"]


def _hit_rate(cache: CacheCounts) -> float:
    return _ratio(cache.hits, cache.hits + cache.misses)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
