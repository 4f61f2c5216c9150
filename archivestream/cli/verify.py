"""``archivestream verify``."""

from __future__ import annotations

import typer
from rich.filesize import decimal

from archivestream import VerifyReport
from archivestream.cli.errors import CommandError, print_error
from archivestream.cli.opening import (
    ArchivePaths,
    Encoding,
    Strict,
    Threads,
    expand_paths,
    open_archive,
)
from archivestream.cli.progress import Bar
from archivestream.cli.text import plural, printable
from archivestream.errors import ArchiveError

__all__ = ["verify"]


def verify(
    archives: ArchivePaths,
    strict: Strict = False,
    threads: Threads = None,
    encoding: Encoding = None,
) -> None:
    """Decode every member and check its checksum; list bad ones, and exit with 1 if there are."""
    paths = expand_paths(archives)
    whole = VerifyReport()
    unreadable: list[Exception] = []
    with Bar() as bar:
        # One by one, not all as one archive: a truncated one must not hide what the others hold.
        for number, path in enumerate(paths, 1):
            bar.begin(f"verifying {number} of {len(paths)}" if len(paths) > 1 else "verifying")
            try:
                with open_archive(path, strict=strict, encoding=encoding, threads=threads, progress=bar) as archive:
                    _add(whole, archive.verify(progress=bar))
            except (ArchiveError, OSError) as error:
                unreadable.append(error)
    for bad_member in whole.errors:
        print(printable(str(bad_member)))
    for bad_archive in unreadable:
        print_error(bad_archive)
    if whole.errors:
        raise CommandError(f"{len(whole.errors):,} of {plural(whole.members, 'member')} are bad")
    if unreadable:
        raise typer.Exit(1)
    print(_summary(whole))


def _add(whole: VerifyReport, part: VerifyReport) -> None:
    whole.members += part.members
    whole.bytes += part.bytes
    whole.seconds += part.seconds
    whole.errors += part.errors


def _summary(report: VerifyReport) -> str:
    rate = decimal(int(report.bytes / report.seconds)) if report.seconds else "-"
    return f"all good: {plural(report.members, 'member')}, {decimal(report.bytes)} in {report.seconds:.2f} s ({rate}/s)"
