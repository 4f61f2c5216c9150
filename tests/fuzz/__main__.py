"""The command: ``python -m tests.fuzz build | run | reproduce | minimise``."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .build import ROOT, MissingTool, build
from .run import REGRESSIONS, Result, fuzz, report, reproduce
from .target import Target


def main() -> int:
    """Run a command; 0 if nothing was found."""
    if sys.argv[1:] == ["build"]:  # before the package is imported, which may be what has to be built
        return try_to(build)
    from .targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="See tests/fuzz/README.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build what is out of date, with clang")
    running = commands.add_parser("run", help="run targets, several at once; 1 where something was found")
    running.add_argument("targets", nargs="*", metavar="target", help=f"default: all, which are {', '.join(TARGETS)}")
    running.add_argument("--seconds", type=int, default=60, help="of each target; default: %(default)s")
    running.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at once; default: %(default)s")
    one = commands.add_parser("reproduce", help="run one input")
    smaller = commands.add_parser("minimise", help="make a smaller input that fails, too, and keep it as a regression")
    for command in (one, smaller):
        command.add_argument("target", choices=TARGETS)
        command.add_argument("input", type=Path)
    for command in (running, one, smaller):
        command.add_argument("--engine", choices=("libfuzzer", "atheris"), help="another one than that of the target")
    arguments = parser.parse_args()
    engine = {"engine": arguments.engine} if arguments.engine else {}
    if arguments.command == "run":
        unknown = set(arguments.targets) - TARGETS.keys()
        if unknown:
            parser.error(f"no target {min(unknown)!r}; there are {', '.join(TARGETS)}")
        chosen = [dataclasses.replace(TARGETS[name], **engine) for name in arguments.targets or TARGETS]
        return try_to(run, chosen, arguments.seconds, arguments.jobs)
    target = dataclasses.replace(TARGETS[arguments.target], **engine)
    return try_to(reproduce if arguments.command == "reproduce" else minimise, target, arguments.input)


def try_to(call: Callable[..., int | None], *arguments: object) -> int:
    """Call something, and say what is not installed."""
    try:
        return call(*arguments) or 0
    except MissingTool as error:
        print(error, file=sys.stderr)
        return 2


def run(targets: Sequence[Target], seconds: int, jobs: int) -> int:
    """Run targets, and show what came of it."""
    results = []
    for result in fuzz(targets, seconds, jobs):
        results.append(result)
        show(result)
    print(report(results))
    return int(any(result.finds or result.error for result in results))


def show(result: Result) -> None:
    """Say what was found, and how to go on."""
    if result.error:
        print(f"---- {result.target}", result.error, sep="\n")
    for path in result.finds:
        print(f"FOUND {path}")
        for command in ("reproduce", "minimise"):
            print(f"  python -m tests.fuzz {command} {result.target} {path}")
    sys.stdout.flush()


def minimise(target: Target, path: Path) -> None:
    """Make an input smaller, and keep it with the regressions."""
    smallest = path.with_suffix(".minimised")
    reproduce(target, path, "-minimize_crash=1", "-max_total_time=60", f"-exact_artifact_path={smallest}")
    kept = REGRESSIONS / target.name / path.name.rpartition("-")[2][:12]
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(smallest if smallest.exists() else path, kept)
    print(f"kept as {kept.relative_to(ROOT)}: mend it, and add the file to the commit")


if __name__ == "__main__":
    sys.exit(main())
