"""What is damaged, how it is read, and what a damage may change without an error."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import archivestream
from archivestream import Archive, ArchiveError

__all__ = [
    "ANYTHING",
    "Field",
    "Found",
    "Loose",
    "Part",
    "Raw",
    "Subject",
    "archive",
    "changes",
    "named",
    "short",
]

# What a damage can change. Everything else of what is found is as it was.
ABOUT = "about"  # times, modes
NAMES = "names"
CONTENTS = "contents"
NONE = "no members"
FIRST = "first ones"  # only the first members are there
LAST = "last ones"
OTHERS = "others"  # other members
ANYTHING = frozenset({ABOUT, NAMES, CONTENTS, NONE, FIRST, LAST, OTHERS})


@dataclass(frozen=True)
class Part:
    """One member, as it was found: its name, its bytes or the error, and what is said of it besides."""

    name: str
    data: Any
    about: Any = None

    @property
    def is_bad(self) -> bool:
        return isinstance(self.data, Exception)


Found: TypeAlias = "list[Part] | Exception"


@dataclass(frozen=True)
class Field:
    """A number in a header: where it is, how it is written, and what may be another if it is."""

    begin: int
    size: int
    form: Literal["little", "big", "octal", "base256"] = "little"
    may: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Loose:
    """A range that no checksum protects: what a damage of it may change."""

    begin: int
    end: int
    may: frozenset[str] = ANYTHING


@dataclass(frozen=True)
class Raw:
    """A range that is the bytes of a member, with no checksum: after a damage, they are what is there then."""

    begin: int
    end: int
    member: int


@dataclass(frozen=True)
class Subject:
    """A file that is damaged.

    Attributes
    ----------
    data : bytes
    read : callable
        From damaged bytes to what is found; it raises nothing but what is a fault of ours.
    fields, loose, raw
        What is known of places in the data.
    cut, cut_front : set of str
        What may change where the end, or the front, is cut off: nothing, if it has a directory.
    mend, mendable : callable, optional, and ranges
        Sets the checksums of these right that a damage made wrong, so that it is believed; such bytes may mean
        anything.
    escapes : callable, optional
        Whether a damage (the damaged bytes, and their range) escapes a checksum, as two that cancel out do in a sum of
        bytes; those may mean anything, too.
    means : callable, optional
        What other software makes of damaged bytes: what is found may be just that, where no checksum protects it.
    limit : int
        Most bytes that the cases may take in all; the heap keeps some of what windows of 8 MiB took.
    kept : int
        Bytes that each case may leave behind, on top of that.
    room : int
        Address space that they can have, so that a single one that is out of proportion fails.
    """

    data: bytes
    read: Callable[[bytes], Found]
    fields: Sequence[Field] = ()
    loose: Sequence[Loose] = ()
    raw: Sequence[Raw] = ()
    cut: frozenset[str] = frozenset()
    cut_front: frozenset[str] = frozenset()
    mend: Callable[[bytes], bytes] | None = None
    mendable: Sequence[tuple[int, int]] = ()
    escapes: Callable[[bytes, int, int], bool] = lambda data, begin, end: False
    means: Callable[[bytes], Found] | None = None
    windows: Sequence[tuple[int, int]] | None = None  # where each place is taken for a number; default: everywhere
    numbered: bool = False  # names are numbers: those of the members that are left begin at 0 again
    limit: int = 96 << 20
    kept: int = 0
    room: int = 512 << 20

    def may_change(self, begin: int, end: int) -> set[str]:
        """What damage of a range may change."""
        ranges = [(one.begin, one.begin + one.size, one.may) for one in self.fields]
        ranges += [(one.begin, one.end, one.may) for one in self.loose]
        return set().union(*(may for first, last, may in ranges if first < end and begin < last))


def changes(subject: Subject, whole: Sequence[Part], found: Found, data: bytes) -> set[str]:
    """Say what is another than in the whole archive; errors, and raw bytes that are what is there now, are not."""
    if isinstance(found, Exception):
        return set()
    while len(found) > len(whole) and found[-1].is_bad:  # what was no member, such as metadata, is one that is bad
        found = found[:-1]
    if len(found) != len(whole):
        n = len(found)
        if n == 0:
            return {NONE}
        if n < len(whole):
            for label, some in ((FIRST, whole[:n]), (LAST, whole[len(whole) - n :])):
                pairs = list(zip(found, some, strict=True))
                if all((subject.numbered or a.name == b.name) and (a.is_bad or a.data == b.data) for a, b in pairs):
                    return {label}
        return {OTHERS}
    result = set()
    now: dict[int, bytes] = {}
    for raw in subject.raw:
        now[raw.member] = now.get(raw.member, b"") + data[raw.begin : raw.end]
    for i, (old, new) in enumerate(zip(whole, found, strict=True)):
        if new.is_bad:
            continue
        if old.name != new.name:
            result.add(NAMES)
        if old.about != new.about:
            result.add(ABOUT)
        if new.data != old.data and new.data != now.get(i):
            result.add(CONTENTS)
    return result


def named(error: ArchiveError, name: str, member: str | None = None) -> ArchiveError:
    """See that an error names what it is of."""
    assert error.archive is not None, f"{error!r} names no archive"
    assert error.archive.startswith(name), f"{error!r} names another archive than {name}"
    assert error.archive in str(error)
    if member is not None:
        assert error.member == member, f"{error!r} does not name the member {member!r}"
    return error


def archive(source: Any, name: str, every_way: bool = True, **options: Any) -> Found:
    """Open an archive and read all members, in all ways, which must agree."""
    try:
        opened = archivestream.open(source, threads=1, **{"index": "memory", **options})
    except ArchiveError as error:
        return named(error, name)
    with opened:
        parts = []
        for i, member in enumerate(opened.names):
            data: Any
            try:
                data = opened[i]
            except ArchiveError as error:
                data = named(error, name, member)
            info = opened.info(i)
            parts.append(Part(member, data, (info.timestamp, info.attributes)))
        if every_way:
            compare_ways(opened, parts, name)
    return parts


def compare_ways(opened: Archive, parts: Sequence[Part], name: str) -> None:
    """See that all ways to read give the same bytes, and errors for the same members."""
    good = [i for i, part in enumerate(parts) if not part.is_bad]
    bad = [i for i, part in enumerate(parts) if part.is_bad]
    contents = [parts[i].data for i in good]
    assert opened.read_many(good) == contents, "read_many gives other bytes"
    assert opened.read_batch(good).data.tobytes() == b"".join(contents), "read_batch gives other bytes"
    reported = Counter(named(error, name).member for error in opened.verify().errors)  # type: ignore[arg-type]
    assert not Counter(parts[i].name for i in bad) - reported, "verify reports fewer errors"
    for i, part in enumerate(parts):
        for way in (_read_as_file, lambda opened, i: opened.read_many([i])[0]):
            try:
                data = way(opened, i)
            except ArchiveError as error:
                assert part.is_bad, f"member {i} can be read, and another way not: {error!r}"
                named(error, name, part.name)
            else:
                assert data == part.data, f"member {i} is {short(part.data)}, and another way {short(data)}"


def _read_as_file(opened: Archive, i: int) -> bytes:
    with opened.open_member(i) as member:
        return member.read()


@dataclass
class ArchiveReader:
    """Reads damaged archives: from bytes, now and then from a file and a file object, and strictly; all must agree."""

    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    strict: bool = True
    count: int = 0

    def __call__(self, data: bytes) -> Found:
        name = f"<{len(data)} bytes>"
        found = archive(data, name, **self.options)
        self.count += 1
        if self.count % 16 == 1:
            self.path.write_bytes(data)
            self._agree(found, archive(self.path, str(self.path), **self.options), "a file")
        if self.count % 16 == 9:
            self._agree(found, archive(io.BytesIO(data), "<", **self.options), "a file object")
        if self.strict:
            strictly = archive(data, name, every_way=False, strict=True, **self.options)
            if not isinstance(strictly, Exception):
                self._agree(found, strictly, "strict mode", errors=True)
        return found

    def _agree(self, found: Found, other: Found, what: str, errors: bool = False) -> None:
        if isinstance(found, Exception) or isinstance(other, Exception):
            assert type(found) is type(other), f"{what} gives {other!r}, and bytes {found!r}"
            return
        assert len(found) == len(other), f"{what} gives other members"
        for a, b in zip(found, other, strict=True):
            # A single file takes its name from the archive's, and bytes have none.
            assert a.name in ("", b.name), f"{what} names {b.name!r}, and bytes {a.name!r}"
            assert a.about == b.about, f"{what} gives {short(b)}, and bytes {short(a)}"
            same = type(a.data) is type(b.data) if a.is_bad else a.data == b.data
            assert same or (errors and b.is_bad), f"{what} gives {short(b)}, and bytes {short(a)}"


def short(value: object) -> str:
    """Write a value with the beginning and the end of what is long."""
    if isinstance(value, Part):
        return f"({value.name!r}, {short(value.data)}, {value.about})"
    if isinstance(value, list):
        return f"[{', '.join(map(short, value[:5]))}]"
    text = repr(value)
    return text if len(text) < 150 else f"{text[:80]} ... {text[-60:]}"
