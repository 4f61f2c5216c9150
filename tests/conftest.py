"""What many test modules need: an archive from each kind of source, and one check of all ways to read it."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import hypothesis
import numpy as np
import pytest

import archivestream
from archivestream import Archive

OpenAs: TypeAlias = Callable[..., Archive]
Members: TypeAlias = Sequence[tuple[str, bytes]]

LONGEST = ("test_benchmarks.py", "test_packaging.py", "test_damage.py")

# How long an example takes says nothing where other tests run beside it.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Spread folders of tests over the processors (`None`); files and tests asked for by name begin sooner here."""
    return None if all(map(os.path.isdir, config.args)) else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first: begun last, one processor would wait for them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Many tests collect garbage: keep the thousands of tests, and what they import, out of each collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of its own for each test: none looks into, or writes to, that of the user."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(params=["file", "bytes", "object"])
def open_as(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenAs]:
    """`archivestream.open` of given bytes: written to a file, as they are, and as a file object."""
    count = itertools.count()
    with contextlib.ExitStack() as stack:

        def open_bytes(data: bytes, **options: object) -> Archive:
            source: object = data
            if request.param == "file":
                source = tmp_path / f"archive-{next(count)}.zip"
                source.write_bytes(data)
            elif request.param == "object":
                source = io.BytesIO(data)
            return stack.enter_context(archivestream.open(source, **options))  # type: ignore[arg-type]

        yield open_bytes


@pytest.fixture
def assert_reads() -> Callable[[Archive, Members], None]:
    """Check that an archive holds just these members, whichever way they are asked for."""
    return _assert_reads


def _assert_reads(archive: Archive, members: Members) -> None:
    names = [name for name, _ in members]
    contents = [data for _, data in members]
    last = dict(members)  # of equal names the last one is meant
    everything = range(len(members))

    assert archive.namelist() == names
    assert len(archive) == len(members)
    assert archive.verify().errors == []
    assert archive.testzip() is None
    # A new order each time: reads are grouped by where the members lie.
    assert archive.read_many(everything[::-1]) == contents[::-1]
    batch = archive.read_batch([*everything, *everything])
    assert [bytes(data) for data in batch] == contents * 2
    out = np.full(sum(map(len, contents)) + 7, 0xAA, np.uint8)
    assert [bytes(data) for data in archive.read_batch(everything, out=out)] == contents
    assert set(out[len(out) - 7 :].tolist()) == {0xAA}
    for i, (name, data) in enumerate(members):
        assert archive[i] == data
        assert archive[name] == last[name]
        assert name in archive
        with archive.open_member(i) as member:
            assert member.read() == data
