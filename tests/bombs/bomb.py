"""What a bomb is, and all of them by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["BASE", "BOMBS", "Bomb", "bomb"]

# What any archive may take, however small it is: a batch of `verify` (64 MiB), decoders of each thread, the cache of
# decoded blocks (64 MiB), and libraries that are imported when they are needed.
BASE = 128 << 20

Make: TypeAlias = Callable[[Path, int], object]


@dataclass(frozen=True)
class Bomb:
    """A kind of bomb.

    Attributes
    ----------
    name, suffix, says : str
        What it is called, what its file ends with, and what there is so many of.
    make : callable
        Writes one to a path.
    full, small : int
        How many, for the table and in the suite.
    action : str
        How it is read; see `bombs.readers`.
    factor : float
        Bytes of memory that may be taken for each byte of the file, beside `BASE`.
    fault : str
        What is known to be wrong with how it is read.
    """

    name: str
    suffix: str
    says: str
    make: Make
    full: int
    small: int
    action: str
    factor: float
    fault: str


BOMBS: dict[str, Bomb] = {}


def bomb(
    suffix: str, full: int, small: int, action: str = "list", *, factor: float = 4, fault: str = ""
) -> Callable[[Make], Make]:
    """Register what makes a kind of bomb; its docstring says what there is so many of."""

    def register(make: Make) -> Make:
        name = make.__name__
        says = (make.__doc__ or "").rstrip(".")
        BOMBS[name] = Bomb(name, suffix, says, make, full, small, action, factor, fault)
        return make

    return register
