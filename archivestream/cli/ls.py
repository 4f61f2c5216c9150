"""``archivestream ls``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from archivestream import Archive, Member
from archivestream.cli.opening import ArchivePath, Encoding, Strict, open_archive, select
from archivestream.cli.text import printable

__all__ = ["ls"]


def ls(
    archive: ArchivePath,
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", show_default=False, help="Names or globs; default: all members."),
    ] = None,
    long: Annotated[
        bool,
        typer.Option("--long", "-l", help="Show size, compressed size, method, CRC-32 and date."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON array, with the exact names.")] = False,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """List the members, one a line."""
    with open_archive(archive, strict=strict, encoding=encoding) as opened:
        views = select(opened, patterns) if patterns else [opened]
        if as_json:
            _print_json(views)
        elif long:
            for member in _members(views):
                print(_long(member))
        else:
            for view in views:
                for name in view.names:
                    print(printable(name))


def _members(views: Iterable[Archive]) -> Iterable[Member]:
    return (view.info(i) for view in views for i in range(len(view)))


def _long(member: Member) -> str:
    return (
        f"{member.size:>12} {member.compressed_size:>12} {member.compression:<8} "
        f"{_crc(member) or 8 * '-'} {_date(member)} {printable(member.name)}"
    )


def _crc(member: Member) -> str | None:
    return None if member.crc32 is None else f"{member.crc32:08x}"


def _date(member: Member) -> str:
    year, month, day, hour, minute, second = member.date_time
    return f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"


def _print_json(views: Iterable[Archive]) -> None:
    """Print one array, a member a line, without ever holding all of it."""
    before = "["
    for member in _members(views):
        print(f"{before}\n{json.dumps(_as_dict(member))}", end="")
        before = ","
    print("\n]" if before == "," else "[]")


def _as_dict(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "size": member.size,
        "compressed_size": member.compressed_size,
        "method": member.compression,
        "crc32": _crc(member),
        "date": _date(member),
        "directory": member.is_dir(),
        "archive": member.archive,
    }
