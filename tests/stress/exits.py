"""The interpreter ends with work pending: at once, with the right code, and nothing of ours is printed.

Each program is a fork of one process that has imported all it needs and has no threads; it ends as any program does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import archivestream
from archivestream import Archive, Cache, ZipPacker
from stress import Outcome, main, progress
from stress.archives import PLAIN, make

# Seconds in which a program must have ended. It takes a fraction of one, but other programs may run beside it.
PATIENCE = 60
# Programs to run of those with PyTorch and of those without, however little time there is.
FEWEST = 5
_READY = b"ready"


def slow(data: memoryview) -> int:
    time.sleep(0.002)
    return len(data)


def endless() -> Iterator[int]:
    for i in itertools.count():
        time.sleep(0.001)
        yield i


# What is pending. Each returns what must be kept for as long as the program lives.


def a_batch(archive: Archive) -> object:
    return [archive.submit(PLAIN) for _ in range(20)]


def a_batch_that_is_waited_for(archive: Archive) -> object:
    pending = archive.submit([*PLAIN] * 20)
    threads = [threading.Thread(target=pending.result, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    return threads


def daemon_threads(archive: Archive) -> object:
    def read(number: int) -> None:
        chance = random.Random(number)
        while True:
            keys = chance.choices(PLAIN, k=10)
            chance.choice([archive.read_many, archive.submit, archive.read_batch, archive.read_padded])(keys)
            with archive.open_member(keys[0]) as file:
                file.read()

    threads = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(6)]
    for thread in threads:
        thread.start()
    return threads


def a_shared_cache(archive: Archive) -> object:
    cache = Cache(1 << 20, shared=True, name=f"exit-{os.getpid()}")
    with_cache = archivestream.open(archive.origin(0), cache=cache)
    return [daemon_threads(with_cache), with_cache.submit(PLAIN)]


def an_open_file(archive: Archive) -> object:
    file = archive.open_member(PLAIN[5])
    file.read(10)
    return file


def a_view_of_an_array(archive: Archive) -> object:
    return archive.read_batch(PLAIN).data


def a_background_thread(archive: Archive) -> object:
    items = archivestream.background(endless)
    next(items)
    return items


def a_background_process(archive: Archive) -> object:
    items = archivestream.background(endless, processes=True, start_method="fork")
    next(items)
    return items


def a_background_of_an_archive(archive: Archive) -> object:
    items = archivestream.background(iter, archive, processes=True, start_method="fork", maxsize=2)
    next(items)
    return items


def _loader(archive: Archive, **options: object) -> object:
    loader = archivestream.ArchiveLoader(
        archivestream.ArchiveDataset(archive.select(PLAIN), transform=slow), 4, **options
    )  # type: ignore[arg-type]
    batches = iter(loader)
    next(batches)
    return loader, batches


def a_loader_with_threads(archive: Archive) -> object:
    return _loader(archive, num_workers=3)


def a_loader_that_keeps_its_threads(archive: Archive) -> object:
    return _loader(archive, num_workers=3, persistent_workers=True, prefetch_factor=8)


def a_loader_to_a_device(archive: Archive) -> object:
    return _loader(archive, num_workers=2, device="cpu")


def a_loader_with_processes(archive: Archive) -> object:
    """Workers of PyTorch, which read the archive that was opened here."""
    from torch.utils.data import DataLoader

    loader = DataLoader(archivestream.ArchiveDataset(archive), batch_size=8, num_workers=2, collate_fn=list)
    batches = iter(loader)
    next(batches)
    return loader, batches


def a_packer(archive: Archive) -> object:
    packer = ZipPacker(Path(archive.origin(0)).with_name(f"packed-{os.getpid()}.zip"))
    packer.__enter__()
    for key in PLAIN:
        packer.add(str(key), archive[key])
    return packer


def a_verification(archive: Archive) -> object:
    thread = threading.Thread(target=archive.verify, daemon=True)
    thread.start()
    return thread


PENDING: tuple[Callable[[Archive], object], ...] = (
    a_batch,
    a_batch_that_is_waited_for,
    daemon_threads,
    a_shared_cache,
    an_open_file,
    a_view_of_an_array,
    a_background_thread,
    a_background_process,
    a_background_of_an_archive,
    a_packer,
    a_verification,
)
# Those that need PyTorch, which takes its time to end.
LOADERS = (
    a_loader_with_threads,
    a_loader_that_keeps_its_threads,
    a_loader_to_a_device,
    a_loader_with_processes,
)


class Ours(Exception):
    """Raised by the program itself."""


def wait_for_a_signal() -> None:
    os.write(1, _READY)
    while True:
        time.sleep(1)


def raise_an_error() -> None:
    raise Ours


# How the program ends, with which code, and what Python prints then.
ENDS: dict[str, tuple[Callable[[], object], int, str]] = {
    "its last line": (lambda: None, 0, ""),
    "sys.exit": (lambda: sys.exit(3), 3, ""),
    "an exception": (raise_an_error, 1, "Ours"),
    "os._exit": (lambda: os._exit(4), 4, ""),
    "SIGINT": (wait_for_a_signal, -signal.SIGINT, "KeyboardInterrupt"),
    "SIGTERM": (wait_for_a_signal, -signal.SIGTERM, ""),
    "SIGKILL": (wait_for_a_signal, -signal.SIGKILL, ""),
}


class _Program(BaseException):
    """Leaves the process that was forked, to be what its program is."""

    def __init__(self, path: Path, pending: Callable[[Archive], object], end: Callable[[], object]) -> None:
        self.path, self.pending, self.end = path, pending, end


def program(path: Path, pending: Callable[[Archive], object], end: Callable[[], object]) -> None:
    """Be a program: `kept` stays to its end, as what a script has at its top level does."""
    global kept
    archive = archivestream.open(path, threads=2)
    kept = archive, pending(archive)
    end()


kept: object = None


def run_program(path: Path, pending: Callable[[Archive], object], name: str) -> tuple[float, str]:
    """Run a program; return how long it took to end, and what was wrong."""
    end, code, printed = ENDS[name]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        raise _Program(path, pending, end)
    os.close(write)
    out, begin = b"", time.monotonic()
    watch = threading.Timer(PATIENCE, lambda: os.killpg(child, signal.SIGKILL))
    watch.start()
    try:
        if end is wait_for_a_signal:
            while _READY not in out and (part := os.read(read, 4096)):
                out += part
            begin = time.monotonic()
            os.kill(child, getattr(signal, name))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - begin
        # Its own children may have that pipe for a little longer: they notice that it is gone.
        while part := os.read(read, 4096):
            out += part
    finally:
        watch.cancel()
        watch.join()
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    text = out.replace(_READY, b"").decode()
    if status != code:
        return seconds, f"ended with {status}, not {code}, after {seconds:.1f} s: {text}"
    # Python's own traceback, of the one error that there was, and no line more.
    own = rf"Traceback \(most recent call last\):\n( .*\n)+(__main__\.|stress\.exits\.)?{printed}\n" if printed else ""
    return seconds, "" if re.fullmatch(own, text) else f"printed {text!r}"


def exits(seconds: float, outcome: Outcome) -> None:
    """Go through all that can be pending and all ends, in an order by chance, as far as the time goes."""
    folder = Path(tempfile.mkdtemp())
    parent = os.getpid()
    try:
        path = make("segments.zip", folder, large=False).path
        _run_programs(PENDING, path, seconds / 2, outcome)
        import torch.utils.data  # noqa: F401  # once, and not in each program

        _run_programs(LOADERS, path, seconds / 2, outcome)
    finally:
        if os.getpid() == parent:
            shutil.rmtree(folder)


def _run_programs(kinds: Sequence[Callable[[Archive], object]], path: Path, seconds: float, outcome: Outcome) -> None:
    pairs = list(itertools.product(kinds, ENDS))
    random.Random(int(seconds)).shuffle(pairs)
    end = time.monotonic() + seconds
    for turn in itertools.count():
        if time.monotonic() >= end and turn >= FEWEST:
            break
        pending, name = pairs[turn % len(pairs)]
        took, wrong = run_program(path, pending, name)
        note = f"longest until it had ended, {name}"
        outcome.notes[note] = max(round(took, 2), outcome.notes.get(note, 0))  # type: ignore[call-overload]
        outcome.done[pending.__name__] += 1
        if wrong:
            outcome.errors.append(f"{pending.__name__}, {name}: {wrong}")
        if turn % 20 == 0:
            progress(f"{turn} programs, of {len(pairs)} kinds")


if __name__ == "__main__":
    try:
        main(exits)
    except _Program as chosen:
        arguments = chosen.path, chosen.pending, chosen.end
    else:
        arguments = None
    if arguments is not None:
        program(*arguments)
