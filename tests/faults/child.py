"""Runs something in a forked process, where it may crash."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterable

__all__ = ["each_in_child", "in_child"]


def in_child(call: Callable[[], object], seconds: int = 60) -> int:
    """Call in a forked process; return the signal that ended it, or 0. What it raises is an `AssertionError` here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)  # a call that hangs is a failure
        try:
            call()
            os._exit(0)
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status <= 0, said
    return -status


def each_in_child(items: Iterable[int], call: Callable[[int], int]) -> list[int]:
    """Call for each item in one forked process, and return what the calls did; a crash names the item."""
    read, write = os.pipe()

    def call_each() -> None:
        for item in items:
            os.write(write, b"%d " % item)
            os.write(write, b"%d\n" % call(item))

    try:
        ended = in_child(call_each, 600)
    finally:
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = [line.split() for line in pipe]
        done = [int(words[1]) for words in lines if len(words) == 2]
        last = lines[-1][0] if lines else "none"
        if len(done) < len(lines):
            print(f"the last point was {last}", flush=True)
    assert ended == 0, f"it ended by signal {ended} at point {last}"
    return done
