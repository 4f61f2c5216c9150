"""The cases: what each side does, over which archive, and the targets."""

from __future__ import annotations

# They enter their cases in this order.
# isort: off
from benchmarks.cases import zips, images, tar, tar_zst, tfrecord, packing, shards  # noqa: F401
from benchmarks.cases import order, caches, loader, cuda  # noqa: F401

# isort: on
from benchmarks.cases.registry import CASES, FULL, QUICK

__all__ = ["CASES", "FULL", "QUICK"]
