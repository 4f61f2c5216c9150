"""What `entry.cpp` asks for: a target by its name, once the instrumented extensions stand before the others."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from .build import EXTENSIONS

__all__ = ["find"]

NATIVE = "archivestream._native."


class Instrumented(PathFinder):
    """Finds the extensions that `build` has made; what it has not is found where it always is."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one extension."""
        if not fullname.startswith(NATIVE):
            return None
        return super().find_spec(fullname, [str(EXTENSIONS)], target)


def find(name: str, mutate: Callable[[bytes, int], bytes]) -> tuple[Callable[..., object], Callable[..., bytes]]:
    """Return what runs a target on a view of bytes, and what makes another input of one."""
    sys.meta_path.insert(0, Instrumented)  # type: ignore[arg-type]
    from .targets import TARGETS

    target = TARGETS[name]

    def change(data: bytes, most: int, seed: int) -> bytes:
        return target.mutate(data, most, random.Random(seed), mutate)

    return target.run, change
