"""The entry point of the command line: ``archivestream`` and ``python -m archivestream``."""

from __future__ import annotations

import io
import os
import signal
import sys


def main() -> None:
    """Run the command line, or say what to install where its packages are missing."""
    _open_missing_streams()
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(
            f"archivestream: error: the command line needs {error.name}, which is not installed: "
            "pip install 'archivestream[cli]'"
        )
    try:
        from archivestream.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding lacks is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)  # so that half-written files are removed
    app(prog_name="archivestream")


def _open_missing_streams() -> None:
    """Make up for standard streams that the caller closed: the next file opened must not become one of them."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # for good
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)  # as shells report it


if __name__ == "__main__":
    main()
