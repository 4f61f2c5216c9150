"""Early ends of generators in threads and processes, and forks: nothing hangs or stays, and each `finally` runs."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
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
    endless,
    failing,
    fails_to_close,
    ignores_close,
    notes,
    numbers,
    process_ids,
    silent,
)
from leaks import descriptors, is_alive, leaves_nothing, threads, until

from archivestream import BackgroundIterator, background


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No thread, no process, no zombie, no descriptor is left."""
    with leaves_nothing():
        yield


# Early ends


@pytest.mark.parametrize("way", BOTH)
@pytest.mark.parametrize("taken", [0, 1, 20])
def test_close_runs_the_finally_of_the_generator(way: dict[str, Any], taken: int, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    items = background(endless, path, maxsize=3, **way)
    assert [next(items) for _ in range(taken)] == list(range(taken))
    until(lambda: len(notes(path)) == taken + 3)  # it rests: the queue is full
    items.close()
    assert notes(path)[-1] == "closed"
    assert next(items, None) is None
    items.close()


@pytest.mark.parametrize("way", BOTH)
def test_close_before_it_has_begun(way: dict[str, Any]) -> None:
    for _ in range(20):
        background(endless, **way).close()


@pytest.mark.parametrize("way", BOTH)
@pytest.mark.parametrize("end", ["break", "with", "error", "drop", "cycle"])
def test_every_kind_of_early_end(way: dict[str, Any], end: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    items: Any = background(endless, path, maxsize=2, **way)
    if end == "with":
        with items:
            assert next(items) == 0
        assert notes(path)[-1] == "closed"
    elif end == "error":
        with pytest.raises(ZeroDivisionError), items:
            1 / next(items)
        assert notes(path)[-1] == "closed"
    else:
        for item in items:
            if item == 4:
                break
        if end == "cycle":
            items.itself = items
    del items
    gc.collect()
    until(lambda: notes(path)[-1] == "closed")


@pytest.mark.parametrize("way", BOTH)
def test_close_from_another_thread_wakes_the_consumer(way: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x"
    items = background(silent, path, **way)
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(next(items, "closed")))
    reader.start()
    until(lambda: notes(path))
    path.with_suffix(".stop").touch()
    items.close()
    reader.join(10)
    assert found == ["closed"]


def test_a_process_that_never_yields_is_killed(tmp_path: Path) -> None:
    for end in (BackgroundIterator.close, lambda items: None):
        path = tmp_path / f"pid-{end.__name__}"
        items = background(silent, path, **FORK)
        until(lambda path=path: notes(path))
        end(items)
        del items
        until(lambda path=path: not is_alive(int(notes(path)[0])))


def test_a_process_that_is_stopped_is_killed() -> None:
    for size in (10, 10_000_000):  # between items, and in the midst of one

        def sized(size: int = size) -> Iterator[Any]:
            yield os.getpid()
            while True:
                yield bytes(size)

        items = background(sized, **FORK)
        os.kill(next(items), signal.SIGSTOP)
        items.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to RLIMIT_AS")
def test_an_item_that_does_not_fit_into_memory() -> None:
    """The rest of it is in the pipe, and is no message."""

    def large() -> Iterator[Any]:
        yield os.getpid()
        yield np.zeros(1 << 31, np.uint8)

    items = background(large, maxsize=1, **FORK)
    child = next(items)
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    try:
        with pytest.raises(MemoryError):
            next(items)
        items.close()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not is_alive(child)


def test_a_thread_that_never_yields_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "x"
    items = background(silent, path)
    with pytest.warns(RuntimeWarning, match="'silent' has not come to its next yield within 2 s"):
        items.close()
    assert len(threads()) == 1
    path.with_suffix(".stop").touch()


@pytest.mark.parametrize("way", BOTH)
def test_an_error_while_it_is_closed(way: dict[str, Any]) -> None:
    items = background(fails_to_close, **way)
    next(items)
    with pytest.raises(OSError, match="cannot write what was left"):
        items.close()
    items.close()
    items = background(ignores_close, **way)
    next(items)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        items.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("way", BOTH)
def test_an_error_while_a_dropped_one_is_closed_is_shown(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    items = background(fails_to_close, **way)
    next(items)
    del items
    gc.collect()
    until(lambda: shown)
    assert shown[0].exc_type is OSError


@pytest.mark.parametrize("way", BOTH)
def test_what_goes_wrong_with_an_item_that_nobody_asked_for(way: dict[str, Any]) -> None:
    with background(failing, "value", **way) as items:
        assert next(items) == 0


@pytest.mark.parametrize("way", BOTH)
def test_many_one_after_the_other(way: dict[str, Any]) -> None:
    before = len(descriptors())
    for i in range(30):
        items = background(endless, **way)
        assert next(items) == 0
        if i % 2:
            items.close()
        del items
    gc.collect()
    until(lambda: not threads())
    assert len(descriptors()) <= before


# Forks


@pytest.mark.parametrize("way", BOTH)
def test_a_fork_of_the_consumer(way: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "notes"
    items = background(endless, path, maxsize=2, **way)
    assert next(items) == 0
    pid = os.fork()
    if pid == 0:
        try:
            with pytest.raises(RuntimeError, match="this is a fork of it"):
                next(items)
            items.close()
            del items
            gc.collect()
            assert list(background(numbers, 10, **way)) == list(range(10))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [next(items) for _ in range(10)] == list(range(1, 11))
    items.close()
    assert notes(path)[-1] == "closed"


def test_a_fork_that_lives_on_does_not_keep_the_generator() -> None:
    items = background(process_ids, **FORK)
    next(items)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        began = background(numbers, 3, **FORK)
        items.close()
        assert list(began) == [0, 1, 2]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
