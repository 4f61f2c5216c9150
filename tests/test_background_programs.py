"""`archivestream.background` in whole programs: they end, however they end, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from generators import BOTH, notes
from leaks import group_is_gone, is_alive, until

import archivestream

PROGRAM = """
import itertools, os, signal, sys, time
import archivestream

def endless(path):
    try:
        for i in itertools.count():
            yield i, os.getpid()
    finally:
        with open(path, "a") as file:
            file.write("closed")

def silent(path):
    with open(path, "a") as file:
        file.write(str(os.getpid()))
    while True:
        time.sleep(0.1)
    yield

def main(how, path, **way):
    items = archivestream.background(silent if how == "silent" else endless, path, maxsize=2, **way)
    if how == "silent":
        while not os.path.exists(path):
            time.sleep(0.01)
    else:
        print(next(items)[1], flush=True)
    if how == "error":
        raise LookupError("of the program")
    if how == "exit":
        os._exit(0)
    if how == "wait":
        for item in items:
            time.sleep(0.01)
    if how == "catch":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print([next(items)[0] for _ in range(100)][-1], flush=True)
    if how == "child":
        import multiprocessing
        child = multiprocessing.get_context("spawn").Process(target=main, args=("end", path), kwargs=way)
        child.start()
        child.join()
        sys.exit(child.exitcode)

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
"""


def start(tmp_path: Path, how: str, way: dict[str, Any]) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    if not script.exists():  # another program may be reading it
        script.write_text(PROGRAM)
    return subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::DeprecationWarning",
            str(script),
            how,
            str(tmp_path / f"notes-{how}"),
            repr(way),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(archivestream.__file__))},
        start_new_session=True,  # so that Ctrl-C can be sent to all of it
    )


PROGRAM_WAYS = [*BOTH, pytest.param({"processes": True}, id="spawn")]


@pytest.mark.parametrize("way", PROGRAM_WAYS)
def test_the_end_of_a_program(tmp_path: Path, way: dict[str, Any]) -> None:
    codes = {"end": 0, "error": 1, "silent": 0, "child": 0}
    programs = {how: start(tmp_path, how, way) for how in codes}
    for how, program in programs.items():
        _, errors = program.communicate(timeout=60)
        assert program.returncode == codes[how], errors
        assert errors == "" if how != "error" else errors.endswith("LookupError: of the program\n")
        assert errors.count("Traceback") == (how == "error")
        if how in ("end", "error"):
            assert notes(tmp_path / f"notes-{how}") == ["closed"]
        until(lambda program=program: group_is_gone(program.pid))


@pytest.mark.parametrize("way", PROGRAM_WAYS)
def test_ctrl_c(tmp_path: Path, way: dict[str, Any]) -> None:
    program = start(tmp_path, "wait", way)
    assert program.stdout is not None
    program.stdout.readline()
    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1, errors
    assert errors.endswith("KeyboardInterrupt\n")
    assert notes(tmp_path / "notes-wait") == ["closed"]
    until(lambda: group_is_gone(program.pid))


@pytest.mark.parametrize("way", PROGRAM_WAYS)
def test_a_program_that_catches_ctrl_c_goes_on(tmp_path: Path, way: dict[str, Any]) -> None:
    program = start(tmp_path, "catch", way)
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(0.2)  # it is in the `try` now
    os.killpg(program.pid, signal.SIGINT)
    output, errors = program.communicate(timeout=60)
    assert (program.returncode, output, errors) == (0, "100\n", "")
    until(lambda: group_is_gone(program.pid))


@pytest.mark.parametrize("how", ["exit", "wait"])
def test_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    program = start(tmp_path, how, {"processes": True})
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    if how == "wait":
        os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=60)
    until(lambda: not is_alive(pid))
    assert notes(tmp_path / f"notes-{how}") == ["closed"]
    until(lambda: group_is_gone(program.pid))


def test_a_function_that_the_new_process_does_not_find(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import archivestream\nprint(list(archivestream.background(range, 2, processes=True)))\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(archivestream.__file__))},
    )
    assert done.returncode == 1
    assert "ended with exit code 1 after 0 items" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr
