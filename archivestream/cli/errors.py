"""From what a command raises to one line on standard error and an exit status."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from archivestream.cli.text import printable
from archivestream.errors import ArchiveError

__all__ = ["CommandError", "Commands", "print_error"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE


class CommandError(Exception):
    """What a command cannot do, in words for whoever typed it."""


class Commands(TyperGroup):
    """The group of all commands: expected errors become messages, others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of a context."""
        warnings.showwarning = _print_warning
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # here, where an error can still be reported
        except BrokenPipeError:  # whoever read the output has seen enough, as in ``archivestream ls … | head``
            status = _BROKEN_PIPE
        except KeyboardInterrupt:
            status = _INTERRUPTED
        except (CommandError, ArchiveError, OSError, MemoryError) as error:
            print_error(error)
            status = 1
        _close_output()
        raise typer.Exit(status)


def print_error(error: BaseException) -> None:
    """Print an error, and those that came with it, in lines that cannot control a terminal."""
    print(f"archivestream: error: {printable(_message(error))}", file=sys.stderr)
    for other in error.others if isinstance(error, ArchiveError) else ():
        print_error(other)


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"archivestream: warning: {printable(str(message))}", file=sys.stderr)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, ArchiveError) and error.strerror:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{place}{error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    # PyTorch puts the traceback of a worker process into the message; its last line is the error.
    return str(error).strip().rpartition("\n")[2]


def _close_output() -> None:
    """Write what standard output still holds; drop what fails, or Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
