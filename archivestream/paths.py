"""Patterns of paths: braces as the shell has them, then globs; and the numbered files of a sharded set."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from archivestream.errors import ArchiveWarning
from archivestream.sidecar import SUFFIXES

__all__ = ["Numbered", "braces", "expand", "has_number", "numbered"]

_MOST = 1_000_000
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_NUMBER = re.compile(r"\{(?::0?(?P<braced>\d*)d?)?\}|%0?(?P<percent>\d*)d")


def expand(path: str) -> list[str]:
    """List the files that a path stands for.

    A file of exactly that name is it. Else ``{a,b}`` and ``{000..127}`` are expanded, in order, as the shell does;
    then ``*``, ``?`` and ``[…]``, sorted by name, with ``**`` for any depth of folders. No pattern fits a saved index.
    ``train-{:05d}.zip`` and ``train-%05d.zip`` are the files that are numbered from 0 without a gap.

    Raises
    ------
    FileNotFoundError
        If a pattern fits no file. (A plain path is returned as it is, there or not.)
    ValueError
        If braces stand for more than a million paths.
    """
    if os.path.exists(path) or not (re.search(r"[{*?\[]", path) or _NUMBER.search(path)):
        return [path]
    found: list[str] = []
    for count, one in enumerate(braces(path)):
        if count == _MOST:
            raise ValueError(f"{path}: the braces stand for more than {_MOST} paths")
        shards = numbered(one)
        if os.path.exists(one) or (shards is None and not glob.has_magic(one)):
            found.append(one)
            continue
        if shards is not None:
            found += _whole_set(one, shards)
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


class Numbered(NamedTuple):
    """A pattern of the names of numbered files: what stands in front of the number and behind it, and its digits."""

    before: str
    after: str
    width: int

    def name(self, number: int) -> str:
        """Return the name with a number."""
        return f"{self.before}{number:0{self.width}d}{self.after}"

    def present(self) -> int:
        """Return how many files there are from 0 on, up to the first that is not there."""
        return next(number for number in itertools.count() if not os.path.lexists(self.name(number)))

    def there(self) -> list[int]:
        """List the numbers of all files that are there."""
        folder, before = os.path.split(self.before)
        if not os.path.isdir(folder or "."):
            return []
        match = re.compile(re.escape(before) + r"(\d+)" + re.escape(self.after)).fullmatch
        numbers = (int(found[1]) for found in map(match, os.listdir(folder or ".")) if found is not None)
        return sorted(number for number in set(numbers) if os.path.lexists(self.name(number)))


def numbered(pattern: str) -> Numbered | None:
    """Return the pattern of numbered files that a path is, as in ``train-{:05d}.zip``; None where it is none."""
    folder, name = os.path.split(pattern)
    numbers = list(_NUMBER.finditer(name))
    if len(numbers) != 1:
        return None
    (number,) = numbers
    width = int(number["braced"] or number["percent"] or 0)
    return Numbered(os.path.join(folder, name[: number.start()]), name[number.end() :], width)


def has_number(pattern: str) -> bool:
    """Whether a path has a place for a number, or more than one."""
    return bool(_NUMBER.search(os.path.basename(pattern)))


def _whole_set(pattern: str, shards: Numbered) -> list[str]:
    count = shards.present()
    if not count:
        raise FileNotFoundError(errno.ENOENT, "no file fits the pattern", pattern)
    beyond = [number for number in shards.there() if number > count]
    if beyond:
        warnings.warn(
            f"{shards.name(count)} is not there, and {shards.name(beyond[0])} is: the set is read up to the gap. What "
            "lies behind it was left by an interrupted write, or the file in the gap was lost",
            ArchiveWarning,
            stacklevel=2,
        )
    return [shards.name(number) for number in range(count)]


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
