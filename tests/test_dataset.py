"""ArchiveDataset: samples, labels and filters, alone and under torch's DataLoader."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import threading
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import Archive, CorruptArchiveError
from archivestream.reader import MemberReader

torch = pytest.importorskip("torch")
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split  # noqa: E402

from archivestream import ArchiveDataset  # noqa: E402

pytestmark = [
    # Four workers are to be tested on two processors, too.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # Beside the error itself, which is what is tested.
    pytest.mark.filterwarnings("ignore:Got pickle error:UserWarning"),
]

CLASSES = ("cat", "dog", "emu")
N = 60
FILES = {f"train/{CLASSES[i % 3]}/{i:03}.bin": f"sample {i} ".encode() * 50 for i in range(N)}
SAMPLES = list(FILES.values())
LABELED = [(data, i % 3) for i, data in enumerate(SAMPLES)]


def make_zip(files: dict[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    """Make a ZIP; names may come twice when they come as pairs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in files.items() if isinstance(files, dict) else files:
            writer.writestr(name, data)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def image(mode: str, colour: Any, kind: str = "PNG") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, (5, 4), colour).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ZIP of `FILES`."""
    path = tmp_path_factory.mktemp("dataset") / "a.zip"
    path.write_bytes(make_zip(FILES))
    return path


@pytest.fixture(autouse=True)
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch wait less for a worker that misses its signal to end, as happens after errors."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


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


# Samples


def test_bytes_are_the_default(path: Path) -> None:
    dataset = ArchiveDataset(path)
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == N
    assert [dataset[i] for i in range(N)] == SAMPLES
    assert dataset[-1] == SAMPLES[-1]
    assert dataset[np.int64(3)] == dataset[torch.tensor(3)] == SAMPLES[3]
    assert list(dataset.names) == list(FILES)
    assert list(dataset) == SAMPLES  # the old protocol: until IndexError
    assert (dataset.classes, dataset.class_to_idx, len(dataset.targets)) == ([], {}, 0)
    for key in (N, -N - 1):
        with pytest.raises(IndexError):
            dataset[key]
        with pytest.raises(IndexError):
            dataset.__getitems__([0, key])
    for key in (1.5, None, slice(0, 2), [0, 1]):
        with pytest.raises(TypeError):
            dataset[key]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_a_batch_is_one_native_call(path: Path, kind: Callable[[list[int]], Any], native_calls: list[int]) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    for indices in ([5, 3, 5, -1], [7], list(range(N))):
        native_calls.clear()
        assert dataset.__getitems__(kind(indices)) == [LABELED[i] for i in indices]
        assert native_calls == [len(indices)]
    assert dataset.__getitems__([]) == []


def test_a_loader_asks_for_batches(path: Path, native_calls: list[int]) -> None:
    loader = DataLoader(ArchiveDataset(path), batch_size=16)
    assert [data for batch in loader for data in batch] == SAMPLES
    assert native_calls == [16, 16, 16, 12]


def test_decoders_and_transforms(path: Path) -> None:
    dataset = ArchiveDataset(
        path,
        decode=lambda data: bytes(data).decode(),
        transform=str.split,
        labels="folder",
        target_transform=lambda label: CLASSES[label],
    )
    assert dataset[4] == (SAMPLES[4].decode().split(), "dog")
    assert dataset.__getitems__([4, 5])[1] == (SAMPLES[5].decode().split(), "emu")
    assert ArchiveDataset(path, transform=len)[3] == len(SAMPLES[3])


@pytest.mark.parametrize(
    "wrong", [{"decode": "jpeg"}, {"decode": 3}, {"labels": "name"}, {"target_transform": str}], ids=str
)
def test_options_that_make_no_sense(path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ArchiveDataset(path, **wrong)


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("RGB", (1, 2, 3), "PNG", (1, 2, 3)),
        ("RGBA", (1, 2, 3, 4), "PNG", (1, 2, 3)),
        ("L", 7, "PNG", (7, 7, 7)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("P", 0, "PNG", (0, 0, 0)),
        ("L", 7, "JPEG", (7, 7, 7)),
        ("RGB", (9, 9, 9), "BMP", (9, 9, 9)),
    ],
)
def test_images_come_in_rgb(mode: str, colour: Any, kind: str, expected: tuple[int, ...]) -> None:
    pytest.importorskip("PIL")
    dataset = ArchiveDataset(make_zip({"a": image(mode, colour, kind)}), decode="pil")
    picture = dataset[0]
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    assert picture.getpixel((4, 3)) == expected


def test_images_become_batches_of_tensors() -> None:
    pytest.importorskip("PIL")
    data = make_zip({f"{c}/{i}.png": image("RGB", (i, 0, 0)) for i in range(6) for c in "ab"})
    dataset = ArchiveDataset(data, decode="image", labels="folder")
    images, labels = next(iter(DataLoader(dataset, batch_size=12)))
    assert (images.shape, images.dtype) == ((12, 4, 5, 3), torch.uint8)
    assert images[:, 0, 0, 0].tolist() == [i // 2 for i in range(12)]
    assert labels.tolist() == [0, 1] * 6


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
    np.array(3.5),
    np.empty((0, 5), np.uint8),
    np.arange(3, dtype=">i4"),
    np.array([(1, 2.0)], dtype=[("a", "u1"), ("b", "f8")]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_are_what_was_saved_and_writable(array: Any) -> None:
    dataset = ArchiveDataset(make_zip({"a.npy": npy(array), "b.npy": npy(array)}), decode="numpy")
    for found in (dataset[0], dataset.__getitems__([1])[0]):
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable
        if array.dtype.isnative and array.dtype.names is None:
            torch.from_numpy(found)  # warns where it may not be written to


def test_arrays_collate(path: Path) -> None:
    data = make_zip({f"{i}.npy": npy(np.full((2, 3), i)) for i in range(10)})
    batches = list(DataLoader(ArchiveDataset(data, decode="numpy"), batch_size=5))
    assert [batch.shape for batch in batches] == [(5, 2, 3)] * 2
    assert batches[1][:, 1, 2].tolist() == [5, 6, 7, 8, 9]


# Labels and filters


def image_folder(names: Iterable[str]) -> tuple[list[str], dict[str, int], list[int]]:
    """Return what torchvision's ImageFolder makes of files in class folders: classes, numbers, targets."""
    folders = [PurePosixPath(name).parent.name for name in names]
    classes = sorted(set(folders))
    numbers = {name: number for number, name in enumerate(classes)}
    return classes, numbers, [numbers[folder] for folder in folders]


@pytest.mark.parametrize(
    "names",
    [list(FILES), ["b/1", "a/2", "B/3", "a/1", "ä/1", "10/x", "9/x"], ["train/a/1", "val/a/2", "val/b/3"]],
    ids=len,
)
def test_labels_are_those_of_image_folder(names: list[str]) -> None:
    dataset = ArchiveDataset(make_zip(dict.fromkeys(names, b"x")), labels="folder")
    classes, numbers, targets = image_folder(names)
    assert (dataset.classes, dataset.class_to_idx) == (classes, numbers)
    assert dataset.targets.tolist() == targets
    assert dataset.targets.dtype == np.int64
    samples = dataset.__getitems__(range(len(names)))
    assert samples == [(b"x", target) for target in targets]
    assert all(type(target) is int for _, target in samples)


@pytest.mark.parametrize("name", ["x", "/x", "//x"])
def test_a_label_needs_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"<\d+ bytes>: 1 sample has no label, lying in no folder: '/*x'"):
        ArchiveDataset(make_zip({"a/b": b"", name: b""}), labels="folder")


MESSY = make_zip(
    [
        ("a/", b""),
        ("a/1.jpg", b"1"),
        ("a/2.JPG", b"2"),
        ("__MACOSX/a/._1.jpg", b"no"),
        ("__MACOSX/", b""),
        ("a/b/", b""),
        ("a/b/3.jpeg", b"3"),
        ("a/__MACOSX.jpg", b"4"),
        ("c/5.txt", b"5"),
        ("c/jpg", b"6"),
    ]
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "123456"),
        ({"extensions": ".jpg"}, "124"),
        ({"extensions": [".jpg", ".jpeg"]}, "1234"),
        ({"extensions": (".JPEG",)}, "3"),
        ({"extensions": "jpg"}, "1246"),
        ({"extensions": ".png"}, ""),
        ({"extensions": []}, ""),
        ({"pattern": "a/*"}, "1234"),
        ({"pattern": "*.txt"}, "5"),
        ({"pattern": "a/*", "extensions": ".jpg"}, "124"),
        ({"pattern": "nothing"}, ""),
        ({"pattern": "__MACOSX/*"}, ""),
    ],
    ids=str,
)
def test_what_is_a_sample(options: dict[str, Any], expected: str) -> None:
    dataset = ArchiveDataset(MESSY, **options)
    assert len(dataset) == len(expected)
    assert b"".join(dataset).decode() == expected
    assert len(dataset.archive) == len(dataset.names) == len(expected)
    assert [dataset.archive[i].decode() for i in range(len(dataset))] == list(expected)
    labeled = ArchiveDataset(MESSY, labels="folder", **options)
    assert len(labeled) == len(labeled.targets) == len(expected)


def test_no_samples() -> None:
    for data, options in ((MESSY, {"extensions": ".png"}), (make_zip({}), {}), (make_zip({"a/": b""}), {})):
        dataset = ArchiveDataset(data, labels="folder", **options)
        assert len(dataset) == 0
        assert (dataset.classes, dataset.class_to_idx, dataset.targets.tolist()) == ([], {}, [])
        assert list(dataset) == list(DataLoader(dataset)) == []
        assert dataset.__getitems__([]) == []
        assert len(pickle.loads(pickle.dumps(dataset))) == 0
        with pytest.raises(IndexError):
            dataset[0]


@pytest.mark.parametrize("index", [2**64 - 1, 2**63])
def test_numbers_beyond_those_of_samples(path: Path, index: int) -> None:
    """Are not taken for those from the end."""
    dataset = ArchiveDataset(path)
    with pytest.raises(IndexError, match=f"sample {index} of a dataset"):
        dataset.__getitems__(np.array([0, index], np.uint64))  # type: ignore[arg-type]
    assert dataset.__getitems__(np.array([0], np.uint64)) == dataset.__getitems__([0])  # type: ignore[arg-type]


def test_a_view_as_input(path: Path) -> None:
    archive = archivestream.open(path)
    dataset = ArchiveDataset(archive.select(slice(None, None, -2)), labels="folder")
    assert [dataset[i] for i in range(len(dataset))] == LABELED[::-2]
    assert dataset.__getitems__([1, 0]) == [LABELED[-3], LABELED[-1]]
    assert ArchiveDataset(archive).archive is archive  # nothing to leave out, nothing to copy


def test_several_archives(path: Path) -> None:
    dataset = ArchiveDataset([path, make_zip({"x/emu/1": b"more", "x/": b""}), path], labels="folder")
    assert len(dataset) == 2 * N + 1
    assert dataset[N] == (b"more", 2)
    assert dataset.__getitems__([0, N + 1, N]) == [LABELED[0], LABELED[0], (b"more", 2)]


# Subclasses


class Whole(ArchiveDataset):
    def __getitem__(self, index: int) -> Any:
        return index, super().__getitem__(index)


class Mixin:
    def __getitem__(self, index: int) -> Any:
        return "mixed", super().__getitem__(index)  # type: ignore[misc]


class Mixed(Mixin, Whole):
    pass


class Batched(Whole):
    def __getitems__(self, indices: Any) -> list[Any]:
        return [("batched", data) for data in self.archive.read_many(indices)]


class More(ArchiveDataset):
    """Overrides nothing that reads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.extra = 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Whole, (3, SAMPLES[3])),
        (Mixed, ("mixed", (3, SAMPLES[3]))),
        (Batched, ("batched", SAMPLES[3])),
        (More, SAMPLES[3]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda dataset: dataset, lambda dataset: Subset(dataset, range(N))])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_subclass_overrides_is_used(
    path: Path, kind: type[ArchiveDataset], expected: Any, wrap: Callable[[Any], Any], workers: int
) -> None:
    context = "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None
    loader = DataLoader(
        wrap(kind(path)), batch_size=8, collate_fn=list, num_workers=workers, multiprocessing_context=context
    )
    assert next(iter(loader))[3] == expected


def test_a_subclass_that_adds_to_it_is_still_one_call(path: Path, native_calls: list[int]) -> None:
    assert More(path).__getitems__([1, 2, 3]) == SAMPLES[1:4]
    assert native_calls == [3]
    assert Whole(path).__getitems__([1]) == [(1, SAMPLES[1])]


# DataLoader

STARTS = [
    pytest.param(0, None, False, id="here"),
    *(
        pytest.param(workers, method, persistent, id=f"{method}-{workers}-{persistent}")
        for method, workers, persistent in [
            ("fork", 2, False),
            ("fork", 2, True),
            ("fork", 4, False),
            ("fork", 4, True),
            ("spawn", 2, True),
            ("spawn", 4, False),
            ("forkserver", 2, False),
            ("forkserver", 2, True),
            ("forkserver", 4, True),
        ]
        if method in multiprocessing.get_all_start_methods()
    ),
]


@pytest.fixture(scope="module", autouse=True)
def quick_start() -> None:
    """Have the fork server import torch once for all of its workers."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.get_context("forkserver").set_forkserver_preload(["torch"])


@pytest.mark.parametrize(("workers", "method", "persistent"), STARTS)
def test_loaders(path: Path, workers: int, method: str | None, persistent: bool) -> None:
    dataset = ArchiveDataset([path, path.read_bytes()], labels="folder")
    assert dataset[1] == LABELED[1]  # was read before the workers start
    pending = dataset.archive.submit(range(2 * N))
    loader = DataLoader(
        dataset,
        batch_size=7,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=persistent,
        collate_fn=list,
    )
    for _ in range(2 if persistent or method in (None, "fork") else 1):
        found = [sample for batch in loader for sample in batch]
        assert sorted(found) == sorted(LABELED * 2)
    assert pending.result().data.tobytes() == b"".join(SAMPLES * 2)


def test_loaders_in_several_threads(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    found: list[list[Any]] = []

    def work() -> None:
        loader = DataLoader(dataset, batch_size=7, collate_fn=list)
        found.append([sample for _ in range(20) for batch in loader for sample in batch])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [LABELED * 20] * 8


def test_the_tools_of_torch(path: Path, native_calls: list[int]) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    parts = random_split(dataset, [N - 10, 10], torch.Generator().manual_seed(0))
    joined = ConcatDataset([*parts, Subset(dataset, [0, 1])])
    native_calls.clear()
    found = [sample for batch in DataLoader(parts[0], 25, collate_fn=list) for sample in batch]
    assert native_calls == [25, 25]
    assert found == [LABELED[i] for i in parts[0].indices]
    assert sorted(joined[i] for i in range(len(joined))) == sorted([*LABELED, *LABELED[:2]])
    data, labels = next(iter(DataLoader(dataset, 4)))
    assert list(data) == SAMPLES[:4]
    assert labels.tolist() == [0, 1, 2, 0]


# Copies


def test_pickles_and_copies(path: Path) -> None:
    for source in (path, path.read_bytes(), [path, path]):
        dataset = ArchiveDataset(source, labels="folder", pattern="*/dog/*", transform=len)
        for twin in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset), copy.copy(dataset)):
            assert list(twin) == list(dataset)
            assert twin.__getitems__([3, 1]) == dataset.__getitems__([3, 1])
            assert twin.classes == ["dog"]
            assert list(twin.names) == list(dataset.names)
    assert len(pickle.dumps(ArchiveDataset(path))) < 1000 + len(os.fspath(path))


def test_an_archive_from_a_file_object_stays_in_its_process(path: Path) -> None:
    with open(path, "rb") as file:
        dataset = ArchiveDataset(file)
        assert next(iter(DataLoader(dataset, 8, collate_fn=list))) == SAMPLES[:8]
        with pytest.raises(TypeError, match=r"file object \(.*a\.zip\).*by its path"):
            pickle.dumps(dataset)
        loader = DataLoader(dataset, 8, num_workers=2, multiprocessing_context="spawn")
        with pytest.raises(TypeError, match=r"file object \(.*a\.zip\).*by its path"):
            next(iter(loader))


# Errors


def broken(data: bytes | memoryview) -> Any:
    if b"sample 5 " in bytes(data):
        raise RuntimeError("this one is broken")
    return data


def corrupt(data: memoryview) -> Any:
    if b"sample 5 " in bytes(data):
        raise CorruptArchiveError("this one is corrupt")
    return data


def fail(label: int) -> Any:
    raise RuntimeError("no such label")


FAILURES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "decode": ({"decode": broken}, RuntimeError, "this one is broken"),
    "transform": ({"transform": broken}, RuntimeError, "this one is broken"),
    "error of ours": ({"decode": corrupt}, CorruptArchiveError, "this one is corrupt"),
    "image": ({"decode": "image"}, CorruptArchiveError, "Pillow cannot read"),
    "numpy": ({"decode": "numpy"}, CorruptArchiveError, "no .npy file"),
    "target": ({"labels": "folder", "target_transform": fail}, RuntimeError, "no such label"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("options", "kind", "message"), FAILURES.values(), ids=FAILURES)
def test_an_error_names_archive_and_member(
    path: Path, options: dict[str, Any], kind: type[Exception], message: str, workers: int
) -> None:
    dataset = ArchiveDataset(path, **options)
    loader = DataLoader(dataset, sampler=[5, 6], batch_size=2, collate_fn=list, num_workers=workers)
    for call in (lambda: dataset[5], lambda: dataset.__getitems__([5]), lambda: list(loader)):
        with pytest.raises(kind) as caught:
            call()
        text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert message in text
        assert str(path) in text
        assert "train/emu/005.bin" in text
        # Once, and not once for every place that it passes.
        assert text.splitlines()[-1].count("005.bin") == 1


def test_a_broken_image_harms_no_other() -> None:
    pytest.importorskip("PIL")
    good = image("RGB", (1, 2, 3))
    files = {f"{i}.png": good for i in range(6)}
    files |= {"2.png": good[:45], "3.png": b"", "4.png": random.Random(0).randbytes(99)}
    dataset = ArchiveDataset(make_zip(files), decode="image")
    for i in (2, 3, 4):
        with pytest.raises(CorruptArchiveError, match=rf"member '{i}\.png': Pillow cannot read"):
            dataset[i]
    assert all(dataset[i][0, 0].tolist() == [1, 2, 3] for i in (0, 1, 5))


def test_a_closed_archive(path: Path) -> None:
    with archivestream.open(path) as archive:
        dataset = ArchiveDataset(archive)
    assert isinstance(dataset.archive, Archive)
    for call in (lambda: dataset[0], lambda: dataset.__getitems__([0]), lambda: pickle.dumps(dataset)):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.parametrize("change", ["truncate", "replace", "delete"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_archive_that_changed_before_the_workers_began(tmp_path: Path, change: str, method: str) -> None:
    """What a worker finds reaches the training loop as itself."""
    path = tmp_path / "changes.zip"
    path.write_bytes(make_zip(FILES))
    dataset = ArchiveDataset(path)
    assert dataset[0] == SAMPLES[0]
    if change == "truncate":
        os.truncate(path, 1000)
    elif change == "replace":
        os.replace(Path(shutil.copy(__file__, tmp_path / "other")), path)
    else:
        path.unlink()
    loader = DataLoader(dataset, 20, num_workers=1, multiprocessing_context=method)
    if method == "fork" and change != "truncate":
        assert len(list(loader)) == 3  # what is open is still whole
        return
    expected = FileNotFoundError if change == "delete" else (archivestream.ArchiveChangedError, CorruptArchiveError)
    with pytest.raises(expected):
        list(loader)


def test_images_that_make_pillow_fail_in_its_own_ways() -> None:
    dds = b"DDS " + struct.pack("<7I", 124, 0x1007, 4, 4, 0, 0, 0) + bytes(44) + struct.pack("<2I4s", 32, 4, b"none")
    dataset = ArchiveDataset(make_zip({"a.dds": dds + bytes(200)}), decode="image")
    with pytest.raises(CorruptArchiveError, match=r"a\.dds"):
        dataset[0]
