"""A process that reads bombs, each in a fork of its own: nothing is imported twice, and each peak is its own.

It takes lines of JSON, and answers each with one. ``python -m bombs.server READER``.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from bombs.kinds import BOMBS, Bomb
from bombs.readers import READERS, Refused

TESTS = Path(__file__).parents[1]
# What has not ended in so many times the time that it may take of the processor waits for what never comes.
_HANGS = 20


@dataclass(frozen=True)
class Reading:
    """How a bomb was read.

    Attributes
    ----------
    kind : str
        "read", "refused", or what went wrong: "error", "memory", "time", "died".
    says : str
        What was found, or why not.
    seconds : float
        Of the processor, of all threads: other programs may run beside it.
    peak : int
        Bytes of resident memory, beyond what the process had before.
    """

    kind: str
    says: str
    seconds: float
    peak: int


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise LookupError(field)


def in_fork(work: Callable[[], str], seconds: int, memory: int) -> Reading:
    """Do something in a fork, which may take so much time of the processor, and address space beyond what it has."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        before = _memory("VmRSS")
        limit = _memory("VmSize") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        kind, says = "read", ""
        try:
            says = work()
        except Refused as error:
            kind, says = "refused", str(error)
        except MemoryError:
            kind = "memory"
        except BaseException as error:
            kind, says = "error", f"{error!r:.300}"
        os.write(write, json.dumps((kind, says, time.process_time(), _memory("VmHWM") - before)).encode())
        os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], _HANGS * seconds)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Reading("time", "it hangs", seconds, 0)
        answer = os.read(read, 1 << 16)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(read)
    if status == -signal.SIGXCPU:
        return Reading("time", f"more than {seconds} s", seconds, 0)
    if not answer:
        return Reading("died", f"ended with {status}", 0, 0)
    return Reading(*json.loads(answer))


class Server:
    """A process that reads as one of the readers does."""

    def __init__(self, reader: str, root: Path) -> None:
        paths = [str(root), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bombs.server", reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TESTS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            # libarchive-c writes there what it meets.
            stderr=None if reader == "ours" else subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what: str, name: str, path: Path, n: int, seconds: int, memory: int) -> Reading:
        """Have it "make" or "read" a bomb."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps((what, name, str(path), n, seconds, memory)) + "\n")
        self._process.stdin.flush()
        return Reading(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main() -> None:
    """Serve."""
    reader, _ = READERS[sys.argv[1]]
    if sys.argv[1] == "ours":
        # What the first reading would import, and count as its own.
        import archivestream.archive
        import archivestream.tfrecord  # noqa: F401
    for line in sys.stdin:
        what, name, path, n, seconds, memory = json.loads(line)
        work = partial(make if what == "make" else partial(read, reader), BOMBS[name], Path(path), n)
        print(json.dumps(astuple(in_fork(work, seconds, memory))), flush=True)


def make(one: Bomb, path: Path, n: int) -> str:
    """Write a bomb."""
    one.make(path, n)
    return f"{path.stat().st_size:,} bytes"


def read(reader: Callable[[Path, str], str], one: Bomb, path: Path, n: int) -> str:
    """Read a bomb."""
    return reader(path, one.action)


if __name__ == "__main__":
    main()
