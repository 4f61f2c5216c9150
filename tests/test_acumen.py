"""Chunks of AcumenIndexer, written by that package: read as it reads them, and refused where they are damaged."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import ArchiveDataset, CorruptArchiveError, LimitExceededError, Limits, UnsupportedFeatureError, pack

acumenindexer = pytest.importorskip("acumenindexer", exc_type=ImportError)
pytest.importorskip("pyarrow")


def samples(count: int = 60) -> list[tuple[np.ndarray, dict[str, Any]]]:
    rng = np.random.default_rng(2)
    return [
        (
            rng.normal(size=(2, 3, 1 + i % 2)),
            {"label": i % 5, "split": "val" if i % 3 else "train", "weight": i / 4, "text": f'a "{i}", and\nb'},
        )
        for i in range(count)
    ]


@functools.cache  # each call starts processes
def written(**options: int) -> Path:
    folder = Path(tempfile.mkdtemp(), "a")
    atexit.register(shutil.rmtree, folder.parent)
    return write(folder, samples(), **options)


def write(folder: Path, what: list[Any] | None = None, **options: int) -> Path:
    if what is None:
        return shutil.copytree(written(**options), folder)
    options = {"chunk_size_bytes": 300, "n_jobs": 1, **options}
    acumenindexer.split_into_chunks(what, str(folder), dtype=np.float32, **options)
    return folder


def rewrite(folder: Path, before: str, after: str) -> None:
    path = folder / "index.csv"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


# ---- the same as the package --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "index.csv"])
def test_reads_what_the_package_reads(path: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "chunks of it")
    index = acumenindexer.load_index(folder / "index.csv")
    read = acumenindexer.read_from_index(index, dtype=np.float32, chunk_paths=str(folder))
    with archivestream.open(folder / path) as archive:
        assert len(archive) == len(index) == 60
        arrays = archive.map_arrays(range(60), dtype=np.float32)
        for i, row in enumerate(archive.metadata.to_pylist()):
            expected, metadata = read(i)
            assert archive[i] == expected.tobytes()
            np.testing.assert_array_equal(arrays[i], expected)
            assert row.pop("ai:shape") == str(expected.shape)
            assert row == metadata
        assert archive.names[7] == "00000007"
        assert archive.summary().format == "acumen"
        assert archive.origin(59).startswith(str(folder / "chunks/chunk_"))


def test_columns_are_typed(tmp_path: Path) -> None:
    with archivestream.open(write(tmp_path / "a")) as archive:
        types = {field.name: str(field.type) for field in archive.metadata.schema}
    assert types == {"ai:shape": "string", "label": "int64", "split": "string", "weight": "double", "text": "string"}


def test_queries_labels_and_pickles(tmp_path: Path) -> None:
    with archivestream.open(write(tmp_path / "a")) as archive:
        view = archive.select("label == 3 and split == 'train'")
        assert view.metadata["label"].to_pylist() == [3] * 4
        assert pickle.loads(pickle.dumps(view)).metadata == view.metadata
        dataset = ArchiveDataset(archive, labels="split")
        assert dataset.classes == ["train", "val"]
        assert dataset.targets.tolist() == [int(i % 3 > 0) for i in range(60)]


def test_moving_to_an_archive(tmp_path: Path) -> None:
    with archivestream.open(write(tmp_path / "a")) as old:
        arrays = old.map_arrays(range(len(old)), dtype=np.float32)
        pack(zip(arrays, old.metadata.drop_columns("ai:shape").to_pylist(), strict=True), tmp_path / "new.zip")
        with archivestream.open(tmp_path / "new.zip") as new:
            assert new.metadata == old.metadata.drop_columns("ai:shape")
            np.testing.assert_array_equal(new.read_arrays([4])[0], arrays[4])


@pytest.mark.parametrize("shape", [(0,), (), (5,), (2, 0, 3)])
def test_odd_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    what = [(np.ones(shape), {"i": i}) for i in range(3)]
    with archivestream.open(write(tmp_path / "a", [*what, (np.ones(4), {"i": 3})])) as archive:
        assert [array.shape for array in archive.map_arrays(range(4), dtype="f4")] == [*[shape] * 3, (4,)]


# ---- damage -------------------------------------------------------------------------------------------------------


def test_what_several_jobs_write(tmp_path: Path) -> None:
    """Each of them writes everything, and counts the offsets as if it were alone."""
    write(tmp_path / "a", n_jobs=2, chunk_size_bytes=1 << 20)
    with pytest.raises(CorruptArchiveError, match=r"index\.csv: records 0 and 60 lie over one another"):
        archivestream.open(tmp_path / "a")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("chunks/chunk_1.chnk", "chunks/chunk_99.chnk", r"refers to chunks/chunk_99\.chnk, which is not there"),
        ("chunks/chunk_1.chnk", "../outside", r"'\.\./outside', which is no file in its folder"),
        ("chunks/chunk_1.chnk", "/etc/passwd", "no file in its folder"),
        ("chunks/chunk_1.chnk", "chunks/./x", "no file in its folder"),
        ("chunks/chunk_1.chnk", "", "no file in its folder"),
        (",24,48,", ",24000000,48,", "record 1 has 48 bytes at offset 24000000"),
        (",24,48,", ",999999999999999999,48,", "record 1 has 48 bytes at offset 999999999999999999"),
        (",24,48,", ",99999999999999999999,48,", "line 5 has no offset and size"),
        (",24,48,", ",-24,48,", "has no offset and size: '-24'"),
        (",24,48,", ",12,48,", "records 0 and 1 lie over one another"),
        (",24,48,", ",24,96,", "has the shape|lie over one another"),
        (",24,48,", ",24,49,", r"has the shape '\(2, 3, 2\)' for 49 bytes"),
        ('"(2, 3, 2)"', "\"(2, 3, __import__('os'))\"", "has the shape"),
        ('"(2, 3, 2)"', '"(2, 3, 99999999999)"', "has the shape"),
        ('"(2, 3, 2)"', '"(2, 3, 2)",', "9 fields, and the header has 8"),
    ],
)
def test_a_table_that_is_wrong(before: str, after: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a")
    rewrite(tmp_path / "a", before, after)
    with pytest.raises(CorruptArchiveError, match=message) as caught:
        archivestream.open(tmp_path / "a")
    assert str(tmp_path / "a/index.csv") in str(caught.value)


def test_shapes_have_as_many_dimensions_as_arrays_can_have(tmp_path: Path) -> None:
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks/c").touch()
    for dimensions in (64, 65, 40_000):
        table = f'ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape\nchunks/c,0,0,"({"9, " * (dimensions - 1)}0)"\n'
        (tmp_path / "index.csv").write_text(table)
        if dimensions == 64:
            assert len(archivestream.open(tmp_path)) == 1
        else:
            with pytest.raises(CorruptArchiveError, match="has the shape") as caught:
                archivestream.open(tmp_path)
            assert len(str(caught.value)) < 1000


def test_a_chunk_that_was_cut_short(tmp_path: Path) -> None:
    write(tmp_path / "a")
    os.truncate(tmp_path / "a/chunks/chunk_2.chnk", 100)
    with pytest.raises(CorruptArchiveError, match=r"chunk_2\.chnk, which has 100 bytes"):
        archivestream.open(tmp_path / "a")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a/index.csv"
    path.write_bytes(path.read_bytes() + b"\xff\xfe")
    with pytest.raises(CorruptArchiveError, match="no CSV in UTF-8"):
        archivestream.open(tmp_path / "a")


def test_limits(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(LimitExceededError, match="max_members = 59"):
        archivestream.open(tmp_path / "a", limits=Limits(max_members=59))
    with pytest.raises(LimitExceededError, match="max_index_bytes"):
        archivestream.open(tmp_path / "a", limits=Limits(max_index_bytes=100))


def test_limits_are_looked_at_while_the_table_is_read(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "c").write_bytes(b"")
    table = tmp_path / "index.csv"
    table.write_text("ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape\n" + "c,0,0,(0)\n" * 2_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LimitExceededError, match="max_members = 1000"):
        archivestream.open(table, limits=Limits(max_members=1000))
    scale = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale < 4 * table.stat().st_size


def test_another_type_than_that_of_the_values(tmp_path: Path) -> None:
    with archivestream.open(write(tmp_path / "a")) as archive:
        with pytest.raises(CorruptArchiveError, match=r"'00000000': its 24 bytes are no \(2, 3, 1\) values of float64"):
            archive.map_arrays([0], dtype=np.float64)
        with pytest.raises(UnsupportedFeatureError, match="no Python objects"):
            archive.map_arrays([0], dtype=object)
        with pytest.raises(CorruptArchiveError, match=r"no \.npy file"):
            archive.map_arrays([0])


def test_another_file_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CorruptArchiveError, match="looks like text"):
        archivestream.open(tmp_path / "index.csv")
