"""Generators in threads and processes: items and errors arrive; whatever ends them, nothing hangs and nothing stays."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import (
    BOTH,
    FORK,
    METHODS,
    THREAD,
    WAYS,
    LocksUp,
    Refuses,
    TwoArguments,
    dying,
    endless,
    failing,
    fails_at_once,
    notes,
    numbers,
    process_ids,
    refuse,
    silent,
)
from leaks import descriptors, leaves_nothing, threads, until

from archivestream import CorruptArchiveError, background


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No thread, no process, no zombie, no descriptor is left."""
    with leaves_nothing():
        yield


# Items


@pytest.mark.parametrize("way", WAYS)
def test_items_arrive_in_order(way: dict[str, Any]) -> None:
    assert list(background(numbers, 1000, **way)) == list(range(1000))
    assert list(background(numbers, 3, start=5, maxsize=1, **way)) == [5, 6, 7]
    assert list(background(numbers, 0, **way)) == []
    assert list(background(range, 4, **way)) == [0, 1, 2, 3]


@pytest.mark.parametrize("way", WAYS)
def test_where_it_runs(way: dict[str, Any]) -> None:
    with background(process_ids, **way) as items:
        assert (next(items) == os.getpid()) == (way == THREAD)


@pytest.mark.parametrize("way", BOTH)
def test_after_the_end_there_is_nothing(way: dict[str, Any]) -> None:
    items = background(numbers, 2, **way)
    assert iter(items) is items
    assert list(items) == [0, 1]
    assert list(items) == []
    items.close()
    assert next(items, None) is None
    assert not threads()


def test_any_items_come_through_a_process() -> None:
    large = np.arange(13_000_000, dtype=np.float64)  # 104 MB
    frozen = np.arange(100_000)
    frozen.setflags(write=False)
    sent = [
        large,
        large[::2],  # not contiguous
        np.asfortranarray(large[:1_000_000].reshape(1000, 1000)),
        frozen,
        {"x": [large[:20_000], large[:10], b"bytes" * 50_000], "y": None},
        [np.full(10_000, i) for i in range(2000)],  # more buffers than one call can write
        np.empty((0, 3)),
        b"",
        None,
        CorruptArchiveError("not raised", archive="a", member="b"),
    ]
    received = list(background(lambda: sent, **FORK))
    assert len(received) == len(sent)
    for one, other in zip(sent, received, strict=True):
        if isinstance(one, np.ndarray):
            assert other.dtype == one.dtype
            assert other.flags.writeable == one.flags.writeable
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(received[4]["x"][0], large[:20_000])
    assert received[4]["x"][2] == sent[4]["x"][2]
    assert [part[0] for part in received[5]] == list(range(2000))
    assert received[7:9] == [b"", None]
    assert str(received[9]) == str(sent[9])


def test_an_item_is_as_it_was_when_it_was_yielded() -> None:
    def reused() -> Iterator[Any]:
        array = np.zeros(100_000, np.int64)
        for i in range(20):
            array[:] = i
            yield array

    assert [int(array.max()) for array in background(reused, **FORK)] == list(range(20))


@pytest.mark.parametrize("maxsize", [1, 3, 5000])
@pytest.mark.parametrize("way", BOTH)
def test_no_more_than_maxsize_items_wait(way: dict[str, Any], maxsize: int, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    with background(endless, path, maxsize=maxsize, **way) as items:
        until(lambda: len(notes(path)) >= maxsize)
        time.sleep(0.1)
        assert len(notes(path)) == maxsize
        assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        until(lambda: len(notes(path)) >= maxsize + 5)
        time.sleep(0.1)
        assert len(notes(path)) == maxsize + 5


@pytest.mark.parametrize("way", BOTH)
def test_several_threads_share_an_iteration(way: dict[str, Any]) -> None:
    items = background(numbers, 2000, **way)
    found: list[int] = []
    readers = [threading.Thread(target=lambda: found.extend(items)) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert sorted(found) == list(range(2000))


@pytest.mark.parametrize("way", BOTH)
def test_one_inside_the_other(way: dict[str, Any]) -> None:
    def outer() -> Iterator[int]:
        with background(numbers, 1000, **way) as inner:
            yield from inner

    assert list(background(outer, **way)) == list(range(1000))
    with background(outer, **way) as items:
        assert next(items) == 0


# Errors


@pytest.mark.parametrize("way", WAYS)
def test_an_error_comes_after_the_items_before_it(way: dict[str, Any]) -> None:
    items = background(failing, "value", **way)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the third item is broken") as caught:
        next(items)
    shown = "".join(traceback.format_exception(caught.value))
    assert 'raise ValueError("the third item is broken")' in shown
    assert "in failing" in shown
    assert next(items, None) is None


@pytest.mark.parametrize("way", BOTH)
def test_an_error_of_ours_keeps_its_names(way: dict[str, Any]) -> None:
    with pytest.raises(CorruptArchiveError, match=r"a\.zip: member 'm': broken") as caught:
        list(background(failing, "archive", **way))
    assert (caught.value.archive, caught.value.member) == ("a.zip", "m")


@pytest.mark.parametrize("kind", ["arguments", "lock"])
def test_an_error_that_cannot_be_pickled(kind: str) -> None:
    with pytest.raises((TwoArguments, LocksUp)):
        list(background(failing, kind))
    with pytest.raises(RuntimeError, match=r"'failing' raised in process \d+") as caught:
        list(background(failing, kind, **FORK))
    assert "in failing" in str(caught.value)
    assert ("two arguments" if kind == "arguments" else "has a lock") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [("exit", SystemExit, "3"), ("stop", RuntimeError, "StopIteration"), ("surrogate", ValueError, "\udc80")],
)
@pytest.mark.parametrize("way", BOTH)
def test_unusual_errors(way: dict[str, Any], kind: str, error: type[BaseException], message: str) -> None:
    with pytest.raises(error, match=message):
        list(background(failing, kind, **way))


@pytest.mark.parametrize("way", BOTH)
def test_a_function_that_fails_or_returns_no_iterable(way: dict[str, Any]) -> None:
    for function, error in ((fails_at_once, LookupError), (os.getpid, TypeError), (refuse, OSError)):
        with pytest.raises(error):
            next(background(function, **way))  # type: ignore[arg-type]

    def stops() -> Iterator[int]:
        raise StopIteration

    with pytest.raises(RuntimeError):
        next(background(lambda: next(iter(())), **way))
    with pytest.raises(RuntimeError):
        next(background(stops, **way))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("kill", r"was killed by signal 9 \(SIGKILL\) after 1 items; the system does that when memory runs out"),
        ("terminate", r"was killed by signal 15 \(SIGTERM\) after 1 items"),
        ("segfault", r"was killed by signal 11 \(SIGSEGV\) after 1 items"),
        ("exit", r"ended with exit code 7 after 1 items, before the generator did"),
    ],
)
def test_a_process_that_dies_is_an_error(how: str, message: str) -> None:
    items = background(dying, how, **FORK)
    assert next(items) == 0
    with pytest.raises(RuntimeError, match=rf"process \d+, in which 'dying' ran, {message}"):
        next(items)
    assert next(items, None) is None


@pytest.mark.parametrize("way", WAYS[1:])
def test_a_process_that_is_killed_from_outside(way: dict[str, Any], tmp_path: Path) -> None:
    items = background(process_ids, maxsize=2, **way)
    pid = next(items)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"process {pid}, .* killed by signal 9"):
        list(items)
    items = background(silent, tmp_path / "pid", **way)
    until(lambda: notes(tmp_path / "pid"))
    os.kill(int(notes(tmp_path / "pid")[0]), signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed by signal 9"):
        next(items)


def test_a_process_that_is_killed_in_the_midst_of_an_item() -> None:
    def large() -> Iterator[Any]:
        yield os.getpid()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            yield bytes(300_000_000)

    items = background(large, maxsize=1, **FORK)
    pid = next(items)
    with pytest.raises(RuntimeError, match=rf"process {pid}, .* killed by signal 9"):
        list(items)


@pytest.mark.parametrize("kind", ["fork", "program"])
def test_a_process_whose_own_child_lives_on(kind: str) -> None:
    """A fork closes the pipes that it inherits; a program that was given them keeps them open."""

    def leaves_a_child() -> Iterator[int]:
        if kind == "fork":
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
        else:
            for descriptor in map(int, descriptors()):
                with contextlib.suppress(OSError):  # that of the folder
                    os.set_inheritable(descriptor, True)
            pid = subprocess.Popen(["sleep", "60"], close_fds=False).pid
        yield pid
        os.kill(os.getpid(), signal.SIGKILL)

    items = background(leaves_a_child, **FORK)
    grandchild = next(items)
    try:
        with pytest.raises(RuntimeError, match="killed by signal 9"):
            next(items)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_an_item_that_cannot_be_pickled_is_named() -> None:
    for item, kind in ((threading.Lock(), r"_thread\.lock"), (lambda: 0, r"builtins\.function"), (numbers(1), "gen")):
        assert next(background(lambda item=item: [item])) is item
        items = background(lambda item=item: [1, item], **FORK)
        assert next(items) == 1
        with pytest.raises(TypeError, match=rf"an item of type .*{kind}.* cannot be sent .*processes=False"):
            next(items)


def test_an_item_that_cannot_be_restored() -> None:
    items = background(lambda: [1, Refuses(), 2], **FORK)
    assert next(items) == 1
    with pytest.raises(RuntimeError, match=r"item 1 of .* cannot be restored here: OSError: not here"):
        next(items)
    assert next(items, None) is None


@pytest.mark.parametrize("method", [m for m in METHODS if m != "fork"])
def test_a_function_that_cannot_be_pickled(method: Any) -> None:
    for function, args in ((lambda: [1], ()), (numbers, (threading.Lock(),))):
        with pytest.raises(TypeError, match=rf"top level of a module.* start_method='fork'") as caught:  # noqa: F541
            background(function, *args, processes=True, start_method=method)
        assert method in str(caught.value)
    with pytest.raises(TypeError, match="spawn"):
        background(lambda: [1], processes=True)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="maxsize"):
        background(numbers, 1, maxsize=0)
    with pytest.raises(ValueError, match="processes=True"):
        background(numbers, 1, start_method="fork")
    with pytest.raises(ValueError, match="no_such_method"):
        background(numbers, 1, processes=True, start_method="no_such_method")  # type: ignore[arg-type]
    with background(numbers, 1) as items, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(items)
