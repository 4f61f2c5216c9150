"""Named cases, each against its peers and the limit. ``python -m benchmarks --help`` says more."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BUILD", "ROOT"]

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"
