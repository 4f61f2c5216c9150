"""The command line: no logic of its own, but `archivestream.open` and what an `Archive` can do."""

from __future__ import annotations

from typing import Annotated

import typer

from archivestream._version import __version__
from archivestream.cli.bench import bench
from archivestream.cli.contents import cat, extract
from archivestream.cli.demo import demo
from archivestream.cli.errors import Commands
from archivestream.cli.index import index
from archivestream.cli.info import info
from archivestream.cli.ls import ls
from archivestream.cli.packing import pack, repack
from archivestream.cli.stats import stats
from archivestream.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"archivestream {__version__}")
        raise typer.Exit


@app.callback()
def archivestream(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Look into archives, check them, and train models straight from them."""


for _command in (ls, info, cat, extract, verify, index, pack, repack, stats, bench, demo):
    app.command()(_command)
