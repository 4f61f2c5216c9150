"""Try faults, and print a table of operation, fault, points tried, points where the fault struck, points survived."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from faults import shim  # noqa: E402


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("campaigns", nargs="*", help="default: all")
    parser.add_argument("--points", type=int, help="calls of each operation to try; default: all, in all variants")
    options = parser.parse_args()
    reason = shim.why_not()
    if reason is not None:
        sys.exit(reason)
    shim.begin_anew()
    from faults.campaigns import CAMPAIGNS
    from faults.report import Report

    warnings.simplefilter("error")
    report = Report(options.points)
    for name in options.campaigns or CAMPAIGNS:
        # In memory, where there is such a thing: an fsync costs nothing there.
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
            os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # below, so that faults strike there, too
            CAMPAIGNS[name](Path(folder), report)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    report.show()
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
