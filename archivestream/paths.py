"""Patterns of paths: braces as the shell has them, then globs."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
from collections.abc import Iterator

from archivestream.sidecar import SUFFIXES

__all__ = ["braces", "expand"]

_MOST = 1_000_000
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand(path: str) -> list[str]:
    """List the files that a path stands for.

    A file of exactly that name is it. Else ``{a,b}`` and ``{000..127}`` are expanded, in order, as the shell does;
    then ``*``, ``?`` and ``[…]``, sorted by name, with ``**`` for any depth of folders. No pattern fits a saved index.

    Raises
    ------
    FileNotFoundError
        If a pattern fits no file. (A plain path is returned as it is, there or not.)
    ValueError
        If braces stand for more than a million paths.
    """
    if os.path.exists(path) or not re.search(r"[{*?\[]", path):
        return [path]
    found: list[str] = []
    for count, one in enumerate(braces(path)):
        if count == _MOST:
            raise ValueError(f"{path}: the braces stand for more than {_MOST} paths")
        if os.path.exists(one) or not glob.has_magic(one):
            found.append(one)
            continue
        matches = sorted(match for match in glob.glob(one, recursive=True) if not match.endswith(SUFFIXES))
        if not matches:
            raise FileNotFoundError(errno.ENOENT, "no file fits the pattern", path)
        found += matches
    return found


def braces(pattern: str) -> Iterator[str]:
    """List what the braces of a pattern stand for, in order."""
    start, parts, end = _first_braces(pattern)
    if start < 0:
        yield pattern
        return
    for part in parts:
        for middle in braces(part):
            for rest in braces(pattern[end:]):
                yield pattern[:start] + middle + rest


def _first_braces(pattern: str) -> tuple[int, list[str], int]:
    """Find the first braces that stand for something: (their start, the alternatives, their end)."""
    start = pattern.find("{")
    while start >= 0:
        depth, cuts = 0, [start]
        for i in range(start, len(pattern)):
            depth += {"{": 1, "}": -1}.get(pattern[i], 0)
            if depth == 1 and pattern[i] == ",":
                cuts.append(i)
            if depth == 0:
                inner = pattern[start + 1 : i]
                if len(cuts) > 1:
                    cuts.append(i)
                    return start, [pattern[a + 1 : b] for a, b in itertools.pairwise(cuts)], i + 1
                match = _RANGE.fullmatch(inner)
                if match:
                    return start, _numbers(*match.groups()), i + 1
                break
        start = pattern.find("{", start + 1)
    return -1, [], -1


def _numbers(first: str, last: str) -> list[str]:
    """Count from one number to another, at the width of the wider where one has leading zeros."""
    a, b = int(first), int(last)
    if abs(b - a) >= _MOST:
        raise ValueError(f"{{{first}..{last}}} stands for more than {_MOST} paths")
    padded = any(re.match(r"-?0\d", text) for text in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if b >= a else -1
    return [f"{n:0{width}d}" for n in range(a, b + step, step)]
