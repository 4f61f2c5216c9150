"""``archivestream index``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from archivestream.cli.opening import ArchivePaths, Encoding, Strict, Threads, expand_paths, open_archive
from archivestream.cli.progress import Bar
from archivestream.cli.text import byte_count, plural, printable

__all__ = ["index"]


def index(
    archives: ArchivePaths,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Build it anew, even where there is a valid one.")
    ] = False,
    strict: Strict = False,
    threads: Threads = None,
    encoding: Encoding = None,
) -> None:
    """Save the index of archives beside them, so that opening them takes milliseconds."""
    for path in expand_paths(archives):
        with (
            Bar(f"indexing {printable(path)}") as bar,
            open_archive(
                path,
                strict=strict,
                encoding=encoding,
                threads=threads,
                progress=bar,
                index="memory" if force else "auto",
            ) as archive,
        ):
            saved = archive.summary().saved_indexes or [str(place) for place in archive.save_index()]
            size = os.path.getsize(saved[0])
            share = size / max(1, os.path.getsize(path))
            print(f"{printable(saved[0])}: {plural(len(archive), 'member')}, {byte_count(size)} ({share:.1%} of it)")
