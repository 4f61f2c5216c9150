"""Patterns of paths: braces as the shell has them, then globs; and the numbered files of a sharded set."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from archivestream.errors import ArchiveWarning
from archivestream.sidecar import SUFFIXES

__all__ = ["Numbered", "braces", "expand", "has_number", "numbered"]

_MOST = 1_000_000
_MOST_CHARACTERS = 1 << 28  # of all paths together
_DEEPEST = 16
_MOST_DEPTHS = 4
# Names have no more digits; with more, a pattern of a few bytes would stand for gigabytes.
_RANGE = re.compile(r"-?\d{1,18}\.\.-?\d{1,18}")
_NUMBER = re.compile(r"\{(?::0?(?P<braced>\d{0,2})d?)?\}|%0?(?P<percent>\d{0,2})d")


def expand(path: str, folder: str = "") -> list[str]:
    """List the files that a path stands for, which is below a folder, if one is given, whose name is no pattern.

    A file of exactly that name is it. Else ``{a,b}`` and ``{000..127}`` are expanded, in order, as the shell does;
    then ``*``, ``?`` and ``[…]``, sorted by name, with ``**`` for any depth of folders. No pattern fits a saved index.
    ``train-{:05d}.zip`` and ``train-%05d.zip`` are the files that are numbered from 0 without a gap.

    Raises
    ------
    FileNotFoundError
        If a pattern fits no file. (A plain path is returned as it is, there or not.)
    ValueError
        As `braces`; or if a pattern has more than four ``**``, for each of which all folders are gone through.
    """
    whole = os.path.join(folder, path)
    if os.path.exists(whole) or not (glob.has_magic(path) or "{" in path or has_number(path)):
        return [whole]
    found: list[str] = []
    for one in braces(path):
        shards = numbered(one)
        if os.path.exists(os.path.join(folder, one)) or (shards is None and not glob.has_magic(one)):
            found.append(os.path.join(folder, one))
        elif shards is not None:
            found += _whole_set(whole, shards._replace(before=os.path.join(folder, shards.before)))
        else:
            matches = _matches(one, folder)
            if not matches:
                raise FileNotFoundError(errno.ENOENT, "no file fits the pattern", whole)
            found += matches
    return found


def _matches(pattern: str, folder: str) -> list[str]:
    pattern = re.sub(r"(?:(?<=/)|^)(?:\*\*/+)+(?=\*\*/)", "", pattern)  # "**/**/" is "**/", which takes less time
    if pattern.split("/").count("**") > _MOST_DEPTHS:
        raise ValueError(f"{pattern}: there are more than {_MOST_DEPTHS} ** in it")
    found = set(glob.iglob(pattern, root_dir=folder or None, recursive=True))
    return sorted(os.path.join(folder, match) for match in found if not match.endswith(SUFFIXES))


def braces(pattern: str) -> list[str]:
    """List what the braces of a pattern stand for, in order.

    Raises
    ------
    ValueError
        If that is more than a million paths, or they have more than 2**28 characters together, or braces lie in each
        other 16 deep. It is found before any path is made.
    """
    sequence = _parse(pattern)
    count, characters = _measure(sequence)
    if count > _MOST or characters > _MOST_CHARACTERS:
        raise ValueError(
            f"{pattern}: the braces stand for more than {_MOST} paths, or for more than {_MOST_CHARACTERS} characters"
        )
    return list(_spell(sequence))


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


class _Range(NamedTuple):
    """Numbers from one to another, at least of a width."""

    numbers: range
    width: int

    def spell(self) -> Iterator[str]:
        return (f"{number:0{self.width}d}" for number in self.numbers)


# Text, and what braces stand for, one behind the other.
_Sequence: TypeAlias = "list[str | _Range | list[_Sequence]]"


def _find_braces(pattern: str) -> list[int]:
    """Find the braces that stand for something, in one pass: the places of these and of their commas, ascending.

    A brace without its other half is text, as are braces around no comma and no range; what lies in them counts.
    """
    found: list[int] = []
    opened: list[list[int]] = []  # the place of each open brace, and those of its commas
    for match in re.finditer(r"[{},]", pattern):
        place = match.start()
        if match[0] == "{":
            opened.append([place])
        elif opened and match[0] == ",":
            opened[-1].append(place)
        elif opened:
            places = opened.pop()
            if len(places) > 1 or _RANGE.fullmatch(pattern, places[0] + 1, place):
                found += [*places, place]
    return sorted(found)


def _parse(pattern: str) -> _Sequence:
    stack: list[list[_Sequence]] = [[[]]]  # the alternatives in each of the open braces; the lowest are in none
    done = 0
    for place in _find_braces(pattern):
        text = pattern[done:place]
        done = place + 1
        stack[-1][-1].append(text)
        if pattern[place] == "{":
            stack.append([[]])
        elif pattern[place] == ",":
            stack[-1].append([])
        else:
            alternatives = stack.pop()
            stack[-1][-1].append(alternatives if len(alternatives) > 1 else _numbers(text))
        if len(stack) > _DEEPEST:
            raise ValueError(f"{pattern}: {_DEEPEST} braces lie in each other")
    stack[0][0].append(pattern[done:])
    return stack[0][0]


def _numbers(text: str) -> _Range | str:
    """Count from one number to another, at the width of the wider where one has leading zeros."""
    first, last = text.split("..")
    a, b = int(first), int(last)
    padded = any(re.match(r"-?0\d", one) for one in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if b >= a else -1
    found = _Range(range(a, b + step, step), width)
    return next(found.spell()) if a == b else found


def _measure(sequence: _Sequence) -> tuple[int, int]:
    """Return how many paths there will be, and how many characters they have at most; no more than is too much."""
    count, characters = 1, 0
    for part in sequence:
        if isinstance(part, str):
            choices, length = 1, len(part)
        elif isinstance(part, _Range):
            choices = len(part.numbers)
            length = choices * max(part.width, *(len(str(part.numbers[end])) for end in (0, -1)))
        else:
            choices, length = map(sum, zip(*map(_measure, part), strict=True))
        characters = min(characters * choices + length * count, _MOST_CHARACTERS + 1)
        count = min(count * choices, _MOST + 1)
    return count, characters


def _spell(sequence: _Sequence) -> Iterator[str]:
    before = ""
    for place, part in enumerate(sequence):
        if isinstance(part, str):
            before += part
            continue
        behind = list(_spell(sequence[place + 1 :]))
        for one in part.spell() if isinstance(part, _Range) else itertools.chain.from_iterable(map(_spell, part)):
            yield from (before + one + rest for rest in behind)
        return
    yield before
