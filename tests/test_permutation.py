"""The keyed bijection behind a global shuffle: that it is one, that it is uniform, and that it never changes."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archivestream._native.permutation import Permutation

stats = pytest.importorskip("scipy.stats")

SEEDS = st.integers(-(1 << 200), 1 << 200)
LARGEST = 1 << 62


def images(n: int, positions: Any = None, **key: int) -> NDArray[np.int64]:
    found = np.arange(n) if positions is None else np.array(positions, np.int64)
    Permutation(n, **key).apply(found)
    return found


@settings(deadline=None)
@given(st.integers(0, 5000), SEEDS, SEEDS, SEEDS)
def test_every_element_comes_once(n: int, seed: int, epoch: int, stream: int) -> None:
    assert np.array_equal(np.sort(images(n, seed=seed, epoch=epoch, stream=stream)), np.arange(n))


@settings(deadline=None)
@given(st.integers(1, LARGEST), SEEDS, st.data())
def test_of_any_size(n: int, seed: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=50))
    found = images(n, positions, seed=seed)
    assert len(set(found.tolist())) == len(positions)
    assert all(0 <= image < n for image in found.tolist())
    # Each by itself gives the same as all together, whatever stands beside it.
    assert [int(images(n, [position], seed=seed)[0]) for position in positions] == found.tolist()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 9, 25, 255, 256, 257, 65535, 65536, 65537, 1 << 20])
def test_at_the_edges_of_its_halves(n: int) -> None:
    assert np.array_equal(np.sort(images(n, seed=1)), np.arange(n))


@settings(deadline=None)
@given(SEEDS, SEEDS, SEEDS)
def test_seed_epoch_and_stream_tell_orders_apart(a: int, b: int, c: int) -> None:
    keys = {(a, b, c), (a, c, b), (b, a, c), (a + 1, b, c), (a, b + 1, c), (a, b, c + 1), (-a, b, c)}
    orders = {tuple(images(60, seed=seed, epoch=epoch, stream=stream).tolist()) for seed, epoch, stream in keys}
    assert len(orders) == len(keys)
    assert images(60, seed=a, epoch=b).tolist() == images(60, seed=a, epoch=b, stream=0).tolist()


def test_what_it_gives_never_changes() -> None:
    """A state saved by one version is taken up by another: these numbers must stay."""
    assert images(10, seed=0).tolist() == [1, 3, 2, 7, 9, 4, 5, 8, 0, 6]
    assert images(1000, [0, 1, 2, 999], seed=1, epoch=2, stream=3).tolist() == [480, 608, 465, 775]
    assert images(10**9, [0, 1, 500_000_000, 999_999_999], seed=-7).tolist() == [
        779477970,
        601690096,
        185136872,
        730233467,
    ]
    assert images(LARGEST, [0, 1, LARGEST - 1], seed=10**100).tolist() == [
        4070541319660578966,
        4413723102677116369,
        4306303800631282666,
    ]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("varied", ["seed", "epoch", "stream"])
def test_all_permutations_of_a_few_come_equally_often(n: int, varied: str) -> None:
    number = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    expected = 60
    counts = np.zeros(len(number), np.int64)
    for i in range(expected * math.factorial(n)):
        counts[number[tuple(images(n, **{"seed": 0, varied: i}).tolist())]] += 1
    assert stats.chisquare(counts).pvalue > 0.005


@pytest.mark.parametrize(("n", "trials"), [(7, 2000), (30, 2000), (255, 1000), (256, 1000), (1000, 500), (20_000, 100)])
def test_it_shuffles_as_a_random_permutation_does(n: int, trials: int) -> None:
    orders = [images(n, seed=2024, epoch=epoch) for epoch in range(trials)]
    here = np.arange(n)
    displacement = [np.abs(order - here).mean() for order in orders]
    correlation = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    # The mean of each over all permutations, and how far the mean of the trials is from it in standard errors.
    for values, mean in (
        ([np.count_nonzero(order == here) for order in orders], 1),
        ([np.count_nonzero(np.diff(order) == 1) for order in orders], (n - 1) / n),
        (displacement, (n * n - 1) / 3 / n),
        (correlation, -1 / (n - 1)),
        ([order[0] for order in orders], (n - 1) / 2),
        ([np.corrcoef(first, second)[0, 1] for first, second in itertools.pairwise(orders)], 0),
    ):
        assert abs(np.mean(values) - mean) < 3.5 * np.std(values) / math.sqrt(len(values))


def test_odd_permutations_come_as_often_as_even_ones() -> None:
    """A network of two odd halves would make even ones only."""
    for n in (9, 25, 16, 50):
        odd = sum(sum(a > b for a, b in itertools.combinations(images(n, seed=s).tolist(), 2)) & 1 for s in range(400))
        assert 150 < odd < 250


def test_positions_that_are_not_there() -> None:
    permutation = Permutation(100, seed=0)
    for outside in (100, -1, 1 << 62, -(1 << 63)):
        positions = np.array([1, 2, outside])
        with pytest.raises(IndexError, match=rf"position {outside} of a permutation of 100"):
            permutation.apply(positions)
        assert positions.tolist() == [1, 2, outside]
    with pytest.raises(IndexError):
        Permutation(0, seed=0).apply(np.zeros(1, np.int64))
    Permutation(0, seed=0).apply(np.zeros(0, np.int64))


def test_arguments() -> None:
    assert len(Permutation(LARGEST, seed=True)) == LARGEST
    for n in (-1, LARGEST + 1):
        with pytest.raises((ValueError, OverflowError)):
            Permutation(n, seed=0)
    for key in ({"seed": 1.5}, {"seed": "1"}, {"seed": 0, "epoch": None}):
        with pytest.raises(TypeError):
            Permutation(3, **key)  # type: ignore[arg-type]
    assert images(50, seed=np.uint8(200)).tolist() == images(50, seed=200).tolist()


CHANGED = """
import threading
import numpy as np
from archivestream._native.permutation import Permutation
order, stop = np.arange(100_000), threading.Event()
def change():
    while not stop.is_set():
        order[::7] = -1
thread = threading.Thread(target=change)
thread.start()
for _ in range(40):
    order[:] = np.arange(len(order))
    try:
        Permutation(len(order), seed=0, epoch=0).apply(order)
    except IndexError:
        pass
stop.set()
thread.join()
"""


def test_positions_that_another_thread_changes() -> None:
    # In a process of its own: what does not end in native code cannot be interrupted.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", CHANGED], env=environment, timeout=60, check=True)


def test_from_several_threads() -> None:
    permutation = Permutation(10**6, seed=5)
    expected = images(10**6, seed=5)
    found: list[bool] = []

    def work() -> None:
        positions = np.arange(10**6)
        permutation.apply(positions)
        found.append(np.array_equal(positions, expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
