"""What opening an archive and asking it takes is in proportion to what was read of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tarmaker as make

import archivestream
from archivestream.formats import records

LONG = [b"n" * 2000 + b"%d" % i for i in range(2000)]
TAR = b"".join(make.pax((b"path", name)) + make.header() for name in LONG) + make.END
ODD = make.pax((b"path", b"\xff")) + make.header() + TAR


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What Python and NumPy take in here is no more than so many bytes at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size
    finally:
        tracemalloc.stop()


def test_a_name_is_found_in_a_view_with_no_copy_of_the_names() -> None:
    view = archivestream.open(TAR).select(np.arange(1999, 0, -2))
    with at_most(200_000):
        for i, name in enumerate(reversed(LONG[1::2])):
            assert view._selection.find(name.decode()) == i
        assert LONG[0].decode() not in view


def test_a_name_is_found_as_the_archive_has_it_with_one_copy_of_the_names() -> None:
    archive = archivestream.open(ODD)
    view = archive.select(np.arange(2000, -1, -2))
    with at_most(5_000_000):
        assert [archive._selection.find(name) for name in (b"\xff", *LONG)] == list(range(2001))
    with at_most(5_000_000):
        assert [view._selection.find(name) for name in (b"\xff", *LONG[:2])] == [1000, -1, 999]


def test_names_are_decoded_one_by_one() -> None:
    names = archivestream.open(TAR).names
    with at_most(2_000_000):
        assert all(name == wanted.decode() for name, wanted in zip(names, LONG, strict=True))


def write_bins(folder: Path, count: int) -> None:
    """Write empty records, one behind the other, as splitdataloader does."""
    table = np.zeros((count, 3), "<u4")
    table[:, 1] = 4 * np.arange(count)
    table.tofile(folder / "index.dat")
    (folder / "bin00000000.dat").write_bytes(bytes(4 * count))


def test_the_index_of_bins(tmp_path: Path) -> None:
    count = 300_000
    write_bins(tmp_path, count)
    with at_most(150 * count):  # of which 56 are the index of a record
        archive = archivestream.open(tmp_path)
    assert len(archive) == count
    assert archive.names[count - 1] == "00299999"


def test_bins_can_be_interrupted_while_their_sizes_are_compared(tmp_path: Path) -> None:
    write_bins(tmp_path, 50_000)
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        assert total == 200_000
        seen.append(done)
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archivestream.open(tmp_path, progress=interrupt)
    assert 20 < len(seen) < 30
    assert seen == sorted(seen)


@pytest.mark.parametrize("at", range(1, 7))
def test_records_of_bins_are_compared_in_slices(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bins(tmp_path, 7)
    table = np.fromfile(tmp_path / "index.dat", "<u4").reshape(-1, 3)
    monkeypatch.setattr(records, "_SLICE", 3)
    assert len(archivestream.open(tmp_path)) == 7
    for value, message in (
        (4 * at - 1, f"records {at - 1} and {at} lie over"),
        (25, f"record {at} has 0 bytes at offset 29"),
    ):
        table[at, 1] = value
        table.tofile(tmp_path / "index.dat")
        with pytest.raises(archivestream.CorruptArchiveError, match=message):
            archivestream.open(tmp_path)
