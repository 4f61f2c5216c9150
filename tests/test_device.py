"""Batches on a device: the same as on the host, one copy each, in turn, from slots that are used again.

Where there is no CUDA, on the device "cpu", which goes the same way with ordinary memory.
"""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader, CorruptArchiveError, CudaUnavailableError, Normalize, Packed

torch = pytest.importorskip("torch")

from archivestream.assembling import Assembler  # noqa: E402
from archivestream.collating import Collator  # noqa: E402
from archivestream.orders import Order  # noqa: E402
from archivestream.tensors import map_leaves  # noqa: E402

CUDA = torch.cuda.is_available()
NO_CUDA = pytest.mark.skipif(not CUDA, reason="no CUDA device: what is CUDA itself needs one")
DEVICES = ["cpu", "cuda"] if CUDA else ["cpu"]


def zipped(contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return stream.getvalue()


def members(n: int = 61, longest: int = 3000) -> dict[str, bytes]:
    draw = np.random.default_rng(5)
    return {
        f"c{i % 3}/{i:03d}.bin": draw.integers(0, 9, int(draw.integers(0, longest)), np.uint8).tobytes()
        for i in range(n)
    }


def arrays(n: int = 40, shape: tuple[int, ...] = (5, 7, 3), dtype: str = "uint8") -> bytes:
    contents = {}
    for i in range(n):
        stream = io.BytesIO()
        np.save(stream, np.random.default_rng(i).integers(0, 200, shape).astype(dtype))
        contents[f"{i % 4}/{i:02d}.npy"] = stream.getvalue()
    return zipped(contents)


def images(n: int = 20) -> bytes:
    image = pytest.importorskip("PIL.Image")
    contents = {}
    for i in range(n):
        stream = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 255, (24, 32, 3), np.uint8)
        image.fromarray(pixels).save(stream, "JPEG")
        contents[f"{i % 2}/{i:02d}.jpg"] = stream.getvalue()
    return zipped(contents, zipfile.ZIP_STORED)


def host(batch: Any) -> Any:
    """Return a batch with all tensors on the host, in memory of their own."""
    return map_leaves(lambda leaf: leaf.cpu().clone() if isinstance(leaf, torch.Tensor) else leaf, batch)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, Packed):
        return isinstance(other, Packed) and same(vars(one), vars(other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    if any(thread.name.startswith("archivestream-") for thread in threading.enumerate()):
        gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("archivestream-")]


KINDS: dict[str, dict[str, Any]] = {
    "padded": {},
    "padded, labels": {"labels": "folder"},
    "packed, labels": {"labels": "folder", "collate_fn": "packed"},
    "packed": {"collate_fn": "packed"},
    "packed by a transform": {"transform": lambda data: bytes(data)[::2], "collate_fn": "packed"},
    "dict": {"transform": lambda data: {"size": len(data), "first": np.float32(len(data)), "name": "n"}},
    "a callable": {"collate_fn": lambda samples: (torch.tensor([len(sample) for sample in samples]), "text")},
    "labels of all kinds": {"labels": "folder", "target_transform": lambda label: {"label": label, "name": str(label)}},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", ["batches", "slots"])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_batches_as_on_the_host(kind: str, workers: int, keep: Any, device: str) -> None:
    options = dict(KINDS[kind])
    collate = options.pop("collate_fn", None)
    dataset = ArchiveDataset(zipped(members()), **options)
    common: Any = {"shuffle": True, "seed": 3, "collate_fn": collate, "num_workers": workers}
    expected = ArchiveLoader(dataset, 8, **common)
    with ArchiveLoader(dataset, 8, **common, device=device, keep=keep) as loader:
        for _ in range(2):
            for one, other in zip(expected, loader, strict=True):
                assert same(host(one), host(other))
            transfer = loader.stats.transfer
            assert transfer is not None
            assert transfer.copies == loader.stats.batches == 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["uint8", "float32", ">i2"])
def test_arrays(dtype: str, workers: int, device: str) -> None:
    dataset = ArchiveDataset(arrays(dtype=dtype), decode="numpy", labels="folder")
    expected = ArchiveLoader(dataset, 16, shuffle=True, num_workers=workers)
    with ArchiveLoader(dataset, 16, shuffle=True, num_workers=workers, device=device) as loader:
        for (one, labels), (other, others) in zip(expected, loader, strict=True):
            assert other.device.type == others.device.type == device
            assert same(one, other.cpu())
            assert same(labels, others.cpu())


@pytest.mark.parametrize("device", DEVICES)
def test_images(device: str) -> None:
    dataset = ArchiveDataset(images(), decode="image")
    with ArchiveLoader(dataset, 6, device=device, num_workers=2) as loader:
        made = loader.stats.transfer  # with the loader, its size known from the header of one of them
        assert made is not None
        assert (made.slots, made.slot_bytes, made.copies) == (4, 16384, 0)
        batches = [host(batch) for batch in loader]
    transfer = loader.stats.transfer
    assert transfer is not None
    assert (transfer.slots, transfer.slot_bytes, transfer.copies, transfer.grown) == (4, 16384, 4, 0)
    assert [tuple(batch.shape) for batch in batches] == [(6, 24, 32, 3)] * 3 + [(2, 24, 32, 3)]
    assert all(map(same, batches, ArchiveLoader(dataset, 6)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_of_bytes_is_a_list_of_views(workers: int, device: str) -> None:
    contents = [*members().values()]
    with ArchiveLoader(zipped(members()), 10, collate_fn="list", device=device, num_workers=workers) as loader:
        got = []
        for batch in loader:
            assert all(view.device.type == device and view.dtype == torch.uint8 for view in batch)
            storages = {view.untyped_storage().data_ptr() for view in batch}
            assert len(storages) == 1
            assert all(view.data_ptr() % 16 == 0 for view in batch if len(view))
            got += [bytes(view.cpu().numpy()) for view in batch]
    assert got == contents


def test_a_list_of_bytes_stays_bytes_on_the_host() -> None:
    assert [*itertools.chain(*ArchiveLoader(zipped(members()), 10, collate_fn="list"))] == [*members().values()]


@pytest.mark.parametrize("device", [None, *DEVICES])
def test_packed_members_are_aligned_views(device: str | None) -> None:
    contents = [*members().values()]
    got: list[bytes] = []
    with ArchiveLoader(zipped(members()), 10, collate_fn="packed", device=device, num_workers=2) as loader:
        for batch in loader:
            assert isinstance(batch, Packed)
            assert len(batch) == len(batch.offsets) == len(batch.lengths)
            assert not (batch.offsets % 16).any()
            used = torch.zeros(len(batch.data), dtype=torch.bool)
            for i, (offset, length) in enumerate(zip(batch.offsets.tolist(), batch.lengths.tolist(), strict=True)):
                assert batch[i].untyped_storage().data_ptr() == batch.data.untyped_storage().data_ptr()
                assert same(batch[i], batch.data[offset : offset + length])
                used[offset : offset + length] = True
            assert not batch.data.cpu()[~used].any()
            assert same([bytes(part.cpu().numpy()) for part in batch[-3:]], contents[len(got) :][:10][-3:])
            got += [bytes(part.cpu().numpy()) for part in batch]
            with pytest.raises(IndexError):
                batch[len(batch)]
    assert got == contents


def test_only_bytes_are_packed() -> None:
    with pytest.raises(TypeError, match="'packed' is for bytes"):
        next(iter(ArchiveLoader(ArchiveDataset(zipped(members()), transform=len), 4, collate_fn="packed")))


class Recorder:
    """Memory for one batch, which remembers what it gave."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def allocate(self, size: int) -> Any:
        self.given.append(np.full(size, 0xA5, np.uint8))
        return self.given[-1]

    def lay(self, batch: Any) -> Any:
        return batch


@pytest.mark.parametrize("kind", ["padded", "packed", "arrays", "images"])
def test_members_are_decoded_into_the_memory_of_the_batch(kind: str) -> None:
    decode = {"arrays": "numpy", "images": "image"}.get(kind)
    source = {"arrays": arrays, "images": images}.get(kind, lambda: zipped(members()))()
    memory = Recorder()
    collator = Collator("packed" if kind == "packed" else None)
    batch = Assembler(ArchiveDataset(source, decode=decode), collator, "raise", lambda: memory)(
        Order([3, 1, 7], 0)
    ).batch
    data = batch if isinstance(batch, torch.Tensor) else batch.data
    assert len(memory.given) == 1
    assert memory.given[0].nbytes == data.nbytes
    assert memory.given[0].ctypes.data == data.data_ptr()


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_crosses_in_one_copy_with_nothing_but_itself(device: str) -> None:
    dataset = ArchiveDataset(arrays(shape=(64,)), decode="numpy", labels="folder")
    with ArchiveLoader(dataset, 10, device=device, num_workers=2) as loader:
        assert len([*loader]) == 4
        transfer = loader.stats.transfer
    assert transfer is not None
    assert (transfer.copies, transfer.bytes) == (
        4,
        4 * (768 + 80),
    )  # 640 bytes, as far as the labels' alignment, and those
    assert transfer.device == str(torch.device(device, 0) if device == "cuda" else device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", ["batches", "slots"])
def test_slots_are_used_again_and_stay_as_many(keep: Any, device: str) -> None:
    dataset = ArchiveDataset(zipped(members(200, 300)), labels="folder")
    with ArchiveLoader(
        dataset, 2, shuffle=True, device=device, keep=keep, num_workers=2, persistent_workers=True
    ) as loader:
        memories = set()
        for epoch in range(10):
            for batch, _ in loader:
                memories.add(batch.data.untyped_storage().data_ptr())
            transfer = loader.stats.transfer
            assert transfer is not None
            assert transfer.copies == 100
            assert transfer.slots == 8, epoch  # 2 workers, 2 batches each, and what is on its way
            assert transfer.pinned_bytes == (8 * transfer.slot_bytes if device == "cuda" else 0)
        if keep == "slots":
            assert len(memories) <= 4


@pytest.mark.parametrize("device", DEVICES)
def test_batches_that_are_kept_stay_what_they_were(device: str) -> None:
    dataset = ArchiveDataset(zipped(members()), labels="folder")
    with ArchiveLoader(dataset, 4, device=device, num_workers=2) as loader:
        for _ in range(3):
            kept = [*loader]
            assert all(map(same, map(host, kept), map(host, ArchiveLoader(dataset, 4))))


@pytest.mark.parametrize("device", DEVICES)
def test_labels_do_not_keep_a_batch(device: str) -> None:
    dataset = ArchiveDataset(arrays(), decode="numpy", labels="folder")
    with ArchiveLoader(dataset, 20, device=device) as loader:
        for samples, labels in loader:
            assert samples.untyped_storage().data_ptr() != labels.untyped_storage().data_ptr()
            assert labels.untyped_storage().nbytes() < 1024


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stop", [0, 1, 2, 5, 8])
def test_a_state_counts_what_was_delivered(stop: int, workers: int, device: str) -> None:
    source = zipped(members())
    whole = [host(batch) for batch in ArchiveLoader(source, 8, shuffle=True, seed=9)]
    with ArchiveLoader(source, 8, shuffle=True, seed=9, device=device, num_workers=workers) as loader:
        first = [host(batch) for batch in itertools.islice(loader, stop)]
        state = loader.state_dict()
    assert state["position"] == (0 if stop == 8 and state["epoch"] else min(61, stop * 8))
    if stop < 8:
        with ArchiveLoader(source, 8, shuffle=True, seed=9, device=device, num_workers=4 - workers) as other:
            other.load_state_dict(state)
            first += [host(batch) for batch in other]
    assert same(whole, first)


def damaged(*bad: int) -> bytes:
    source = bytearray(zipped(members()))
    infos = zipfile.ZipFile(io.BytesIO(source)).infolist()
    for i in bad:
        begin = infos[i].header_offset + 30 + len(infos[i].filename)
        source[begin + infos[i].compress_size // 2] ^= 0x55
    return bytes(source)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", ["batches", "slots"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_at_its_step(workers: int, keep: Any, device: str) -> None:
    expected = [host(batch) for batch in ArchiveLoader(zipped(members()), 8)]
    with ArchiveLoader(damaged(20, 50), 8, device=device, keep=keep, num_workers=workers) as loader:
        for _ in range(2):
            batches = iter(loader)
            for step, one in enumerate(expected):
                if step in (2, 6):
                    with pytest.raises(CorruptArchiveError, match=r"c2/0[25]0\.bin"):
                        next(batches)
                else:
                    assert same(one, host(next(batches))), step
            with pytest.raises(StopIteration):
                next(batches)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("collate", [None, "packed", "list"])
@pytest.mark.parametrize("keep", ["batches", "slots"])
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_leave_no_gap(workers: int, keep: Any, collate: str | None, device: str) -> None:
    contents = [data for i, data in enumerate(members().values()) if i not in (3, 4, 30, 60)]
    options: Any = {"collate_fn": collate, "num_workers": workers, "on_error": "skip"}
    with ArchiveLoader(damaged(3, 4, 30, 60), 8, device=device, keep=keep, **options) as loader:
        for _ in range(3):
            got: list[bytes] = []
            for batch in loader:
                if collate is None:
                    rows = zip(batch.data.cpu(), batch.lengths.tolist(), strict=True)
                    parts = [row[:length] for row, length in rows]
                else:
                    parts = [*batch]
                assert len(parts) == min(8, len(contents) - len(got))
                got += [bytes(part.cpu().numpy()) for part in parts]
            assert got == contents
            assert len(loader.stats.skipped) == 4
        transfer = loader.stats.transfer
        assert transfer is not None
        assert transfer.slots <= 12


@pytest.mark.parametrize("device", DEVICES)
def test_errors_that_are_kept_keep_no_slots(device: str) -> None:
    kept = []
    with ArchiveLoader(damaged(*range(1, 60, 2)), 2, device=device, num_workers=2) as loader:
        for _ in range(3):
            batches = iter(loader)
            for _ in range(len(loader)):
                try:
                    next(batches)
                except CorruptArchiveError as error:
                    kept.append(error)
        transfer = loader.stats.transfer
    assert len(kept) == 90
    assert transfer is not None
    assert transfer.slots <= 9


@pytest.mark.parametrize("device", DEVICES)
def test_batches_that_are_made_anew_are_not_copied_before(device: str) -> None:
    with ArchiveLoader(damaged(3), 4, device=device, num_workers=2, on_error="skip") as loader:
        batches = len([*loader])
        transfer = loader.stats.transfer
    assert transfer is not None
    assert batches <= transfer.copies <= batches + 4  # those that were sent before it was known


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("keep", ["batches", "slots"])
def test_leaving_early_and_beginning_again(keep: Any, device: str) -> None:
    source = zipped(members())
    expected = [host(batch) for batch in ArchiveLoader(source, 4)]
    with ArchiveLoader(source, 4, device=device, keep=keep, num_workers=3) as loader:
        for stop in (1, 3, 2, 7, 1, 16):
            assert same(expected[:stop], [host(batch) for batch in itertools.islice(loader, stop)])
        transfer = loader.stats.transfer
    assert transfer is not None
    assert transfer.slots == 10


def test_a_closed_loader_gives_its_memory_back_and_can_begin_again() -> None:
    source = zipped(members())
    loader = ArchiveLoader(source, 8, device="cpu", num_workers=2)
    memory = loader._transfer
    assert memory is not None
    assert memory.stats.slots
    for _ in loader:
        break
    loader.close()
    assert not memory.stats.slots
    assert len([*loader]) == 8
    loader.close()


@pytest.mark.parametrize("device", DEVICES)
def test_several_loaders_in_several_threads(device: str) -> None:
    source = zipped(members())
    expected = {seed: [host(b) for b in ArchiveLoader(source, 4, shuffle=True, seed=seed)] for seed in range(4)}
    got: dict[int, list[Any]] = {}

    def consume(seed: int) -> None:
        with ArchiveLoader(source, 4, shuffle=True, seed=seed, device=device, num_workers=2) as loader:
            got[seed] = [host(batch) for batch in loader]

    threads = [threading.Thread(target=consume, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(expected, {seed: got[seed] for seed in expected})


@pytest.mark.parametrize("device", DEVICES)
def test_single_samples(device: str) -> None:
    dataset = ArchiveDataset(arrays(), decode="numpy", labels="folder")
    expected = [*ArchiveLoader(dataset, None)]
    with ArchiveLoader(dataset, None, device=device, num_workers=2) as loader:
        got = [*loader]
    assert all(
        same((torch.from_numpy(one), label), (other.cpu(), int(its)))
        for (one, label), (other, its) in zip(expected, got, strict=True)
    )


def test_batches_in_any_order() -> None:
    contents = sorted(members().values())
    with ArchiveLoader(zipped(members()), 5, in_order=False, num_workers=3, collate_fn="list", device="cpu") as loader:
        got = [bytes(part.numpy()) for batch in loader for part in batch]
    assert sorted(got) == contents


def test_what_does_not_fit_is_no_less_right() -> None:
    """Sizes that the index does not tell, and some that are far from the others."""

    def transform(data: Any) -> Any:
        return torch.full((200_000 if len(data) % 7 == 0 else len(data),), 5, dtype=torch.int16)

    dataset = ArchiveDataset(zipped(members()), transform=transform)
    with ArchiveLoader(dataset, 1, device="cpu", num_workers=2) as loader:
        for _ in range(2):
            assert all(map(same, ArchiveLoader(dataset, 1), loader))
        transfer = loader.stats.transfer
    assert transfer is not None
    assert transfer.slots <= 8


def test_memory_for_batches_is_bounded_before_anything_is_read() -> None:
    source = zipped(members())
    with ArchiveLoader(source, 10**7, device="cpu") as loader:
        transfer = loader.stats.transfer
        assert transfer is not None
        assert (transfer.slots, transfer.slot_bytes) == (1, 1 << 18)  # one batch of all there is
        assert len([*loader]) == 1
    # Members that declare 2 GiB each.
    for header, size in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        parts = source.split(header)
        source = header.join([parts[0], *(part[: size - 4] + b"\xff\xff\xff\x7f" + part[size:] for part in parts[1:])])
    with ArchiveLoader(source, 8, device="cpu") as loader:
        transfer = loader.stats.transfer
        assert transfer is not None
        assert (transfer.slots, transfer.slot_bytes) == (0, 0)
        with pytest.raises(archivestream.ArchiveError):
            next(iter(loader))


def test_a_default_device_of_others_changes_nothing() -> None:
    source = zipped(members())
    torch.set_default_device("meta")
    try:
        with ArchiveLoader(source, 8, device="cpu", num_workers=2) as loader:
            batches = [batch.data for batch in loader]
    finally:
        torch.set_default_device(None)
    assert all(map(same, batches, (batch.data for batch in ArchiveLoader(source, 8))))


def test_inference_mode_leaves_nothing_behind() -> None:
    source = zipped(members())
    with torch.inference_mode():
        loader = ArchiveLoader(source, 4, device="cpu", keep="slots")
        assert len([*loader]) == 16
    assert all(same(host(one), host(other)) for one, other in zip(loader, ArchiveLoader(source, 4), strict=True))
    loader.close()


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_batch_may_be_none(device: str | None) -> None:
    with ArchiveLoader(zipped(members()), 8, collate_fn=lambda samples: None, device=device) as loader:
        assert [*loader] == [None] * 8


@pytest.mark.parametrize("n", [0, 1])
def test_archives_of_nothing(n: int) -> None:
    contents = dict.fromkeys(map(str, range(n)), b"")
    with ArchiveLoader(zipped(contents), 4, device="cpu") as loader:
        assert [batch.lengths.tolist() for batch in loader] == [[0]] * n


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_in_a_forked_process() -> None:
    source = zipped(members())
    expected = [host(batch) for batch in ArchiveLoader(source, 8)]
    with ArchiveLoader(source, 8, device="cpu", num_workers=2) as loader:
        next(iter(loader))
        child = os.fork()
        if not child:
            status = 1
            try:
                status = 0 if same(expected, [host(batch) for batch in loader]) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert same(expected, [host(batch) for batch in loader])


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_cuda_that_is_not_there() -> None:
    source = zipped(members(3))
    built = torch.backends.cuda.is_built()
    reason = "" if built else "this build of PyTorch .* has no CUDA"
    for device in ("cuda", "cuda:1", torch.device("cuda", 3)):
        with pytest.raises(CudaUnavailableError, match=rf"device='cuda.*{reason}.*device='auto' takes the CPU"):
            ArchiveLoader(source, 2, device=device)
    loader = ArchiveLoader(source, 2, device="auto", keep="slots")
    assert loader.device is None
    assert len([*loader]) == 2
    # What a batch holds does not depend on what there is.
    for one in (*ArchiveLoader(source, 2, device="auto", collate_fn="list"),):
        assert all(isinstance(part, torch.Tensor) for part in one)
    single = next(iter(ArchiveLoader(ArchiveDataset(arrays(), decode="numpy"), None, device="auto")))
    assert isinstance(single, torch.Tensor)
    assert loader.stats.transfer is None
    assert loader.stats.fallback
    assert f"on the CPU: {loader.stats.fallback}" in str(loader.stats)


@pytest.mark.parametrize(("device", "error"), [("'cuda'", "CudaUnavailableError"), ("None", "ImportError")])
def test_without_pytorch(device: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(members(3)))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import archivestream\n"
        f"try: archivestream.ArchiveLoader('a.zip', 2, device={device})\n"
        f"except {'archivestream.' if error.startswith('Cuda') else ''}{error} as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install 'archivestream[torch]'" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device must be 'cuda'"),
        ({"device": "meta"}, "not to 'meta'"),
        ({"device": "cpu", "keep": "all"}, "keep must be 'batches' or 'slots', not 'all'"),
        ({"keep": "slots"}, "give device="),
    ],
)
def test_arguments_that_have_no_meaning(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArchiveLoader(zipped(members(3)), 2, **arguments)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("device", [None, *DEVICES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("first", [True, False])
def test_normalised_images(first: bool, dtype: Any, device: str | None) -> None:
    dataset = ArchiveDataset(arrays(), decode="numpy", labels="folder")
    finish = Normalize(MEAN, STD, dtype=dtype, channels_first=first)
    with ArchiveLoader(dataset, 16, device=device, finish=finish, num_workers=2) as loader:
        for (got, labels), (images, others) in zip(loader, ArchiveLoader(dataset, 16), strict=True):
            expected = (images.to(torch.float64) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
            expected = expected.permute(0, 3, 1, 2) if first else expected
            assert got.is_contiguous()
            assert got.dtype == dtype
            exact = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
            torch.testing.assert_close(got.cpu().double(), expected, rtol=exact, atol=exact)
            assert same(labels.cpu(), others)
            # In all places the same, to the last bit.
            assert same(finish(images), got.cpu())


def test_what_normalize_takes() -> None:
    grey = torch.arange(8, dtype=torch.uint8).reshape(2, 2, 2)
    torch.testing.assert_close(Normalize()(grey), (grey.float() / 255).unsqueeze(1))
    assert Normalize(1.0, 2.0)(torch.full((1, 2, 2, 3), 7.0)).unique().tolist() == [3.0]
    assert Normalize(np.array(MEAN), list(STD)) == Normalize(MEAN, STD)
    with pytest.raises(ValueError, match="3 channels, and the images have 1"):
        Normalize(MEAN, STD)(grey)
    with pytest.raises(TypeError, match="not for dict"):
        Normalize()({"image": grey})
    with pytest.raises(ValueError, match="std must not be 0"):
        Normalize(0, [1, 0, 1])
    with pytest.raises(ValueError, match="3 channels, and std for 2"):
        Normalize(MEAN, (1, 2))
    with pytest.raises(ValueError, match="floating point"):
        Normalize(dtype=torch.int32)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_any_callable_finishes_a_batch(device: str | None) -> None:
    dataset = ArchiveDataset(zipped(members()), labels="folder")
    plain = ArchiveLoader(dataset, 8)
    with ArchiveLoader(dataset, 8, device=device, finish=lambda padded: padded.lengths * 2, num_workers=2) as loader:
        for (got, labels), (padded, others) in zip(loader, plain, strict=True):
            assert same((padded.lengths * 2, others), (got, labels))

    def pairs(samples: list[Any]) -> Any:
        return torch.tensor([len(data) for data, _ in samples]), torch.tensor([label for _, label in samples])

    with ArchiveLoader(dataset, 8, collate_fn=pairs, device=device, finish=lambda batch: batch[::-1]) as loader:
        for (labels, lengths), (padded, others) in zip(loader, plain, strict=True):
            assert same((others, padded.lengths), (labels, lengths))


@NO_CUDA
def test_pinned_batches() -> None:
    dataset = ArchiveDataset(zipped(members()), labels="folder")
    for collate in (None, "packed"):
        expected = ArchiveLoader(dataset, 8, collate_fn=collate)
        with ArchiveLoader(dataset, 8, collate_fn=collate, pin_memory=True, num_workers=2) as loader:
            for one, other in zip(expected, loader, strict=True):
                map_leaves(lambda leaf: leaf.is_pinned() or pytest.fail("not pinned"), other)
                assert same(host(one), host(other))


@NO_CUDA
def test_memory_is_flat_after_ten_batches() -> None:
    dataset = ArchiveDataset(zipped(members(200, 300)))
    for keep in ("batches", "slots"):
        with ArchiveLoader(dataset, 2, device="cuda", keep=keep, num_workers=2) as loader:  # type: ignore[arg-type]
            peaks, pinned = [], []
            for _ in range(10):
                for step, _ in enumerate(loader):
                    if step == 10:
                        torch.cuda.reset_peak_memory_stats()
                    transfer = loader.stats.transfer
                    assert transfer is not None
                    pinned.append(transfer.pinned_bytes)
                peaks.append(torch.cuda.max_memory_allocated())
            assert len({*pinned}) == 1
            assert max(peaks[1:]) <= peaks[0]


@NO_CUDA
def test_a_stream_of_the_consumer_waits_for_the_copy() -> None:
    expected = [host(batch) for batch in ArchiveLoader(zipped(members()), 8)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), ArchiveLoader(zipped(members()), 8, device="cuda", num_workers=2) as loader:
        got = []
        for batch in loader:
            torch.cuda._sleep(1_000_000)
            got.append(map_leaves(torch.clone, batch))
    stream.synchronize()
    assert same(expected, [host(batch) for batch in got])
