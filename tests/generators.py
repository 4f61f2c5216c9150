"""Generators to iterate in the background, and the ways to do so."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archivestream import CorruptArchiveError

METHODS = [m for m in ("fork", "forkserver", "spawn") if m in multiprocessing.get_all_start_methods()]
THREAD: dict[str, Any] = {}
FORK: dict[str, Any] = {"processes": True, "start_method": "fork"}
WAYS = [
    pytest.param(THREAD, id="thread"),
    *(pytest.param({"processes": True, "start_method": method}, id=method) for method in METHODS),
]
# Where it does not matter how the process was started.
BOTH = [pytest.param(THREAD, id="thread"), pytest.param(FORK, id="process")]


def numbers(count: int, start: int = 0) -> Iterator[int]:
    yield from range(start, start + count)


def endless(path: Path | None = None) -> Iterator[int]:
    """Count; append the numbers of items made, and what was done at the end, to a file."""
    try:
        for i in itertools.count():
            if path is not None:
                note(path, str(i))
            yield i
    finally:
        if path is not None:
            note(path, "closed")


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(f"{text}\n")


def notes(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def process_ids() -> Iterator[int]:
    while True:
        yield os.getpid()


def silent(path: Path) -> Iterator[int]:
    """Never yield."""
    note(path, str(os.getpid()))
    while True:
        time.sleep(0.05)
        if path.with_suffix(".stop").exists():
            return
    yield 0


class TwoArguments(Exception):
    """Pickles, but cannot be restored."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Refuses:
    """Pickles, but cannot be restored."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> Any:
    raise OSError("not here")


class LocksUp(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


def failing(kind: str) -> Iterator[int]:
    yield 0
    yield 1
    if kind == "value":
        raise ValueError("the third item is broken")
    if kind == "archive":
        raise CorruptArchiveError("broken", archive="a.zip", member="m")
    if kind == "arguments":
        raise TwoArguments("two", "arguments")
    if kind == "lock":
        raise LocksUp
    if kind == "exit":
        sys.exit(3)
    if kind == "stop":
        next(iter(()))
    if kind == "surrogate":
        raise ValueError("\udc80")


def dying(how: str) -> Iterator[int]:
    yield 0
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        import faulthandler

        faulthandler.disable()  # its report is not what is tested
        ctypes.string_at(0)
    yield 1


def fails_at_once() -> Iterator[int]:
    raise LookupError("there is no such data set")


def fails_to_close() -> Iterator[int]:
    try:
        yield from itertools.count()
    finally:
        raise OSError("cannot write what was left")


def ignores_close() -> Iterator[int]:
    while True:
        try:
            yield 1
        except GeneratorExit:
            yield 2
