"""Every damage of a file: cut at each length, each byte another, each number of a header at its edges."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .subjects import Field, Subject

__all__ = ["Damage", "choose", "damages"]

WINDOWS = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class Damage:
    """A range that is replaced by other bytes; `mended`: checksums are right again.

    `kind` says what it is for: "cut", "front", "byte", "field", "window", or "lost" and "doubled" bytes.
    """

    kind: str
    begin: int
    end: int
    new: bytes
    mended: bool = False

    def apply(self, subject: Subject) -> bytes:
        data = subject.data[: self.begin] + self.new + subject.data[self.end :]
        return subject.mend(data) if self.mended and subject.mend else data

    def __str__(self) -> str:
        what = f"{self.kind}: bytes {self.begin} to {self.end} are {self.new.hex(' ') or 'not there'}"
        return what + ", checksums set right" * self.mended


def damages(subject: Subject) -> list[Damage]:
    """List all damages of a file, each once; those of the fields first."""
    found = [*fields(subject), *cuts(subject.data), *single_bytes(subject.data), *windows(subject)]
    if subject.mend is not None:
        found += [replace(one, mended=True) for one in found if is_mendable(subject, one)]
    return list({(one.begin, one.end, one.new, one.mended): one for one in found}.values())


def is_mendable(subject: Subject, damage: Damage) -> bool:
    """Whether a damage is of something that has a checksum, which can be set right."""
    if damage.kind not in ("field", "byte", "window"):
        return False
    return any(begin < damage.end and damage.begin < end for begin, end in subject.mendable)


def choose(found: Sequence[Damage], most: int | None) -> list[int]:
    """Choose a share of some damages, the same each time: numbers of those of fields, and of others by chance."""
    numbers = range(len(found))
    if most is None or most >= len(found):
        return list(numbers)
    chance = random.Random(7)
    first = [i for i in numbers if found[i].kind == "field"]
    first = sorted(chance.sample(first, min(len(first), most // 2)))
    rest = sorted(set(numbers).difference(first))
    return sorted(first + chance.sample(rest, most - len(first)))


def cuts(data: bytes) -> Iterator[Damage]:
    n = len(data)
    for size in range(n):
        yield Damage("cut", size, n, b"")
    for size in range(1, n):
        yield Damage("front", 0, size, b"")


def single_bytes(data: bytes) -> Iterator[Damage]:
    for at, byte in enumerate(data):
        for value in sorted({0, 0xFF, *(byte ^ 1 << bit for bit in range(8))} - {byte}):
            yield Damage("byte", at, at + 1, bytes([value]))
        yield Damage("lost", at, at + 1, b"")
        yield Damage("doubled", at, at, data[at : at + 1])


def windows(subject: Subject) -> Iterator[Damage]:
    """Take each place for a number of 16, 32 or 64 bits, whether it is one or not."""
    data = subject.data
    for begin, end in subject.windows or [(0, len(data))]:
        for width in WINDOWS:
            for at in range(begin, min(end, len(data) - width + 1)):
                here = data[at : at + width]
                for new in edges(here, "little", len(data)):
                    if new != here:
                        yield Damage("window", at, at + width, new)


def fields(subject: Subject) -> Iterator[Damage]:
    """Set each number to its edges, and to what lies at the edges of the file from there."""
    for one in subject.fields:
        here = subject.data[one.begin : one.begin + one.size]
        for new in {*edges(here, one.form, len(subject.data)), *extremes(subject, one)}:
            if new != here:
                yield Damage("field", one.begin, one.begin + one.size, new)


def edges(here: bytes, form: str, size: int) -> list[bytes]:
    """Return 0, 1, the largest ones, half of that, what is there plus and minus 1, and the size of the file."""
    top = largest(here, form)
    value = read(here, form)
    values = {0, 1, top, top - 1, top >> 1, (top >> 1) + 1, (value + 1) % (top + 1), (value - 1) % (top + 1), size}
    return [write(one, len(here), form) for one in sorted(values) if one <= top]


def extremes(subject: Subject, one: Field) -> list[bytes]:
    """Return what makes sums with other fields wrap, or end just at or behind the end of the file."""
    here = subject.data[one.begin : one.begin + one.size]
    top, size = largest(here, one.form), len(subject.data)
    value = read(here, one.form)
    values = {
        top + 1 - value,
        top - value,
        top + 1 - size,
        top - size,
        size - value,
        size - one.begin,
        size + 1,
        size - 1,
    }
    values |= {value * 2, value + size, 1 << 31, (1 << 31) - 1, 1 << 32, (1 << 32) - 1, (1 << 63) - 1}
    return [write(number, one.size, one.form) for number in sorted(values) if 0 <= number <= top]


def largest(here: bytes, form: str) -> int:
    if form == "octal":
        return int(8 ** (len(here) - 1)) - 1
    return (1 << 8 * len(here) - 2 * (form == "base256")) - 1  # of those, the first bits say that they are


def read(here: bytes, form: str) -> int:
    if form in ("octal", "base256"):
        return int(here.strip(b" \0") or b"0", 8)
    return int.from_bytes(here, "big" if form == "big" else "little")


def write(value: int, size: int, form: str) -> bytes:
    if form == "octal":
        return b"%0*o\0" % (size - 1, value)
    if form == "base256":
        return (value | 1 << 8 * size - 1).to_bytes(size, "big")
    return value.to_bytes(size, "big" if form == "big" else "little")
