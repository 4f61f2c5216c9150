"""Conformance, row by row: ``python -m tests.conformance``, from the root of the repository.

Of each source of the corpus, and of each mode: how many rows there are, how many pass, how many differ, and why. The
status is 1 where a row differs without a reason that `exceptions.py` gives.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

from . import CORPUS, MODES, ROWS, Finding, judge, source_of


def main() -> int:
    """Read the command line, judge the rows, print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print what differs as JSON, and no table")
    arguments = parser.parse_args()
    if not ROWS:
        parser.error(f"there is no corpus at {CORPUS}: set ARCHIVESTREAM_CORPUS")
    findings = []
    for number, row in enumerate(ROWS, 1):
        findings += [judge(row, mode) for mode in MODES]
        if sys.stderr.isatty():
            print(f"\r{number} of {len(ROWS)} rows", end="\n" if number == len(ROWS) else "", file=sys.stderr)
    different = [finding for finding in findings if not finding.is_pass]
    if arguments.json:
        print(json.dumps([as_json(finding) for finding in different], indent=1))
    else:
        print_table(findings)
        print_differences(different)
    return any(not finding.is_excused for finding in different)


def as_json(finding: Finding) -> dict[str, str | None]:
    return {
        "file": finding.row["file"],
        "mode": finding.mode,
        "difference": finding.difference,
        "reason": finding.reason or None,
    }


def print_table(findings: Sequence[Finding]) -> None:
    columns = "source", "mode", "rows", "pass", "differ", "no reason"
    lines = [columns]
    sources = [*dict.fromkeys(sorted(source_of(row) for row in ROWS)), "all"]
    for source in sources:
        for mode in MODES:
            some = [one for one in findings if one.mode == mode and source in ("all", source_of(one.row))]
            passed, excused = (sum(counted) for counted in zip(*((f.is_pass, f.is_excused) for f in some), strict=True))
            counts = len(some), passed, excused, len(some) - passed - excused
            lines.append((source, mode, *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        texts = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(texts).rstrip())


def print_differences(different: Iterable[Finding]) -> None:
    """List what differs under the reason for it; what has none, last."""
    by_reason: dict[str, list[Finding]] = {}
    for finding in sorted(different, key=lambda finding: not finding.is_excused):
        by_reason.setdefault(finding.reason or "NO REASON", []).append(finding)
    for reason, some in by_reason.items():
        print(f"\n{reason}")
        for finding in some:
            print(f"    {finding.row['file']} ({finding.mode}): {finding.difference}")


if __name__ == "__main__":
    sys.exit(main())
