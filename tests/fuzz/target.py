"""What a target is."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Data", "Repair", "Target", "chance", "require"]

Data: TypeAlias = "bytes | memoryview"
Repair: TypeAlias = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """A function that takes any bytes, and lets through only exceptions that nobody has promised.

    Attributes
    ----------
    name : str
        As the command line, and the folder of its regressions, have it.
    run : callable
        Takes the input. Errors that the package documents are caught there; what comes out of it is a find.
    seeds : callable
        Makes the inputs to begin with.
    repair : callable, optional
        Makes the checksums (and the like) of a mutated input hold again: without it, hardly one would get past them.
    dictionary : tuple of bytes
        What is worth inserting.
    max_len : int
        Of an input.
    engine : {"libfuzzer", "atheris"}
        What guides it: the coverage of native code, with sanitizers, or that of Python.
    """

    name: str
    run: Callable[[Data], object]
    seeds: Callable[[], Iterable[bytes]]
    repair: Repair | None = None
    dictionary: tuple[bytes, ...] = ()
    max_len: int = 8 << 10
    engine: str = "libfuzzer"

    def mutate(
        self, data: bytes, most: int, rng: random.Random, mutate: Callable[[bytes, int], bytes], repaired: float = 0.9
    ) -> bytes:
        """Make another input of one; most of them are repaired."""
        made = mutate(data[:most], most)
        if self.repair is not None and rng.random() < repaired:
            made = self.repair(made, rng)[:most]
        return made


def chance(data: Data) -> random.Random:
    """Return a source of choices that follow from an input: an input is a file as it is, and a find happens again."""
    return random.Random(zlib.crc32(data))


def require(condition: Any, *what: object) -> None:
    """Raise where a property does not hold: also where Python is run without assertions."""
    if not condition:
        raise AssertionError(*what)
