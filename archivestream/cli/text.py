"""Names and numbers for people to read."""

from __future__ import annotations

import unicodedata

from rich.filesize import decimal

__all__ = ["byte_count", "plural", "printable"]


def printable(text: str) -> str:
    r"""Escape what could control a terminal or forge a line: ``\x1b``, line ends, direction marks.

    A backslash stays as it is, so programs cannot undo this: they get exact names from ``--json``.
    """
    return text if text.isprintable() else "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def byte_count(size: int) -> str:
    """Write a number of bytes: in a unit that fits, and exactly."""
    return decimal(size) if size < 1000 else f"{decimal(size)} ({size:,} bytes)"


def plural(count: int, noun: str) -> str:
    """Write a number of things."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
