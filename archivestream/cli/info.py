"""``archivestream info``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from archivestream import Summary
from archivestream.cli.opening import ArchivePaths, Encoding, Strict, open_archive
from archivestream.cli.text import byte_count, printable

__all__ = ["info"]

_MOST_SHOWN = 10


def info(
    archives: ArchivePaths,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Summarise an archive, or several as one."""
    with open_archive(*archives, strict=strict, encoding=encoding) as archive:
        summary = archive.summary()
    if as_json:
        largest = summary.largest and dict(zip(("name", "size"), summary.largest, strict=True))
        print(json.dumps({**asdict(summary), "largest": largest}, indent=2))
        return
    for label, value in _describe(summary):
        print(f"{label:<17} {value}")


def _describe(summary: Summary) -> list[tuple[str, str]]:
    size, compressed, largest = summary.size, summary.compressed_size, summary.largest
    return [
        ("format", summary.format),
        ("archives", f"{summary.archives:,}"),
        ("members", f"{summary.members:,}"),
        ("files", f"{summary.files:,}"),
        ("directories", f"{summary.directories:,}"),
        ("size", byte_count(size)),
        ("compressed size", byte_count(compressed)),
        ("ratio", f"{size / compressed:.2f}" if compressed else "-"),
        ("methods", _counts(summary.methods)),
        ("encrypted", f"{summary.encrypted:,}"),
        ("unsupported", f"{summary.unsupported:,}"),
        ("index memory", byte_count(summary.index_bytes)),
        ("saved index", _saved(summary)),
        ("largest member", f"{byte_count(largest[1])}  {printable(largest[0])}" if largest else "-"),
        ("extensions", _counts(summary.extensions)),
    ]


def _saved(summary: Summary) -> str:
    saved = summary.saved_indexes
    if len(saved) == summary.archives == 1:
        return printable(saved[0])
    return f"of {len(saved):,} of {summary.archives:,} archives" if saved else "none"


def _counts(counts: dict[str, int]) -> str:
    shown = list(counts.items())[:_MOST_SHOWN]
    more = f", {len(counts) - len(shown):,} more" if len(counts) > len(shown) else ""
    return ", ".join(f"{printable(key) or '(none)'} {n:,}" for key, n in shown) + more or "-"
