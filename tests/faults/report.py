"""Counts what was tried, at which points, and what came of it; prints it as a table."""

from __future__ import annotations

import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Report", "Row"]

_Item = TypeVar("_Item")


@dataclass
class Row:
    """An operation under one fault."""

    most: int | None  # points to try
    turn: int
    tried: int = 0
    hits: int = 0
    point: int = 0
    failures: list[str] = field(default_factory=list)

    def points(self, count: Callable[[], int]) -> Iterator[int]:
        """Number the calls of an operation from 1; if only some may be tried, other ones in each row."""
        numbers = range(1, count() + 1)
        step = 1 if self.most is None else max(1, -(-len(numbers) // self.most))
        for number in numbers[self.turn % step :: step]:
            self.point = number
            yield number

    def add(self, hits: int) -> None:
        """Count a point that was tried."""
        self.tried += 1
        self.hits += hits > 0


class Report:
    """What was tried so far.

    Parameters
    ----------
    most : int, optional
        Points to try of each operation under each fault, and one variant in turn; default: all.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.rows: dict[tuple[str, str], Row] = {}
        self.failures: list[str] = []
        self._turns = itertools.count()
        self._begun = time.monotonic()

    def some(self, items: Iterable[_Item]) -> list[_Item]:
        """All items, or, where not all is to be tried, the first."""
        return list(items)[: None if self.most is None else 1]

    @contextmanager
    def operation(self, what: str, kind: str, fault: str) -> Iterator[Row]:
        """Try an operation; what is raised is a failure of the operation at the last point."""
        row = Row(self.most, next(self._turns))
        try:
            yield row
        except Exception:
            self.failures.append(f"{what}, {kind}, {fault}, point {row.point}:\n{traceback.format_exc()}")
            row.failures.append(kind)
        total = self.rows.setdefault((what, fault), Row(None, 0))
        total.tried += row.tried + len(row.failures)
        total.hits += row.hits
        total.failures += row.failures
        if sys.stderr.isatty():
            print(f"\r{time.monotonic() - self._begun:6.0f} s  {what}, {kind}, {fault}\x1b[K", end="", file=sys.stderr)

    def show(self) -> None:
        """Print the table: an operation under a fault, over all kinds of archives."""
        print(f"{'operation':36}{'fault':26}{'points':>9}{'struck':>9}{'survived':>10}")
        for (what, fault), row in self.rows.items():
            print(f"{what:36}{fault:26}{row.tried:9}{row.hits:9}{row.tried - len(row.failures):10}")
        tried = sum(row.tried for row in self.rows.values())
        hits = sum(row.hits for row in self.rows.values())
        print(f"{'all':62}{tried:9}{hits:9}{tried - len(self.failures):10}   {time.monotonic() - self._begun:.0f} s")
        for failure in self.failures:
            print(f"\n{failure}", file=sys.stderr)
