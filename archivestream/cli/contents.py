"""``archivestream cat`` and ``archivestream extract``."""

from __future__ import annotations

import errno
import shutil
import sys
from typing import Annotated

import typer

from archivestream.cli.opening import (
    ArchivePath,
    Encoding,
    Strict,
    Threads,
    open_archive,
    select,
)
from archivestream.cli.progress import Bar
from archivestream.cli.text import byte_count, plural, printable

__all__ = ["cat", "extract"]


def cat(
    archive: ArchivePath,
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", show_default=False, help="Members, by their exact names."),
    ],
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Write the bytes of members to standard output."""
    with open_archive(archive, strict=strict, encoding=encoding) as opened:
        # All names at once: one that is not there is an error before anything is written.
        view = opened.select(names)
        for position in range(len(view)):
            with view.open_member(position) as contents:
                shutil.copyfileobj(contents, sys.stdout.buffer, 1 << 20)


def extract(
    archive: ArchivePath,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", show_default=False, help="Names or globs; default: all members."),
    ] = None,
    directory: Annotated[str, typer.Option("--directory", "-C", metavar="DIR", help="Folder to write to.")] = ".",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    strict: Strict = False,
    threads: Threads = None,
    encoding: Encoding = None,
) -> None:
    """Write members to files: nothing outside the folder, and through no link."""
    with open_archive(archive, strict=strict, encoding=encoding, threads=threads) as opened:
        keys = None
        if patterns:  # what two patterns match is written once
            names = (name for view in select(opened, patterns) for name in view.names)
            keys = list(dict.fromkeys(names))
        with Bar("extracting") as bar:
            try:
                written = opened.extract(keys, directory, overwrite=overwrite, progress=bar)
            except FileExistsError as error:
                raise FileExistsError(
                    errno.EEXIST, "it is there already; --overwrite replaces it", error.filename
                ) from error
    print(f"{plural(len(written), 'member')}, {byte_count(bar.total)}, to {printable(directory)}")
