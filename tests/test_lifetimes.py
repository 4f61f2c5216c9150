"""Lifetimes: batches, archives, buffers, processes and the interpreter may end in any order."""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import gzip
import io
import itertools
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import samples

import archivestream
from archivestream import Archive, CorruptArchiveError
from archivestream._native.buffers import RECYCLED_BYTES

N = 200
_random = random.Random(0)
MEMBERS = [_random.randbytes(_random.choice([0, 100, 3000, 20_000])).hex().encode() for _ in range(N)]
WHOLE = b"".join(MEMBERS)

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux has /proc")


def make_zip(members: list[bytes], level: int = 6) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as writer:
        for number, data in enumerate(members):
            writer.writestr(f"m{number}", data)
    return file.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ZIP of `MEMBERS`."""
    path = tmp_path_factory.mktemp("lifetimes") / "a.zip"
    path.write_bytes(make_zip(MEMBERS))
    return path


@pytest.fixture(scope="module")
def bad_path(path: Path) -> Path:
    """Return the same with a flipped bit in the data of member 7."""
    with archivestream.open(path) as archive:
        info = archive.info(7)
    data = bytearray(path.read_bytes())
    data[info.offset + 30 + len(info.name) + info.compressed_size // 2] ^= 0x10
    bad = path.with_name("bad.zip")
    bad.write_bytes(data)
    return bad


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@contextmanager
def no_descriptor_stays() -> Iterator[None]:
    """Hold that all files that are opened within are closed, without the help of the cycle collector."""
    gc.collect()
    before = descriptors()
    gc.disable()
    try:
        yield
        assert descriptors() == before
    finally:
        gc.enable()


def run(code: str, *arguments: object) -> str:
    """Run code in a new interpreter; return what it printed."""
    setup = (
        f"import sys; sys.path.insert(0, {str(Path(archivestream.__file__).parents[1])!r})\n"
        "import os, random, signal, threading, time\nimport numpy as np\nimport archivestream\n"
    )
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# Dropping


@needs_proc
@pytest.mark.parametrize("order", list(itertools.permutations(("archive", "view", "pending", "out"))), ids="-".join)
def test_dropping_in_any_order(path: Path, order: tuple[str, ...]) -> None:
    with no_descriptor_stays():
        for _ in range(40):
            archive = archivestream.open(path, threads=4)
            view = archive.select(slice(None, None, -1))
            out = bytearray(len(WHOLE))
            alive: dict[str, object] = {"archive": archive, "view": view, "out": out}
            alive["pending"] = view.submit(range(N), out=out)
            del archive, view, out
            for name in order:
                del alive[name]


def test_a_batch_ends_without_its_archive(path: Path) -> None:
    for _ in range(50):
        pending = archivestream.open(path, threads=4).submit(range(N))
        assert pending.result().data.tobytes() == WHOLE


def test_a_batch_outlives_all(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.zip"
    copy.write_bytes(path.read_bytes())
    pending = archivestream.open(copy).submit(range(N))
    batch = pending.result()
    data, members = batch.data, list(batch)
    del pending, batch
    copy.unlink()
    gc.collect()
    for _ in range(10):  # what would take the memory over, if it had been given back
        archivestream.open(path).read_batch(range(N)).data[:] = 0
    assert data.tobytes() == WHOLE
    assert [bytes(member) for member in members] == MEMBERS


@needs_proc
def test_cycles_are_collected(path: Path) -> None:
    class Knot:
        def __init__(self, archive: Archive) -> None:
            self.archive, self.me = archive, self
            self.pending = archive.submit(range(N))

    gc.collect()
    before = descriptors()
    for _ in range(40):
        Knot(archivestream.open(path, threads=4))
        gc.collect()  # while the threads are at work
    assert descriptors() == before


@pytest.mark.parametrize("knot_first", [True, False])
def test_a_finalizer_may_still_ask_for_the_result(path: Path, knot_first: bool) -> None:
    # The collector calls the finalizers of a cycle, and takes it apart, from the oldest object to the
    # youngest: neither the file nor the index may go before the batch that reads them.
    found: list[bool | BaseException] = []

    class Knot:
        archive: Archive

        def tie(self, archive: Archive) -> None:
            self.me, self.archive = self, archive
            self.pending = archive.submit(list(range(N)) * 30)

        def __del__(self) -> None:
            try:
                found.append(self.pending.result().data.tobytes() == WHOLE * 30)
            except BaseException as error:
                found.append(error)

    for _ in range(3):
        knot = Knot() if knot_first else None
        archive = archivestream.open(path, threads=4)
        (knot or Knot()).tie(archive)
        del knot, archive
        gc.collect()
    assert found == [True] * 3


def test_a_finalizer_may_set_the_threads_to_work_again(path: Path) -> None:
    # The collector has called the batch off already, and calls its finalizer only once. In a process of its
    # own, since what is to be ruled out is a crash.
    code = """
import gc
class Knot:
    def __init__(self, pending): self.me, self.pending = self, pending
    def __del__(self): self.pending.done()
for _ in range(5):
    archive = archivestream.open(sys.argv[1], threads=4)
    Knot(archive.submit(np.arange(6000) % len(archive)))
    del archive
    gc.collect()
print("well")
"""
    assert run(code, path) == "well\n"


# Closing


@needs_proc
def test_closing_with_batches_pending(path: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(bytes(path.stat().st_size))
    with no_descriptor_stays():
        for _ in range(50):
            archive = archivestream.open(path, threads=3)
            pending = [archive.submit(range(N)) for _ in range(3)]
            archive.close()
            # Were the descriptor closed, another file would get its number now.
            junk = [open(tmp_path / "junk", "rb") for _ in range(5)]  # noqa: SIM115
            assert all(one.result().data.tobytes() == WHOLE for one in pending)
            for file in junk:
                file.close()
            with pytest.raises(ValueError, match="closed"):
                archive.submit([0])
            del archive, pending


@needs_proc
@pytest.mark.parametrize("kind", samples.KINDS)
def test_a_closed_archive_holds_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(samples.MAKERS[kind](samples.make_members([3000])))

    def is_open() -> bool:
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return any(os.path.realpath(link) == str(path) for link in links)

    with archivestream.open(path) as archive:
        assert len(archive[0]) >= 3000
        view = archive[:1]
        assert is_open()
    assert not is_open()
    assert (len(view), len(archive)) == (1, 1)  # while both are there


@needs_proc
def test_closing_while_threads_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(bytes(path.stat().st_size))
    calls: list[Callable[[Archive, int], bool]] = [
        lambda a, i: a[i] == MEMBERS[i],
        lambda a, i: a[f"m{i}"] == MEMBERS[i],
        lambda a, i: a.read_many([i, 0, i]) == [MEMBERS[i], MEMBERS[0], MEMBERS[i]],
        lambda a, i: a.submit(range(i)).result().data.tobytes() == b"".join(MEMBERS[:i]),
        lambda a, i: a.open_member(i).read() == MEMBERS[i],
        lambda a, i: a.select([i]).verify().ok,
    ]
    ended: list[str] = []

    def read(archive: Archive, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while rng.choice(calls)(archive, rng.randrange(N)):
                pass
            ended.append("wrong bytes")
        except ValueError as error:
            ended.append(str(error))
        except BaseException as error:
            ended.append(repr(error))

    with no_descriptor_stays():
        for round_ in range(20):
            archive = archivestream.open(path)
            threads = [threading.Thread(target=read, args=(archive, seed)) for seed in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.002 * round_)
            archive.close()
            with open(tmp_path / "junk", "rb"):
                for thread in threads:
                    thread.join()
            del archive, threads, thread
    assert len(ended) == 160
    assert set(ended) == {f"{path}: the archive is closed"}


@needs_proc
def test_a_thousand_archives_leave_nothing(path: Path) -> None:
    def cycle() -> None:
        with archivestream.open(path, threads=4) as archive:
            assert archive[3] == MEMBERS[3]
            assert archive.read_many([1, 2]) == MEMBERS[1:3]
            archive.submit(range(40))
            assert "m5" in archive

    for _ in range(200):
        cycle()
    gc.collect()
    before = descriptors(), len(os.listdir("/proc/self/task")), resident()
    for _ in range(1000):
        cycle()
    assert descriptors() == before[0]
    assert len(os.listdir("/proc/self/task")) == before[1]
    assert resident() - before[2] < 8 << 20


@needs_proc
def test_errors_that_are_kept_hold_no_file_open(bad_path: Path, tmp_path: Path) -> None:
    with no_descriptor_stays():
        archive = archivestream.open(bad_path)
        report = archive.verify()
        archive.close()
        del archive
        assert len(report.errors) == 1
    with no_descriptor_stays():
        for _ in range(20):
            archive = archivestream.open(bad_path)
            with pytest.raises(CorruptArchiveError):
                archive.extract(None, tmp_path, overwrite=True)
            del archive


@needs_proc
class Failing(io.BytesIO):
    fails = False

    def read(self, size: int | None = -1) -> bytes:
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


FAILED: dict[str, Callable[[Archive], object]] = {
    "read": lambda archive: archive["m7"],
    "read_many": lambda archive: archive.read_many(["m7", "m3"]),
    "read_batch": lambda archive: archive.read_batch(["m7", "m3"]),
    "submit": lambda archive: archive.submit(["m7", "m3"]).result(),
    "open_member": lambda archive: archive.open_member("m7").read(),
}


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.zst", "tar.gz"])
@pytest.mark.parametrize("how", FAILED)
def test_a_failure_that_is_over_holds_nothing(how: str, suffix: str, tmp_path: Path) -> None:
    """Nothing is left for the collector of reference cycles, which may come at any time later."""
    path = tmp_path / f"a.{suffix}"
    named = {f"m{i}": data for i, data in enumerate(MEMBERS)}
    if suffix == "tar.gz":
        archivestream.pack(named, tmp_path / "a.tar")
        path.write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    else:
        archivestream.pack(named, path)
    file = Failing(path.read_bytes())
    gc.collect()
    gc.disable()
    try:
        with archivestream.open(file, cache=0) as archive:
            file.fails = True
            with contextlib.suppress(archivestream.SourceError):
                FAILED[how](archive)
                pytest.fail("it did not fail")
        held = weakref.ref(file)
        del archive, file
        assert held() is None
    finally:
        gc.enable()


def test_the_file_of_the_caller_stays_open(path: Path) -> None:
    with no_descriptor_stays(), open(path, "rb") as file:
        archive = archivestream.open(file)
        pending = archive.submit(range(N))
        archive.close()
        assert pending.result().data.tobytes() == WHOLE
        assert not file.closed

        archive = archivestream.open(file)
        file.close()  # no reason for the archive to fail, or to read what gets that number now
        with open(path.with_name("junk"), "wb+") as junk:
            junk.write(bytes(path.stat().st_size))
            assert archive.read_many(range(N)) == MEMBERS
        del archive, pending


@needs_proc
def test_memory_kept_for_later_batches_is_bounded(path: Path) -> None:
    with archivestream.open(path) as archive:
        gc.collect()
        before = resident()
        keys = list(range(N)) * (1 + (8 << 20) // len(WHOLE))
        batches = [archive.read_batch(keys) for _ in range(30)]
        assert resident() - before > 100 << 20  # less what was kept of earlier batches
        del batches
    assert resident() - before < RECYCLED_BYTES + (16 << 20)


# Buffers of the caller


@needs_proc
def test_a_buffer_of_the_caller_cannot_be_resized_under_a_batch(path: Path) -> None:
    with archivestream.open(path) as archive:
        out = bytearray(len(WHOLE) + 5)
        pending = archive.submit(range(N), out=out)
        with pytest.raises(BufferError):
            out.clear()
        batch = pending.result()
        del pending
        with pytest.raises(BufferError):
            out.append(1)
        assert bytes(out) == WHOLE + bytes(5)
        del batch
        out.clear()

        numbers = array.array("Q", bytes((len(WHOLE) // 8 + 1) * 8))
        pending = archive.submit(range(N), out=numbers)
        with pytest.raises(BufferError):
            numbers.append(1)
        del pending
        numbers.append(1)

        memory = mmap.mmap(-1, len(WHOLE))
        pending = archive.submit(range(N), out=memory)
        with pytest.raises(BufferError):
            memory.close()
        assert pending.result().data.tobytes() == memory[:]


def test_a_buffer_that_only_the_batch_holds(path: Path) -> None:
    with archivestream.open(path, threads=4) as archive:
        for _ in range(20):
            out = np.empty(len(WHOLE), np.uint8)
            gone = weakref.ref(out)
            pending = archive.submit(range(N), out=out)
            del out
            assert gone() is not None
            assert pending.result().data.tobytes() == WHOLE
            del pending
            assert gone() is None


def test_a_refused_buffer_is_let_go(path: Path) -> None:
    with archivestream.open(path) as archive:
        out = bytearray(len(WHOLE) - 1)
        for call in (archive.submit, archive.read_batch):
            with pytest.raises(ValueError, match="needs"):
                call(range(N), out=out)
            with pytest.raises(IndexError):
                call([N], out=out)
        gc.collect()
        out.clear()


def test_what_the_caller_writes_after_the_result_stays(path: Path) -> None:
    # Method 12 is decoded in Python, when the result is asked for.
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            writer.writestr(str(method), b"some text " * 99, method)
    pending = archivestream.open(file.getvalue()).submit(range(3))
    batch = pending.result()
    assert batch.data.tobytes() == b"some text " * 297
    batch.data[:] = 0
    assert not pending.result().data.any()


# Failures


def test_a_failed_batch_fails_each_time(bad_path: Path) -> None:
    with archivestream.open(bad_path, threads=4) as archive:
        pending = archive.submit(range(N))
        for _ in range(3):
            with pytest.raises(CorruptArchiveError, match="member 'm7'") as caught:
                pending.result()
            assert caught.value.archive == str(bad_path)
            assert pending.done()
        assert archive.submit([6, 8]).result().data.tobytes() == MEMBERS[6] + MEMBERS[8]


INTERRUPTED = """
path, what = sys.argv[1:]
archive = archivestream.open(path, threads=2)
keys = np.tile(np.arange(len(archive)), 25)
many = archive.select(np.tile(keys, 20))
calls = {
    "read_many": lambda: archive.read_many(keys),
    "read_batch": lambda: archive.read_batch(keys),
    "result": lambda: archive.submit(keys).result(),
    "verify": lambda: many.verify(),
}
want = archive.read_many(range(10))
for delay in (0.01, 0.1):
    sent = []
    def interrupt():
        time.sleep(delay)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        calls[what]()
        print("it came to an end")
    except KeyboardInterrupt:
        print("interrupted" if time.monotonic() - sent[0] < 5 else "late")
    thread.join()
    assert archive.read_many(range(10)) == want
    assert archive.submit(range(10)).result()[9] == want[9]
"""


@pytest.mark.parametrize("what", ["read_many", "read_batch", "result", "verify"])
def test_an_interrupt_is_answered(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.zip"
    members = [random.Random(i).randbytes(300_000).hex().encode() for i in range(30)]
    path.write_bytes(make_zip(members, level=1))
    assert run(INTERRUPTED, path, what) == "interrupted\ninterrupted\n"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.parametrize("kind", ["one member, repeated", "members that compress well"])
def test_signals_are_looked_for_all_along(kind: str) -> None:
    # What is read at once must not be decoded at once: it can be much, and is one thread's alone.
    if kind == "one member, repeated":
        archive = archivestream.open(make_zip([random.Random(0).randbytes(15_000).hex().encode()]), threads=1)
        keys = np.zeros(10_000, np.int64)
    else:
        archive = archivestream.open(make_zip([b"12" * 1_000_000] * 100), threads=1)
        keys = np.tile(np.arange(100), 2)
    seen: list[float] = []
    before = signal.signal(signal.SIGPROF, lambda *_: seen.append(time.process_time()))
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
    begin = time.process_time()
    try:
        archive.read_batch(keys)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    # Looked for every 50 ms; a group that takes much longer is too large.
    assert max(np.diff([begin, *seen, time.process_time()])) < 0.3


# The end of the interpreter

FORK = "import warnings; warnings.simplefilter('ignore')\nif os.fork() == 0: {}\nelse: os.wait()"
EXITS = {
    "pending": "",
    "fork": FORK.format("time.sleep(0.01)"),
    "fork and result": FORK.format("pending[1].result()"),
    "daemon threads": """
def read():
    rng = random.Random()
    while True:
        keys = rng.choices(range(len(archive)), k=40)
        rng.choice([archive.read_many, archive.submit, archive.read_batch])(keys)
        pending.append(archive.submit(keys))
        pending.pop(0).result()
for _ in range(6):
    threading.Thread(target=read, daemon=True).start()
time.sleep(0.02)
""",
    "atexit": "import atexit; atexit.register(lambda: pending[2].result())",
    "a global with a finalizer": """
class Last:
    def __del__(self, pending=pending): pending[0].result()
last = Last()
""",
}


@pytest.mark.parametrize("code", EXITS.values(), ids=EXITS)
def test_the_interpreter_ends_with_batches_pending(path: Path, code: str) -> None:
    setup = (
        "archive = archivestream.open(sys.argv[1], threads=4)\n"
        "pending = [archive.submit(np.arange(2000) % len(archive)) for _ in range(3)]\n"
    )
    for _ in range(3):
        assert run(setup + code, path) == ""
