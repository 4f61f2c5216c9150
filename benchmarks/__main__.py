"""Run the benchmarks: ``python -m benchmarks``, from the root of the repository."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.cases import CASES, FULL, QUICK


def main() -> None:
    """Read the command line, run the cases, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--case", nargs="+", metavar="NAME", help="only these: cases, or the first words of their names"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures there, too")
    parser.add_argument("--quick", action="store_true", help="tiny data: does everything run?")
    parser.add_argument("--list", action="store_true", help="list the cases and their targets")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    wanted = arguments.case or [*CASES]
    if unknown := [name for name in wanted if not any(_is_of(case, name) for case in CASES)]:
        parser.error(f"there is no case {', '.join(unknown)}: --list names all of them")
    chosen = [case for case in CASES.values() if any(_is_of(case.name, name) for name in wanted)]
    if arguments.list:
        for case in chosen:
            report.print_title(console, case)
            for target in case.targets:
                console.print(f"    {target}", highlight=False)
        return
    facts = report.system()
    report.print_system(console, facts)
    results = []
    for case in chosen:
        measured = case.measure(QUICK if arguments.quick else FULL)
        report.print_case(console, case, measured)
        results.append((case, measured))
    report.print_summary(console, results)
    if arguments.quick:
        console.print("[dim]--quick: these figures say nothing about speed[/]", highlight=False)
    if arguments.json:
        found = {
            "system": facts,
            "quick": arguments.quick,
            "results": [case.as_dict(measured) for case, measured in results],
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _is_of(case: str, name: str) -> bool:
    """Tell whether a case has a name, or belongs to a group: ``cuda_copy`` to ``cuda``."""
    return case == name or case.startswith(f"{name}_")


if __name__ == "__main__":
    main()
