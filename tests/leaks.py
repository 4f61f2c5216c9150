"""What a test may leave behind: processes, descriptors. And a wait for what must come."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

from archivestream import background


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that must become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.005)


def descriptors() -> set[str]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return set(os.listdir(folder))


def processes(*columns: str) -> list[list[str]]:
    """List the columns of all processes."""
    command = ["ps", "-A", "-ww", "-o", ",".join(f"{column}=" for column in columns)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, len(columns) - 1) for line in output.splitlines()]
    return [row for row in rows if len(row) == len(columns)]


def children() -> list[int]:
    """List the children of this process, zombies too, but for those that multiprocessing keeps for itself."""
    return [
        int(pid)
        for parent, pid, command in processes("ppid", "pid", "args")
        if int(parent) == os.getpid()
        and "resource_tracker" not in command
        and "forkserver" not in command
        and not command.startswith("ps ")
    ]


def is_alive(pid: int) -> bool:
    """Whether there is such a process. (An orphan may stay a zombie until the system waits for it.)"""
    return any(int(one) == pid and not state.startswith("Z") for one, state in processes("pid", "stat"))


def group_is_gone(group: int) -> bool:
    return not any(int(one) == group and not state.startswith("Z") for one, state in processes("pgid", "stat"))


def threads() -> list[threading.Thread]:
    """List the threads of background iterations."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("archivestream.background")]


@functools.cache
def start_helpers() -> None:
    """Have the processes that multiprocessing keeps for itself (its resource tracker, its fork server) started."""
    for method in multiprocessing.get_all_start_methods():
        assert list(background(range, 1, processes=True, start_method=method)) == [0]


@contextlib.contextmanager
def leaves_nothing() -> Iterator[None]:
    """Hold that no thread, no process, no zombie and no descriptor is left at the end."""
    start_helpers()
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    until(lambda: not threads())
    assert multiprocessing.active_children() == []
    until(lambda: not children())
    assert len(descriptors()) <= len(before)
