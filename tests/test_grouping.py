"""Grouped samples: against WebDataset's own grouping, in any order of the members, and under torch's DataLoader."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import MAKERS, tar_of, zip_of

import archivestream
from archivestream import CorruptArchiveError
from archivestream._native import nameparts
from archivestream.reader import MemberReader
from archivestream.selection import split_name

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

from archivestream import ArchiveDataset  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

N = 30
PARTS = {
    f"train/{i:04}.{extension}": data
    for i in range(N)
    for extension, data in (
        ("seg.txt", f"segment {i}".encode()),
        ("cls", b"%d\n" % (i % 4)),
        ("JSON", json.dumps({"i": i}).encode()),
    )
}
SAMPLES = [{"__key__": f"train/{i:04}", "seg.txt": f"segment {i}", "cls": i % 4, "json": {"i": i}} for i in range(N)]


def shuffled(files: Mapping[str, bytes], seed: int = 0) -> dict[str, bytes]:
    items = list(files.items())
    random.Random(seed).shuffle(items)
    return dict(items)


def without_url(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sample.items() if name != "__url__"}


def by_key(samples: Any) -> list[dict[str, Any]]:
    return sorted(map(without_url, samples), key=lambda sample: sample["__key__"])


@pytest.fixture
def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of members of each native call."""
    calls: list[int] = []
    for name in ("read", "read_many"):
        method = getattr(MemberReader, name)

        def count(self: MemberReader, members: Any, *rest: Any, method: Any = method) -> Any:
            calls.append(np.size(members))
            return method(self, members, *rest)

        monkeypatch.setattr(MemberReader, name, count)
    return calls


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.zst"])
def test_members_of_one_stem_are_a_sample(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(MAKERS[kind](PARTS))
    dataset = ArchiveDataset(path, group=True, decode="auto")
    assert len(dataset) == N
    assert [without_url(dataset[i]) for i in range(N)] == SAMPLES
    assert {dataset[i]["__url__"] for i in range(N)} == {str(path)}
    assert list(dataset[3]) == ["__key__", "__url__", "seg.txt", "cls", "json"]
    assert list(dataset.names) == [sample["__key__"] for sample in SAMPLES]
    assert dataset.names[-1] == dataset.names[N - 1] == "train/0029"
    assert dataset.names[1:3] == ["train/0001", "train/0002"]
    assert dataset.bounds is not None
    assert dataset.bounds.tolist() == list(range(0, 3 * N + 1, 3))
    raw = ArchiveDataset(path, group=True)[5]
    assert raw["json"] == PARTS["train/0005.JSON"]
    assert type(raw["cls"]) is bytes


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_the_archive_does_not_matter(seed: int) -> None:
    files = shuffled(PARTS, seed)
    dataset = ArchiveDataset(zip_of(files), group=True, decode="auto")
    assert by_key(dataset) == SAMPLES
    # Samples come as their first members do.
    assert list(dataset.names) == list(dict.fromkeys(split_name(name)[0] for name in files))


def test_a_batch_is_one_native_call(native_calls: list[int]) -> None:
    dataset = ArchiveDataset(zip_of(shuffled(PARTS)), group=True, decode="auto")
    assert native_calls == []  # nothing is read to group
    samples = dataset.__getitems__([4, 0, 4, -1])
    assert native_calls == [12]
    assert samples == [dataset[4], dataset[0], dataset[4], dataset[N - 1]]
    assert native_calls == [12, 3, 3, 3, 3]
    for wrong in (N, -N - 1):
        with pytest.raises(IndexError):
            dataset[wrong]
        with pytest.raises(IndexError):
            dataset.__getitems__([0, wrong])
        with pytest.raises(IndexError):
            dataset.members_of([wrong])


def test_members_of_samples() -> None:
    files = {"a.x": b"", "b.x": b"", "b.y": b"", "c.x": b"", "c.y": b"", "c.z": b""}
    dataset = ArchiveDataset(zip_of(files), group=True)
    positions, offsets = dataset.members_of([2, 0, -2])
    assert (positions.tolist(), offsets.tolist()) == ([3, 4, 5, 0, 1, 2], [0, 3, 4, 6])
    positions, offsets = dataset.members_of([])
    assert (positions.tolist(), offsets.tolist()) == ([], [0])
    alone = ArchiveDataset(zip_of(files))
    assert [part.tolist() for part in alone.members_of(np.array([5, -6]))] == [[5, 0], [0, 1, 2]]


def test_parts_may_be_missing_and_strangers_are_no_samples() -> None:
    files = {
        "a.jpg": b"1",
        "README": b"no extension",
        "b.cls": b"2",
        ".hidden": b"no stem",
        "x/.hidden.txt": b"no stem",
        "x/name.": b"no extension",
        "a.cls": b"3",
        "v1.0/c.d.jpg": b"4",
        "v1.0/README": b"no extension",
        "folder.x/": b"",
        "__MACOSX/a.jpg": b"5",
    }
    dataset = ArchiveDataset(zip_of(files), group=True)
    assert [without_url(sample) for sample in dataset] == [
        {"__key__": "a", "jpg": b"1", "cls": b"3"},
        {"__key__": "b", "cls": b"2"},
        {"__key__": "v1.0/c", "d.jpg": b"4"},
    ]
    assert len(ArchiveDataset(zip_of(files), group=True, extensions=".cls")) == 2
    assert len(ArchiveDataset(zip_of({"README": b""}), group=True)) == 0
    assert len(ArchiveDataset(zip_of({}), group=True)) == 0


def test_a_part_that_is_there_twice() -> None:
    files = {"a.jpg": b"", "b.jpg": b"", "b.txt": b"", "x/b.jpg": b"", "b.JPG": b""}
    with pytest.raises(ValueError, match=r"<\d+ bytes>: members 'b\.jpg' and 'b\.JPG' are the same part 'jpg'"):
        ArchiveDataset(zip_of(files), group=True)


def test_samples_of_several_archives_stay_apart(tmp_path: Path) -> None:
    shards = []
    for shard in range(3):
        shards.append(tmp_path / f"shard-{shard}.tar")
        shards[-1].write_bytes(tar_of({f"{i}.{e}": f"{shard}{i}".encode() for i in range(4) for e in ("x", "y")}))
    dataset = ArchiveDataset(str(tmp_path / "shard-{0..2}.tar"), group=True, decode="auto")
    assert len(dataset) == 12
    for place, sample in enumerate(dataset):
        shard, i = divmod(place, 4)
        data = f"{shard}{i}".encode()
        assert sample == {"__key__": str(i), "__url__": str(shards[shard]), "x": data, "y": data}


NAMES = st.lists(
    st.tuples(
        st.sampled_from(["", "a/", "b.c/", "a/b/", "./", "ä/"]),
        st.sampled_from(["0", "1", "xy", "ü"]),
        st.sampled_from([".jpg", ".JPG", ".cls", ".seg.png", ".a.b.c", "", "."]),
    ).map("".join),
    unique=True,
    min_size=1,
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_groups_are_those_of_webdataset(names: list[str]) -> None:
    """Of members whose order is WebDataset's: those of a sample next to each other."""
    wds = pytest.importorskip("webdataset.tariterators")
    stems = [(split_name(name)[0], name) for name in names]
    ordered = [name for _, name in sorted(stems)]
    data = tar_of({name: name.encode() for name in ordered})

    def members() -> Any:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for info in tar:
                yield {"fname": info.name, "data": tar.extractfile(info).read(), "__url__": "u"}  # type: ignore[union-attr]

    try:
        expected = [
            {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__", "")}
            for sample in wds.group_by_keys(members())
        ]
    except ValueError as error:
        assert "duplicate" in str(error)
        with pytest.raises(ValueError, match="the same part"):
            ArchiveDataset(data, group=True)
        return
    expected = [sample for sample in expected if len(sample) > 1]  # a stem and nothing else: we have no such samples
    found = ArchiveDataset(data, group=True)
    assert by_key(found) == sorted(expected, key=lambda sample: sample["__key__"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab./_ä\U0001f600"), min_size=1, max_size=12)))
def test_stems_and_folders_cut_natively_are_those_of_python(names: list[str]) -> None:
    archive = archivestream.open(zip_of(dict.fromkeys(dict.fromkeys([*names, "end.txt"]), b"")))
    there = archive.namelist()
    number, extensions = archive.names.extensions()
    assert [extensions[i] for i in number] == [split_name(name)[1] for name in there]
    number, folders = archive.names.folders()
    assert [folders[i] for i in number] == [name.rpartition("/")[0].rpartition("/")[2] for name in there]
    assert folders == list(dict.fromkeys(folders[i] for i in number))
    with_stem = archive.select([bool(split_name(name)[1]) for name in there])
    groups: dict[str, set[int]] = defaultdict(set)
    for name, stem in zip(with_stem.names, with_stem.names.stems().tolist(), strict=True):
        groups[split_name(name)[0]].add(stem)
    assert sorted(stem for stems in groups.values() for stem in stems) == list(range(len(groups)))
    for ends in ("/", "ä", ".", "A", ""):
        assert archive.names.endswith(ends).tolist() == [name.endswith(ends) for name in there]
        assert archive.names.startswith(ends).tolist() == [name.startswith(ends) for name in there]
        lower = ends.lower()
        assert archive.names.endswith(ends, ignore_case=True).tolist() == [name.endswith(lower) for name in there]


def test_parts_that_do_not_lie_in_the_names_are_refused() -> None:
    names = np.frombuffer(b"abc", np.uint8)
    number, first = np.empty(1, np.int64), np.empty(1, np.int64)
    for begin, end in (([2], [1]), ([0], [4]), ([2**64 - 1], [0]), ([0, 1], [1, 2]), ([0], [1, 2])):
        span = np.array(begin, np.uint64), np.array(end, np.uint64)
        calls: list[Callable[[], object]] = [
            lambda span=span: nameparts.number_parts(names, *span, None, number, first),  # type: ignore[misc]
            lambda span=span: nameparts.cut_stems(names, *span, np.empty(1, np.uint64)),  # type: ignore[misc]
            lambda span=span: nameparts.cut_folders(names, *span, *np.empty((2, 1), np.uint64)),  # type: ignore[misc]
            lambda span=span: nameparts.mark_prefixes(names, *span, b"a", np.empty(1, np.uint8)),  # type: ignore[misc]
            lambda span=span: nameparts.mark_suffixes(names, *span, b"a", False, np.empty(1, np.uint8)),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(ValueError, match="parts of names"):
                call()


METHODS = [None, *(method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods())]


def collate(samples: list[Any]) -> list[Any]:
    return samples


@pytest.mark.parametrize("method", METHODS)
def test_loaders(method: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(shuffled(PARTS)))
    dataset = ArchiveDataset(path, group=True, decode="auto", labels="cls").split({"a": 0.5, "b": 0.5})["a"]
    expected = by_key(sample for sample, _ in dataset)
    workers = 0 if method is None else 2
    loader = DataLoader(
        dataset, 4, shuffle=True, num_workers=workers, multiprocessing_context=method, collate_fn=collate
    )
    found = [sample for batch in loader for sample in batch]
    assert by_key(sample for sample, _ in found) == expected
    assert all(sample["cls"] == label for sample, label in found)


def test_samples_collate() -> None:
    dataset = ArchiveDataset(zip_of(PARTS), group=True, decode="auto")
    batch = next(iter(DataLoader(dataset, 5)))
    assert batch["__key__"] == [f"train/{i:04}" for i in range(5)]
    assert batch["cls"].tolist() == [0, 1, 2, 3, 0]
    assert batch["json"]["i"].tolist() == [0, 1, 2, 3, 4]


def test_an_error_names_the_member() -> None:
    files = {**PARTS, "train/0007.cls": b"seven"}
    dataset = ArchiveDataset(zip_of(files), group=True, decode={"cls": "int"})
    assert dataset[6]["cls"] == 2
    for call in (lambda: dataset[7], lambda: dataset.__getitems__([6, 7])):
        with pytest.raises(CorruptArchiveError, match=r"bytes>: member 'train/0007\.cls': it is no whole number"):
            call()
    twin = pickle.loads(pickle.dumps(dataset))
    assert twin[6] == dataset[6]
    assert twin.fingerprint == dataset.fingerprint
