"""The entry point of the command line: ``archivestream`` and ``python -m archivestream``."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line, or say what to install where its packages are missing."""
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
    app(prog_name="archivestream")


if __name__ == "__main__":
    main()
