"""Work in threads, with its results in order and a bound on what is in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from archivestream.threads import processors

__all__ = ["Pipeline", "map_in_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_BYTES = 16 << 20
_BYTES_PER_THREAD = 8 << 20


class Pipeline:
    """Runs work in threads, and hands each result, in the order of submission, to a call on the caller's thread.

    Parameters
    ----------
    threads : int, optional
        Default: as many as there are processors for this process.

    For one thread at a time.
    """

    def __init__(self, threads: int | None) -> None:
        threads = threads or processors()
        self._pool = ThreadPoolExecutor(threads, "archivestream-pack")
        self._room = _BYTES + threads * _BYTES_PER_THREAD
        self._in_flight: deque[tuple[Future[Any], Callable[[Any], None], int]] = deque()
        self._behind: deque[tuple[Future[None], int]] = deque()
        self._room_behind = self._room

    def submit(self, size: int, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `work` in a thread, and later `done` on its result; `size` is the memory that it holds, in bytes."""
        while self._in_flight and (self._room < size or self._in_flight[0][0].done()):
            self._finish_first()
        self._room -= size
        self._in_flight.append((self._pool.submit(work), done, size))

    def call(self, size: int, work: Callable[[], None]) -> None:
        """Run `work` on the caller's thread when its turn has come."""
        if not self._in_flight:
            work()
            return
        ready: Future[None] = Future()
        ready.set_result(None)
        while self._in_flight and self._room < size:
            self._finish_first()
        self._room -= size
        self._in_flight.append((ready, lambda _: work(), size))

    def behind(self, size: int, work: Callable[[], None]) -> Future[None]:
        """Run `work` in a thread, in no order; what it raises comes from a later call, or from what is returned."""
        while self._behind and (self._room_behind < size or self._behind[0][0].done()):
            done, freed = self._behind.popleft()
            done.result()
            self._room_behind += freed
        self._room_behind -= size
        self._behind.append((self._pool.submit(work), size))
        return self._behind[-1][0]

    def drain(self) -> None:
        """Wait for all that was submitted, but for what is done behind."""
        while self._in_flight:
            self._finish_first()

    def close(self) -> None:
        """Stop the threads; what was not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._in_flight.clear()
        self._behind.clear()

    def _finish_first(self) -> None:
        future, done, size = self._in_flight.popleft()
        done(future.result())
        self._room += size


def map_in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int) -> Iterator[_Result]:
    """Call a function on each item, in threads; yield the results in the order of the items.

    At most twice as many items as threads are under way. With one thread, all is done on the caller's.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, "archivestream-samples")
    under_way: deque[Future[_Result]] = deque()
    try:
        for item in items:
            if len(under_way) == 2 * threads:
                yield under_way.popleft().result()
            under_way.append(pool.submit(function, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
