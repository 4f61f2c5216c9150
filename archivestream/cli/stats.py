"""``archivestream stats``."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from archivestream.archive_stats import ArchiveStats, ReadSpeed, collect_stats
from archivestream.cli.errors import print_error
from archivestream.cli.opening import ArchivePaths, Encoding, Strict, Threads, open_archive
from archivestream.cli.plotting import bin_label, check_plotting, class_label, plot_stats
from archivestream.cli.progress import Bar
from archivestream.cli.text import byte_count, plural

__all__ = ["stats"]

_WIDTH = 40  # of the longest bar
_MOST_SHOWN = 20  # classes
_MOST_ERRORS = 5


def stats(
    archives: ArchivePaths,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", dir_okay=False, help="Draw it, too, to a PNG (or .svg, .pdf).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Read members for so long to measure the speed; 0: none.")] = 2,
    threads: Threads = None,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Show what archives hold (sizes, types, classes by folder), and how fast they are read.

    Exits with 1 where a member that was read is bad.
    """
    if plot is not None:
        check_plotting(plot)
    opened = open_archive(*archives, strict=strict, encoding=encoding, threads=threads)
    with opened as archive, Bar("reading members") as bar:
        found = collect_stats(archive, seconds=seconds, progress=bar)
    if plot is not None:
        plot_stats(found, plot)
    if as_json:
        print(json.dumps(_as_json(found), indent=2))
    else:
        for line in _describe(found):
            print(line)
    errors = found.speed.errors if found.speed else []
    for error in errors[:_MOST_ERRORS]:
        print_error(error)
    if len(errors) > _MOST_ERRORS:
        print(f"and {plural(len(errors) - _MOST_ERRORS, 'more bad member')}", file=sys.stderr)
    if errors:
        raise typer.Exit(1)


def _as_json(found: ArchiveStats) -> dict[str, Any]:
    speed = found.speed
    summary = asdict(found.summary)
    del summary["largest"]
    return {
        **summary,
        "sizes": found.sizes and asdict(found.sizes),
        "types": {name: asdict(one) for name, one in found.types.items()},
        "classes": found.classes,
        "speed": speed
        and {
            "members": speed.members,
            "bytes": speed.bytes,
            "seconds": speed.seconds,
            "members_per_second": speed.members_per_second,
            "bytes_per_second": speed.bytes_per_second,
            "complete": speed.complete,
            "bad_members": len(speed.errors),
        },
    }


def _describe(found: ArchiveStats) -> Iterable[str]:
    summary, sizes = found.summary, found.sizes
    ratio = f", ratio {summary.size / summary.compressed_size:.2f}" if summary.compressed_size else ""
    for label, value in (
        ("format", summary.format),
        ("members", f"{summary.members:,} ({plural(summary.files, 'file')})"),
        ("size", byte_count(summary.size)),
        ("compressed size", f"{byte_count(summary.compressed_size)}{ratio}"),
        ("speed", _speed(found.speed)),
    ):
        yield f"{label:<17} {value}"
    yield from _bars("compression", summary.methods.items())
    if sizes is not None:
        yield from _bars("sizes", [(bin_label(one), one.count) for one in sizes.histogram])
        marks = {"smallest": sizes.smallest, "median": sizes.median, "mean": sizes.mean, "largest": sizes.largest}
        yield "  " + ", ".join(f"{name} {decimal(int(size))}" for name, size in marks.items())
    yield from _bars("types", [(f"{name}, {decimal(one.size)}", one.count) for name, one in found.types.items()])
    classes = sorted(found.classes.items(), key=lambda item: -item[1])
    shown = found.classes.items() if len(classes) <= _MOST_SHOWN else classes[:_MOST_SHOWN]
    yield from _bars(f"classes (folders): {len(classes):,}", [(class_label(name), count) for name, count in shown])
    if len(classes) > len(shown):
        yield f"  and {len(classes) - len(shown):,} more, of {classes[-1][1]:,} to {classes[len(shown)][1]:,} each"


def _speed(speed: ReadSpeed | None) -> str:
    if speed is None:
        return "not measured"
    rates = f"{speed.members_per_second:,.0f} members/s, {decimal(int(speed.bytes_per_second))}/s"
    what = "all members" if speed.complete else f"the first {plural(speed.members, 'member')}"
    return f"{rates} (decoded and verified: {what} in {speed.seconds:.2f} s)"


def _bars(title: str, counts: Collection[tuple[str, int]]) -> Iterable[str]:
    """Draw counts as bars, each with its share."""
    if not counts:
        return
    total, most = sum(count for _, count in counts), max(count for _, count in counts)
    width = max(len(label) for label, _ in counts)
    block = _block()
    yield ""
    yield title
    for label, count in counts:
        bar = block * -(-count * _WIDTH // most)
        yield f"  {label:<{width}} {bar:<{_WIDTH}} {count:>9,} {count / total:>6.1%}"


def _block() -> str:
    """Return what bars are made of, as far as the output has letters for it."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return "█"
