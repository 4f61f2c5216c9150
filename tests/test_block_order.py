"""Block order: each block decoded about once an epoch, whatever samples lie in it, and how well that mixes."""

from __future__ import annotations

import io
import itertools
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream import Archive, ArchiveSampler
from archivestream._native.codecs import Codec
from archivestream._native.columns import Layout
from archivestream.block_order import BlockOrder, Runs, cut_runs
from archivestream.index import Index
from archivestream.order_report import Decoding
from archivestream.placement import Placement

MIB = 1 << 20


def data(size: int, seed: int) -> bytes:
    """Bytes that zstd stores as they are, so that it is quick."""
    return np.random.default_rng(seed).bytes(size)


def make_tar(sizes: Sequence[int]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for i, size in enumerate(sizes):
            info = tarfile.TarInfo(f"{i:06d}")
            info.size = size
            tar.addfile(info, io.BytesIO(data(size, i)))
    return stream.getvalue()


TEXTS = [8000 + i * 37 % 4000 for i in range(4000)]  # 40 MB
TAR = make_tar(TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar, in frames of 64 KiB without regard to members, in one frame, and a ZIP of its members."""
    folder = tmp_path_factory.mktemp("order")
    compress = zstandard.ZstdCompressor(1).compress
    (folder / "a.tar").write_bytes(TAR)
    frames = [compress(TAR[at : at + 65536]) for at in range(0, len(TAR), 65536)]
    (folder / "frames.tar.zst").write_bytes(b"".join(frames))
    (folder / "one.tar.zst").write_bytes(compress(make_tar(TEXTS * 2)))
    with archivestream.open(folder / "a.tar") as archive:
        archivestream.repack(archive, folder / "a.zip", method="stored")
    for name in ("frames.tar.zst", "one.tar.zst"):
        with archivestream.open(folder / name) as archive:
            assert len(archive) >= len(TEXTS)
    return folder


def epoch(archive: Archive, sampler: ArchiveSampler) -> float:
    """Read an epoch, each sample once, and return how many bytes were decoded for each of theirs."""
    with archive.metered(2) as metered:
        seen = []
        for batch in sampler:
            metered.read_batch(batch)
            seen += batch
        assert sorted(seen) == list(range(len(archive)))
        return metered.counters.decoded_bytes / sum(archive.info(i).size for i in range(len(archive)))


# What is decoded


@pytest.mark.parametrize(
    ("name", "cache"), [("frames.tar.zst", 8 * MIB), ("frames.tar.zst", 24 * MIB), ("one.tar.zst", 64 * MIB)]
)
@pytest.mark.parametrize("batch_size", [1, 32, 256])
def test_each_block_is_decoded_about_once(folder: Path, name: str, cache: int, batch_size: int) -> None:
    with archivestream.open(folder / name, cache=cache, index="require") as archive:
        sampler = ArchiveSampler(archive, batch_size=batch_size, shuffle="block", seed=3)
        report = sampler.report()
        assert report.windows > 1
        measured = epoch(archive, sampler)
        assert 1.06 < measured <= 1.1  # what stands between the members is 7 %
        assert abs(report.read_amplification - measured) < 0.02
        assert epoch(archive, sampler) <= measured  # the next one begins with what is there still


def test_blocks_that_hardly_fit_the_cache(folder: Path) -> None:
    """Runs are cut at any price then: what does not stay in memory is decoded for every batch."""
    for cache in (16 * MIB, 24 * MIB, 32 * MIB):
        with archivestream.open(folder / "one.tar.zst", cache=cache, index="require") as archive:
            sampler = ArchiveSampler(archive, batch_size=64, shuffle="block")
            assert epoch(archive, sampler) < 1.25
            assert sampler.report().read_amplification < 1.25


def test_a_view_of_any_order_and_several_archives(folder: Path) -> None:
    with archivestream.open(
        [folder / "frames.tar.zst", folder / "a.tar", folder / "one.tar.zst"], cache=16 * MIB
    ) as both:
        order = np.random.default_rng(2).permutation(len(both))
        archive = both.select(order[: len(both) // 2])
        sampler = ArchiveSampler(archive, batch_size=64, shuffle="block")
        # Half of the members lie in nearly all of the blocks.
        assert epoch(archive, sampler) < 1.1 * (1 + 2 * 1.08) / 1.5
        assert epoch(archive, sampler) < 0.1 * epoch(archive, ArchiveSampler(archive, batch_size=64, shuffle="global"))


def test_ranks_read_blocks_of_their_own(folder: Path) -> None:
    """With windows that all ranks share, each would decode all blocks."""
    total = 0
    seen: list[int] = []
    for rank in range(4):
        with archivestream.open(folder / "frames.tar.zst", cache=16 * MIB) as archive, archive.metered() as metered:
            for batch in ArchiveSampler(archive, batch_size=32, shuffle="block", rank=rank, world_size=4):
                metered.read_batch(batch)
                seen += batch
            total += metered.counters.decoded_bytes
    assert sorted(seen) == list(range(len(TEXTS)))
    assert total < 1.1 * sum(TEXTS)


def test_a_window_larger_than_the_cache_costs_what_the_report_says(folder: Path) -> None:
    with archivestream.open(folder / "frames.tar.zst", cache=8 * MIB) as archive:
        costs = []
        for options in ({"shuffle": "block", "window": 16 * MIB}, {"shuffle": "global"}, {"shuffle": False}):
            sampler = ArchiveSampler(archive, batch_size=32, **options)
            predicted, measured = sampler.report().read_amplification, epoch(archive, sampler)
            assert predicted == pytest.approx(measured, rel=0.15)
            costs.append(measured)
        assert costs[1] > costs[0] > 2 > 1.1 > costs[2]
    with archivestream.open(folder / "frames.tar.zst", cache=0) as archive:
        sampler = ArchiveSampler(archive, batch_size=32, shuffle="block")
        assert sampler.report().read_amplification == pytest.approx(epoch(archive, sampler), rel=0.15)


def test_blocks_that_mostly_are_wanted_further_are_decoded_at_once(folder: Path) -> None:
    """And such that are not, up to what is wanted of them."""
    with archivestream.open(folder / "one.tar.zst", cache=8 * MIB, index="require") as archive:
        assert epoch(archive, ArchiveSampler(archive, batch_size=50)) < 1.1
        # One by one, the end of a member that began in the block before comes first.
        assert epoch(archive, ArchiveSampler(archive, batch_size=1)) < 1.25
        with archive.metered() as metered:
            places = np.random.default_rng(1).permutation(len(archive))[:400].tolist()
            for place in places[:200]:
                metered.read(place)
            before = metered.counters.decoded_bytes
            missed = archive._shared.reader.cache.statistics()[1]
            for place in places[200:]:
                metered.read(place)
            missed = archive._shared.reader.cache.statistics()[1] - missed
            # Blocks are of 4 MiB, and members lie anywhere in them.
            assert (metered.counters.decoded_bytes - before) / missed < 3.2 * MIB


# How it mixes


@pytest.mark.parametrize("name", ["frames.tar.zst", "a.tar", "a.zip"])
def test_what_mixing_means(folder: Path, name: str) -> None:
    with archivestream.open(folder / name, cache=16 * MIB) as archive:
        reports = [ArchiveSampler(archive, batch_size=64, shuffle=kind).report() for kind in ("global", "block", False)]
        assert reports[0].mixing == pytest.approx(1, abs=0.05)
        assert 0.1 < reports[1].mixing < 0.8
        assert reports[2].mixing < 0.05
        assert reports[0].windows is reports[2].windows is None
        assert reports[1].runs > 2 * reports[1].windows > 2
        larger = ArchiveSampler(archive, batch_size=64, shuffle="block", window=24 * MIB).report()
        assert larger.mixing > reports[1].mixing
        assert ArchiveSampler(archive, batch_size=64, shuffle="block", window=1 << 40).report().mixing > 0.9
    assert ArchiveSampler(1000, shuffle="global").report() == archivestream.OrderReport(
        None, pytest.approx(1, abs=0.1), None, None
    )


def test_samples_of_a_window_come_in_any_order(folder: Path) -> None:
    with archivestream.open(folder / "frames.tar.zst", cache=16 * MIB) as archive:
        order = np.array(list(ArchiveSampler(archive, shuffle="block", seed=1)))
    steps = np.abs(np.diff(order))
    assert np.count_nonzero(steps == 1) < 60  # of 4000; in runs that are not mixed, nearly all
    assert np.corrcoef(order[:-1], order[1:])[0, 1] < 0.9


def test_epochs_and_seeds_differ(folder: Path) -> None:
    with archivestream.open(folder / "frames.tar.zst") as archive:
        orders = [list(ArchiveSampler(archive, shuffle="block", seed=seed)) for seed in (0, 1, 1)]
        sampler = ArchiveSampler(archive, shuffle="block")
        assert orders[0] == list(sampler) != list(sampler)
        assert orders[0] != orders[1] == orders[2]


def test_what_it_gives_never_changes() -> None:
    runs = Runs(np.array([0, 3, 4, 9, 10, 14]), np.array([3, 1, 5, 1, 4]), None, 14, 14, 14)
    order = BlockOrder(runs, 7, lanes=2, seed=5, epoch=1)
    assert order.take(np.arange(14)).tolist() == [2, 8, 0, 7, 3, 9, 1, 11, 4, 10, 6, 13, 5, 12]
    assert order.windows == 4


# Cutting


@st.composite
def placements(draw: st.DrawFn) -> tuple[Placement, Any]:
    """Sources of any layout, members anywhere in them, a view of them, and samples of several members."""
    columns: dict[str, list[Any]] = {"offset": [], "size": [], "start": [], "block_size": []}
    layouts, first_member, first_block = [], [0], [0]
    for _ in range(draw(st.integers(1, 3))):
        layouts.append(draw(st.sampled_from(list(Layout))))
        members = draw(st.integers(0, 40))
        sizes = draw(
            st.lists(st.sampled_from([0, 1, 511, 10_000, 70_000, 3 * MIB]), min_size=members, max_size=members)
        )
        offsets = np.cumsum([0, *sizes])[:-1] + 512 * np.arange(1, members + 1) if members else np.zeros(0, np.int64)
        if draw(st.booleans()):
            offsets = offsets[draw(st.permutations(range(members)))] if members else offsets
        columns["offset"] += list(offsets)
        columns["size"] += sizes
        if layouts[-1] == Layout.BLOCKS and members:
            total = int(max(offsets) + max(sizes)) + 1024
            block = draw(st.sampled_from([65536, 300_000, 4 * MIB]))
            starts = list(range(0, total, block))
            columns["start"] += starts
            columns["block_size"] += [min(block, total - start) for start in starts]
        first_member.append(len(columns["offset"]))
        first_block.append(len(columns["start"]))
    n, blocks = first_member[-1], first_block[-1]
    types = {"offset": np.uint64, "size": np.uint64, "name_offset": np.uint64, "names": np.uint8}
    made = {"offset": columns["offset"], "size": columns["size"], "name_offset": [0] * (n + 1), "names": []}
    if blocks:
        codec = draw(st.sampled_from([Codec.ZSTD, Codec.ZSTD_SEGMENT]))
        made |= {"block_start": columns["start"], "block_size": columns["block_size"], "block_codec": [codec] * blocks}
        types |= {"block_start": np.uint64, "block_size": np.uint64, "block_codec": np.uint16}
    index = Index(
        {name: np.array(values, types[name]).tobytes() for name, values in made.items()},
        data_end=[0] * len(layouts),
        layouts=layouts,
        formats=["x"] * len(layouts),
        first_member=first_member,
        first_block=first_block,
    )
    rows = None
    if n and draw(st.booleans()):
        rows = np.array(draw(st.lists(st.integers(0, n - 1), max_size=60)), np.int64)
    members = n if rows is None else len(rows)
    bounds = None
    if members and draw(st.booleans()):
        cuts = draw(st.sets(st.integers(1, members)))
        bounds = np.array(sorted({0, members} | cuts), np.int64)
    return Placement("x", index, rows, draw(st.sampled_from([0, MIB, 64 * MIB]))), bounds


@settings(deadline=None, max_examples=300)
@given(placements(), st.integers(1, 8 * MIB), st.integers(1, 9), st.integers(0, 5), st.data())
def test_any_archive_any_window_any_lanes(
    placed: tuple[Placement, Any], window: int, lanes: int, seed: int, drawn: st.DataObject
) -> None:
    placement, bounds = placed
    n = len(placement.index) if placement.rows is None else len(placement.rows)
    n = n if bounds is None else len(bounds) - 1
    runs = cut_runs(placement, bounds, window)
    assert runs.starts[0] == 0 or n == 0
    assert runs.starts[-1] == n
    assert len(runs.footprints) == len(runs.starts) - 1
    assert np.all(np.diff(runs.starts) > 0)
    assert np.all(runs.footprints >= 0)
    assert runs.decoded >= runs.blocks_size
    order = BlockOrder(runs, window, lanes=lanes, seed=seed, epoch=1)
    found = order.take(np.arange(n))
    assert np.array_equal(np.sort(found), np.arange(n))
    some = np.array(drawn.draw(st.lists(st.integers(0, max(0, n - 1)), max_size=20)) if n else [], np.int64)
    assert np.array_equal(order.take(some.copy()), found[some])  # any positions, in any order
    for kind in ("block", "global", False):
        decoding = Decoding(placement, bounds, runs, kind, window if kind == "block" else None)
        amplification = decoding.amplification(np.array_split(found, 3))
        assert 0 <= amplification < math.inf
        assert amplification == 1 or runs.size


@pytest.mark.parametrize(
    ("sizes", "between", "block", "runs"),
    [
        ([65536 - 512] * 64, 512, 65536, 64),  # members that fill blocks: each cut is free
        ([10_007] * 6549, 0, 65536, 80),  # none ends with a block: 8 % are paid for cuts, each of a block
        ([10_007] * 6231, 512, 65536, 65),  # some do
        ([100 * MIB], 512, 65536, 1),
        ([0] * 100, 512, 65536, 1),
        ([MIB] * 32, 512, 1 << 30, 1),  # one block
    ],
)
def test_runs_are_short_where_cuts_are_cheap(sizes: list[int], between: int, block: int, runs: int) -> None:
    offsets = np.cumsum([between, *(size + between for size in sizes)])[:-1]
    starts = np.arange(0, int(offsets[-1]) + sizes[-1] + 1, block)
    index = Index(
        {
            "offset": offsets.astype(np.uint64),
            "size": np.array(sizes, np.uint64),
            "name_offset": np.zeros(len(sizes) + 1, np.uint64),
            "names": b"",
            "block_start": starts.astype(np.uint64),
            "block_size": np.full(len(starts), block, np.uint64),
            "block_codec": np.full(len(starts), Codec.ZSTD, np.uint16),
        },
        data_end=[0],
        layouts=[Layout.BLOCKS],
    )
    found = cut_runs(Placement("x", index, None, 0), None, 32 * MIB)
    assert len(found.footprints) == pytest.approx(runs, rel=0.1)
    assert found.decoded <= found.blocks_size * 1.08


def test_windows_hold_what_they_may(folder: Path) -> None:
    with archivestream.open(folder / "frames.tar.zst") as archive:
        runs = cut_runs(archive.placement(), None, 32 * MIB)
    for window in (1, MIB, 5 * MIB, 1 << 40):
        for lanes in (1, 3):
            bounds = BlockOrder(runs, window, lanes=lanes, seed=0, epoch=0)._window
            order = BlockOrder(runs, 1 << 40, lanes=1, seed=0, epoch=0)
            weight = {}
            run_of = np.searchsorted(order._end, np.arange(len(TEXTS)), side="right")
            feet = np.repeat(np.arange(len(order._end)), np.diff(np.append(0, order._end)))
            assert np.array_equal(run_of, feet)
            length = np.diff(np.append(0, order._end))
            first = order._shift + np.append(0, order._end[:-1])
            number = np.searchsorted(runs.starts, first, side="right") - 1
            assert np.array_equal(np.diff(runs.starts)[number], length)
            for begin, end in itertools.pairwise(bounds.tolist()):
                inside = np.unique(run_of[begin:end])
                weight[begin] = int(runs.footprints[number[inside]].sum())
                assert weight[begin] <= window or len(inside) == 1
            if lanes == 1 and window < 1 << 40:  # and no less: the next run would not have fitted
                assert np.median(list(weight.values())) > 0.8 * window or window == 1


def test_a_group_lies_where_its_first_member_lies(folder: Path) -> None:
    with archivestream.open(folder / "frames.tar.zst", cache=16 * MIB) as archive:
        bounds = np.arange(0, len(TEXTS) + 1, 4)

        class Groups:
            def __init__(self) -> None:
                self.archive, self.bounds, self.fingerprint = archive, bounds, "x"

            def __len__(self) -> int:
                return len(self.bounds) - 1

        sampler = ArchiveSampler(Groups(), batch_size=16, shuffle="block")
        assert sampler.report().read_amplification < 1.1
        with archive.metered() as metered:
            seen = []
            for batch in sampler:
                metered.read_batch(np.concatenate([np.arange(bounds[i], bounds[i + 1]) for i in batch]))
                seen += batch
            assert sorted(seen) == list(range(1000))
            assert metered.counters.decoded_bytes < 1.1 * sum(TEXTS)


@pytest.mark.parametrize("name", ["frames.tar.zst", "one.tar.zst", "a.tar", "a.zip"])
def test_reports_of_views(folder: Path, name: str) -> None:
    with archivestream.open(folder / name) as archive:
        for view in (
            archive.select([]),
            archive.select([7]),
            archive.select("0001*"),
            archive.select(slice(None, None, -3)),
        ):
            report = ArchiveSampler(view, shuffle="block").report()
            assert report.read_amplification >= 1
            assert report.mixing >= 0
            assert sorted(ArchiveSampler(view, shuffle="block")) == list(range(len(view)))
