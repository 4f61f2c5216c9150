"""Iterate a generator in the background: in a thread, or in a process of its own, with a bounded queue."""

from __future__ import annotations

import functools
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from archivestream.child_process import GRACE, POLL, Call, Child, iterate

__all__ = ["BackgroundIterator", "background"]

T = TypeVar("T")
StartMethod: TypeAlias = Literal["fork", "forkserver", "spawn"]


def background(
    generator_fn: Callable[..., Iterable[T]],
    /,
    *args: Any,
    processes: bool = False,
    maxsize: int = 8,
    start_method: StartMethod | None = None,
    **kwargs: Any,
) -> BackgroundIterator[T]:
    """Iterate ``generator_fn(*args, **kwargs)`` in the background, and yield its items here, in order.

    Parameters
    ----------
    generator_fn : callable
        A generator function, or anything that returns an iterable. It is called in the background, at once.
    *args, **kwargs
        What it is called with. (The keywords below are not passed on; `functools.partial` carries one of their names.)
    processes : bool
        False: in a thread, which serves generators that wait or release the GIL. True: in a process of its own, which
        serves generators that compute in Python; each item is pickled and copied.
    maxsize : int
        How many items may be ready that were not asked for yet. Then the generator rests.
    start_method : {"spawn", "forkserver", "fork"}, optional
        How the process is started; "spawn" by default, because it is right in every program: a fork of a process with
        threads (those of PyTorch, of NumPy, of an open archive) may copy a lock that nobody in the child will
        release. But the function and its arguments must be such as can be pickled, and the program's main module is
        imported again. "fork" takes any function, and starts in milliseconds.

    Returns
    -------
    BackgroundIterator
        An iterator; also a context manager that closes it.

    Raises
    ------
    TypeError
        If the function or an argument cannot be pickled and the start method needs that.
    ValueError
        If `maxsize` is less than 1, or a start method is given where there is no process to start.

    Notes
    -----
    *Errors.* What the generator raises is raised by ``next()``, after the items before it: as itself, where it can be
    pickled (with the process's traceback as its cause), else as a RuntimeError that holds the traceback. A process
    that is killed or that exits is a RuntimeError with its number and signal or exit code. An item that cannot be
    pickled is a TypeError that names its type.

    *The end.* However the iteration ends (exhausted, an error, ``close()``, ``with``, garbage collection, the exit of
    the interpreter, Ctrl-C), the generator is closed in the background when it next yields, so its ``finally`` runs
    there. A process that has not ended 2 seconds later is killed. A thread cannot be: `close` warns, and the thread
    ends at the generator's next yield, or with the program. A process ignores SIGINT: Ctrl-C is for its parent,
    which then closes it. Should the parent be killed, the process ends at its next yield.

    *Threads and forks.* Any number of threads may share the iterator. A fork of this process cannot use it, and
    does not disturb it.

    Examples
    --------
    >>> with archivestream.background(read_batches, "train.zip", processes=True) as batches:
    ...     for batch in batches:
    ...         train(batch)
    """
    if maxsize < 1:
        raise ValueError(f"maxsize must be at least 1, not {maxsize}")
    if start_method is not None and not processes:
        raise ValueError("start_method says how a process is started: give processes=True, too")
    name = getattr(generator_fn, "__qualname__", repr(generator_fn))
    call: Call[T] = functools.partial(generator_fn, *args, **kwargs)
    queue: _Queue[T] = _Queue(maxsize)
    if not processes:
        return BackgroundIterator(iterate(call), queue, name, patience=GRACE)
    child = Child(call, name, start_method or "spawn", queue.room)
    # The child is waited for twice: until it ends, and until it is dead.
    return BackgroundIterator(child, queue, name, patience=3 * GRACE)


class BackgroundIterator(Iterator[T]):
    """What `background` returns: an iterator over items that are made in the background.

    Also a context manager, which closes it. Safe for any number of threads.
    """

    def __init__(self, items: Generator[T] | Child[T], queue: _Queue[T], name: str, patience: float) -> None:
        self._queue = queue
        self._name = name
        self._patience = patience
        self._pid = os.getpid()
        self._producer = _Producer(items, queue, name, patience)
        # Nothing that the thread holds leads back here: an iterator that is dropped is collected.
        weakref.finalize(self, queue.abandon).atexit = False
        try:
            self._producer.start()
        except BaseException:  # there can be no more threads
            items.close()
            raise

    def __iter__(self) -> BackgroundIterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item; wait for it.

        Raises
        ------
        StopIteration
            After the last item, after an error, and once it is closed.
        RuntimeError
            If a fork of the process that began the iteration asks for it, or if the process of the generator has died.
        """
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"{self._name!r} is iterated by process {self._pid}, and this is a fork of it: begin an iteration here"
            )
        try:
            return self._queue.get()
        except _End as end:
            self.close()
            error = end.error
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def close(self) -> None:
        """Stop the generator, wait until it has stopped, and drop the items that nobody has asked for.

        Closing again does nothing.

        Raises
        ------
        BaseException
            What the generator raises while it is closed (in a ``finally``).

        Warns
        -----
        RuntimeWarning
            If it does not stop within 2 seconds, in a thread.
        """
        if os.getpid() != self._pid:
            return
        if not self._producer.finish():
            warnings.warn(
                f"{self._name!r} has not come to its next yield within {self._patience:g} s: "
                "its thread goes on until then, or until the program ends",
                RuntimeWarning,
                stacklevel=2,
            )
        error, self._producer.error = self._producer.error, None
        if error is not None:
            raise error

    def __enter__(self) -> BackgroundIterator[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a background iteration cannot be pickled: begin it in the process that needs it")


class _End(Exception):
    """There are no more items; with the error that ended them, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Queue(Generic[T]):
    """A bounded queue that both sides can end."""

    def __init__(self, maxsize: int) -> None:
        self._changed = threading.Condition()
        self._maxsize = maxsize
        self._items: deque[T] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self.stopped = False  # nobody wants more
        self.abandoned = False  # and nobody will close it

    def room(self) -> int:
        """Wait until there is room for an item, and return for how many; 0 once nobody wants more."""
        with self._changed:
            while len(self._items) >= self._maxsize and not self.stopped:
                self._changed.wait(POLL)  # `abandon` does not notify
            return 0 if self.stopped else self._maxsize - len(self._items)

    def put(self, item: T) -> None:
        """Add an item; there must be room."""
        with self._changed:
            if not self.stopped:
                self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """Say that there are no more items, and why."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> T:
        """Wait for an item and take it."""
        with self._changed:
            while not self._items and not self._ended and not self.stopped:
                self._changed.wait()
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            error, self._error = self._error, None
            raise _End(None if self.stopped else error)

    def stop(self) -> None:
        """Say that nobody wants more."""
        with self._changed:
            self.stopped = True
            dropped, self._items = self._items, deque()
            self._changed.notify_all()
        dropped.clear()  # not under the lock: what they free may be anything

    def abandon(self) -> None:
        """Do the same from a collection of garbage, which may come at any place of any thread: takes no lock."""
        self.stopped = self.abandoned = True


class _Producer(threading.Thread):
    """Asks a generator for items as long as there is room for them.

    A daemon: the interpreter does not wait for it before it calls `finish`.
    """

    def __init__(self, items: Generator[T] | Child[T], queue: _Queue[T], name: str, patience: float) -> None:
        from multiprocessing.util import Finalize

        super().__init__(name=f"archivestream.background: {name}", daemon=True)
        self._items = items
        self._queue: _Queue[Any] = queue
        self._patience = patience
        self.error: BaseException | None = None  # of a generator that was asked to stop
        # With a priority: before multiprocessing waits for its processes; and also where a process of its own ends.
        self._at_exit = Finalize(None, self.finish, exitpriority=0)

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._at_exit.cancel()

    def _run(self) -> None:
        queue = self._queue
        is_stopping = False
        try:
            with closing(self._items):
                while queue.room():
                    queue.put(next(self._items))
                is_stopping = True
        except StopIteration:
            queue.end(None)
        except BaseException as error:
            if not is_stopping:
                queue.end(error)
            elif queue.abandoned:
                raise  # to threading.excepthook: nobody is there to raise it to
            else:
                self.error = error

    def finish(self) -> bool:
        """Stop the generator, and say whether it has stopped in time."""
        self._queue.stop()
        self.join(self._patience)
        self._at_exit.cancel()
        return not self.is_alive()
