"""Examples as their users run them: in a process of their own, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

import archivestream

EXAMPLES = Path(__file__).parents[1] / "examples"


def require(*packages: str) -> None:
    """Skip a test where a package is not there; nothing is imported."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run_python(*arguments: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python, which finds the package that is tested; raise what it says where it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(archivestream.__file__).parents[1]),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",  # the networks are so small that more would only wait for one another
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_example(name: str, *arguments: object, folder: Path, ignored: Sequence[str] = ()) -> list[str]:
    """Run a script; return the lines that it prints. Warnings are errors, but for those that begin like the ignored."""
    filters = [f"-Wignore:{text}" for text in ignored]
    done = run_python("-Werror", *filters, EXAMPLES / name, *arguments, folder=folder)
    assert done.stderr == ""
    return done.stdout.splitlines()
