"""Labels: from folders as torchvision's ImageFolder, from mappings, tables in the archive, parts and callables."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import zip_of

import archivestream
from archivestream import CorruptArchiveError, MemberNotFoundError
from archivestream.reader import MemberReader

pytest.importorskip("torch")
from archivestream import ArchiveDataset

NAMES = ["train/a/1.jpg", "train/b/2.jpg", "train/a/3.x.jpg", "c.jpg"]
TARGETS = [10, 20, 10, 30]


def files(*names: str) -> dict[str, bytes]:
    return {name: name.encode() for name in names or NAMES}


def table(header: list[str], rows: list[list[Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([header, *rows])
    return file.getvalue().encode()


# Folders


def image_folder(names: list[str]) -> tuple[list[str], dict[str, int], list[int]]:
    """Return what torchvision's ImageFolder makes of files in class folders: classes, numbers, targets."""
    folders = [PurePosixPath(name).parent.name for name in names]
    classes = sorted(set(folders))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, numbers, [numbers[folder] for folder in folders]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "x/", "y/a/"]), st.sampled_from("abAB10ü"), st.integers(0, 99)), unique=True
    )
)
def test_folders_are_those_of_image_folder(parts: list[tuple[str, str, int]]) -> None:
    names = [f"{above}{folder}/{number}.jpg" for above, folder, number in parts]
    dataset = ArchiveDataset(zip_of(files(*names)) if names else zip_of({}), labels="folder")
    assert (dataset.classes, dataset.class_to_idx, dataset.targets.tolist()) == image_folder(names)


def test_folders_of_groups() -> None:
    dataset = ArchiveDataset(zip_of(files("b/1.x", "a/1.x", "a/1.y", "b/2.x", "b/1.y")), group=True, labels="folder")
    assert (dataset.classes, dataset.targets.tolist()) == (["a", "b"], [1, 0, 1])
    assert [(sample["__key__"], label) for sample, label in dataset] == [("b/1", 1), ("a/1", 0), ("b/2", 1)]


def test_samples_without_a_folder() -> None:
    with pytest.raises(ValueError, match=r"5 samples have no label, lying in no folder: '0', '1', '2', \.\.\.;"):
        ArchiveDataset(zip_of(files("a/b", *"01234")), labels="folder")


# What a label may be


@pytest.mark.parametrize(
    ("given", "targets", "classes", "dtype"),
    [
        ([3, -1, 3, 2**40], [3, -1, 3, 2**40], [], np.int64),
        ([np.int32(3), True, 0, np.uint8(4)], [3, 1, 0, 4], [], np.int64),
        ([0.5, 1, np.float32(2), -1.5], [0.5, 1, 2, -1.5], [], np.float64),
        (["dog", "cat", "dog", "Emu"], [2, 1, 2, 0], ["Emu", "cat", "dog"], np.int64),
        (["1", "10", "2", "1"], [0, 1, 2, 0], ["1", "10", "2"], np.int64),
    ],
)
def test_labels_of_each_kind(given: list[Any], targets: list[Any], classes: list[str], dtype: Any) -> None:
    mapping = dict(zip(NAMES, given, strict=True))
    for labels in (mapping, mapping.__getitem__):
        dataset = ArchiveDataset(zip_of(files()), labels=labels)
        assert (dataset.targets.tolist(), dataset.classes, dataset.targets.dtype) == (targets, classes, dtype)
        assert dataset.class_to_idx == {name: i for i, name in enumerate(classes)}
        found = [label for _, label in dataset]
        assert found == targets
        assert {type(label) for label in found} == {float if dtype is np.float64 else int}
        twin = pickle.loads(pickle.dumps(dataset))
        assert list(twin) == list(dataset)


@pytest.mark.parametrize("wrong", [[1, "a", 2, 3], [[1], [2], [3], [4]], [b"a"] * 4, [1j] * 4])
def test_labels_of_no_kind(wrong: list[Any]) -> None:
    with pytest.raises(ValueError, match="whole numbers, floats or strings, all of them"):
        ArchiveDataset(zip_of(files()), labels=dict(zip(NAMES, wrong, strict=True)))


@pytest.mark.parametrize(
    "wrong", [[1, 2, 3, 2**63], [1, 2, 3, -(10**400)], [np.uint64(2**63)] * 4, [1.5, 2, 3, 10**400]]
)
def test_labels_that_are_too_large(wrong: list[Any]) -> None:
    with pytest.raises(ValueError, match="of 64 bits, or floats: one of them is larger"):
        ArchiveDataset(zip_of(files()), labels=dict(zip(NAMES, wrong, strict=True)))


def test_samples_without_a_label() -> None:
    with pytest.raises(ValueError, match=r"2 samples have no label in labels: 'train/b/2\.jpg', 'train/a/3\.x\.jpg'$"):
        ArchiveDataset(zip_of(files()), labels={NAMES[0]: 1, NAMES[3]: 2, "other": 3})
    with pytest.raises(ValueError, match=r"1 sample has no label from the callable: 'c\.jpg'"):
        ArchiveDataset(zip_of(files()), labels=lambda name: 1 if "/" in name else None)
    with pytest.raises(ValueError, match=r"4 samples have no label in labels: .*, \.\.\."):
        ArchiveDataset(zip_of(files()), labels={})


@pytest.mark.parametrize("wrong", ["", "cls", "labels.txt:a", 3, ["a"]])
def test_labels_that_are_nothing(wrong: Any) -> None:
    with pytest.raises(ValueError, match="labels are 'folder', a column of the metadata, a mapping"):
        ArchiveDataset(zip_of(files()), labels=wrong)


# How a table names samples

WAYS: dict[str, tuple[str, list[str]]] = {
    "whole names": ("labels.csv", NAMES),
    "without extensions": ("labels.csv", ["train/a/1", "train/b/2", "train/a/3.x", "c"]),
    "within the folder of the table": ("train/labels.csv", ["a/1.jpg", "b/2.jpg", "a/3.x.jpg", "c.jpg"]),
    "within it, without extensions": ("train/labels.csv", ["a/1", "b/2", "a/3.x", "c"]),
    "last components": ("meta/labels.csv", ["1.jpg", "2.jpg", "3.x.jpg", "c.jpg"]),
    "last components without extensions": ("labels.csv", ["1", "2", "3.x", "c"]),
}


@pytest.mark.parametrize(("path", "keys"), WAYS.values(), ids=WAYS)
def test_how_a_table_names_samples(path: str, keys: list[str]) -> None:
    rows = [[f"{i}", key, "train", target] for i, (key, target) in enumerate(zip(keys, TARGETS, strict=True))]
    rows = [["9", "unused.jpg", "val", 5], *rows[::-1]]
    columns = ["row", "file", "part", "target"]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    by_name = {row[1]: {"target": row[3], "more": [1]} for row in rows}
    tables = {
        ".csv": table(columns, rows),
        ".tsv": table(columns, rows, "\t"),
        ".json": json.dumps(records).encode(),
        ".JSON": json.dumps(by_name).encode(),
    }
    for suffix, data in tables.items():
        member = path.replace(".csv", suffix)
        dataset = ArchiveDataset(zip_of({member: data, **files()}), labels=f"{member}:target")
        assert list(dataset.names) == NAMES  # the table itself is no sample
        assert dataset.targets.tolist() == TARGETS
        assert dataset.classes == []
    dataset = (
        ArchiveDataset(zip_of(files()), labels=dict(zip(keys, TARGETS, strict=True))) if "/" not in path else dataset
    )
    assert dataset.targets.tolist() == TARGETS


def test_names_that_two_samples_share_are_not_used() -> None:
    archive = {
        **files("a/1.jpg", "b/1.jpg", "b/2.jpg"),
        "labels.csv": table(["file", "y"], [["1.jpg", 5], ["2.jpg", 6]]),
    }
    with pytest.raises(ValueError, match=r"3 samples have no label in 'labels\.csv'"):
        ArchiveDataset(zip_of(archive), labels="labels.csv:y")
    assert ArchiveDataset(zip_of(archive), labels="labels.csv:y", pattern="b/*").targets.tolist() == [5, 6]


def test_a_column_that_fits_by_chance_is_not_used() -> None:
    rows = [[i, f"{(i + 1) % 4}.jpg", 10 * i] for i in range(4)]
    archive = files(*(f"a/{i}.jpg" for i in range(4)))
    whole = {**archive, "labels.csv": table(["row", "file", "y"], rows)}
    assert ArchiveDataset(zip_of(whole), labels="labels.csv:y").targets.tolist() == [30, 0, 10, 20]
    rows[2][1] = "other.jpg"  # the numbers of the rows are still those of all files
    lacking = {**archive, "labels.csv": table(["row", "file", "y"], rows)}
    with pytest.raises(ValueError, match=r"1 sample has no label in 'labels\.csv': 'a/3\.jpg'"):
        ArchiveDataset(zip_of(lacking), labels="labels.csv:y")


def test_text_in_tables() -> None:
    def targets(values: list[str]) -> tuple[list[Any], list[str]]:
        data = table(["name", "y"], [list(row) for row in zip(NAMES, values, strict=True)])
        dataset = ArchiveDataset(zip_of({**files(), "y.csv": data}), labels="y.csv")  # of two columns, the second
        return dataset.targets.tolist(), dataset.classes

    assert targets(["1", "02", "-3", "4"]) == ([1, 2, -3, 4], [])
    assert targets(["1", "0.5", "-3e2", "4"]) == ([1, 0.5, -300, 4], [])
    assert targets(["1", "x", "1", "4"]) == ([0, 2, 0, 1], ["1", "4", "x"])
    with pytest.raises(ValueError, match=r"1 sample has no label in 'y\.csv': 'c\.jpg'"):
        targets(["1", "2", "3", ""])


def test_json_keeps_strings() -> None:
    data = json.dumps(dict(zip(NAMES, "1321", strict=True))).encode()
    dataset = ArchiveDataset(zip_of({**files(), "y.json": data}), labels="y.json")
    assert (dataset.targets.tolist(), dataset.classes) == ([0, 2, 1, 0], ["1", "2", "3"])


def test_a_table_in_each_of_several_archives() -> None:
    shards = [
        zip_of({"labels.csv": table(["name", "y"], [[f"{shard}/x.jpg", shard * 2]]), f"{shard}/x.jpg": b""})
        for shard in range(3)
    ]
    assert ArchiveDataset(shards, labels="labels.csv:y").targets.tolist() == [0, 2, 4]


def test_tables_of_groups() -> None:
    parts = {f"x/{i}.{extension}": b"" for i in range(3) for extension in ("txt", "jpg")}
    for keys in (
        ["x/0", "x/1", "x/2"],
        ["x/0.jpg", "x/1.jpg", "x/2.jpg"],
        ["0.jpg", "1.jpg", "2.jpg"],
        ["0", "1", "2"],
    ):
        data = table(["name", "y"], [[key, i * 2] for i, key in enumerate(keys)])
        dataset = ArchiveDataset(zip_of({**parts, "labels.csv": data}), group=True, labels="labels.csv:y")
        assert (list(dataset.names), dataset.targets.tolist()) == (["x/0", "x/1", "x/2"], [0, 2, 4])


@pytest.mark.parametrize(
    ("path", "data", "kind", "message"),
    [
        ("labels.csv:y", None, MemberNotFoundError, r"member 'labels\.csv': there is no such member"),
        (
            "labels.csv:z",
            b"name,y\na,1\n",
            ValueError,
            "has no column 'z': .* with one of name, y",
        ),
        ("labels.csv", b"name,y,z\na,1,2\n", ValueError, "has several columns"),
        ("labels.csv:y", b"name,y\na\n", CorruptArchiveError, r"bytes>: member 'labels\.csv': line 2 has 1 fields"),
        ("labels.csv:y", b"\xff", CorruptArchiveError, r"member 'labels\.csv': it is no text in UTF-8"),
        ("labels.csv:y", b"", ValueError, "has no column 'y'"),
        ("labels.json:y", b"{", CorruptArchiveError, r"member 'labels\.json': it is no JSON"),
        ("labels.json:y", b"[1, 2]", CorruptArchiveError, "neither an object by names nor a list of records"),
        ("labels.json:y", b"3", CorruptArchiveError, "neither an object by names nor a list of records"),
        (
            "labels.csv:y",
            b"name,y\na.jpg,1\na.jpg,2\n",
            ValueError,
            "two labels in .*: '1' and '2'",
        ),
    ],
)
def test_tables_that_are_none(path: str, data: bytes | None, kind: type[Exception], message: str) -> None:
    archive = files("a.jpg") | ({} if data is None else {path.partition(":")[0]: data})
    with pytest.raises(kind, match=message):
        ArchiveDataset(zip_of(archive), labels=path)


# Parts


def test_labels_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        f"{i}.{extension}": data
        for i in range(20)
        for extension, data in (("jpg", b"image"), ("cls", b"%d" % (i % 3)), ("txt", b"class %d\n" % (i % 2)))
    }
    calls: list[int] = []
    read_many = MemberReader.read_many

    def count(self: MemberReader, members: Any, *rest: Any) -> Any:
        calls.append(len(members))
        return read_many(self, members, *rest)

    monkeypatch.setattr(MemberReader, "read_many", count)
    dataset = ArchiveDataset(zip_of(parts), group=True, labels="cls")
    assert calls == [20]  # those parts, and no others
    assert dataset.targets.tolist() == [i % 3 for i in range(20)]
    assert dataset[4] == (
        {"__key__": "4", "__url__": dataset[4][0]["__url__"], "jpg": b"image", "cls": b"1", "txt": b"class 0\n"},
        1,
    )
    named = ArchiveDataset(zip_of(parts), group=True, labels=".TXT")
    assert (named.classes, named.targets.tolist()) == (["class 0", "class 1"], [0, 1] * 10)
    own = ArchiveDataset(zip_of(parts), group=True, labels="cls", decode={"cls": lambda data: float(bytes(data)) / 2})
    assert own.targets.tolist() == [i % 3 / 2 for i in range(20)]


def test_parts_that_give_no_label() -> None:
    parts = {"a.jpg": b"", "a.cls": b"1", "b.jpg": b"", "c.cls": b"x", "c.jpg": b"", "a.json": b"{}"}
    with pytest.raises(ValueError, match=r"no sample has a part 'txt' .* are 'jpg', 'cls', 'json'"):
        ArchiveDataset(zip_of(parts), group=True, labels="txt")
    with pytest.raises(CorruptArchiveError, match=r"bytes>: member 'c\.cls': it is no whole number"):
        ArchiveDataset(zip_of(parts), group=True, labels="cls")
    with pytest.raises(ValueError, match=r"1 sample has no label in a part 'cls': 'b'"):
        ArchiveDataset(zip_of({**parts, "c.cls": b"2"}), group=True, labels="cls")
    with pytest.raises(ValueError, match="not dict"):
        ArchiveDataset(zip_of({"a.json": b"{}"}), group=True, labels="json")


def test_a_view_that_has_no_table() -> None:
    archive = archivestream.open(zip_of({**files("a.jpg"), "labels.csv": b"name,y\na.jpg,1\n"}))
    assert ArchiveDataset(archive, labels="labels.csv:y", extensions=".jpg").targets.tolist() == [1]
    with pytest.raises(MemberNotFoundError):
        ArchiveDataset(archive.select(["a.jpg"]), labels="labels.csv:y")
