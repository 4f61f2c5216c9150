"""Memory that cannot be had: by a limit on the address space, and at the n-th allocation of the package."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

import archivestream
from archivestream import Archive, ArchiveLoader, Cache
from faults import shim
from faults.cases import KINDS, MEMBERS, READS, is_right, put
from faults.child import each_in_child, in_child
from faults.report import Report
from faults.shim import armed

__all__ = ["allocations", "limits"]

ITEMS = list(MEMBERS.items())
TARGETS = ("a.zip", "a.tar", "a.tar.zst", "t-{:02d}.zip")

# Does something that takes memory; raises `AssertionError` for a wrong outcome. Then the same without the fault.
Use: TypeAlias = Callable[[], object]
Make: TypeAlias = Callable[[], tuple[Use, Use]]


def _check(error: Exception) -> None:
    """Hold that an error says that there is no memory."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return
    assert not isinstance(error, AssertionError), "wrong bytes"
    # As CPython says it.
    no_thread = isinstance(error, RuntimeError) and str(error) in ("can't start new thread", "can't allocate lock")
    no_mapping = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
    assert no_thread or no_mapping, f"no memory was taken for something else: {error!r}"


def _open(place: str, index: str) -> None:
    with archivestream.open(place, index=index) as archive:  # type: ignore[arg-type]
        assert len(archive.namelist()) == len(archive)


def _read(how: str, archive: Archive) -> None:
    assert is_right(READS[how](archive))


def _uses(folder: Path, kind: str) -> dict[str, Make]:
    """All that is done with archives of a kind: makes what to do, and what must work afterwards."""
    place = put(kind, folder / "files")
    archivestream.open(place).close()

    def opening(index: str) -> tuple[Use, Use]:
        use = partial(_open, place, index)
        return use, use

    def reading(how: str, cache: Callable[[], Cache | int]) -> tuple[Use, Use]:
        use = partial(_read, how, archivestream.open(place, cache=cache()))
        return use, use

    def loading() -> tuple[Use, Use]:
        # Threads run before memory is short: `threading.Thread.start` waits for ever for one that had none to begin.
        archive = archivestream.open(place)
        batches = iter(ArchiveLoader(archive, 3, num_workers=2, collate_fn="list"))
        first = next(batches)

        def use() -> None:
            assert is_right([bytes(data) for data in itertools.chain(first, *batches)])

        return use, partial(_read, "loader", archive)

    return {
        "open, saved index": partial(opening, "auto"),
        "open, index='memory'": partial(opening, "memory"),
        **{how: partial(reading, how, lambda: 64 << 20) for how in READS if how != "loader"},
        "loader": loading,
        "read_batch, Cache": partial(reading, "read_batch", lambda: Cache(1 << 20)),
        "read_batch, shared Cache": partial(reading, "read_batch", lambda: Cache(1 << 20, shared=True)),
    }


def _packings(folder: Path) -> dict[str, Make]:
    (folder / "files").mkdir()

    def packing(name: str) -> tuple[Use, Use]:
        options = {"shards": 2} if "{" in name else {}
        use = partial(archivestream.pack, ITEMS, folder / "files" / name, overwrite=True, **options)
        return use, partial(_packed, use, str(folder / "files" / name))

    return {f"pack to {name}": partial(packing, name) for name in TARGETS}


def _packed(use: Use, place: str) -> None:
    assert not [path for path in Path(place).parent.iterdir() if path.name.endswith(".part")]
    use()
    with archivestream.open(place, index="memory") as archive:
        assert sorted(archive) == sorted(MEMBERS.values())


def _all_uses(folder: Path) -> Iterator[tuple[str, dict[str, Make]]]:
    for kind in KINDS:
        yield kind, _uses(folder, kind)
        shutil.rmtree(folder / "files")
    yield "", _packings(folder)
    shutil.rmtree(folder / "files")


STEPS = [int(step) for step in np.geomspace(16 << 10, 1 << 30, 100)]


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


def limits(folder: Path, report: Report) -> None:
    """The address space may grow by a step: `MemoryError`, and with the limit lifted all is right."""

    def attempt(make: Make, step: int) -> None:
        use, again = make()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + step, before[1]))
        try:
            use()
        except Exception as error:
            resource.setrlimit(resource.RLIMIT_AS, before)
            _check(error)
        resource.setrlimit(resource.RLIMIT_AS, before)
        again()

    for kind, uses in _all_uses(folder):
        for what, make in uses.items():
            in_child(partial(_warm_up, make))
            _warm_up(make)
            with report.operation(what, kind, "limited address space") as row, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for number in row.points(lambda: len(STEPS)):
                    ended = in_child(partial(attempt, make, STEPS[number - 1]))
                    assert ended == 0, f"it ended by signal {ended}"
                    row.add(1)


def _warm_up(make: Make) -> None:
    for use in make():  # what is imported, and kept for later, is there
        use()


def allocations(folder: Path, report: Report) -> None:
    """The n-th allocation of the package fails, or all from there on: `MemoryError`, and the next call is right."""

    def attempt(make: Make, fault: shim.Fault, number: int) -> int:
        use, again = make()
        with armed(fault, number, folder) as count:
            try:
                use()
            except Exception as error:
                caught: Exception | None = error
            else:
                caught = None
        if caught is not None:
            _check(caught)
        again()
        return count.hits

    def total(make: Make) -> int:
        use, _ = make()
        with armed(shim.NO_MEMORY, 0, folder) as count:
            use()
        return count.calls

    for kind, uses in _all_uses(folder):
        for what, make in uses.items():
            _warm_up(make)
            for fault in (shim.NO_MEMORY, shim.NO_MEMORY_LEFT):
                with report.operation(what, kind, fault.name) as row, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    numbers = list(row.points(partial(total, make)))
                    for hits in each_in_child(numbers, partial(attempt, make, fault)):
                        row.add(hits)
