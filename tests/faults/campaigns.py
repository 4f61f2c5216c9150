"""All that is tried, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from faults.full_disk import full_disk
from faults.memory import allocations, limits
from faults.objects import objects
from faults.reading import changes, opening, reading
from faults.report import Report
from faults.sharing import sharing
from faults.writing import kill_at_random, killing, writing

__all__ = ["CAMPAIGNS"]

CAMPAIGNS: dict[str, Callable[[Path, Report], None]] = {
    "objects": objects,
    "reading": reading,
    "opening": opening,
    "changes": changes,
    "writing": writing,
    "killing": killing,
    "kill at random": kill_at_random,
    "full disk": full_disk,
    "sharing": sharing,
    "limits": limits,
    "allocations": allocations,
}
