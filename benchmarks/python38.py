"""Finds an interpreter that DareBlopy runs on, and speaks with it there."""

from __future__ import annotations

import os
import shutil
import subprocess
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmarks import BUILD
from benchmarks.measure import Digest, Side

__all__ = ["dareblopy_side"]

VARIABLE = "ARCHIVESTREAM_PYTHON38"  # names an interpreter
_REQUIREMENTS = "DareBlopy==0.0.5", "numpy==1.24.4"
_PEER = Path(__file__).with_name("dareblopy_peer.py")


def _candidates() -> Iterator[str]:
    if named := os.environ.get(VARIABLE):
        yield named
    roots = [os.environ.get("PYENV_ROOT")]
    for command, arguments in (("pyenv", ["root"]), ("uv", ["python", "find", "3.8"])):
        if found := shutil.which(command):
            answer = subprocess.run([found, *arguments], capture_output=True, text=True).stdout.strip()
            if command == "uv" and answer:
                yield answer
            elif command == "pyenv":
                roots.append(answer)
    for root in filter(None, roots):
        yield from sorted(map(str, Path(root).glob("versions/3.8.*/bin/python3.8")))
    if found := shutil.which("python3.8"):
        yield found


def _answers(python: str, code: str) -> bool:
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


@cache
def find_python(*, install: bool) -> str | None:
    """Return a CPython 3.8 that has DareBlopy, in a virtual environment under ``build``; None where there is none.

    Parameters
    ----------
    install : bool
        Make that environment where it is missing, from the package index.
    """
    folder = BUILD / "dareblopy"
    python = str(folder / "bin" / "python")
    if _answers(python, "import dareblopy"):
        return python
    is_38 = "import sys; sys.exit(sys.version_info[:2] != (3, 8))"
    if not install:
        return None
    base = next((one for one in _candidates() if _answers(one, is_38)), None)
    if base is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    requirements = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_REQUIREMENTS]
    for command in ([base, "-m", "venv", str(folder)], requirements):
        if subprocess.run(command, capture_output=True).returncode:
            return None
    return python if _answers(python, "import dareblopy") else None


class DareBlopy:
    """Reads files in that interpreter, which stays.

    Parameters
    ----------
    python : str
        The interpreter.
    arguments : object
        What is read: see `benchmarks.dareblopy_peer`.
    """

    def __init__(self, python: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [python, str(_PEER), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        weakref.finalize(self, _end, self._process)

    def run(self) -> None:
        """Read all once."""
        self._ask("run")

    def digest(self) -> Digest:
        """Read all once, and tell what came out."""
        return self._ask("digest")

    def _ask(self, question: str) -> Digest:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if len(answer) != 2:
            raise RuntimeError(f"DareBlopy ended with status {self._process.wait()}")
        return Digest(*map(int, answer))


def dareblopy_side(*arguments: object, install: bool) -> Side | str:
    """Make the side of DareBlopy, or say why there is none.

    Parameters
    ----------
    arguments : object
        What is read: see `benchmarks.dareblopy_peer`.
    install : bool
        As for `find_python`.
    """
    python = find_python(install=install)
    if python is None:
        return f"DareBlopy: no CPython 3.8 that it could be installed for; {VARIABLE} names one"
    peer = DareBlopy(python, *arguments)
    return Side("DareBlopy", "peer", peer.run, peer.digest)


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate()
