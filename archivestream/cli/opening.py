"""What the commands share: their common options, and how they open archives and choose members."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, TypeAlias

import typer

import archivestream
from archivestream.cli.errors import CommandError
from archivestream.cli.progress import Bar
from archivestream.indexing import IndexMode
from archivestream.paths import expand
from archivestream.session import check_encoding
from archivestream.threads import MOST_THREADS

__all__ = [
    "ArchivePath",
    "ArchivePaths",
    "Encoding",
    "Strict",
    "Threads",
    "expand_paths",
    "open_archive",
    "select",
]


def _check_encoding(name: str | None) -> str | None:
    try:
        check_encoding(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return name


_PATH_HELP = "A ZIP, tar, .tar.zst or .tar.gz file; a glob or braces, as in train-{000..127}.zip, stand for several."

ArchivePath: TypeAlias = Annotated[str, typer.Argument(metavar="ARCHIVE", show_default=False, help=_PATH_HELP)]
ArchivePaths: TypeAlias = Annotated[list[str], typer.Argument(metavar="ARCHIVE", show_default=False, help=_PATH_HELP)]
Strict: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Refuse what is ambiguous or contradictory in an archive.")
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, show_default="one per processor", help="Threads that decode."),
]
Encoding: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=_check_encoding,
        show_default="cp437",
        help="Encoding of names that are not marked as UTF-8.",
    ),
]


def expand_paths(paths: Sequence[str]) -> list[str]:
    """List the files that some paths, globs and brace patterns stand for."""
    try:
        return [file for path in paths for file in expand(path)]
    except ValueError as error:  # the braces stand for too many
        raise CommandError(str(error)) from error


@contextmanager
def open_archive(
    *paths: str,
    strict: bool,
    encoding: str | None,
    threads: int | None = None,
    progress: Bar | None = None,
    index: IndexMode = "auto",
) -> Iterator[archivestream.Archive]:
    """Open archives as `archivestream.open` does, with a progress bar where the index takes long."""
    with nullcontext(progress) if progress else Bar("reading the index") as bar:
        archive = archivestream.open(
            expand_paths(paths),
            strict=strict,
            index=index,
            threads=threads,
            metadata_encoding=encoding,
            progress=bar,
        )
    with archive:
        yield archive


def select(archive: archivestream.Archive, patterns: Sequence[str]) -> list[archivestream.Archive]:
    """View the members of each name or glob; one that fits no member is an error."""
    views = []
    for pattern in patterns:
        is_name = pattern in archive.names or not glob.has_magic(pattern)
        views.append(archive.select([pattern] if is_name else pattern))
        if not len(views[-1]):
            raise CommandError(f"no member matches {pattern!r}")
    return views
