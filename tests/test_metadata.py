"""Metadata of members: typed columns, which views, concatenations, pickles and repacking keep in line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import Archive, ArchiveDataset, CorruptArchiveError, ZipPacker, pack, repack

pyarrow = pytest.importorskip("pyarrow")

PACKAGE = Path(archivestream.__file__).parents[1]
MEMBER = "__metadata__.arrow"


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"label": i % 5, "split": "val" if i % 3 else "train", "weight": i / 4, "odd": bool(i % 2), "id": f"n°{i}"}
        for i in range(count)
    ]


def samples(count: int = 60) -> list[tuple[np.ndarray, dict[str, Any]]]:
    return [(np.full((2, 3), i, np.float32), row) for i, row in enumerate(rows(count))]


def packed(folder: Path, suffix: str = "zip", **options: Any) -> Archive:
    pack(samples(), folder / f"a.{suffix}", **options)
    return archivestream.open(folder / f"a.{suffix}")


def in_line(archive: Archive) -> bool:
    """Whether each row is that of its member."""
    arrays = archive.read_arrays(range(len(archive)))
    expected = [rows(1000)[int(array[0, 0])] for array in arrays]
    found: list[dict[str, Any]] = archive.metadata.to_pylist()
    return found == expected


# ---- written and read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.zst"])
@pytest.mark.parametrize("n_jobs", [None, 3, -1])
def test_round_trip(suffix: str, n_jobs: int | None, tmp_path: Path) -> None:
    with packed(tmp_path, suffix, n_jobs=n_jobs) as archive:
        assert len(archive) == 60
        assert MEMBER not in archive
        assert list(archive.names) == [f"{i:012d}.npy" for i in range(60)]
        assert archive.metadata.to_pylist() == rows()
        types = [str(kind) for kind in archive.metadata.schema.types]
        assert types == ["int64", "string", "double", "bool", "string"]
        assert in_line(archive)
        assert archive[:].verify().members == 60
        report = archive.verify()
        assert report.ok
        assert report.members == 61  # with the one that holds them
        assert f"{archive!r}".endswith(": 60 members>")


@pytest.mark.parametrize("target", ["b-{:02d}.zip", "b-{:02d}.tar"])
@pytest.mark.parametrize("options", [{"shards": 7}, {"max_shard_bytes": 9000}, {"shards": 7, "shuffle": 3}])
@pytest.mark.parametrize("once", [False, True])
def test_shards(target: str, options: dict[str, int], once: bool, tmp_path: Path) -> None:
    paths = pack(iter(samples()) if once else samples(), tmp_path / target, **options)  # type: ignore[arg-type]
    assert len(paths) > 2
    assert "max_shard_bytes" not in options or max(path.stat().st_size for path in paths) <= 9000
    more = [(np.full((2, 3), 60 + i, np.float32), row) for i, row in enumerate(rows(80)[60:])]
    pack(more, tmp_path / target, shards=2, append=True)
    with archivestream.open(tmp_path / target) as archive:
        assert len(archive) == 80
        assert in_line(archive)
        for path in paths:
            with archivestream.open(path) as shard:
                assert in_line(shard)


def test_types_of_numpy_stay_and_missing_values_are_null(tmp_path: Path) -> None:
    what = [
        (b"0", {"a": np.int16(1), "b": np.float32(2), "c": None, "d": [1, 2]}),
        (b"1", {"a": np.int16(3), "b": np.float32(4), "c": 5, "e": np.str_("x")}),
    ]
    pack([*what, b"2", ("named", b"3")], tmp_path / "a.zip")
    with archivestream.open(tmp_path / "a.zip") as archive:
        table = archive.metadata
        types = {field.name: str(field.type) for field in table.schema}
        assert types["a"] == "int16"
        assert types["b"] == "float"
        assert types["c"] == "int64"
        assert types["e"] == "string"
        assert table["c"].to_pylist() == [None, 5, None, None]
        assert table["d"].to_pylist() == [[1, 2], None, None, None]
        assert archive.names[3] == "named"


def test_of_members_with_names(tmp_path: Path) -> None:
    with ZipPacker(tmp_path / "a.zip") as packer:
        packer.add("b/1.jpg", b"1", metadata={"label": 7})
        packer.add("naïve", b"22", metadata={"label": 8, "size": 2.5})
        packer.add("large", bytes(9 << 20), metadata={"label": 9})
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.metadata.to_pydict() == {"label": [7, 8, 9], "size": [None, 2.5, None]}


def test_other_programs_see_a_member(tmp_path: Path) -> None:
    packed(tmp_path).close()
    with zipfile.ZipFile(tmp_path / "a.zip") as peer:
        assert peer.namelist()[-1] == MEMBER
        table = pyarrow.ipc.open_file(peer.read(MEMBER)).read_all()
    assert table.column_names == ["label", "split", "weight", "odd", "id", "__member__"]
    assert table["__member__"][3].as_py() == "000000000003.npy"


def test_another_program_may_change_the_order(tmp_path: Path) -> None:
    """Rows are found by the names of their members, of which some may have gone."""
    packed(tmp_path).close()
    with zipfile.ZipFile(tmp_path / "a.zip") as old, zipfile.ZipFile(tmp_path / "b.zip", "w") as new:
        for name in [*old.namelist()[-2:3:-1], "another", MEMBER]:
            new.writestr(name, old.read(name) if name != "another" else old.read("000000000000.npy"))
    with archivestream.open(tmp_path / "b.zip") as archive:
        assert len(archive) == 57
        assert in_line(archive[:-1])
        assert set(archive.metadata.to_pylist()[-1].values()) == {None}


def test_none(tmp_path: Path) -> None:
    pack({"a": b"1"}, tmp_path / "a.zip")
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.metadata is None
        assert archive.to_pandas().shape == (1, 0)
        assert len(archive.select("label == 3")) == 0  # a pattern of names
    with pytest.raises(ValueError, match="closed"):
        _ = archive.metadata


def test_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with packed(tmp_path) as archive:
        frame = archive[::7].to_pandas()
    expected = pandas.DataFrame(rows()[::7], index=[f"{i:012d}.npy" for i in range(0, 60, 7)])
    pandas.testing.assert_frame_equal(frame, expected, check_names=False, check_dtype=False)


# ---- views, concatenations, other processes, repacking -----------------------------------------------------------


def _columns(archive: Archive) -> Any:
    return archive.metadata.to_pylist()


def test_views_and_concatenations(tmp_path: Path) -> None:
    pack({"x": b"1", "y": b"2"}, tmp_path / "plain.zip")
    pack([(b"z", {"label": 1.5, "new": "n"})], tmp_path / "other.zip")
    with (
        packed(tmp_path) as archive,
        archivestream.open(tmp_path / "plain.zip") as plain,
        archivestream.open(tmp_path / "other.zip") as other,
    ):
        for view in (archive[::-3], archive.select([5, 3, 5]), archive.select(archive.sizes > 0)[10:20][::2]):
            assert in_line(view)
            assert _columns(pickle.loads(pickle.dumps(view))) == _columns(view)
        both = archive.select([7, 2]) + archive
        assert in_line(both)
        many = plain + archive[3:6] + other + plain
        assert [row["label"] for row in _columns(many)] == [None, None, 3, 4, 0, 1.5, None, None]
        assert str(many.metadata.schema.field("label").type) == "double"  # whole numbers and others
        assert many.metadata["new"].to_pylist() == [None] * 5 + ["n", None, None]
        assert list(pickle.loads(pickle.dumps(archive))) == list(archive)
        assert len(pickle.dumps(archive)) < 2000  # the rows that are shown are not in it
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_columns, (many,)) == _columns(many)


def test_metered_archives_share_them(tmp_path: Path) -> None:
    with packed(tmp_path) as archive:
        other = archive.metered(1)
        assert repr(other) == repr(archive)
        assert other.metadata is archive.metadata
        assert other.counters.decoded_bytes == 0
        assert other.read_many([3]) == archive.read_many([3])
        assert other.counters.decoded_bytes > 0


def test_types_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metadata 'a' make no column"):
        pack([(b"1", {"a": 1}), (b"2", {"a": "text"})], tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
    pack([(b"1", {"a": 1})], tmp_path / "a.zip")
    pack([(b"1", {"a": "text"})], tmp_path / "b.zip")
    with (
        archivestream.open([tmp_path / "a.zip", tmp_path / "b.zip"]) as archive,
        pytest.raises(ValueError, match="types that do not go together"),
    ):
        _ = archive.metadata


@pytest.mark.parametrize("target", ["b.zip", "b.tar", "b.tar.zst", "b-{:03d}.zip"])
def test_repack_keeps_them(target: str, tmp_path: Path) -> None:
    with packed(tmp_path) as archive:
        what = archive.select("odd == True") + archive[:4]
        what = what.select(np.unique(list(what.names), return_index=True)[1])
        repack(what, tmp_path / target, **({"shards": 3} if "{" in target else {}))
        with archivestream.open(tmp_path / target) as again:
            assert in_line(again)
            assert list(again) == list(what)
            assert again.metadata.schema == archive.metadata.schema
    (tmp_path / "folder").mkdir()
    with archivestream.open(tmp_path / "a.zip") as archive:
        archive.extract(path=tmp_path / "folder")
        assert len(os.listdir(tmp_path / "folder")) == 60


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ((b"1", {1: 2}), TypeError, "names of metadata are str"),
        ((b"1", {"__member__": 2}), ValueError, "__member__"),
        ((b"1", "text"), TypeError, "metadata of sample 0 are a dict, not str"),
        ((b"1", {}, 3), TypeError, "3 parts"),
        ((MEMBER, b"1"), ValueError, "that of the member that holds the metadata"),
        ((b"1", {"a": object()}), ValueError, "metadata 'a' make no column"),
        ((b"1", {"a": 1 << 70}), ValueError, "metadata 'a' make no column"),
    ],
)
def test_what_is_refused(what: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pack([what], tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


# ---- damage, and what is not installed ----------------------------------------------------------------------------


def with_member(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("000000000000.npy", b"1")
        archive.writestr(MEMBER, data)
    return path


def ipc(table: Any) -> bytes:
    stream = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    data: bytes = stream.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no table of Arrow"),
        ({"a": [1]}, "no column '__member__' of text"),
        ({"__member__": [1]}, "no column '__member__' of text"),
    ],
)
def test_a_member_that_holds_none(table: Any, message: str, tmp_path: Path) -> None:
    path = with_member(tmp_path / "a.zip", b"text" if table is None else ipc(pyarrow.table(table)))
    with archivestream.open(path) as archive:
        assert list(archive) == [b"1"]
        with pytest.raises(CorruptArchiveError, match=message) as caught:
            _ = archive.metadata
        assert str(caught.value).startswith(f"{path}: member {MEMBER!r}: ")


def test_damage_is_found_by_verifying(tmp_path: Path) -> None:
    packed(tmp_path, method="stored").close()
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"ARROW1") + 100] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with archivestream.open(tmp_path / "a.zip") as archive:
        (error,) = archive.verify().errors
        assert f"member {MEMBER!r}" in str(error)
        with pytest.raises(CorruptArchiveError, match="CRC-32"):
            _ = archive.metadata


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    names = pyarrow.array(["000000000000.npy"])
    table = pyarrow.Table.from_arrays([names, names, names], ["a", "a", "__member__"])
    with (
        archivestream.open(with_member(tmp_path / "a.zip", ipc(table))) as archive,
        pytest.raises(CorruptArchiveError, match="two of its columns have one name"),
    ):
        _ = archive.metadata


def test_any_damage_is_an_error_or_a_table(tmp_path: Path) -> None:
    """With a good checksum: what is in it is not trusted."""
    good = ipc(pyarrow.table({"a": ["some", None], "__member__": ["000000000000.npy", "x"]}))
    errors = 0
    for bit in range(0, 8 * len(good), 37):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with archivestream.open(with_member(tmp_path / "a.zip", bytes(bad))) as archive:
            try:
                assert archive.metadata.num_rows == 1
                archive.metadata.to_pylist()
            except CorruptArchiveError as error:
                errors += 1
                assert MEMBER in str(error)
    assert errors > 20


BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
import archivestream
archive = archivestream.open("a.zip")
assert len(archive) == 60 and archive.read_arrays([3]).shape == (1, 2, 3)
for attempt in (
    lambda: archive.metadata,
    lambda: archive.to_pandas(),
    lambda: archive.select("label == 3"),
    lambda: archivestream.repack(archive, "b.zip"),
    lambda: archivestream.pack([(b"1", {"a": 1})], "c.zip"),
):
    try:
        attempt()
    except ImportError as error:
        print(error)
    else:
        print("no error")
"""


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "metadata"), ("pandas", "pandas")])
def test_what_is_not_installed(package: str, extra: str, tmp_path: Path) -> None:
    packed(tmp_path).close()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, package],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    wanted = [f"archivestream[{extra}]" in line for line in lines]
    assert wanted == ([True, True, True, True, True] if package == "pyarrow" else [False, True, False, False, False])


# ---- datasets -----------------------------------------------------------------------------------------------------


def test_labels(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with packed(tmp_path) as archive:
        by_number = ArchiveDataset(archive, decode="numpy", labels="label")
        assert by_number.targets.tolist() == [row["label"] for row in rows()]
        assert by_number[7][1] == 2
        by_name = ArchiveDataset(archive, labels="split", pattern="*[05].npy")
        assert by_name.classes == ["train", "val"]
        assert by_name.targets.tolist() == [int(i % 3 > 0) for i in range(0, 60, 5)]
        assert ArchiveDataset(archive, labels="weight").targets.dtype == np.float64
        view = by_number.select("split == 'train' and label != 0")
        assert view.targets.tolist() == [row["label"] for row in rows() if row["split"] == "train" and row["label"]]
        with pytest.raises(ValueError, match="labels are 'folder', a column of the metadata"):
            ArchiveDataset(archive, labels="no such column")
    pack([*samples(3), (b"1", {"weight": 1.5})], tmp_path / "b.zip")
    with pytest.raises(ValueError, match="1 sample has no label in the column 'label' of the metadata: '000000000003'"):
        ArchiveDataset(tmp_path / "b.zip", labels="label")


def test_splits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model_selection = pytest.importorskip("sklearn.model_selection")
    with packed(tmp_path) as archive:
        dataset = ArchiveDataset(archive)
        parts = dataset.split({"a": 0.5, "b": 0.5}, seed=1, stratify="label")
        for part in parts.values():
            assert np.bincount(part.archive.metadata["label"]).tolist() == [6] * 5
        for train, test in dataset.split(model_selection.GroupKFold(5), groups="label"):
            groups = [set(part.archive.metadata["label"].to_pylist()) for part in (train, test)]
            assert not groups[0] & groups[1]
        for options in ({"stratify": "labels"}, {"groups": "labels"}):
            how: Any = {"a": 0.5} if "stratify" in options else model_selection.GroupKFold(5)
            with pytest.raises(ValueError, match=r"no column 'labels' of metadata; there are label, split"):
                dataset.split(how, **options)


def test_grouped_samples(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with ZipPacker(tmp_path / "a.zip") as packer:
        for i in range(12):
            packer.add(f"{i:03d}.txt", b"text", metadata={"label": i % 3, "part": "text"})
            packer.add(f"{i:03d}.cls", b"%d" % (i % 2), metadata={"label": -1, "part": "class"})
    dataset = ArchiveDataset(tmp_path / "a.zip", group=True, labels="label")
    assert dataset.targets.tolist() == [i % 3 for i in range(12)]  # of the first member
    assert list(dataset.select("label == 1").names) == ["001", "004", "007", "010"]
    assert list(dataset.select("01?").names) == ["010", "011"]
    assert ArchiveDataset(tmp_path / "a.zip", group=True, labels="cls").targets.tolist() == [i % 2 for i in range(12)]
