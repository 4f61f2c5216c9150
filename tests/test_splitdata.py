"""Bins of splitdataloader, written by that package: read as it reads them, and refused where they are damaged."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

import archivestream
from archivestream import ArchiveWarning, CorruptArchiveError, LimitExceededError, Limits, repack

splitdataloader = pytest.importorskip("splitdataloader", exc_type=ImportError)  # it needs Python 3.11


def records(count: int = 200) -> list[bytes]:
    rng = random.Random(1)
    return [rng.randbytes(rng.choice((0, 1, 7, 300, 5000))) for _ in range(count)]


def write(folder: Path, *parts: Sequence[bytes], splits: int = 7, shuffle: bool = False) -> Path:
    for part in parts:
        splitdataloader.write_split_data(str(folder), part, splits=splits, shuffle=shuffle)
    return folder


def edit(folder: Path, record: int, **values: int) -> None:
    """Write other numbers into the index."""
    table = bytearray((folder / "index.dat").read_bytes())
    for name, value in values.items():
        struct.pack_into("<I", table, 12 * record + 4 * ("bin", "position", "size").index(name), value)
    (folder / "index.dat").write_bytes(table)


# ---- the same as the package --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("path", ["", "index.dat"])
def test_reads_what_the_package_reads(shuffle: bool, path: str, tmp_path: Path) -> None:
    everything = records()
    write(tmp_path / "bins", everything[:150], everything[150:], shuffle=shuffle)  # the second one appends
    loader = splitdataloader.SplitDataLoader(str(tmp_path / "bins"))
    with archivestream.open(tmp_path / "bins" / path) as archive:
        assert len(archive) == len(loader)
        assert list(archive) == [loader[i] for i in range(len(loader))] == everything
        assert archive.read_many(range(199, -1, -1)) == everything[::-1]
        assert archive["00000012"] == everything[12]
        assert archive.names[3] == "00000003"
        assert archive.summary().format == "splitdata"
        assert archive.verify().ok
        assert archive.info(8).archive == archive.origin(8) == str(tmp_path / "bins/bin00000001.dat") or shuffle
        view = archive.select([5, 3, 5])
        assert list(view) == [everything[i] for i in (5, 3, 5)]
        assert list(archive + view) == [*everything, *view]


def _read(archive: archivestream.Archive) -> list[bytes]:
    return list(archive)


def test_in_other_processes_and_out_of_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "bins", records())
    monkeypatch.chdir(tmp_path)
    with archivestream.open("bins") as archive:
        monkeypatch.chdir("/")
        assert list(pickle.loads(pickle.dumps(archive[3:9]))) == records()[3:9]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_read, (archive,)) == records()


def test_moving_to_shards(tmp_path: Path) -> None:
    write(tmp_path / "bins", records())
    with archivestream.open(tmp_path / "bins") as archive:
        repack(archive, tmp_path / "part-{:03d}.zip", shards=4, method="stored")
    with archivestream.open(tmp_path / "part-{:03d}.zip") as shards:
        assert list(shards) == records()


def test_block_order_stays_in_a_few_bins(tmp_path: Path) -> None:
    """Each window holds the runs of a few bins: they are read one after the other, and each record comes once."""
    everything = [i.to_bytes(4, "little") * 5000 for i in range(512)]  # 20 KB each, 640 KB a bin
    write(tmp_path / "bins", everything, splits=16)
    with archivestream.open(tmp_path / "bins", cache=0) as archive:
        sampler = archivestream.ArchiveSampler(archive, shuffle="block", seed=3, window=1 << 21)
        order = list(sampler)
        assert sorted(order) == list(range(512))
        assert order != list(range(512))
        bins = [i % 16 for i in order]
        assert all(len(set(bins[begin : begin + 32])) <= 8 for begin in range(0, 512, 32))


def test_an_empty_set_is_none(tmp_path: Path) -> None:
    write(tmp_path / "bins", [])
    with pytest.raises(CorruptArchiveError, match="it is empty"):
        archivestream.open(tmp_path / "bins")
    with pytest.raises(IsADirectoryError):
        archivestream.open(tmp_path)


def test_there_is_nothing_to_save(tmp_path: Path) -> None:
    write(tmp_path / "bins", records(), splits=1)
    with archivestream.open(tmp_path / "bins") as archive, pytest.raises(ValueError, match="nothing to save"):
        archive.save_index()
    assert sorted(os.listdir(tmp_path / "bins")) == ["bin00000000.dat", "index.dat"]


# ---- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bin": 99}, r"refers to bin00000099\.dat, which is not there"),
        ({"bin": 0xFFFFFFFF}, r"bin4294967295\.dat, which is not there"),
        ({"position": 1 << 31}, r"record 10 has \d+ bytes at offset 2147483652 of .*bin00000003"),
        ({"position": 0xFFFFFFFF}, "record 10 has"),
        ({"size": 0xFFFFFFFF}, "record 10 has 4294967295 bytes"),
        ({"position": 0}, "records 3 and 10 lie over one another"),
        ({"size": 299}, "no record of 299 bytes at offset"),
        ({"position": 1}, "lie over one another|no record"),
    ],
)
def test_an_index_that_is_wrong(values: dict[str, int], message: str, tmp_path: Path) -> None:
    write(tmp_path / "bins", [bytes([i]) * 300 for i in range(50)])
    edit(tmp_path / "bins", 10, **values)
    with pytest.raises(CorruptArchiveError, match=message) as caught:
        archivestream.open(tmp_path / "bins")
    assert str(tmp_path / "bins") in str(caught.value)


def test_a_bin_that_was_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "bins", records())
    path = tmp_path / "bins/bin00000002.dat"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptArchiveError, match=r"bin00000002\.dat, which has \d+ bytes"):
        archivestream.open(tmp_path / "bins")


def test_an_interrupted_write(tmp_path: Path) -> None:
    """The package buffers its index: what is killed leaves records that are not listed, and part of an entry."""
    write(tmp_path / "bins", records())
    path = tmp_path / "bins/index.dat"
    path.write_bytes(path.read_bytes()[:-17])
    with pytest.warns(ArchiveWarning, match="7 bytes of an entry of 12.*198 whole ones"):
        archive = archivestream.open(tmp_path / "bins")
    assert list(archive) == records()[:198]
    with pytest.raises(CorruptArchiveError, match="7 bytes of an entry"):
        archivestream.open(tmp_path / "bins", strict=True)


def test_any_damage_to_the_index_is_an_error_or_harmless(tmp_path: Path) -> None:
    everything = [bytes([i]) * (20 + i) for i in range(12)]
    write(tmp_path / "bins", everything, splits=3)
    good = (tmp_path / "bins/index.dat").read_bytes()
    for bit in range(0, 8 * len(good), 3):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        (tmp_path / "bins/index.dat").write_bytes(bad)
        with pytest.raises(CorruptArchiveError):
            archivestream.open(tmp_path / "bins", index="memory")


def test_limits(tmp_path: Path) -> None:
    write(tmp_path / "bins", records())
    with pytest.raises(LimitExceededError, match="max_members = 199"):
        archivestream.open(tmp_path / "bins", limits=Limits(max_members=199))
    with pytest.raises(LimitExceededError, match="max_index_bytes = 2399"):
        archivestream.open(tmp_path / "bins", limits=Limits(max_index_bytes=2399))


def test_bins_that_change_after_they_were_opened(tmp_path: Path) -> None:
    write(tmp_path / "bins", [bytes(1000)] * 14)
    with archivestream.open(tmp_path / "bins") as archive:
        data = pickle.dumps(archive)
        write(tmp_path / "bins", [b"more"])
        assert list(archive) == [bytes(1000)] * 14  # what is appended belongs to the next one
        with pytest.raises(archivestream.ArchiveChangedError, match="not the one that was pickled"):
            pickle.loads(data)
        os.truncate(tmp_path / "bins/bin00000000.dat", 100)
        with pytest.raises(archivestream.ArchiveChangedError, match=r"bin00000000\.dat: member '00000000'.*its size"):
            archive[0]


def test_another_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "index.dat").write_bytes(b"some text that is no index")
    with pytest.raises(CorruptArchiveError, match="looks like text"):
        archivestream.open(tmp_path / "index.dat")
