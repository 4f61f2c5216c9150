"""Views: select, concatenation and splits of archives and datasets, which stack, pickle and name their ancestry."""

from __future__ import annotations

import multiprocessing
import operator
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, MAKERS, make_members, zip_of

import archivestream
from archivestream import Archive, Limits
from archivestream.reader import MemberReader
from archivestream.splitting import split_by_shares

torch = pytest.importorskip("torch")
model_selection = pytest.importorskip("sklearn.model_selection")
from torch.utils.data import ConcatDataset, DataLoader  # noqa: E402

from archivestream import ArchiveDataset  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

CLASSES = ["cat", "dog", "emu"]
N = 60
FILES = {f"{CLASSES[min(i % 5, 2)]}/{i:02}.txt": f"sample {i}".encode() for i in range(N)}
LABELED = [(data, min(i % 5, 2)) for i, data in enumerate(FILES.values())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of(FILES))
    return path


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


# Archives


@pytest.mark.parametrize("second", [kind for kind in KINDS if kind not in ("zst", "gz")])
@pytest.mark.parametrize("first", ["zip", "tar", "tar.zst", "tar.gz"])
def test_archives_of_any_kind_are_joined(first: str, second: str, tmp_path: Path) -> None:
    contents = [make_members([0, 10, 5000, 300_000], 1), make_members([7, 0, 400_000], 2)]
    paths = [tmp_path / "first", tmp_path / "second"]
    for path, kind, members in zip(paths, (first, second), contents, strict=True):
        path.write_bytes(MAKERS[kind](members))
    with archivestream.open(paths[0]) as a, archivestream.open(paths[1]) as b:
        both = a + b
    # Closing what it was made of leaves it as it is.
    expected = [data for members in contents for data in members.values()]
    assert isinstance(both, Archive)
    assert both.namelist() == [name for members in contents for name in members]
    assert both.read_many(range(7)) == list(both) == expected
    assert bytes(both.read_batch([6, 0, 3, 2])[0]) == expected[6]
    assert [both.info(i).archive for i in (3, 4)] == list(map(str, paths))
    assert both.origin(3) == str(paths[0])
    assert both.sizes.tolist() == list(map(len, expected))
    assert both.verify().ok
    more = both[::2] + both
    assert list(more) == expected[::2] + expected
    more = both + archivestream.open([paths[1], paths[0]]) + archivestream.open(paths[0])
    assert list(more) == expected + expected[4:] + expected[:4] * 2
    for archive in (both, more):
        twin = pickle.loads(pickle.dumps(archive))
        assert list(twin) == list(archive)
        assert twin.fingerprint == archive.fingerprint
    # As if they had been opened together.
    assert both.fingerprint == archivestream.open(paths).fingerprint


def test_joined_views_of_one_archive_share_it(path: Path) -> None:
    archive = archivestream.open(path)
    both = archive.select("dog/*") + archive.select("cat/*")
    assert list(both) == list(archive.select("dog/*")) + list(archive.select("cat/*"))
    archive.close()
    with pytest.raises(ValueError, match="closed"):
        both[0]


def test_archives_that_were_opened_differently_are_not_joined(path: Path) -> None:
    archive = archivestream.open(path)
    for options in ({"verify": False}, {"threads": 1}, {"limits": Limits(max_members=1000)}):
        with pytest.raises(ValueError, match="opened with different options"):
            archive + archivestream.open(path, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        operator.add(archive, [b"bytes"])
    closed = archivestream.open(path)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        archive + closed


def test_ancestry(path: Path) -> None:
    archive = archivestream.open(path)
    assert archive.ancestry == (str(path),)
    view = archive.select("*/*").select(slice(2, None)).select(range(9))[:3:2].select([True, False])
    steps = (str(path), "select '*/*'", "select [2:]", "select 9 of 58", "select [:3:2]", "select 1 of 2")
    assert view.ancestry == steps
    assert pickle.loads(pickle.dumps(view)).ancestry == steps
    assert view.metered(1).ancestry == steps
    assert (archive[:1] + archive).ancestry == (f"{path} > select [:1] + {path}",)


def test_sizes(path: Path) -> None:
    archive = archivestream.open(path)
    for view in (archive, archive.select("dog/*")):
        assert view.sizes.dtype == np.int64
        assert view.sizes.tolist() == [len(data) for data in view]
        with pytest.raises(ValueError, match="read-only"):
            view.sizes[0] = 1
    assert archivestream.open(zip_of({})).sizes.shape == (0,)


def test_fingerprints_tell_archives_and_views_apart(path: Path, tmp_path: Path) -> None:
    archive = archivestream.open(path)
    different = [
        archive,
        archive[1:],
        archive[::-1],
        archive.select("dog/*"),
        archivestream.open(zip_of({**FILES, "more": b""})),
        archivestream.open(zip_of({**FILES, "cat/00.txt": b"sample X"})),
        archivestream.open(zip_of(dict(reversed(FILES.items())))),
        archive + archive,
    ]
    assert len({one.fingerprint for one in different}) == len(different)
    copy = tmp_path / "copy.zip"
    copy.write_bytes(path.read_bytes())
    for same in (archivestream.open(copy), archivestream.open(path.read_bytes()), pickle.loads(pickle.dumps(archive))):
        assert same.fingerprint == archive.fingerprint
    code = f"import archivestream; print(archivestream.open({str(path)!r})[1:].fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == archive[1:].fingerprint
    assert len(archive.fingerprint) == 32


# Selections of datasets


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("dog/*", [1, 6, 11, 16]),
        (slice(2, 8, 3), [2, 5]),
        (slice(None, None, -30), [59, 29]),
        ([5, 0, -1, 5], [5, 0, 59, 5]),
        (np.arange(N) % 20 == 3, [3, 23, 43]),
        (torch.tensor([7, 8]), [7, 8]),
        ([], []),
    ],
    ids=str,
)
@pytest.mark.parametrize("group", [False, True])
def test_select(path: Path, keys: Any, expected: list[int], group: bool) -> None:
    dataset = ArchiveDataset(path, labels="folder", group=group, decode={"txt": "text"})
    if isinstance(keys, str):
        dataset, expected = dataset.select(range(20)), expected
    view = dataset.select(keys)
    assert [view[i] for i in range(len(view))] == [dataset[i] for i in expected]
    assert view.__getitems__(range(len(view))) == [dataset[i] for i in expected]
    assert view.targets.tolist() == [dataset.targets[i] for i in expected]
    assert (view.classes, view.class_to_idx) == (CLASSES, dataset.class_to_idx)
    assert list(view.names) == [dataset.names[i] for i in expected]
    twin = pickle.loads(pickle.dumps(view))
    assert list(twin) == list(view)
    assert (twin.ancestry, twin.fingerprint) == (view.ancestry, view.fingerprint)
    assert len(view.ancestry) == len(dataset.ancestry) + 1


@pytest.mark.parametrize("group", [False, True])
def test_select_by_name(path: Path, group: bool) -> None:
    dataset = ArchiveDataset(path, group=group)
    names = ["dog/06", "cat/00"] if group else ["dog/06.txt", "cat/00.txt"]
    for keys in (names, np.array(names), [6, names[1]]):
        assert list(dataset.select(keys).names) == names
    with pytest.raises(archivestream.MemberNotFoundError):
        dataset.select(["nothing"])
    for wrong in ([N], [True] * 3):
        with pytest.raises(IndexError):
            dataset.select(wrong)
    with pytest.raises(TypeError):
        dataset.select([1.5])  # type: ignore[list-item]


# Concatenation


def test_datasets_are_joined_and_classes_merged(path: Path, native_calls: list[int]) -> None:
    other = zip_of({"ant/1.txt": b"ant", "dog/1.txt": b"dog", "yak/1.txt": b"yak"})
    first = ArchiveDataset(path, labels="folder")
    both = first + ArchiveDataset(other, labels="folder")
    assert isinstance(both, ArchiveDataset)
    assert both.classes == ["ant", "cat", "dog", "emu", "yak"]
    assert both.targets.tolist() == [label + 1 for _, label in LABELED] + [0, 2, 4]
    native_calls.clear()
    assert both.__getitems__([0, N, N + 2]) == [(b"sample 0", 1), (b"ant", 0), (b"yak", 4)]
    assert native_calls == [3]
    assert both.ancestry == (f"{path} + <{len(other)} bytes>",)
    assert list(pickle.loads(pickle.dumps(both))) == list(both)
    assert first.classes == CLASSES  # as it was


def test_grouped_datasets_are_joined() -> None:
    data = [zip_of({f"{i}.{e}": f"{name}{i}".encode() for i in range(3) for e in ("x", "y")}) for name in "ab"]
    options: dict[str, Any] = {"group": True, "labels": lambda name: int(name)}
    options["decode"] = "auto"
    first, second = (ArchiveDataset(one, **options) for one in data)
    second = second.select([2, 0])
    both = first + second
    assert list(both) == [*first, *second]
    assert both.__getitems__([4, 0]) == [second[1], first[0]]
    assert both.targets.tolist() == [0, 1, 2, 2, 0]
    assert both.select([3])[0] == second[0]


def test_datasets_that_differ_are_not_joined(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder", decode="text")
    for options in (
        {"decode": None, "labels": "folder"},
        {"decode": "text", "labels": "folder", "transform": len},
        {"decode": "text"},
        {"decode": "text", "labels": "folder", "group": True},
    ):
        with pytest.raises(ValueError, match="ConcatDataset"):
            dataset + ArchiveDataset(path, **options)  # type: ignore[arg-type]
    numbers = ArchiveDataset(path, labels=len, decode="text")
    with pytest.raises(ValueError, match="names of classes for labels, and the other one numbers"):
        dataset + numbers
    assert isinstance(dataset + torch.utils.data.TensorDataset(torch.zeros(1)), ConcatDataset)


# Shares

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(
    lambda values: {f"p{i}": value / max(1.0, sum(values)) for i, value in enumerate(values)}
)


@settings(max_examples=300, deadline=None)
@given(SHARES, st.lists(st.integers(0, 4), max_size=300), st.integers(0, 2**40), st.booleans())
def test_parts_are_disjoint_and_of_their_sizes(
    shares: dict[str, float], strata: list[int], seed: int, stratify: bool
) -> None:
    n = len(strata)
    parts = split_by_shares(shares, n, seed, np.array(strata, np.int64) if stratify else None)
    assert list(parts) == list(shares)
    together = np.concatenate(list(parts.values()))
    assert len(np.unique(together)) == len(together)
    if abs(sum(shares.values()) - 1) < 1e-9:
        assert len(together) == n
    for name, places in parts.items():
        assert (np.diff(places) > 0).all()
        assert abs(len(places) - shares[name] * n) < 1 + 1e-6
        if stratify and n:
            share = len(places) / n
            found = Counter(strata[i] for i in places.tolist())
            for stratum, count in Counter(strata).items():
                assert abs(found[stratum] - count * share) < 1 + 1e-9


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.lists(st.integers(0, 9), max_size=200), st.data())
def test_numbers_of_samples_are_kept_exactly(sizes: list[int], strata: list[int], data: Any) -> None:
    shares = {str(i): size for i, size in enumerate(sizes)}
    if sum(sizes) > len(strata):
        with pytest.raises(ValueError, match="parts of"):
            split_by_shares(shares, len(strata), 0, None)
        return
    parts = split_by_shares(shares, len(strata), 0, np.array(strata))
    assert [len(places) for places in parts.values()] == sizes


def test_a_split_is_the_same_for_all_times(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder").select(range(20))
    parts = dataset.split({"train": 0.7, "val": 0.3}, seed=5)
    names = [name[-6:-4] for name in parts["val"].names]
    assert list(map(int, names)) == [0, 1, 9, 13, 14, 15]
    again = ArchiveDataset(path, labels="folder").select(range(20)).split({"train": 0.7, "val": 0.3}, seed=5)
    assert [part.fingerprint for part in again.values()] == [part.fingerprint for part in parts.values()]
    assert list(dataset.split({"train": 0.7, "val": 0.3}, seed=6)["val"].names) != list(parts["val"].names)


@pytest.mark.parametrize("group", [False, True])
def test_splits_decode_and_read_nothing(path: Path, group: bool, native_calls: list[int]) -> None:
    def never(data: Any) -> Any:
        raise AssertionError("decoded")

    dataset = ArchiveDataset(path, labels="folder", decode=never, group=group)
    parts = dataset.split({"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True)
    assert [len(part) for part in parts.values()] == [48, 6, 6]
    for name, part in parts.items():
        share = {"train": 0.8, "val": 0.1, "test": 0.1}[name]
        assert (np.abs(np.bincount(part.targets) - share * np.bincount(dataset.targets)) < 1).all()
    for train, test in dataset.split(model_selection.StratifiedKFold(3)):
        assert Counter(test.targets.tolist()) == {0: 4, 1: 4, 2: 12}
        inner = train.split({"a": 0.5, "b": 0.5}, stratify=True)
        assert sorted([*inner["a"].names, *inner["b"].names]) == sorted(train.names)
    assert native_calls == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"a": 0.7, "b": 0.4},
        {"a": -0.1},
        {"a": float("nan")},
        {"a": 1.5},
        {"a": 1, "b": 0.5},
        {"a": N + 1},
        {"a": -1},
    ],
    ids=str,
)
def test_shares_that_are_none(path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|parts"):
        ArchiveDataset(path).split(wrong)


def test_what_there_is_to_stratify_by(path: Path) -> None:
    dataset = ArchiveDataset(path)
    with pytest.raises(ValueError, match="no classes to stratify by"):
        dataset.split({"a": 0.5}, stratify=True)
    with pytest.raises(ValueError, match="no classes to stratify by"):
        ArchiveDataset(path, labels=lambda name: 0.5).split({"a": 0.5}, stratify=True)
    with pytest.raises(ValueError, match=r"stratify has shape \(2,\), and there are 60 samples"):
        dataset.split({"a": 0.5}, stratify=[1, 2])
    parts = dataset.split({"a": 0.5, "b": 0.5}, stratify=[name[0] for name in dataset.names])
    assert Counter(name[0] for name in parts["a"].names) == {"c": 6, "d": 6, "e": 18}
    with pytest.raises(ValueError, match="GroupShuffleSplit"):
        dataset.split({"a": 0.5}, groups="folder")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="StratifiedKFold"):
        dataset.split(model_selection.KFold(2), stratify=True)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a mapping of shares or a splitter"):
        dataset.split([0.5, 0.5])  # type: ignore[call-overload]


# Splitters of scikit-learn

SPLITTERS: dict[str, Callable[[], Any]] = {
    "KFold": lambda: model_selection.KFold(4, shuffle=True, random_state=0),
    "StratifiedKFold": lambda: model_selection.StratifiedKFold(3),
    "GroupKFold": lambda: model_selection.GroupKFold(5),
    "StratifiedGroupKFold": lambda: model_selection.StratifiedGroupKFold(3),
    "TimeSeriesSplit": lambda: model_selection.TimeSeriesSplit(4),
    "ShuffleSplit": lambda: model_selection.ShuffleSplit(3, random_state=1),
    "StratifiedShuffleSplit": lambda: model_selection.StratifiedShuffleSplit(2, random_state=1),
    "LeaveOneOut": lambda: model_selection.LeaveOneOut(),
    "LeaveOneGroupOut": lambda: model_selection.LeaveOneGroupOut(),
    "RepeatedKFold": lambda: model_selection.RepeatedKFold(n_splits=2, n_repeats=2, random_state=0),
    "PredefinedSplit": lambda: model_selection.PredefinedSplit(np.arange(N) % 3),
}


@pytest.mark.parametrize("make", SPLITTERS.values(), ids=SPLITTERS)
def test_splitters(path: Path, make: Callable[[], Any]) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    sixth = (lambda name: int(name[-6:-4]) // 6) if "Group" in type(make()).__name__ else None
    groups = None if sixth is None else list(map(sixth, dataset.names))
    expected = list(make().split(np.zeros((N, 1)), dataset.targets, groups))
    folds = dataset.split(make(), groups=sixth)
    assert len(folds) == len(expected)
    for fold, (parts, places) in enumerate(zip(folds, expected, strict=True)):
        for role, part, positions in zip(("train", "test"), parts, places, strict=True):
            assert list(part.names) == [dataset.names[i] for i in positions]
            assert part.targets.tolist() == dataset.targets[positions].tolist()
            assert part.ancestry[-1].startswith(f"{role} of fold {fold} of {len(folds)}, ")
    train, test = folds[-1]
    assert test[0] == LABELED[expected[-1][1][0]]
    assert len(pickle.loads(pickle.dumps(train))) == len(train)


def test_groups(path: Path) -> None:
    dataset = ArchiveDataset(path)
    for groups in ("folder", lambda name: name[0], [name[0] for name in dataset.names]):
        folds = dataset.split(model_selection.GroupKFold(3), groups=groups)
        assert sorted({name[:3] for name in test.names}.pop() for _, test in folds) == CLASSES
        assert all(
            {name[:3] for name in train.names}.isdisjoint(name[:3] for name in test.names) for train, test in folds
        )
    with pytest.raises(ValueError, match=r"no column '.*' of metadata; there are no metadata"):
        dataset.split(model_selection.GroupKFold(3), groups="file")
    with pytest.raises(ValueError, match="groups has shape"):
        dataset.split(model_selection.GroupKFold(3), groups=[1])
    parts = {f"{folder}/{i}.{e}": b"" for folder in "abc" for i in range(4) for e in ("x", "y")}
    grouped = ArchiveDataset(zip_of(parts), group=True)
    for train, test in grouped.split(model_selection.GroupKFold(3), groups="folder"):
        assert (len(train), len(test)) == (8, 4)
        assert len({name[0] for name in test.names}) == 1


def test_a_splitter_needs_no_scikit_learn(path: Path) -> None:
    class Halves:
        def split(self, X: Any, y: Any = None, groups: Any = None) -> Any:  # noqa: N803
            half = len(X) // 2
            yield range(half), range(half, len(X))

    ((train, test),) = ArchiveDataset(path).split(Halves())
    assert list(train) + list(test) == list(FILES.values())
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        f"from archivestream import ArchiveDataset; d = ArchiveDataset({str(path)!r}, labels='folder')\n"
        "print(len(d.split({'a': 0.5}, stratify=True)['a']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "30"


# Views of views


def test_views_stack_and_say_so(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder", pattern="*/*")
    parts = dataset.select("[de]*").split({"train": 0.5, "val": 0.5}, seed=3, stratify=True)
    view = parts["val"].select(slice(4))
    assert view.ancestry == (
        str(path),
        "select '*/*'",
        "select '[de]*'",
        "val of split {'train': 0.5, 'val': 0.5}, seed 3, stratified",
        "select [:4]",
    )
    assert repr(view) == f"<ArchiveDataset {' > '.join(view.ancestry)}: 4 samples, 3 classes>"
    assert [label for _, label in view] == view.targets.tolist()


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_views_in_worker_processes(path: Path, method: str) -> None:
    dataset = ArchiveDataset(path, labels="folder", decode="text")
    parts = dataset.split({"train": 0.5, "val": 0.25}, stratify=True)
    joined = parts["val"] + parts["train"].select(slice(None, None, 2))
    loader = DataLoader(joined, 7, num_workers=2, multiprocessing_context=method)
    found = [pair for texts, labels in loader for pair in zip(texts, labels.tolist(), strict=True)]
    assert found == [joined[i] for i in range(len(joined))]


class Extended(ArchiveDataset):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.extra = "more"

    def __getitem__(self, index: int) -> Any:
        return self.extra, super().__getitem__(index)


def test_views_of_a_subclass(path: Path) -> None:
    dataset = Extended(path)
    view = dataset.split({"a": 0.5})["a"].select([0])
    assert type(view) is Extended
    assert view[0][0] == "more"
    assert (view + view)[1] == view[0]
