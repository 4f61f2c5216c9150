"""The loader: what batches are, that they are right, and what happens to bad samples."""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import ArchiveDataset, ArchiveError, ArchiveLoader, ArchiveSampler, CorruptArchiveError

torch = pytest.importorskip("torch")


def members(n: int = 50) -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    return {
        f"c{i % 3}/{i:03d}.bin": rng.integers(0, 20, int(rng.integers(1, 3000)), np.uint8).tobytes() for i in range(n)
    }


def write(path: Path, contents: dict[str, bytes], bad: tuple[int, ...] = ()) -> Path:
    """Write a ZIP, and damage the data of some members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
        infos = archive.infolist()
    with path.open("r+b") as file:
        for i in bad:
            file.seek(infos[i].header_offset + 30 + len(infos[i].filename) + infos[i].compress_size // 2)
            file.write(b"\x55\xaa\x77")
    return path


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def rows(padded: Any) -> list[bytes]:
    """Take a padded batch apart, and check its padding."""
    data, lengths = padded
    assert data.dtype == torch.uint8
    assert lengths.dtype == torch.int64
    assert data.shape[1] == int(lengths.max())
    for row, length in zip(data, lengths, strict=True):
        assert not row[int(length) :].any()
    return [bytes(row[: int(length)].numpy()) for row, length in zip(data, lengths, strict=True)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("loader") / "a.zip", members())


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("archivestream-")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    before = descriptors()
    yield
    if ours() or descriptors() > before:
        gc.collect()
    deadline = time.monotonic() + 20
    while ours() and time.monotonic() < deadline:  # the collector does not wait for them
        time.sleep(0.01)
    assert not ours()
    assert descriptors() <= before + 1


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_bytes_come_padded_and_in_order(path: Path, workers: int, batch_size: int) -> None:
    loader = ArchiveLoader(path, batch_size, num_workers=workers)
    batches = [*loader]
    assert [len(batch.data) for batch in batches] == [min(batch_size, 50 - i) for i in range(0, 50, batch_size)]
    assert len(loader) == len(batches)
    assert [data for batch in batches for data in rows(batch)] == [*members().values()]
    stats = loader.stats
    assert stats.samples == 50
    assert stats.batches == stats.expected_steps == len(batches)
    assert stats.bytes == sum(map(len, members().values()))
    assert stats.read_amplification == 1
    assert not stats.skipped
    assert stats.seconds > 0
    assert str(stats)


def test_any_archive_and_any_way_to_name_it(path: Path) -> None:
    with archivestream.open(path) as archive:
        for dataset in (archive, str(path), path, path.read_bytes(), [path], ArchiveDataset(archive)):
            assert [d for batch in ArchiveLoader(dataset, 20) for d in rows(batch)] == [*members().values()]
        view = archive.select("c1/*")
        expected = [data for name, data in members().items() if name.startswith("c1/")]
        assert [d for batch in ArchiveLoader(view, 20) for d in rows(batch)] == expected


@pytest.mark.parametrize("shuffle", [True, "global", "block"])
@pytest.mark.parametrize("workers", [0, 3])
def test_shuffled(path: Path, shuffle: Any, workers: int) -> None:
    loader = ArchiveLoader(path, 8, shuffle=shuffle, num_workers=workers, seed=5)
    first = [d for batch in loader for d in rows(batch)]
    second = [d for batch in loader for d in rows(batch)]
    assert Counter(first) == Counter(second) == Counter(members().values())
    assert first != [*members().values()]
    assert first != second
    loader.set_epoch(0)
    assert [d for batch in loader for d in rows(batch)] == first
    again = ArchiveLoader(path, 8, shuffle=shuffle, num_workers=2, seed=5)
    assert [d for batch in again for d in rows(batch)] == first
    other = ArchiveLoader(path, 8, shuffle=shuffle, num_workers=2, seed=6)
    assert [d for batch in other for d in rows(batch)] != first


def test_a_generator_draws_the_seed(path: Path) -> None:
    orders = [
        [d for b in ArchiveLoader(path, 9, shuffle=True, generator=torch.Generator().manual_seed(s)) for d in rows(b)]
        for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_labels(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    for batch, labels in ArchiveLoader(dataset, 16, shuffle=True, seed=1):
        assert labels.dtype == torch.int64
        by_content = {data: int(name[1]) for name, data in members().items()}
        assert [by_content[data] for data in rows(batch)] == labels.tolist()
    dataset = ArchiveDataset(path, labels="folder", target_transform=lambda label: label * 1.5)
    labels = torch.cat([labels for _, labels in ArchiveLoader(dataset, 16)])
    assert labels.tolist() == [i % 3 * 1.5 for i in range(50)]


@pytest.mark.parametrize("workers", [0, 2])
def test_arrays_of_one_shape_are_one_tensor(tmp_path: Path, workers: int) -> None:
    arrays = np.random.default_rng(1).integers(0, 9, (23, 5, 7), np.int32)
    path = write(tmp_path / "a.zip", {f"{i}.npy": npy(a) for i, a in enumerate(arrays)})
    loader = ArchiveLoader(ArchiveDataset(path, decode="numpy"), 6, num_workers=workers)
    batches = [*loader]
    assert all(isinstance(batch, torch.Tensor) for batch in batches)
    np.testing.assert_array_equal(torch.cat(batches).numpy(), arrays)
    transformed = ArchiveLoader(ArchiveDataset(path, decode="numpy", transform=lambda a: a * 2), 6, num_workers=workers)
    np.testing.assert_array_equal(torch.cat([*transformed]).numpy(), arrays * 2)
    listed = [a for batch in ArchiveLoader(ArchiveDataset(path, decode="numpy"), 6, collate_fn="list") for a in batch]
    np.testing.assert_array_equal(torch.stack(listed).numpy(), arrays)


def test_arrays_of_other_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(int(rng.integers(1, 9)), 4)).astype(np.float32) for _ in range(10)]
    path = write(tmp_path / "a.zip", {f"{i}.npy": npy(a) for i, a in enumerate(arrays)})
    dataset = ArchiveDataset(path, decode="numpy")
    with pytest.raises(ValueError, match="shape"):
        [*ArchiveLoader(dataset, 5)]
    for place, batch in enumerate(ArchiveLoader(dataset, 5, collate_fn="pad")):
        assert batch.lengths.tolist() == [[*a.shape] for a in arrays[place * 5 : place * 5 + 5]]
        for row, array in zip(batch.data, arrays[place * 5 :], strict=False):
            np.testing.assert_array_equal(row[: len(array)].numpy(), array)
            assert not row[len(array) :].any()
    got = [a for batch in ArchiveLoader(dataset, 5, collate_fn="list") for a in batch]
    for tensor, array in zip(got, arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    simplejpeg = pytest.importorskip("simplejpeg")
    pixels = np.random.default_rng(2).integers(0, 255, (12, 5, 6, 3), np.uint8)
    pixels = np.repeat(np.repeat(pixels, 8, 1), 8, 2)
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(p), quality=95) for p in pixels]
    path = tmp_path_factory.mktemp("images") / "a.zip"
    write(path, {f"{i:02d}.jpg": data for i, data in enumerate(jpegs)})
    return path, np.stack([simplejpeg.decode_jpeg(data) for data in jpegs])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("transform", [None, lambda pixels: pixels])
def test_images_of_one_size_are_one_tensor(images: Any, workers: int, transform: Any) -> None:
    path, pixels = images
    loader = ArchiveLoader(ArchiveDataset(path, decode="image", transform=transform), 5, num_workers=workers)
    batches = [*loader]
    assert [batch.shape for batch in batches] == [(5, 40, 48, 3), (5, 40, 48, 3), (2, 40, 48, 3)]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), pixels)
    assert loader.stats.decode > 0


def test_images_of_other_sizes_and_kinds(images: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path, pixels = images
    with zipfile.ZipFile(path) as reference:
        contents = {name: reference.read(name) for name in reference.namelist()}
    for name, size in (("03.png", (48, 40)), ("04.png", (10, 11))):
        stream = io.BytesIO()
        image.new("RGB", size, (1, 2, 3)).save(stream, "PNG")
        contents[name] = stream.getvalue()
    mixed = write(tmp_path / "mixed.zip", contents)
    dataset = ArchiveDataset(mixed, decode="image")
    with pytest.raises(ValueError, match=r"differ in shape.*collate_fn='pad'"):
        [*ArchiveLoader(dataset, 14)]
    (batch,) = ArchiveLoader(dataset, 14, collate_fn="pad")
    assert batch.data.shape == (14, 40, 48, 3)
    (batch,) = ArchiveLoader(dataset, 14, collate_fn="list")
    assert [tuple(sample.shape) for sample in batch] == [(40, 48, 3)] * 13 + [(11, 10, 3)]
    np.testing.assert_array_equal(torch.stack(batch[:12]).numpy(), pixels)
    (batch,) = ArchiveLoader(dataset.select(range(13)), 14)
    assert batch.shape == (13, 40, 48, 3)
    assert batch[12, 0, 0].tolist() == [1, 2, 3]


def test_grouped_samples(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {}
    for i in range(9):
        contents[f"{i:03d}.npy"] = npy(np.full((2, 3), i))
        contents[f"{i:03d}.json"] = json.dumps({"id": i, "name": f"n{i}"}).encode()
        contents[f"{i:03d}.raw"] = b"x" * (i + 1)
    path = write(tmp_path / "g.zip", contents)
    dataset = ArchiveDataset(path, group=True, decode="auto")
    got = [*ArchiveLoader(dataset, 4, num_workers=2)]
    assert [key for batch in got for key in batch["__key__"]] == [f"{i:03d}" for i in range(9)]
    assert torch.cat([batch["npy"] for batch in got])[:, 0, 0].tolist() == [*range(9)]
    assert [n for batch in got for n in batch["json"]["name"]] == [f"n{i}" for i in range(9)]
    assert got[0]["raw"].lengths.tolist() == [1, 2, 3, 4]
    del contents["004.json"]
    dataset = ArchiveDataset(write(tmp_path / "h.zip", contents), group=True, decode="auto")
    with pytest.raises(ValueError, match="lack 'json'"):
        [*ArchiveLoader(dataset, 9)]
    (batch,) = ArchiveLoader(dataset, 9, collate_fn="list")
    assert "json" not in batch[4]


def test_a_collate_function_gets_samples(path: Path) -> None:
    dataset = ArchiveDataset(path, labels="folder")
    got = [pair for batch in ArchiveLoader(dataset, 8, collate_fn=lambda samples: samples) for pair in batch]
    assert [(bytes(data), int(label)) for data, label in got] == [
        (data, int(name[1])) for name, data in members().items()
    ]
    assert [*ArchiveLoader(path, 8, collate_fn=len)] == [8] * 6 + [2]


def test_single_samples(path: Path) -> None:
    assert [bytes(sample) for sample in ArchiveLoader(path, None)] == [*members().values()]
    dataset = ArchiveDataset(path, labels="folder")
    assert [int(label) for _, label in ArchiveLoader(dataset, None, num_workers=2)] == [i % 3 for i in range(50)]


def test_samplers_of_others(path: Path) -> None:
    from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

    order = [7, 3, 3, 49, 0]
    expected = [[*members().values()][i] for i in order]
    assert [d for batch in ArchiveLoader(path, 2, sampler=order) for d in rows(batch)] == expected
    loader = ArchiveLoader(path, batch_sampler=[[7, 3], [3, 49, 0]])
    assert len(loader) == 2
    assert [rows(batch) for batch in loader] == [expected[:2], expected[2:]]
    with archivestream.open(path) as archive:
        sampler = BatchSampler(SequentialSampler(archive), 8, drop_last=True)
        assert [d for b in ArchiveLoader(archive, batch_sampler=sampler) for d in rows(b)] == [*members().values()][:48]
        got = [d for b in ArchiveLoader(archive, 6, sampler=RandomSampler(archive)) for d in rows(b)]
        assert Counter(got) == Counter(members().values())
    for loader in (ArchiveLoader(path, 2, sampler=order), ArchiveLoader(path, batch_sampler=[[1]])):
        with pytest.raises(TypeError, match="ArchiveSampler"):
            loader.state_dict()
        with pytest.raises(TypeError, match="ArchiveSampler"):
            loader.load_state_dict({})


def test_a_sampler_of_ours(path: Path) -> None:
    with archivestream.open(path) as archive:
        plain = ArchiveSampler(archive, shuffle=True, seed=3)
        batches = ArchiveSampler(archive, shuffle=True, seed=3, batch_size=8)
        first = [d for b in ArchiveLoader(archive, 8, sampler=plain) for d in rows(b)]
        assert first == [d for b in ArchiveLoader(archive, batch_sampler=batches) for d in rows(b)]
        with pytest.raises(ValueError, match="batch_sampler"):
            ArchiveLoader(archive, 8, sampler=batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_drop_last(path: Path, workers: int) -> None:
    loader = ArchiveLoader(path, 8, drop_last=True, num_workers=workers)
    assert len(loader) == 6
    assert [len(batch.data) for batch in loader] == [8] * 6


def test_other_datasets() -> None:
    class Squares:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, i: int) -> Any:
            if i == 4:
                raise KeyError("no four")
            return i * i, str(i)

    numbers, words = next(iter(ArchiveLoader(Squares(), 4)))
    assert numbers.tolist() == [0, 1, 4, 9]
    assert [*words] == ["0", "1", "2", "3"]
    with pytest.raises(KeyError, match="no four"):
        [*ArchiveLoader(Squares(), 4)]
    loader = ArchiveLoader(Squares(), 4, on_error="skip")
    assert [batch[0].tolist() for batch in loader] == [[0, 1, 4, 9], [25, 36, 49, 64], [81]]
    assert len(loader.stats.skipped) == 1


def test_a_list_is_a_dataset() -> None:
    assert [batch.tolist() for batch in ArchiveLoader([1, 2, 3], 2)] == [[1, 2], [3]]
    with pytest.raises(TypeError, match="neither an archive nor a map-style dataset"):
        ArchiveLoader(iter([1]), 2)


def test_an_iteration_that_is_garbage_does_not_wait_for_its_own_thread(path: Path) -> None:
    class Knot:
        pass

    made = threading.Event()
    first = bytes(members()["c0/000.bin"])

    def transform(data: Any) -> int:
        if bytes(data) != first:
            made.wait(20)
            gc.collect()  # in a thread of the loader: the iteration is dropped here
        return len(data)

    loader: Any = ArchiveLoader(ArchiveDataset(path, transform=transform), 1, num_workers=2, prefetch_factor=20)
    batches = iter(loader)
    next(batches)
    knot: Any = Knot()
    knot.itself, knot.batches = knot, batches
    gc.collect()
    gc.disable()
    try:
        del loader, batches, knot
        made.set()
        deadline = time.monotonic() + 20
        while ours() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        gc.enable()
    assert not ours()


def test_a_subclass_makes_its_samples(path: Path) -> None:
    class Lengths(ArchiveDataset):
        def __getitem__(self, index: int) -> Any:
            return len(self.archive[index])

    got = torch.cat([*ArchiveLoader(Lengths(path), 8, num_workers=2)])
    assert got.tolist() == [*map(len, members().values())]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": -1}, "num_workers"),
        ({"prefetch_factor": 0}, "prefetch_factor"),
        ({"timeout": -1}, "timeout"),
        ({"on_error": "ignore"}, "on_error"),
        ({"collate_fn": "stack"}, "collate_fn"),
        ({"sampler": [1], "shuffle": True}, "sampler"),
        ({"sampler": [1], "rank": 0}, "sampler"),
        ({"batch_sampler": [[1]], "batch_size": 3}, "batch_sampler"),
        ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler"),
        ({"batch_size": 0}, "batch_size"),
        ({"shuffle": "local"}, "shuffle"),
        ({"rank": 3, "world_size": 3}, "rank"),
    ],
)
def test_arguments_that_have_no_meaning(path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchiveLoader(path, **arguments)


# Bad samples.


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decode", [None, lambda data: bytes(data)])
def test_an_error_stands_in_its_place(tmp_path: Path, workers: int, decode: Any) -> None:
    path = write(tmp_path / "bad.zip", members(), (17, 33))
    loader = ArchiveLoader(ArchiveDataset(path, decode=decode), 8, num_workers=workers)
    batches = iter(loader)
    got: list[Any] = []
    for _ in range(7):
        try:
            got.append(len(next(batches).data))
        except CorruptArchiveError as error:
            assert "bad.zip" in str(error)
            got.append(error.member)
    assert got == [8, 8, "c2/017.bin", 8, "c0/033.bin", 8, 2]
    with pytest.raises(StopIteration):
        next(batches)
    # And the loader goes on to be usable.
    assert len(next(iter(loader)).data) == 8


def test_after_an_error_nothing_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.zip", members(), (3,))
    with pytest.raises(CorruptArchiveError, match=r"c0/003\.bin"):
        [*ArchiveLoader(path, 8, num_workers=3)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("bad", [(0,), (0, 1, 2, 3, 4, 5, 6, 7, 8), (49,), (7, 8, 30), tuple(range(0, 50, 2))])
@pytest.mark.parametrize("way", ["padded", "list", "labels"])
def test_skipped_samples_leave_no_gap(tmp_path: Path, workers: int, bad: tuple[int, ...], way: str) -> None:
    path = write(tmp_path / "bad.zip", members(), bad)
    dataset = ArchiveDataset(path, labels="folder" if way == "labels" else None)
    loader = ArchiveLoader(
        dataset, 8, num_workers=workers, on_error="skip", collate_fn="list" if way == "list" else None
    )
    batches = [*loader]
    labels = None
    if way == "labels":
        labels = [int(label) for _, part in batches for label in part]
        batches = [batch for batch, _ in batches]
    parts = [[*map(bytes, batch)] if way == "list" else rows(batch) for batch in batches]
    good = [i for i in range(50) if i not in bad]
    assert [*itertools.chain(*parts)] == [[*members().values()][i] for i in good]
    assert labels is None or labels == [i % 3 for i in good]
    assert [*map(len, parts)] == [min(8, len(good) - i) for i in range(0, len(good), 8)]
    stats = loader.stats
    assert [error.member for error in stats.skipped if isinstance(error, ArchiveError)] == [
        f"c{i % 3}/{i:03d}.bin" for i in bad
    ]
    assert stats.samples == len(good)
    assert all(error.__traceback__ is None for error in stats.skipped)


def test_skipped_arrays(tmp_path: Path) -> None:
    arrays = np.random.default_rng(1).integers(0, 9, (20, 30, 7), np.int16)
    contents = {f"{i:02d}.npy": npy(a) for i, a in enumerate(arrays)}
    contents["05.npy"] = npy(np.zeros((7, 30), np.int16))
    path = write(tmp_path / "bad.zip", contents, (0, 11))
    loader = ArchiveLoader(ArchiveDataset(path, decode="numpy"), 4, num_workers=2, on_error="skip")
    batches = [*loader]
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 1]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), np.delete(arrays, [0, 5, 11], axis=0))
    assert len(loader.stats.skipped) == 3


def test_all_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.zip", members(5), tuple(range(5)))
    loader = ArchiveLoader(path, 2, on_error="skip", num_workers=2)
    with pytest.raises(CorruptArchiveError, match=r"000\.bin"):
        list(loader)
    assert len(loader.stats.skipped) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_caller_may_put_something_in_place(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "bad.zip", members(), (3, 20, 21))
    seen: list[Any] = []

    def replace(error: Exception) -> bytes | None:
        assert isinstance(error, ArchiveError)
        seen.append(error.member)
        return None if error.member == "c2/020.bin" else b"replaced"

    loader = ArchiveLoader(path, 8, num_workers=workers, on_error=replace)
    got = [d for batch in loader for d in rows(batch)]
    expected = [*members().values()]
    expected[3] = expected[21] = b"replaced"
    del expected[20]
    assert got == expected
    assert sorted(seen) == ["c0/003.bin", "c0/021.bin", "c2/020.bin"]
    assert len(loader.stats.skipped) == 1


def test_errors_of_transforms(path: Path) -> None:
    def transform(data: Any) -> int:
        if len(data) % 2:
            raise ZeroDivisionError("odd")
        return len(data)

    dataset = ArchiveDataset(path, transform=transform)
    with pytest.raises(ZeroDivisionError) as caught:
        [*ArchiveLoader(dataset, 8, num_workers=2)]
    if hasattr(caught.value, "__notes__"):
        assert "a.zip" in caught.value.__notes__[0]
    del caught
    loader = ArchiveLoader(dataset, 8, num_workers=2, on_error="skip")
    assert torch.cat([*loader]).tolist() == [len(d) for d in members().values() if len(d) % 2 == 0]


@pytest.mark.parametrize("bad", [(), (1,), (1, 4, 7, 10, 13, 16, 19), (3, 4)])
def test_ranks_take_as_many_steps_also_when_samples_are_skipped(tmp_path: Path, bad: tuple[int, ...]) -> None:
    path = write(tmp_path / "bad.zip", members(), bad)
    steps, got = [], []
    for rank in range(3):
        loader = ArchiveLoader(path, 4, rank=rank, world_size=3, on_error="skip", num_workers=2)
        batches = [*loader]
        steps.append(len(batches))
        assert loader.stats.batches == loader.stats.expected_steps
        mine = [d for batch in batches for d in rows(batch)]
        assert len(mine) - loader.stats.repeated == len({*mine})
        got += {*mine}
    assert len({*steps}) == 1
    assert Counter(got) == Counter(d for i, d in enumerate(members().values()) if i not in bad)


# State.


@pytest.mark.parametrize("shuffle", [False, "global", "block"])
@pytest.mark.parametrize("stop", [0, 1, 4, 6, 7])
def test_resume_with_other_workers(path: Path, shuffle: Any, stop: int) -> None:
    loader = ArchiveLoader(path, 8, shuffle=shuffle, seed=4, num_workers=3, prefetch_factor=4)
    loader.set_epoch(2)
    whole = [d for batch in loader for d in rows(batch)]
    loader.set_epoch(2)
    first = [d for batch in itertools.islice(loader, stop) for d in rows(batch)]
    state = json.loads(json.dumps(loader.state_dict()))
    for workers in (0, 1, 4):
        other = ArchiveLoader(path, 8, shuffle=shuffle, num_workers=workers)
        other.load_state_dict(state)
        assert other.state_dict() == state
        rest = [d for batch in other for d in rows(batch)]
        if stop == 7:  # all was delivered: what is left is the next epoch
            assert Counter(rest) in (Counter(), Counter(whole))
        else:
            assert first + rest == whole


def test_resume_with_other_ranks(path: Path) -> None:
    def loader(rank: int, world_size: int) -> ArchiveLoader:
        return ArchiveLoader(path, 2, shuffle=True, seed=9, rank=rank, world_size=world_size, num_workers=2)

    whole = Counter(members().values())
    got: list[bytes] = []
    state = None
    for world_size, steps in ((1, 3), (3, 4), (2, 2), (8, 99)):
        states = []
        for rank in range(world_size):
            one = loader(rank, world_size)
            if state is not None:
                one.load_state_dict(state)
            got += [d for batch in itertools.islice(one, steps) for d in rows(batch)]
            states.append(one.state_dict())
            one.close()
        state = states[-1]
        if steps < 99:
            assert all(other == state for other in states)
    assert Counter(got) == whole


def test_a_loader_that_another_thread_closes_stands_where_it_stood() -> None:
    came, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> int:
            if index >= 8:
                came.set()
                goes_on.wait(60)
            return index

    loader = ArchiveLoader(Slow(), 4, num_workers=1, prefetch_factor=1)
    got: list[int] = []
    consumer = threading.Thread(target=lambda: got.extend(x for batch in loader for x in batch.tolist()))
    consumer.start()
    assert came.wait(60)
    timer = threading.Timer(0.3, goes_on.set)
    timer.start()
    loader.close()
    consumer.join(60)
    assert not consumer.is_alive()
    assert got == [*range(8)]
    other = ArchiveLoader([*range(100)], 4, num_workers=0)
    state = loader.state_dict()
    timer.join()
    assert state["position"] == 8, state
    other.load_state_dict(state)
    assert [x for batch in other for x in batch.tolist()] == [*range(8, 100)]


def test_resume_after_skipped_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.zip", members(), (2, 9, 10, 30))
    whole = [d for i, d in enumerate(members().values()) if i not in (2, 9, 10, 30)]
    for stop in range(6):
        loader = ArchiveLoader(path, 8, num_workers=2, on_error="skip")
        first = [d for batch in itertools.islice(loader, stop) for d in rows(batch)]
        other = ArchiveLoader(path, 8, num_workers=1, on_error="skip")
        other.load_state_dict(loader.state_dict())
        assert first + [d for batch in other for d in rows(batch)] == whole


def test_states_of_others_are_refused(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.zip", members(49))
    with pytest.raises(archivestream.ArchiveChangedError):
        ArchiveLoader(other, 8).load_state_dict(ArchiveLoader(path, 8).state_dict())
    with pytest.raises(ValueError, match="in_order"):
        ArchiveLoader(path, 8, in_order=False).state_dict()


# Ends.


@pytest.mark.parametrize("persistent", [False, True])
def test_leaving_early_and_beginning_again(path: Path, persistent: bool) -> None:
    with ArchiveLoader(path, 4, num_workers=3, persistent_workers=persistent) as loader:
        for _ in range(3):
            for batch in loader:
                assert rows(batch) == [*members().values()][:4]
                break
            assert len(ours()) == (3 if persistent else 0)
        first = iter(loader)
        next(first)
        assert [d for batch in loader for d in rows(batch)] == [*members().values()]
        with pytest.raises(StopIteration):  # the later iteration has ended the earlier one
            next(first)
    assert not ours()


def test_memory_goes_with_an_iteration(path: Path) -> None:
    import weakref

    made: list[Any] = []

    def transform(data: Any) -> Any:
        array = np.frombuffer(data, np.uint8).copy()
        made.append(weakref.ref(array))
        return array

    loader = ArchiveLoader(ArchiveDataset(path, transform=transform), 4, collate_fn="pad", num_workers=2)
    for _ in loader:
        break
    gc.collect()
    assert made
    assert not [ref for ref in made if ref() is not None]


def test_in_any_order(path: Path) -> None:
    def slow(data: Any) -> bytes:
        if bytes(data) == members()["c0/000.bin"]:
            time.sleep(0.3)
        return bytes(data)

    loader = ArchiveLoader(ArchiveDataset(path, transform=slow), 5, num_workers=2, in_order=False)
    batches = [rows(batch) for batch in loader]
    assert members()["c0/000.bin"] not in batches[0]
    assert Counter(itertools.chain(*batches)) == Counter(members().values())


def test_the_timeout(path: Path) -> None:
    gate = threading.Event()
    dataset = ArchiveDataset(path, transform=lambda data: gate.wait(20) and bytes(data))
    loader = ArchiveLoader(dataset, 5, num_workers=2, timeout=0.1)
    batches = iter(loader)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.1 seconds"):
        next(batches)
    del batches
    assert time.monotonic() - started < 5
    gate.set()
    deadline = time.monotonic() + 5
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_pinning_without_a_device_is_a_warning(path: Path) -> None:
    with pytest.warns(archivestream.ArchiveWarning, match="pin_memory"):
        loader = ArchiveLoader(path, 5, pin_memory=True)
    assert len([*loader]) == 10


def test_worker_init_fn(path: Path) -> None:
    numbers: list[int] = []
    [*ArchiveLoader(path, 5, num_workers=3, worker_init_fn=numbers.append)]
    assert {*numbers} <= {0, 1, 2}
    assert len(numbers) == 3

    def fail(number: int) -> None:
        raise RuntimeError("cannot begin")

    with pytest.raises(RuntimeError, match="cannot begin"):
        [*ArchiveLoader(path, 5, num_workers=1, worker_init_fn=fail)]


def test_several_loaders_at_once(path: Path) -> None:
    with archivestream.open(path) as archive:
        loaders = [ArchiveLoader(archive, 7, shuffle=True, seed=s, num_workers=2) for s in range(3)]
        for batches in zip(*loaders, strict=True):
            assert len(batches) == 3

        def consume(loader: ArchiveLoader, into: list[bytes]) -> None:
            into.extend(d for batch in loader for d in rows(batch))

        into: list[list[bytes]] = [[] for _ in loaders]
        threads = [threading.Thread(target=consume, args=pair) for pair in zip(loaders, into, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(Counter(got) == Counter(members().values()) for got in into)


def test_a_loader_in_a_forked_process(path: Path) -> None:
    loader = ArchiveLoader(path, 8, num_workers=2)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if [d for batch in loader for d in rows(batch)] == [*members().values()]:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum(len(batch.data) for batch in batches) == 42


@pytest.mark.parametrize("workers", [0, 2])
def test_block_order_decodes_each_block_about_once(tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(5)
    contents = {
        f"{i:05d}": rng.integers(0, 16, int(rng.integers(5000, 15000)), np.uint8).tobytes() for i in range(1500)
    }
    path = tmp_path / "a.tar.zst"
    archivestream.pack(contents.items(), path, frame_size=64 << 10)
    seen: Counter[bytes] = Counter()
    amplification = {}
    for shuffle in ("block", "global"):
        with archivestream.open(path, cache=4 << 20) as archive:
            loader = ArchiveLoader(archive, 16, shuffle=shuffle, num_workers=workers)  # type: ignore[arg-type]
            seen.update(d for batch in loader for d in rows(batch))
            amplification[shuffle] = loader.stats.read_amplification or 0
    assert seen == Counter([*contents.values()] * 2)
    assert 1 <= amplification["block"] <= 1.1 < 2 < amplification["global"]


def test_a_cache_of_members(path: Path) -> None:
    with archivestream.open(path, cache=archivestream.Cache(10_000_000)) as archive:
        loader = ArchiveLoader(archive, 8, shuffle=True, num_workers=2)
        for epoch in range(3):
            got = Counter(d for batch in loader for d in rows(batch))
            assert got == Counter(members().values())
            assert loader.stats.read_amplification == (1 if epoch == 0 else 0)
        assert loader.stats.cache is not None
        assert (loader.stats.cache.hits, loader.stats.cache.misses) == (100, 50)
