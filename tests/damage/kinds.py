"""All kinds by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import compressed, contents, records, saved, tars, zips
from .subjects import Subject

__all__ = ["KINDS"]

# What makes a subject, given a folder of its own.
KINDS: dict[str, Callable[[Path], Subject]] = {
    name: kind for module in (zips, tars, compressed, records, saved, contents) for name, kind in module.KINDS.items()
}
