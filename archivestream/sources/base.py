"""What every source offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from archivestream.errors import CorruptArchiveError

__all__ = ["Source"]


class Source(ABC):
    """A sequence of bytes that can be read at any place, by any number of threads.

    Attributes
    ----------
    name : str
        Shown in errors: a path or the like.
    size : int
        In bytes, when it was opened.
    descriptor : int
        A file descriptor that native code may read at any offset, or -1.
    memory : memoryview or None
        All of the bytes, where they are in memory.
    state : (int, int) or None
        Of a file: its size and its time of modification in nanoseconds, when it was opened.
    held : object
        What keeps the descriptor open, or the memory in place: whoever hands those to native code holds it.
    """

    name: str
    size: int
    descriptor: int = -1
    memory: memoryview | None = None
    state: tuple[int, int] | None = None
    held: object = None

    @abstractmethod
    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset; return how many bytes there were (fewer only at the end).

        Raises
        ------
        OSError
            If reading fails.
        """

    def read_at(self, offset: int, size: int) -> bytearray:
        """Return up to `size` bytes from an offset; fewer only at the end that it had when it was opened.

        Raises
        ------
        CorruptArchiveError
            If it has become shorter since.
        OSError
            If reading fails.
        """
        data = bytearray(max(0, min(size, self.size - offset)))
        with memoryview(data) as view:
            got = self.readinto_at(offset, view) if data else 0
        if got < len(data):
            raise CorruptArchiveError("the file became shorter while it was read", archive=self.name)
        return data

    @property
    def is_native(self) -> bool:
        """Whether native code reads it by itself."""
        return self.descriptor >= 0 or self.memory is not None

    def change(self) -> str | None:
        """Say how the source differs from when it was opened, or None if it does not."""
        return None

    def close(self) -> None:  # noqa: B027  # most hold nothing
        """Give back what the source holds; using it afterwards is an error."""
