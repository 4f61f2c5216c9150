"""How many threads there may be."""

from __future__ import annotations

import operator
import os

__all__ = ["MOST_THREADS", "check_threads", "processors"]

MOST_THREADS = 1024  # that may work on one batch


def check_threads(threads: int | None) -> None:
    """Raise `ValueError` for what is no number of threads; None stands for as many as there are processors."""
    if threads is not None and not 1 <= operator.index(threads) <= MOST_THREADS:
        raise ValueError(f"threads must be from 1 to {MOST_THREADS}, not {threads}")


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
