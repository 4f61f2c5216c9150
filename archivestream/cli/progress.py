"""A progress bar that stays out of the way."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar"]

_DELAY = 0.5  # seconds: what is done sooner needs no bar


class Bar:
    """A bar on standard error: on a terminal only, and only while something takes long.

    Parameters
    ----------
    description : str
        What is being done.
    count_bytes : bool
        Whether it counts bytes, and so shows their rate; else it counts things.

    Attributes
    ----------
    total : int
        How much there is to do, as the last call said.
    """

    def __init__(self, description: str = "", *, count_bytes: bool = True) -> None:
        self.total = 0
        self._description = description
        self._count_bytes = count_bytes
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show how much is done: the ``progress`` that the methods of an `Archive` call."""
        self.total = total
        if self._bar is None:
            if not sys.stderr.isatty() or time.monotonic() - self._started < _DELAY:
                return
            self._bar = _make_bar(self._count_bytes)
            self._bar.start()
        if self._task is None:
            self._task = self._bar.add_task(self._description)
        self._bar.update(self._task, completed=done, total=total)

    def begin(self, description: str) -> None:
        """Begin the next of several parts, which has a total and a rate of its own."""
        self._description = description
        if self._bar is not None and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _make_bar(count_bytes: bool) -> Progress:
    from rich import progress
    from rich.console import Console

    counters: tuple[progress.ProgressColumn, ...] = (
        (progress.DownloadColumn(), progress.TransferSpeedColumn()) if count_bytes else (progress.MofNCompleteColumn(),)
    )
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *counters,
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
