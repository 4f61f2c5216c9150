"""Threads that work ahead of whoever takes their results, and leave nothing behind."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Prefetcher", "Workers"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_here = threading.local()  # whether this thread is one of ours
_POLL = 0.1  # seconds
_EXIT_SECONDS = 5.0  # that the interpreter waits for work under way when it exits


class _Job:
    """A call that a thread makes.

    Whoever waits for it may be interrupted between any two of his steps (Ctrl-C), so he keeps no account of it: the
    job itself says whether it has ended, and what comes through the queue only wakes him.
    """

    __slots__ = ("_done", "_turn", "error", "function", "has_ended", "item", "result")

    def __init__(self, function: Callable[[Any], Any], item: Any, done: SimpleQueue[None]) -> None:
        self.function = function
        self.item = item
        self.has_ended = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._done = done
        self._turn = threading.Lock()  # for good: of the thread that makes the call, or of whoever calls it off

    def run(self, failed: BaseException | None = None) -> None:
        """Make the call, unless it was called off or the thread has failed."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if failed is not None:
                raise failed
            self.result = self.function(self.item)
        except BaseException as error:  # whatever it is: it is raised where the result is waited for
            self.error = error
        self._end()

    def call_off(self) -> None:
        """End it now, unless it has begun."""
        if self._turn.acquire(blocking=False):
            self._end()

    def _end(self) -> None:
        self.has_ended = True
        self._done.put(None)

    def take(self) -> Any:
        """Return the result, or raise what went wrong."""
        if self.error is None:
            return self.result
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error  # or its traceback leads back to itself


class Workers:
    """Some threads that do jobs in the order in which they were asked to.

    Parameters
    ----------
    count : int
        How many threads.
    begin : callable, optional
        Called with its number, from 0, in each thread before its first job; what it raises is raised by that job.

    Attributes
    ----------
    idle_seconds : float
        How long threads have waited between two jobs, in sum.
    """

    def __init__(self, count: int, begin: Callable[[int], object] | None = None) -> None:
        self.process = os.getpid()
        self.is_over = False  # the interpreter exits: what has not ended by now never will
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle: list[float] = [0.0] * count  # by thread, so that no two write to one place
        # Daemons, so that a job that never ends cannot keep the interpreter from exiting. They know the queue
        # and not this object, which ends them when it is dropped.
        self._threads = [
            _Worker(target=_serve, args=(self._jobs, self._idle, i, begin), name=f"archivestream-{i}", daemon=True)
            for i in range(count)
        ]
        self._finalizer = weakref.finalize(self, _stop, self._jobs, count)
        self._finalizer.atexit = False  # `_stop_all` waits for the threads, too
        for thread in self._threads:
            thread.start()
        _living.add(self)

    @property
    def idle_seconds(self) -> float:
        """How long threads have waited between two jobs, in sum."""
        return sum(self._idle)

    def submit(self, job: _Job) -> None:
        """Ask for a job."""
        self._jobs.put(job)

    def call_off(self) -> None:
        """Cancel the jobs that have not begun."""
        drained: list[_Job | None] = []
        with contextlib.suppress(Empty):
            while True:
                drained.append(self._jobs.get_nowait())
        for job in drained:
            if job is None:  # which ends a thread
                self._jobs.put(None)
            else:
                job.call_off()

    def stop(self, timeout: float | None = None) -> None:
        """End the threads once they have done their jobs, and wait for that, or not longer than `timeout` seconds."""
        if self._finalizer.detach() is not None:
            _stop(self._jobs, len(self._threads))
        if self.process != os.getpid() or _is_worker():
            return  # they are in the parent process, or would wait for each other
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))


class _Worker(threading.Thread):
    """One of them, also of those that were dropped."""


_living: weakref.WeakSet[Workers] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    # A thread that comes back from native code to an interpreter that is gone would be ended where it stands.
    every = list(_living)
    for workers in every:
        workers.call_off()
        workers.stop(0)
    end = time.monotonic() + _EXIT_SECONDS
    for thread in threading.enumerate():
        if isinstance(thread, _Worker):
            thread.join(max(0.0, end - time.monotonic()))
    for workers in every:
        workers.is_over = True


def _stop(jobs: SimpleQueue[_Job | None], count: int) -> None:
    for _ in range(count):
        jobs.put(None)


def _is_worker() -> bool:
    return getattr(_here, "is_worker", False)


def _serve(
    jobs: SimpleQueue[_Job | None], idle: list[float], number: int, begin: Callable[[int], object] | None
) -> None:
    _here.is_worker = True
    failed: list[BaseException] = []
    if begin is not None:
        try:
            begin(number)
        except BaseException as error:  # whatever it is: it is raised where the jobs are waited for
            failed = [error, RuntimeError(f"thread {number} could not begin: see its first exception")]
    since: float | None = None
    while (job := jobs.get()) is not None:
        if since is not None:
            idle[number] += time.perf_counter() - since
        # Once: an exception takes up the frames of all who raise it, and with them what they refer to.
        job.run(None if not failed else failed.pop(0) if len(failed) > 1 else copy(failed[0]))
        since = time.perf_counter()
        del job  # nothing is held while there is nothing to do


class Prefetcher(Iterator[_Result], Generic[_Item, _Result]):
    """The results of a function for some items, made ahead by threads.

    Parameters
    ----------
    function : callable
        Called with each item, in one of the threads.
    items : iterable
        Taken from on the thread of the caller, no more than `ahead` of them before their turn, and at least one.
    workers : Workers or None
        The threads; None to call the function when its result is asked for.
    ahead : int
        How many results may be under way or waiting.
    in_order : bool
        Give the results in the order of the items; else as they come.
    timeout : float
        Most seconds to wait for a result; 0 for any time.

    What the function raises is raised in place of its result, and the next one can be asked for after it. One thread
    at a time may ask.
    """

    def __init__(
        self,
        function: Callable[[_Item], _Result],
        items: Iterable[_Item],
        workers: Workers | None,
        *,
        ahead: int = 1,
        in_order: bool = True,
        timeout: float = 0,
    ) -> None:
        self._function = function
        self._items = iter(items)
        self._workers = workers
        self._in_order = in_order
        self._timeout = timeout
        self._pending: deque[_Job] = deque()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._stuck = False
        self._closed = False
        self.waited = 0.0  # seconds that the caller has waited
        # The first is taken at once, with no workers, too: whoever has begun an iteration has begun that of its items.
        self._items = itertools.chain([*itertools.islice(self._items, 1)], self._items)
        if workers is not None:
            self._ask(ahead)

    def _ask(self, count: int) -> None:
        assert self._workers is not None
        for item in itertools.islice(self._items, count):
            job = _Job(self._function, item, self._done)
            self._pending.append(job)  # first: what is submitted is waited for
            if self._closed:  # by another thread, which may have looked for what is pending already
                job.call_off()
            self._workers.submit(job)

    def __next__(self) -> _Result:
        """Return the next result; see the class for what is raised."""
        started = time.perf_counter()
        try:
            if self._workers is None:
                return self._function(next(self._items))
            return self._take()
        finally:
            self.waited += time.perf_counter() - started

    def _take(self) -> _Result:
        assert self._workers is not None
        if self._closed or not self._pending:
            raise StopIteration
        if self._workers.process != os.getpid():
            raise RuntimeError("the threads of this iteration are in the parent process: begin another in this one")
        while (job := self._next_to_give()) is None:
            if self._closed:
                raise StopIteration
            try:
                self._done.get(timeout=self._timeout or None)
            except Empty:
                self._stuck = True
                raise TimeoutError(f"no batch came within {self._timeout} seconds") from None
        if self._closed:  # by another thread: what was under way is no one's
            raise StopIteration
        try:
            self._pending.remove(job)
        except ValueError:  # another thread has closed it
            raise StopIteration from None
        self._ask(1)
        result: _Result = job.take()
        return result

    def is_ready(self) -> bool:
        """Tell whether there is a result that need not be waited for."""
        return self._next_to_give() is not None

    def _next_to_give(self) -> _Job | None:
        # Jobs have ended before they wake anybody, so none of those that did is overlooked below.
        with contextlib.suppress(Empty):
            while True:
                self._done.get_nowait()
        pending = self._pending.copy()  # another thread may close it
        if self._in_order:
            return pending[0] if pending and pending[0].has_ended else None
        return next((job for job in pending if job.has_ended), None)

    def close(self, *, wait: bool = True) -> None:
        """Call off what has not begun, and wait for what is under way, unless it has run into the timeout.

        Where another thread waits for a result, its iteration ends. The collector of reference cycles does not `wait`:
        it runs at any place of any thread, such as one that holds a lock, of whomever, that the work under way wants.
        """
        self._closed = True
        self._items = iter(())
        if self._workers is None or self._workers.process != os.getpid():
            return
        for job in self._pending.copy():
            job.call_off()
        wait = wait and not (self._stuck or self._workers.is_over or _is_worker())
        while wait and not all(job.has_ended for job in self._pending.copy()):
            with contextlib.suppress(Empty):  # that other thread may have been woken
                self._done.get(timeout=_POLL)
        self._pending.clear()
        self._done.put(None)  # for another thread that waits
