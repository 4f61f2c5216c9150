"""All damages of all kinds: ``python -m tests.damage``, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # what tests share is imported from there

from damage.kinds import KINDS
from damage.runner import Crash, try_kind
from damage.subjects import Subject

HEAD = ("kind", "bytes", "inputs", "errors", "of members", "identical", "changed", "slowest", "peak", "CPU")
LINE = "{:26} {:>6} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9} {:>8} {:>7}"


def main() -> int:
    """Read the command line, try the damages, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument("--kind", nargs="+", metavar="NAME", help="only these, or those that begin so")
    parser.add_argument("--most", type=int, metavar="N", help="no more cases of a kind than that, the same each time")
    parser.add_argument("--case", type=int, metavar="N", help="only that case of the kind")
    parser.add_argument("--list", action="store_true", help="list the kinds, and what a damage may change in each")
    arguments = parser.parse_args()
    chosen = [name for name in KINDS if not arguments.kind or name.startswith(tuple(arguments.kind))]
    if not chosen:
        parser.error("there is no such kind: --list names all of them")
    if arguments.list:
        for kind in chosen:
            with tempfile.TemporaryDirectory() as folder:
                print(f"{kind:26} {'; '.join(what_may_change(KINDS[kind](Path(folder))))}")
        return 0
    print(LINE.format(*HEAD))
    failed, inputs, cpu, totals = [], 0, 0.0, dict.fromkeys(("refused", "bad members", "identical", "changed"), 0)
    for kind in chosen:
        try:
            report = try_kind(kind, arguments.most, arguments.case, lambda done, kind=kind: show(f"{kind}: {done}"))
        except Crash as error:
            show("")
            failed.append(str(error))
            print(f"{kind}: CRASHED", flush=True)
            continue
        show("")
        counts = report["counts"]
        inputs += report["inputs"]
        totals = {name: totals[name] + counts[name] for name in totals}
        figures = report["bytes"], report["inputs"], *counts.values()
        slowest, peak = f"{report['slowest'][0] * 1000:.1f} ms", f"{report['peak'][0] / (1 << 20):.1f} MB"
        cpu += report["cpu"]
        print(LINE.format(kind, *figures, slowest, peak, f"{report['cpu']:.1f} s"), flush=True)
        for label, count in sorted(report["labels"].items()):
            print(f"{'':26} {count} changed: {label}")
        failed += [f"{kind}: {failure}" for failure in report["failures"]]
        if report["failed"] > len(report["failures"]):
            failed.append(f"{kind}: and {report['failed'] - len(report['failures'])} more")
    print(LINE.format("all", "", inputs, *totals.values(), "", "", f"{cpu:.0f} s"))
    print("\n".join(["", *failed]) if failed else "no case failed")
    return bool(failed)


def what_may_change(subject: Subject) -> Iterator[str]:
    """Say what a damage may change without an error."""
    here = subject.may_change(0, len(subject.data))
    yield f"in place: {', '.join(sorted(here))}" if here else "in place: nothing"
    if subject.raw:
        yield "bytes of a member without a checksum are what is there"
    for where, may in (("end", subject.cut), ("front", subject.cut_front)):
        if may:
            yield f"cut at the {where}: {', '.join(sorted(may))}"
    if subject.mend:
        yield "with checksums set right: anything"
    if subject.means:
        yield "what another program decodes"


def show(text: str) -> None:
    """Show how far it is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
