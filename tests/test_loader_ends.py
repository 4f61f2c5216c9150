"""How a process with a loader ends: interrupted, killed, or with an iteration still open."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import archivestream

pytest.importorskip("torch")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}

HEAD = """
import itertools, json, os, sys, threading, time
import archivestream
path = sys.argv[1]
def slow(data):
    time.sleep(0.002)
    return int(bytes(data))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(400):
            archive.writestr(f"{i}.txt", str(i))
    return path


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HEAD + code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt(path: Path, workers: int) -> None:
    process = start(
        f"""
loader = archivestream.ArchiveLoader(archivestream.ArchiveDataset(path, transform=slow), 4, num_workers={workers})
try:
    for _ in range(1000):
        for batch in loader:
            print("batch\\n", end="", flush=True)  # one write, that no interrupt parts
except KeyboardInterrupt:
    del batch
    started = time.monotonic()
    loader.close()
    names = [thread.name for thread in threading.enumerate()]
    print("interrupted", names, time.monotonic() - started < 2, flush=True)
    print(len([*loader]), flush=True)
""",
        path,
    )
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert errors == ""
    assert [line for line in out.splitlines() if line != "batch"] == ["interrupted ['MainThread'] True", "100"]


class Collecting(io.BytesIO):
    """A file, in the middle of a read of which the collector of reference cycles may run, as it may anywhere."""

    then: Callable[[], object] | None = None

    def read(self, size: int | None = -1) -> bytes:
        if self.then is not None and threading.current_thread().name == "reader":
            then, self.then = self.then, None
            then()
        return super().read(size)


@pytest.mark.parametrize("persistent", [False, True])
def test_an_iteration_is_collected_where_its_threads_are_waited_for(path: Path, persistent: bool) -> None:
    """They wait for the file, which is in use by the thread that ends them: whoever collects must not wait for them."""
    file = Collecting(path.read_bytes())
    archive = archivestream.open(file)
    loader = archivestream.ArchiveLoader(
        archivestream.ArchiveDataset(archive), 4, num_workers=2, persistent_workers=persistent
    )

    def waiting() -> int:
        frames = sys._current_frames()
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("archivestream-")]
        return sum(frames[thread.ident].f_code.co_name == "readinto_at" for thread in threads if thread.ident in frames)

    def collect() -> None:
        batches = iter(loader)
        while waiting() < 2:
            time.sleep(0.001)
        cycle = [batches]
        cycle.append(cycle)  # type: ignore[arg-type]
        del batches, cycle
        gc.collect()

    file.then = collect
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(archive[7]), name="reader", daemon=True)
    reader.start()
    reader.join(60)
    assert read == [b"7"]
    assert len([*loader]) == 100
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("archivestream-")]
    archive.close()


@pytest.mark.parametrize(
    "end",
    ["pass", "del loader", "del batches", "del batches, loader", "sys.exit(3)", "os._exit(4)", "raise SystemExit(5)"],
)
def test_the_interpreter_exits_with_an_iteration_open(path: Path, end: str) -> None:
    process = start(
        f"""
loader = archivestream.ArchiveLoader(archivestream.ArchiveDataset(path, transform=slow), 4, num_workers=3)
batches = iter(loader)
next(batches)
{end}
""",
        path,
    )
    started = time.monotonic()
    out, errors = process.communicate(timeout=60)
    assert (out, errors) == ("", "")
    assert process.returncode == next((int(c) for c in end if c.isdigit()), 0)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_killed_and_resumed(path: Path, tmp_path: Path, shuffle: str) -> None:
    """Each step is written down once its batch is; the next process goes on with other workers and ranks."""
    log, states = tmp_path / "log", tmp_path / "states"
    log.mkdir()
    states.mkdir()
    code = f"""
rank, world_size, workers = map(int, sys.argv[2:5])
log, states = sys.argv[5:7]
loader = archivestream.ArchiveLoader(
    archivestream.ArchiveDataset(path, transform=slow), 3, shuffle={shuffle!r}, seed=8, num_workers=workers,
    rank=rank, world_size=world_size,
)
if len(sys.argv) > 7:
    loader.load_state_dict(json.load(open(sys.argv[7])))
step = 0
print("ready", flush=True)
for batch in loader:
    # Both or none: a training step that was not saved did not happen.
    saved = {{"samples": batch.tolist(), "state": loader.state_dict()}}
    with open(f"{{log}}/new-{{rank}}-{{os.getpid()}}", "w") as file:
        json.dump(saved, file)
    os.replace(file.name, f"{{log}}/{{os.getpid()}}-{{rank}}-{{step:04d}}.json")
    step += 1
    print(step, flush=True)
"""
    got: list[int] = []
    state: list[object] = []
    for world_size, steps in ((1, 20), (3, 10), (2, 10_000)):
        processes = [start(code, path, rank, world_size, 1 + rank, log, states, *state) for rank in range(world_size)]
        for process in processes:
            assert process.stdout is not None
            for line in process.stdout:
                if line == f"{steps}\n":
                    break
            process.kill()
            process.communicate()
        # Ranks go in step: what one had done beyond the others is not counted.
        done = {rank: sorted(log.glob(f"{process.pid}-{rank}-*.json")) for rank, process in enumerate(processes)}
        common = min(map(len, done.values()))
        assert common >= min(steps, 20)
        for rank in done:
            for file in done[rank][:common]:
                got += json.loads(file.read_text())["samples"]
        last = json.loads(done[0][common - 1].read_text())["state"]
        assert last == json.loads(done[world_size - 1][common - 1].read_text())["state"]
        (states / f"{world_size}.json").write_text(json.dumps(last))
        state = [states / f"{world_size}.json"]
    assert Counter(got) == Counter(range(400))
