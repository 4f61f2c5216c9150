"""Run the stress: ``python -m tests.stress``, from the root of the repository; a minute for each part."""

from __future__ import annotations

import argparse
import os
import sys

from . import PARTS, run


def main() -> int:
    """Run the parts, one after the other, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts")
    arguments = parser.parse_args()
    os.environ["STRESS_PROGRESS"] = "1"
    outcomes = {}
    for name in arguments.only:
        print(f"{name}: {PARTS[name]}", flush=True)
        outcomes[name] = run(name, arguments.seconds)
    print(f"\n{'part':12} {'seconds':>8} {'operations':>11} {'errors':>7}")
    for name, outcome in outcomes.items():
        print(f"{name:12} {outcome.seconds:8.1f} {sum(outcome.done.values()):11,} {len(outcome.errors):7}")
    for name, outcome in outcomes.items():
        print(f"\n{name}: " + ", ".join(f"{what} {count:,}" for what, count in sorted(outcome.done.items())))
        for what, note in outcome.notes.items():
            print(f"  {what}: {note}")
        for error in outcome.errors[:20]:
            print(f"  ERROR {error}")
    return any(outcome.errors for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
