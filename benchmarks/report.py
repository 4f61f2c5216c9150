"""Tables for people, and the facts about the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import archivestream
from benchmarks import cuda_device
from benchmarks.measure import idle_cores, processors
from benchmarks.results import Case, Measured

__all__ = ["print_case", "print_summary", "print_system", "print_title", "system"]


def system() -> dict[str, Any]:
    """Return what the figures depend on: machine, system, versions, date."""
    idle = idle_cores()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": processors(),
        "cores_idle": None if idle is None else round(idle, 2),
        "gpu": cuda_device.find().described,
        "os": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": _compiler(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "archivestream": archivestream.__version__,
        "numpy": np.__version__,
        "torch": _version("torch"),
        "cdmltrain": _version("cdmltrain"),
        "spdl-io": _version("spdl-io"),
        "webdataset": _version("webdataset"),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _compiler() -> str:
    if shutil.which("cc") is None:
        return "unknown"
    output = subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout
    return output.partition("\n")[0]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def print_system(console: Console, facts: dict[str, Any]) -> None:
    """Print the facts, a few to a line."""
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)


def print_title(console: Console, case: Case) -> None:
    """Print what a case is."""
    console.print(f"[bold]{case.name}[/]: {escape(case.title)}", highlight=False)


def print_case(console: Console, case: Case, measured: Measured) -> None:
    """Print the sides of a case, their speed against each peer and the limit, and the rest."""
    console.print()
    print_title(console, case)
    others = [timing for timing in measured.timings if timing.kind != "ours"]
    if measured.timings:
        each = f"{measured.members:,} members, {measured.bytes / 1e6:,.1f} MB"
        table = Table(title=each, title_justify="left", title_style="dim")
        table.add_column("side")
        relative = [f"x {other.name}" for other in others]
        for heading in ("best", "median", "members/s", "MB/s", *relative):
            table.add_column(heading, justify="right")
        for timing in measured.timings:
            ratios = [f"{measured.speed(timing.name, other.name)[0]:.2f}" for other in others]
            table.add_row(
                timing.name,
                _milliseconds(timing.best),
                _milliseconds(timing.median),
                f"{measured.members / timing.best:,.0f}",
                f"{measured.bytes / timing.best / 1e6:,.0f}",
                *ratios,
                style="bold" if timing.kind == "ours" else None,
            )
        console.print(table)
    for figure in measured.figures:
        console.print(f"  {figure.name}: {figure.value:,.1f} {figure.unit}", highlight=False)
    for note in measured.notes:
        console.print(f"  [dim]{note}[/]", highlight=False)


def print_summary(console: Console, results: list[tuple[Case, Measured]]) -> None:
    """Print each target and what was reached."""
    table = Table(title="targets", title_justify="left")
    table.add_column("case")
    table.add_column("target")
    table.add_column("reached", justify="right")
    table.add_column("")
    for case, measured in results:
        for check in case.checks(measured):
            verdict = "[green]PASS[/]" if check.passed else "[red]MISS[/]"
            table.add_row(case.name, check.target, f"{check.reached:.2f}", verdict)
    console.print()
    console.print(table)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"
