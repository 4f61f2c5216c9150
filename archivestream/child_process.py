"""A process that runs a generator, and the pipes between it and its parent.

The parent sends a byte for each item that it has room for, and the child answers each with an item, or with what ended
the generator. A pipe that ends is the one sign of all that can happen to the other side: the parent closes its pipe
to ask for the end, and a process that is killed closes all of its own. So that it is reliable, every fork closes the
ends that it inherits.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import struct
import time
import traceback
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["GRACE", "POLL", "Call", "Child", "iterate"]

T = TypeVar("T")
# A generator function and its arguments.
Call: TypeAlias = Callable[[], Iterable[T]]

# Seconds that a generator has to come to its next yield once it was asked to stop.
GRACE = 2.0
# Seconds between looks at what no pipe and no lock tells.
POLL = 0.2

# A message: its kind, the number of its parts, the size of the first; the sizes of the others; the parts.
_HEADER = struct.Struct("<BIQ")
_ITEM, _END, _ERROR, _ERROR_OF_CLOSE = range(4)
# Bytes of a buffer that is worth a part of its own, which is not copied on its way (PEP 574).
_LARGE = 1 << 16
# Bytes that a pipe holds, where the system lets one say so (Linux): large items take half the time.
_PIPE_SIZE = 1 << 20
_MOST_PERMITS = 1024
# Most buffers of one `os.writev` (POSIX: IOV_MAX is at least 16; Linux and macOS have 1024).
_MOST_BUFFERS = 1024

# The ends of pipes of this process.
_ends: weakref.WeakSet[Connection] = weakref.WeakSet()


def _close_inherited() -> None:
    while _ends:
        _ends.pop().close()


os.register_at_fork(after_in_child=_close_inherited)


class _GoneError(Exception):
    """The other side has ended, or takes too long to."""


class _ChildTraceback(Exception):  # shown as the cause of an error
    """The traceback of an error in a child, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def iterate(call: Call[T]) -> Generator[T]:
    """Make a generator of what a call returns: one can be closed, and in one a StopIteration is an error (PEP 479)."""
    yield from call()


class Child(Iterator[T]):
    """The items of a generator that runs in a process of its own. For one thread.

    Parameters
    ----------
    call : callable
        The generator function with its arguments.
    name : str
        What messages call it.
    start_method : str
        How the process is started.
    room : callable
        For how many more items there is room; none once nobody wants more.

    Raises
    ------
    TypeError
        If the process cannot be started because something cannot be pickled.
    """

    def __init__(self, call: Call[T], name: str, start_method: str, room: Callable[[], int]) -> None:
        import multiprocessing

        self._name = name
        self._room = room
        self._deadline: float | None = None  # once it was asked to end
        self._permitted = 0
        self._received = 0
        self._is_open = True
        self._in_step = True  # what comes next is the beginning of a message
        context: Any = multiprocessing.get_context(start_method)
        self._data, child_data = context.Pipe(duplex=False)
        child_permits, self._permits = context.Pipe(duplex=False)
        _ends.update((self._data, self._permits))
        _set_up(self._data)
        self._poll = select.poll()
        self._poll.register(self._data.fileno(), select.POLLIN)
        self._process = context.Process(
            target=_run, args=(child_permits, child_data, call), name=f"archivestream.background: {name}"
        )
        try:
            self._process.start()
        except BaseException as error:
            self._close_pipes()
            if start_method == "fork" or not isinstance(error, (pickle.PicklingError, AttributeError, TypeError)):
                raise
            raise TypeError(
                f"{name!r} or one of its arguments cannot be sent to a new process: {error}. Processes that are "
                f"started by {start_method!r} need a function at the top level of a module, and arguments that can be "
                "pickled; start_method='fork' needs neither"
            ) from error
        finally:
            child_data.close()
            child_permits.close()
        self._pid = self._process.pid

    def __next__(self) -> T:
        """Wait for the next item.

        Raises
        ------
        Exception
            What the generator has raised.
        RuntimeError
            If the process has died, or an item cannot be restored here.
        """
        self._permit()
        try:
            kind, parts = self._receive()
        except _GoneError:
            if self._deadline is not None:
                raise StopIteration from None
            self.close()
            raise RuntimeError(self._describe_death()) from None
        if kind == _END:
            raise StopIteration
        if kind != _ITEM:
            raise self._error(parts)
        try:
            item: T = pickle.loads(parts[0], buffers=parts[1:])
        except Exception as error:
            raise RuntimeError(
                f"item {self._received} of {self._name!r} was pickled, but cannot be restored here: "
                f"{type(error).__name__}: {error}"
            ) from error
        self._received += 1
        return item

    def close(self) -> None:
        """Ask the process to end, wait for that, kill it if need be.

        Raises
        ------
        BaseException
            What the generator has raised when it was closed.
        """
        if not self._is_open:
            return
        self._is_open = False
        last: tuple[int, list[bytearray]] | None = None
        try:
            self._ask()
            with suppress(_GoneError, MemoryError):  # an item that nobody wants may be of any size
                while True:
                    last = self._receive()
        finally:
            self._end_process()
        if last is not None and last[0] == _ERROR_OF_CLOSE:
            raise self._error(last[1])

    def _end_process(self) -> None:
        """Wait for the process until its time is up, and kill it then."""
        self._close_pipes()  # where it is writing still, that ends now
        try:
            if self._deadline is not None:
                self._process.join(max(0.0, self._deadline - time.monotonic()))
        finally:
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join(GRACE)
            self._exit_code: int | None = self._process.exitcode
            if self._exit_code is not None:
                self._process.close()

    def _permit(self) -> None:
        """Let the child make as many items as there is room for."""
        more = min(self._room(), _MOST_PERMITS) - (self._permitted - self._received)
        if more > 0 and self._deadline is None:
            self._permitted += more
            with suppress(BrokenPipeError):  # it is gone: `_receive` will tell
                os.write(self._permits.fileno(), bytes(more))

    def _ask(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE
            _ends.discard(self._permits)
            self._permits.close()

    def _close_pipes(self) -> None:
        for end in (self._data, self._permits):
            _ends.discard(end)
            end.close()

    def _receive(self) -> tuple[int, list[bytearray]]:
        if not self._in_step:  # what is left of a message that could not be taken in
            raise _GoneError
        self._in_step = False
        kind, count, first = _HEADER.unpack(self._read(_HEADER.size))
        others = struct.unpack(f"<{count - 1}Q", self._read(8 * (count - 1)))
        parts = [self._read(size) for size in (first, *others)]
        self._in_step = True
        return kind, parts

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            try:
                got = os.readv(self._data.fileno(), [rest])
            except BlockingIOError:
                self._wait()
                continue
            if not got:
                raise _GoneError
            rest = rest[got:]
        return data

    def _wait(self) -> None:
        """Wait until there is something to read."""
        while not self._poll.poll(POLL * 1000):
            if not self._room():
                self._ask()
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise _GoneError
            # Dead, though the pipe is open: a process that was forked while the pipe was made holds it.
            if self._process.exitcode is not None and not self._poll.poll(0):
                raise _GoneError

    def _error(self, parts: Sequence[bytearray]) -> BaseException:
        pickled, text = parts[0], parts[1].decode()
        try:
            error = pickle.loads(pickled)
        except Exception:
            error = None
        if isinstance(error, BaseException):
            error.__cause__ = _ChildTraceback(text)
            return error
        return RuntimeError(f"{self._name!r} raised in process {self._pid} what cannot be pickled:\n{text}")

    def _describe_death(self) -> str:
        code = self._exit_code
        where = f"process {self._pid}, in which {self._name!r} ran,"
        after = f"after {self._received} items"
        if code is None:
            return f"{where} is gone {after}; something else has waited for it, so its exit code is not known"
        if code < 0:
            known = {one.value: f" ({one.name})" for one in signal.Signals}
            why = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
            return f"{where} was killed by signal {-code}{known.get(-code, '')} {after}{why}"
        why = ""
        if not self._received:
            why = (
                "; if it could not begin, its own message on the standard error says why (a script that starts "
                "processes needs `if __name__ == '__main__':`)"
            )
        return f"{where} ended with exit code {code} {after}, before the generator did{why}"


def _set_up(pipe: Connection) -> None:
    os.set_blocking(pipe.fileno(), False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(PermissionError):  # this user has many large pipes already
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def _run(permits: Connection, data: Connection, call: Call[Any]) -> None:
    """Run a generator in a child: one item for each permit, until there is no more of either."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _ends.update((permits, data))
    is_asked = False
    answer: tuple[int, list[Any]] = _END, [b""]
    try:
        with closing(iterate(call)) as items:
            while os.read(permits.fileno(), 1):
                item = next(items)
                _send(data, _ITEM, _pickle_item(item))
                del item  # not held while the next one is made
            is_asked = True
    except StopIteration:
        pass
    except _GoneError:
        return
    except BaseException as error:
        answer = (_ERROR_OF_CLOSE if is_asked else _ERROR), _pickle_error(error)
    with suppress(_GoneError):
        _send(data, *answer)


def _pickle_item(item: Any) -> list[Any]:
    buffers: list[memoryview] = []

    def is_inside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE:
            return True
        buffers.append(raw)
        return False

    try:
        return [pickle.dumps(item, protocol=5, buffer_callback=is_inside), *buffers]
    except MemoryError:
        raise
    except Exception as error:
        kind = type(item)
        raise TypeError(
            f"an item of type {kind.__module__}.{kind.__qualname__} cannot be sent to another process: "
            f"{error}. Yield what can be pickled, or iterate in a thread (processes=False)"
        ) from error


def _pickle_error(error: BaseException) -> list[bytes]:
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    try:
        return [pickle.dumps(error), text]
    except Exception:
        return [b"", text]


def _send(pipe: Connection, kind: int, parts: Sequence[Any]) -> None:
    views = [memoryview(part) for part in parts]
    first, *others = (view.nbytes for view in views)
    views.insert(0, memoryview(_HEADER.pack(kind, len(views), first) + struct.pack(f"<{len(others)}Q", *others)))
    while views:
        try:
            sent = os.writev(pipe.fileno(), views[:_MOST_BUFFERS])
        except BrokenPipeError:
            raise _GoneError from None
        while views and sent >= views[0].nbytes:
            sent -= views.pop(0).nbytes
        if views:
            views[0] = views[0][sent:]
