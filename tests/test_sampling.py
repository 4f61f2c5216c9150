"""ArchiveSampler: what each rank takes, and a state that any number of ranks takes up."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream import Archive, ArchiveChangedError, ArchiveSampler


def make_zip(members: int, size: int = 100) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(members):
            archive.writestr(f"{i:05d}", bytes(size))
    return file.getvalue()


@pytest.fixture(scope="module")
def archive() -> Archive:
    """200 members, in four runs of a MiB."""
    return archivestream.open(make_zip(200, 20_000))


class Samples:
    """Anything with a length and a fingerprint."""

    def __init__(self, length: int, fingerprint: str | None) -> None:
        self.length = length
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return self.length


def samplers(source: Any, world: int, **options: Any) -> list[ArchiveSampler]:
    return [ArchiveSampler(source, rank=rank, world_size=world, **options) for rank in range(world)]


def flat(items: list[Any]) -> list[int]:
    return [sample for item in items for sample in (item if isinstance(item, list) else [item])]


def passed_on(state: dict[str, Any]) -> dict[str, Any]:
    """A state as it comes from a file."""
    text = json.dumps(state)
    assert len(text) < 400
    return json.loads(text)


# What each rank takes

SIZES = st.integers(0, 120)
WORLDS = st.integers(1, 9)
BATCHES = st.none() | st.integers(1, 11)
SHUFFLES = st.sampled_from(["global", False])


@settings(deadline=None, max_examples=300)
@given(SIZES, WORLDS, BATCHES, SHUFFLES)
def test_every_sample_exactly_once(n: int, world: int, batch_size: int | None, shuffle: Any) -> None:
    ranks = samplers(n, world, batch_size=batch_size, shuffle=shuffle)
    lengths = [len(sampler) for sampler in ranks]
    items = [list(sampler) for sampler in ranks]
    assert [len(one) for one in items] == lengths
    assert sorted(flat(itertools.chain(*items))) == list(range(n))
    if batch_size is None or batch_size == 1 or n < world:
        assert max(lengths) - min(lengths) <= 1
    else:
        assert len(set(lengths)) == 1
        assert all(1 <= len(batch) <= batch_size for one in items for batch in one)
        assert lengths[0] == math.ceil(n / (batch_size * world))
        # All but the last two steps are full.
        assert all(len(batch) == batch_size for one in items for batch in one[:-2])


@settings(deadline=None, max_examples=200)
@given(SIZES, WORLDS, BATCHES, SHUFFLES)
def test_ranks_take_the_order_in_turn(n: int, world: int, batch_size: int | None, shuffle: Any) -> None:
    reference = list(ArchiveSampler(n, shuffle=shuffle, world_size=1, rank=0))
    for rank, sampler in enumerate(samplers(n, world, batch_size=batch_size, shuffle=shuffle)):
        assert flat(list(sampler)) == reference[rank::world]


@settings(deadline=None, max_examples=200)
@given(SIZES, WORLDS, BATCHES)
def test_drop_last_and_pad(n: int, world: int, batch_size: int | None) -> None:
    step = world * (batch_size or 1)
    reference = list(ArchiveSampler(n, shuffle="global", world_size=1, rank=0))
    dropping = [list(s) for s in samplers(n, world, batch_size=batch_size, shuffle="global", drop_last=True)]
    assert all(len(one) == n // step for one in dropping)
    assert sorted(flat(itertools.chain(*dropping))) == sorted(reference[: n // step * step])
    assert batch_size is None or all(len(batch) == batch_size for one in dropping for batch in one)
    padding = [list(s) for s in samplers(n, world, batch_size=batch_size, shuffle="global", pad=True)]
    each = math.ceil(n / world)
    assert all(len(flat(one)) == each for one in padding)
    assert len({len(one) for one in padding}) == 1
    repeated = Counter(flat(itertools.chain(*padding))) - Counter(range(n))
    assert repeated == Counter(itertools.islice(itertools.cycle(reference), each * world - n)) if n else not repeated
    for kind, items in (("drop_last", dropping), ("pad", padding)):
        found = [len(s) for s in samplers(n, world, batch_size=batch_size, **{kind: True})]
        assert found == [len(one) for one in items]


def test_epochs_and_seeds() -> None:
    orders = [list(ArchiveSampler(50, shuffle="global", seed=seed)) for seed in (0, 0, 1, -1, 10**40)]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4
    sampler = ArchiveSampler(50, shuffle=True)
    assert sampler.shuffle == "global"
    epochs = [list(sampler) for _ in range(3)]  # a finished one advances the epoch
    assert sampler.epoch == 3
    assert len({tuple(order) for order in epochs}) == 3
    for epoch in (2, 0, 1):
        sampler.set_epoch(epoch)
        assert list(sampler) == epochs[epoch]
    assert list(ArchiveSampler(5)) == list(range(5)) == list(ArchiveSampler(range(90, 95)))


def test_one_that_is_broken_off_begins_anew() -> None:
    sampler = ArchiveSampler(50, shuffle="global", batch_size=7)
    first = list(itertools.islice(sampler, 3))
    assert sampler.state_dict()["position"] == 21
    again = list(sampler)
    assert again[:3] == first
    assert sampler.epoch == 1
    assert list(sampler) != again


def test_the_items_are_python_ints() -> None:
    assert {type(i) for i in ArchiveSampler(5000, shuffle="global")} == {int}
    assert {type(i) for batch in ArchiveSampler(50, batch_size=8) for i in batch} == {int}


# States


@settings(deadline=None, max_examples=300)
@given(
    st.integers(0, 200),
    st.lists(st.tuples(WORLDS, BATCHES, st.integers(0, 8)), min_size=1, max_size=5),
    st.sampled_from(["global", "block", False]),
    st.sampled_from([{}, {"drop_last": True}, {"pad": True}]),
    st.data(),
)
def test_any_change_of_the_number_of_ranks(
    archive: Archive, n: int, legs: list[Any], shuffle: Any, ending: dict[str, bool], data: st.DataObject
) -> None:
    """The legs of an epoch, each with ranks and batches of its own, deliver each sample exactly once."""
    source = archive.select(range(n))
    order: dict[str, Any] = {"shuffle": shuffle, "seed": 3, "window": 2 << 20 if shuffle == "block" else None}
    delivered: list[int] = []
    state: dict[str, Any] = {}
    for world, batch_size, steps in legs:
        ranks = samplers(source, world, batch_size=batch_size, **order)
        for sampler in ranks:
            if state:
                sampler.load_state_dict(state)
        delivered += flat([item for sampler in ranks for item in itertools.islice(sampler, steps)])
        states = [passed_on(sampler.state_dict()) for sampler in ranks]
        if len(delivered) == n:  # some ranks know that it is over, and some have only got their last samples
            assert all((one["epoch"], one["position"]) in ((0, n), (1, 0)) for one in states)
            states = [one for one in states if one["epoch"] == 0] or [states[0] | {"epoch": 0, "position": n}]
        assert states == [states[0]] * len(states)
        state = data.draw(st.sampled_from(states))
        order = {}  # it is in the state
    world, batch_size = data.draw(WORLDS), data.draw(BATCHES)
    ranks = samplers(source, world, batch_size=batch_size, **ending)
    for sampler in ranks:
        sampler.load_state_dict(state)
    rest = [list(sampler) for sampler in ranks]
    assert all(sampler.epoch == 1 for sampler in ranks)
    delivered += flat([item for items in rest for item in items])
    counts = Counter(delivered)
    if not ending:
        assert counts == Counter(range(n))
    elif "pad" in ending:
        assert set(counts) == set(range(n))
        assert len({len(flat(items)) for items in rest}) == 1
        assert len(delivered) - n < world
    else:
        assert max(counts.values(), default=1) == 1
        assert n - len(counts) < world * (batch_size or 1)
        assert len({len(items) for items in rest}) == 1


@pytest.mark.parametrize("shuffle", ["global", "block"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_1_3_2_8(archive: Archive, shuffle: Any, batch_size: int | None) -> None:
    reference = list(ArchiveSampler(archive, shuffle=shuffle, seed=1, rank=0, world_size=1))
    state: dict[str, Any] | None = None
    delivered: list[int] = []
    for world, steps in ((1, 5), (3, 2), (2, 3), (8, None)):
        ranks = samplers(archive, world, batch_size=batch_size, shuffle=shuffle, seed=1)
        for sampler in ranks:
            if state is not None:
                sampler.load_state_dict(state)
        items = [list(itertools.islice(sampler, steps)) for sampler in ranks]
        # The ranks take what is left of the one order, in turn.
        rest = reference[len(delivered) :]
        assert [flat(one) for one in items] == [rest[rank::world][: len(flat(items[rank]))] for rank in range(world)]
        delivered += flat([item for one in items for item in one])
        state = passed_on(ranks[-1].state_dict())
    assert sorted(delivered) == list(range(200))


def test_block_order_is_of_those_who_began_the_epoch(archive: Archive) -> None:
    """The others go on with it; the next epoch is theirs."""
    first = ArchiveSampler(archive, shuffle="block", rank=0, world_size=4)
    next(iter(first))
    state = passed_on(first.state_dict())
    alone = ArchiveSampler(archive, shuffle="block")
    alone.load_state_dict(state)
    order = [list(sampler) for sampler in samplers(archive, 4, shuffle="block")]
    assert list(alone) == [sample for turn in zip(*order, strict=True) for sample in turn][4:]
    assert list(alone) == list(alone_in_epoch(archive, 1))


def alone_in_epoch(archive: Archive, epoch: int) -> ArchiveSampler:
    sampler = ArchiveSampler(archive, shuffle="block")
    sampler.set_epoch(epoch)
    return sampler


def test_states_before_the_first_and_after_the_last() -> None:
    sampler = ArchiveSampler(20, shuffle="global", batch_size=6)
    before = sampler.state_dict()
    assert (before["epoch"], before["position"]) == (0, 0)
    items = iter(sampler)
    assert sampler.state_dict() == before  # nothing was taken yet
    found = [next(items) for _ in range(4)]
    last = sampler.state_dict()
    assert (last["epoch"], last["position"]) == (0, 20)
    assert list(items) == []
    over = sampler.state_dict()
    assert (over["epoch"], over["position"]) == (1, 0)
    following = list(sampler)
    for state, expected in ((before, [found, following]), (last, [[], following]), (over, [following])):
        for _ in range(2):  # loaded twice
            sampler.load_state_dict(state)
        assert len(sampler) == len(expected[0])
        assert [list(sampler) for _ in expected] == expected


def test_a_state_is_taken_up_by_the_next_iteration_only() -> None:
    sampler = ArchiveSampler(20, shuffle="global")
    everything = list(sampler)
    sampler.set_epoch(0)
    state = {**sampler.state_dict(), "position": 13}
    sampler.load_state_dict(state)
    sampler.set_epoch(0)  # as a training loop does: it keeps the position
    assert len(sampler) == 7
    assert sampler.state_dict() == state
    items = iter(sampler)
    assert next(items) == everything[13]
    assert sampler.state_dict()["position"] == 14
    assert len(sampler) == 20
    sampler.set_epoch(0)
    assert sampler.state_dict()["position"] == 0
    assert list(sampler) == everything
    assert list(items) == everything[14:]  # goes on for whoever has it, but is not the sampler's any more
    assert sampler.epoch == 1
    sampler.load_state_dict(state)
    sampler.set_epoch(1)  # another epoch
    assert sampler.state_dict()["position"] == 0


def test_seed_and_order_come_with_the_state(archive: Archive) -> None:
    first = ArchiveSampler(archive, shuffle="block", seed=9, window=2 << 20)
    order = list(itertools.islice(first, 200))
    first.set_epoch(0)
    list(itertools.islice(first, 50))
    other = ArchiveSampler(archive, shuffle=False, seed=1)
    other.load_state_dict(passed_on(first.state_dict()))
    assert (other.shuffle, other.seed, other.window) == ("block", 9, 2 << 20)
    assert list(other) == order[50:]
    plain = ArchiveSampler(len(archive))
    with pytest.raises(ValueError, match="block order needs an Archive"):
        plain.load_state_dict(first.state_dict() | {"fingerprint": None})


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_what_has_been_delivered_of_what_was_given(world: int, batch_size: int | None) -> None:
    """A loader reads ahead; what it has not handed out comes again."""
    ranks = samplers(50, world, batch_size=batch_size, shuffle="global")
    items = [list(sampler) for sampler in ranks]
    for steps in range(min(map(len, items)) + 1):
        counts = [len(flat(one[:steps])) for one in items]
        states = [sampler.state_dict(delivered=count) for sampler, count in zip(ranks, counts, strict=True)]
        assert states == [states[0]] * world
        assert states[0]["epoch"] == 0
        rest = samplers(50, 2)
        for sampler in rest:
            sampler.load_state_dict(states[0])
        done = flat([item for one in items for item in one[:steps]])
        assert sorted(done + [sample for sampler in rest for sample in sampler]) == list(range(50))
    for wrong in (-1, len(flat(items[0])) + 1):
        with pytest.raises(ValueError, match=rf"delivered cannot be {wrong}"):
            ranks[0].state_dict(delivered=wrong)
    ranks[0].set_epoch(5)
    assert ranks[0].state_dict(delivered=0)["epoch"] == 5
    with pytest.raises(ValueError, match="has given 0 samples"):
        ranks[0].state_dict(delivered=1)


def test_a_state_of_another_data_set(archive: Archive) -> None:
    state = ArchiveSampler(Samples(10, "aa")).state_dict()
    for other in (Samples(10, "bb"), Samples(11, "aa"), Samples(9, None), 11):
        sampler = ArchiveSampler(other)
        with pytest.raises(ArchiveChangedError, match=r"another data set.*begin anew"):
            sampler.load_state_dict(state)
        assert isinstance(sampler.state_dict(), dict)
    for same in (Samples(10, "aa"), Samples(10, None), 10):
        sampler = ArchiveSampler(same)
        sampler.load_state_dict(state)
        assert list(sampler) == list(range(10))
    assert ArchiveSampler(10).state_dict()["fingerprint"] is None
    with pytest.raises(ArchiveChangedError, match=r"bytes.*another data set"):
        ArchiveSampler(archive).load_state_dict(state)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*ArchiveSampler(1).state_dict(), "other"])


@settings(deadline=None, max_examples=500)
@given(st.dictionaries(KEYS, JUNK, max_size=3), st.sets(KEYS, max_size=2), st.sampled_from(["global", "block", False]))
def test_malformed_states(archive: Archive, changes: dict[str, Any], without: set[str], shuffle: Any) -> None:
    """Refused with nothing changed, or as good as any."""
    state = ArchiveSampler(archive, shuffle=shuffle, seed=4).state_dict()
    damaged = {key: value for key, value in (state | {"position": 30} | changes).items() if key not in without}
    sampler = ArchiveSampler(archive, shuffle="global")
    before = sampler.state_dict()
    try:
        sampler.load_state_dict(damaged)
    except (ValueError, ArchiveChangedError):
        assert sampler.state_dict() == before
    else:
        assert len(list(sampler)) == 200 - damaged["position"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "its version is 2, not 1"),
        ({"version": None}, "its version is None"),
        ({"position": 11}, "its position is 11 of 10"),
        ({"position": -1}, "its position is -1"),
        ({"position": 1.0}, r"its position is 1\.0"),
        ({"epoch": True}, "its epoch is True"),
        ({"seed": "1"}, "its seed is '1'"),
        ({"lanes": 0}, "its lanes is 0"),
        ({"shuffle": 0}, "its shuffle is 0"),
        ({"shuffle": "local"}, "its shuffle is 'local'"),
        ({"window": 5}, "its window is 5"),
        ({"fingerprint": 3}, "its fingerprint is 3"),
    ],
)
def test_what_is_wrong_with_a_state_is_said(change: dict[str, Any], message: str) -> None:
    sampler = ArchiveSampler(10)
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(sampler.state_dict() | change)
    with pytest.raises(ValueError, match="it is a list"):
        sampler.load_state_dict([])  # type: ignore[arg-type]


TRAIN = """
import json, os, sys, time
from archivestream import ArchiveSampler
rank, folder = int(sys.argv[1]), sys.argv[2]
sampler = ArchiveSampler(5000, batch_size=16, shuffle="global", seed=2, rank=rank, world_size=2)
with open(f"{folder}/log-{rank}", "w") as log:
    for batch in sampler:
        print(json.dumps(batch), file=log, flush=True)
        with open(f"{folder}/new-{rank}", "w") as file:
            json.dump(sampler.state_dict(), file)
        os.replace(f"{folder}/new-{rank}", f"{folder}/state-{rank}")
        time.sleep(0.002)
"""


def test_killed_in_the_middle_and_resumed_by_another_number(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN]
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    logs = [tmp_path / f"log-{rank}" for rank in range(2)]
    while not all(log.exists() and log.read_text().count("\n") > 10 for log in logs):
        assert all(process.poll() is None for process in processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    # The ranks were in no step with each other here: the one that was behind says how far both have come.
    states = [json.loads((tmp_path / f"state-{rank}").read_text()) for rank in range(2)]
    state = min(states, key=lambda state: state["position"])
    steps, rest = divmod(state["position"], 2 * 16)
    assert rest == 0 < steps < 150
    delivered = [sample for log in logs for line in log.read_text().splitlines()[:steps] for sample in json.loads(line)]
    ranks = samplers(5000, 3, batch_size=10)
    for sampler in ranks:
        sampler.load_state_dict(state)
    resumed = [list(sampler) for sampler in ranks]
    assert len({len(items) for items in resumed}) == 1
    assert sorted(delivered + flat([item for items in resumed for item in items])) == list(range(5000))


# Size, threads, copies, arguments


def test_a_billion_samples_cost_no_memory() -> None:
    n = 10**9
    ArchiveSampler(n, shuffle="global").report()  # imports
    tracemalloc.start()
    try:
        sampler = ArchiveSampler(n, shuffle="global", batch_size=256, rank=5, world_size=8)
        first = next(iter(sampler))
        sampler.load_state_dict({**sampler.state_dict(), "position": n // 2})
        middle = next(iter(sampler))
        assert sampler.state_dict()["position"] == n // 2 + 2048
        sampler.load_state_dict({**sampler.state_dict(), "position": n - 100})
        last = list(sampler)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(first) == len(middle) == 256
    assert [len(batch) for batch in last] == [12]
    assert len({*first, *middle, *last[0]}) == 256 + 256 + 12
    assert max(first) > n // 2
    assert len(sampler) == -(-n // 2048)
    assert sampler.report().mixing == pytest.approx(1, abs=0.05)


def test_a_state_from_another_thread() -> None:
    sampler = ArchiveSampler(100_000, shuffle="global", batch_size=3)
    done = threading.Event()
    positions: list[int] = []

    def watch() -> None:
        while not done.is_set():
            positions.append(sampler.state_dict()["position"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    taken = [next(items) for items in [iter(sampler)] for _ in range(20_000)]
    done.set()
    watcher.join()
    assert positions == sorted(positions)
    assert positions[-1] <= len(flat(taken)) == sampler.state_dict()["position"]


def test_an_iteration_for_each_thread(archive: Archive) -> None:
    for shuffle in ("global", "block"):
        sampler = ArchiveSampler(archive, shuffle=shuffle)
        expected = list(itertools.islice(sampler, 200))
        start = threading.Barrier(4)
        found: list[list[int]] = []

        def work() -> None:
            items = iter(sampler)  # noqa: B023
            first = next(items)
            start.wait()  # noqa: B023
            found.append([first, *items])  # noqa: B023

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 4


def test_pickles_and_copies(archive: Archive) -> None:
    for source, options in ((1000, {"shuffle": "global"}), (archive, {"shuffle": "block", "batch_size": 8})):
        sampler = ArchiveSampler(source, seed=3, **options)
        state = {**sampler.state_dict(), "position": 88}
        sampler.load_state_dict(state)
        expected = list(itertools.islice(sampler, len(sampler)))
        for twin in (pickle.loads(pickle.dumps(sampler)), copy.copy(sampler), copy.deepcopy(sampler)):
            assert twin.state_dict()["position"] == 0  # an iteration stays where it is
            twin.load_state_dict(state)
            assert list(twin) == expected
            twin.set_epoch(7)
        assert sampler.epoch == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 is none of 2"),
        ({"rank": -1, "world_size": 2}, "rank -1 is none of 2"),
        ({"rank": 0, "world_size": 0}, "rank 0 is none of 0"),
        ({"rank": 0}, "give both, or neither"),
        ({"world_size": 1}, "give both, or neither"),
        ({"drop_last": True, "pad": True}, "choose one of them"),
        ({"shuffle": "block"}, "block order needs an Archive or an ArchiveDataset"),
        ({"shuffle": "locally"}, "shuffle must be 'global', 'block' or False, not 'locally'"),
        ({"shuffle": 0}, "shuffle must be .* not 0"),
        ({"shuffle": None}, "shuffle must be .* not None"),
        ({"window": 5}, "window is for block order"),
    ],
)
def test_arguments_that_are_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchiveSampler(10, **options)


def test_more_arguments_that_are_wrong(archive: Archive) -> None:
    for window in (0, -1):
        with pytest.raises(ValueError, match="window must be 1 byte or more"):
            ArchiveSampler(archive, shuffle="block", window=window)
    with pytest.raises(ValueError, match="0 or more samples, not -1"):
        ArchiveSampler(-1)
    with pytest.raises(ValueError, match="an epoch is 0 or more, not -1"):
        ArchiveSampler(1).set_epoch(-1)
    for options in ({"seed": 1.5}, {"batch_size": 2.0}, {"rank": "0", "world_size": "1"}):
        with pytest.raises(TypeError):
            ArchiveSampler(1, **options)
    with pytest.raises(TypeError):
        ArchiveSampler(iter([]))  # type: ignore[arg-type]
    assert ArchiveSampler(archive, shuffle="block", window=10**40).report().windows == 1


def test_ranks_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert (ArchiveSampler(1).rank, ArchiveSampler(1).world_size) == (0, 1)  # one alone says nothing
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (ArchiveSampler(1).rank, ArchiveSampler(1).world_size) == (1, 4)
    assert ArchiveSampler(1, rank=0, world_size=2).world_size == 2
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="rank 1 is none of 1"):
        ArchiveSampler(1)
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ValueError, match=r"RANK='1' and WORLD_SIZE='many'.*give rank= and world_size="):
        ArchiveSampler(1)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from archivestream import ArchiveSampler\n"
        "print(len(list(ArchiveSampler(10, shuffle='global', batch_size=4))), 'torch.utils' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
