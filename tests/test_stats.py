"""The statistics of a loader, and the advice that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from archivestream import CorruptArchiveError
from archivestream.stats import LoaderStats, advise


@dataclass
class Counts:
    """What a cache tells."""

    hits: int = 0
    misses: int = 100
    bytes: int = 0
    evictions: int = 0
    limit: int = 1_000_000


def measured(**changes: Any) -> LoaderStats:
    """Ten seconds with four workers: 100 batches of 10 samples."""
    fields = {"samples": 1000, "batches": 100, "bytes": 25_000_000, "seconds": 10.0, "workers": 4}
    return LoaderStats(**{**fields, "expected_steps": 100, **changes})


BROKEN = CorruptArchiveError("its CRC-32 is wrong", archive="a.zip", member="m")
# What was measured, and parts of what is said, with eight processors: `!` stands before what must not be said.
TABLE: dict[str, tuple[LoaderStats, list[str]]] = {
    "nothing yet": (LoaderStats(workers=2), ["Nothing was delivered yet."]),
    "all skipped": (
        LoaderStats(workers=2, seconds=1.0, skipped=[BROKEN, ValueError()]),
        ["every sample", "skipped", "a.zip: member 'm': its CRC-32 is wrong"],
    ),
    "two batches": (measured(batches=2, decode=9.0, waiting_for_data=9.0), ["too early to tell", "2 batches"]),
    "one batch": (measured(batches=1), ["1 batch so far"]),
    "no time": (measured(seconds=0.0, decode=1.0), ["too early to tell"]),
    "consumer": (
        measured(waiting_for_data=0.2, waiting_for_consumer=24.0, decode=10.0),
        ["The consumer (the training step) limits", "2% of its time", "60% of theirs", "would gain nothing"],
    ),
    "consumer, no workers": (
        measured(workers=0, waiting_for_data=0.3, decode=0.3),
        ["The consumer", "3% of its time", "!stand still", "!num_workers"],
    ),
    "no workers": (measured(workers=0, waiting_for_data=6.0, decode=5.0), ["take turns", "60%", "num_workers=8"]),
    "bursts": (
        measured(waiting_for_data=2.0, waiting_for_consumer=20.0, decode=15.0),
        ["bursts", "20% of its time", "50% of theirs", "raise prefetch_factor"],
    ),
    "decoding": (
        measured(waiting_for_data=5.0, decode=30.0, fetch=5.0),
        ["Decoding limits (75%", "raise num_workers from 4 (there are 8 processors)", "Cache(bytes)", "!repack"],
    ),
    "decoding, some rest": (
        measured(waiting_for_data=2.0, decode=27.0, waiting_for_consumer=12.0),
        ["Decoding limits", "!prefetch"],
    ),
    "decoding, all processors": (
        measured(workers=8, waiting_for_data=5.0, decode=70.0),
        ["all 8 processors", "repack --method stored", "!num_workers"],
    ),
    "decoding, blocks": (
        measured(waiting_for_data=5.0, decode=30.0, read_amplification=7.2),
        ["Decoding limits", "decoded 7.2 times", "use shuffle='block'", "!num_workers"],
    ),
    "decoding, blocks in order": (
        measured(waiting_for_data=5.0, decode=30.0, read_amplification=1.05),
        ["raise num_workers", "!shuffle"],
    ),
    "decoding, cache that fills": (
        measured(waiting_for_data=5.0, decode=30.0, cache=Counts(bytes=100_000)),
        ["raise num_workers", "!cache"],
    ),
    "decoding, full cache": (
        measured(waiting_for_data=5.0, decode=30.0, cache=Counts(hits=100, misses=300, bytes=990_000)),
        ["raise the limit of the cache (it serves 25%)", "!policy"],
    ),
    "decoding, cache that evicts": (
        measured(waiting_for_data=5.0, decode=30.0, cache=Counts(hits=0, bytes=990_000, evictions=50)),
        ["it serves 0%", "policy='keep'"],
    ),
    "fetching": (
        measured(workers=8, waiting_for_data=5.0, fetch=60.0, decode=10.0),
        ["Reading from the storage limits (75%", "raise num_workers from 8", "more reads", "!processors"],
    ),
    "fetching, blocks": (
        measured(waiting_for_data=5.0, fetch=30.0, read_amplification=3.0),
        ["storage limits", "use shuffle='block'"],
    ),
    "transforms": (
        measured(waiting_for_data=5.0, transform=36.0, read_amplification=7.2),
        ["Transforms limit (90%", "move them to the GPU", "GIL", "worker processes", "!shuffle", "!num_workers"],
    ),
    "collating": (measured(waiting_for_data=5.0, collate=20.0, decode=19.0), ["Putting samples together", "one shape"]),
    "held up": (
        measured(waiting_for_data=9.0, decode=2.0),
        ["The loader limits (the consumer waits for 90%", "only 5%", "other threads or programs", "!Decoding"],
    ),
    "more was measured than there is time": (
        measured(waiting_for_data=11.0, decode=60.0, fetch=20.0),
        ["Decoding limits (75%"],
    ),
}


@pytest.mark.parametrize(("stats", "parts"), TABLE.values(), ids=TABLE)
def test_advice(stats: LoaderStats, parts: list[str]) -> None:
    advice = advise(stats, 8)
    for part in parts:
        assert (part[1:] not in advice) if part.startswith("!") else (part in advice), advice
    assert advice[0].isupper()
    assert "\n" not in advice


def test_advice_knows_the_processors_of_this_machine() -> None:
    stats = measured(workers=1024, waiting_for_data=5.0, decode=10_000.0)
    assert "processors work on it" in stats.advice


def test_rates() -> None:
    stats = measured()
    assert stats.samples_per_second == 100.0
    assert stats.megabytes_per_second == 2.5
    assert LoaderStats(samples=3, bytes=5).samples_per_second == 0.0
    assert LoaderStats(samples=3, bytes=5).megabytes_per_second == 0.0


@pytest.mark.parametrize(
    "stats",
    [
        LoaderStats(),
        measured(),
        measured(fetch=1.0, decode=2.0, transform=3.0, collate=4.0, waiting_for_consumer=5.0, waiting_for_data=6.0),
        measured(decode=100.0, waiting_for_consumer=100.0, waiting_for_data=100.0),
        measured(workers=0, decode=5.0, waiting_for_data=5.0),
        measured(seconds=0.0, decode=1.0, waiting_for_data=1.0),
    ],
)
def test_shares_are_parts_of_a_whole(stats: LoaderStats) -> None:
    shares = stats.shares
    assert list(shares) == ["fetch", "decode", "transform", "collate", "waiting_for_consumer", "waiting_for_data"]
    assert all(0 <= share <= 1 for share in shares.values())
    assert sum(shares.values()) - shares["waiting_for_data"] <= 1 + 1e-9


def test_shares() -> None:
    stats = measured(fetch=4.0, decode=20.0, waiting_for_consumer=8.0, waiting_for_data=2.5)
    assert stats.shares == {
        "fetch": 0.1,
        "decode": 0.5,
        "transform": 0.0,
        "collate": 0.0,
        "waiting_for_consumer": 0.2,
        "waiting_for_data": 0.25,
    }
    assert measured(workers=0, decode=5.0, waiting_for_data=5.0).shares["decode"] == 0.5


def test_the_table_for_people() -> None:
    stats = measured(
        decode=20.0,
        waiting_for_data=2.5,
        cache=Counts(hits=1, misses=3, bytes=900_000, evictions=1),
        read_amplification=1.25,
        skipped=[BROKEN],
        repeated=2,
        expected_steps=102,
    )
    text = str(stats)
    assert text.splitlines()[0] == "1,000 samples in 100 batches, 10.00 s, 4 workers: 100 samples/s, 2.5 MB/s"
    assert "decode                50.0% of the workers' time" in text
    assert "waiting for data      25.0% of the consumer's time" in text
    assert "cache: 25.0% hits, 0.9 of 1.0 MB, 1 eviction\n" in text
    assert "read amplification: 1.25" in text
    assert "skipped: 1 sample, the first: a.zip: member 'm': its CRC-32 is wrong" in text
    assert "repeated: 2 samples" in text
    assert "steps: 100 of 102" in text
    assert text.endswith(stats.advice)


def test_the_table_leaves_out_what_there_was_not() -> None:
    for stats in (LoaderStats(), measured(workers=0)):
        text = str(stats)
        for word in ("cache", "amplification", "skipped", "repeated", "steps"):
            assert word not in text.replace(stats.advice, "")
        assert "no workers" in text
