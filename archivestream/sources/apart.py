"""Calls that no signal handler of Python's comes into: `Ctrl-C` raises in the thread that waits for them.

Python runs its signal handlers in the main thread alone, wherever that asks for them next: also in the C++ of a library
that does so where no exception may leave it. So what calls such a library for the main thread is another thread.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["call_apart", "end_apart"]

T = TypeVar("T")


class _Call:
    """What to call, and what came of it. An interrupt of who waits leaves a lock alone in good order."""

    __slots__ = ("arguments", "done", "error", "function", "value")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def do(self) -> None:
        try:
            self.value = self.function(*self.arguments)
        except BaseException as error:
            self.error = error
        self.done.release()


_queue: SimpleQueue[_Call] | None = None  # of the thread


def _forget() -> None:
    global _queue
    _queue = None


os.register_at_fork(after_in_child=_forget)  # the thread is not there


def call_apart(before: Callable[[], object], function: Callable[..., T], *arguments: Any) -> T:
    """Call a function where no signal handler runs: in this thread, unless that is the main thread.

    There is one thread for that, so that calls follow one another. One whose caller was interrupted goes on to its
    end, and must not write to what is the caller's.

    Parameters
    ----------
    before : callable
        Called in this thread before another one is begun, and may raise instead: threads that find no memory to begin
        make CPython 3.11 wait for ever.
    function : callable
        What to call with the arguments.

    Raises
    ------
    OSError
        If there can be no more threads. And what `before` and the function raise.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    global _queue
    queue = _queue
    if queue is None:
        before()
        queue = SimpleQueue()
        try:
            threading.Thread(target=_work, args=(queue,), name="archivestream.apart", daemon=True).start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        _queue = queue
    call = _Call(function, arguments)
    queue.put(call)
    call.done.acquire()
    if call.error is not None:
        try:
            raise call.error
        finally:
            call.error = None  # whose traceback holds this frame
    value: T = call.value
    return value


def end_apart(function: Callable[[], object], *, wait: bool) -> None:
    """Have a function called as `call_apart` does, to end something: no thread is begun for that.

    Finalizers do not wait, as `Ctrl-C` is lost in them: what the function raises is lost, too, in another thread.
    """
    if _queue is None or threading.current_thread() is not threading.main_thread():
        function()
        return
    call = _Call(function, ())
    _queue.put(call)
    if wait:
        call.done.acquire()


def _work(queue: SimpleQueue[_Call]) -> None:
    while True:
        queue.get().do()  # and nothing is kept alive while this waits
