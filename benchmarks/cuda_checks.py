"""Whether what arrives on a device is right, comes again after a stop, and takes no more memory with time."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch

from archivestream import ArchiveDataset, ArchiveLoader
from benchmarks import data
from benchmarks.cuda_device import Device
from benchmarks.cuda_loading import members_of

__all__ = ["KEEP", "Growth", "Keep", "different_after_resume", "growth", "poisoned", "wrong_members"]

Keep = Literal["batches", "slots"]
KEEP: tuple[Keep, ...] = ("batches", "slots")

_POISON = 0xA5
# Sizes around those of alignment and of pages, the smallest and the largest.
_SIZES = (0, 1, 15, 16, 17, 255, 4095, 4096, 4097, 65_535, 65_536, 65_537, 150_000)
_WARM = 10  # batches, after which no memory is to be added


def _mixed(members: int) -> Path:
    """Make a ZIP of members of many sizes, text and noise, stored and deflated."""

    def write(file: IO[bytes]) -> None:
        rng = np.random.default_rng(11)
        source = data.corpus()
        others = np.exp(rng.uniform(0, np.log(65_536), max(0, members - len(_SIZES)))).astype(int).tolist()
        with zipfile.ZipFile(file, "w") as archive:
            for i, size in enumerate([*_SIZES, *others][:members]):
                begin = int(rng.integers(len(source) - size))
                member = source[begin : begin + size] if i % 2 else rng.bytes(size)
                method = zipfile.ZIP_STORED if i % 3 == 0 else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(f"{i:06d}.bin"), member, method)

    return data.cached(f"mixed-{members}-{data.PYTHON}.zip", write)


def poisoned(members: int, batch: int) -> tuple[Path, Path]:
    """Make that ZIP, and one of members that are nothing but poison, a batch of them, as large as the largest."""

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(batch):
                archive.writestr(f"{i:06d}.poison", bytes([_POISON]) * max(_SIZES))

    return _mixed(members), data.cached(f"poison-{batch}.zip", write)


def wrong_members(good: Path, poison: Path, batch: int, device: Device, keep: Keep, collate: str | None) -> int:
    """Count members that are not, byte by byte, what zlib makes of them, in memory that was full of poison before.

    As many batches of poison as there are slots go ahead of as many others: each slot, and what its batch takes on
    the device, has held poison before. All that is free on the GPU is filled beforehand.
    """
    with zipfile.ZipFile(good) as archive:
        expected = [archive.read(info) for info in archive.infolist()]
    order = np.random.default_rng(13).permutation(len(expected)).tolist()
    ours = [order[begin : begin + batch] for begin in range(0, len(order), batch)]
    poisonous = [*range(len(expected), len(expected) + batch)]
    batches = [poisonous]
    _poison_free_memory(device)
    loader: Any = ArchiveLoader(
        ArchiveDataset([str(good), str(poison)]),
        batch_sampler=batches,
        num_workers=4,
        collate_fn=collate,
        device=device.name,
        keep=keep,
    )
    wrong = 0
    with loader:
        for _ in loader:
            pass
        slots = loader.stats.transfer.slots
        for begin in range(0, len(ours), slots):
            batches += [poisonous] * slots + ours[begin : begin + slots]
        for members, arrived in zip(batches, loader, strict=True):
            if members is not poisonous:
                found = [member.tobytes() for member in members_of(arrived)]
                wrong += sum(expected[i] != member for i, member in zip(members, found, strict=True))
    return wrong


def _poison_free_memory(device: Device) -> None:
    """Fill most of what is free on a GPU with poison, and give it back."""
    if device.is_gpu:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        torch.full((int(free * 0.8),), _POISON, dtype=torch.uint8, device=device.name)
        device.synchronize()
        torch.cuda.empty_cache()


def different_after_resume(path: Path, batch: int, device: Device, stops: int) -> tuple[int, int]:
    """Stop at random batches and go on in other loaders; return how many batches were compared, and how many differ.

    They are compared with those of a loader without a device: the same for all bytes and lengths.
    """

    def loader(device: str | None, threads: int) -> Any:
        return ArchiveLoader(str(path), batch, shuffle=True, seed=17, num_workers=threads, device=device)

    with loader(None, 2) as plain:
        expected = _checksums(plain)
    compared = different = 0
    for stop in np.random.default_rng(19).integers(1, len(expected), stops).tolist():
        with loader(device.name, 4) as stopped:
            found = _checksums(itertools.islice(stopped, stop))
            state = stopped.state_dict()
        with loader(device.name, 3) as resumed:
            resumed.load_state_dict(state)
            found += _checksums(resumed)
        compared += len(expected)
        pairs = itertools.zip_longest(expected, found)
        different += sum(one != other for one, other in pairs)
    return compared, different


def _checksums(batches: Iterable[Any]) -> list[tuple[int, bytes]]:
    """Return the CRC-32 of the members of each batch, and their lengths."""
    found = []
    for batch in batches:
        crc = 0
        for member in members_of(batch):
            crc = zlib.crc32(member.data, crc)
        found.append((crc, batch.lengths.cpu().numpy().tobytes()))
    return found


class Growth(NamedTuple):
    """What was added after the first batches.

    Attributes
    ----------
    allocations, pinned : int
        Of page-locked memory: how many, and their bytes.
    peak, reserved : int
        Of the device, in bytes: the most that tensors took, and that PyTorch has asked for.
    """

    allocations: int
    pinned: int
    peak: int
    reserved: int


def growth(path: Path, batch: int, device: Device, keep: Keep, steps: int) -> Growth:
    """Go through an archive again and again, with a step for each batch that is longer than its loading."""
    step = device.step(1e-3)
    loader = ArchiveLoader(
        str(path),
        batch,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        device=device.name,
        keep=keep,
        persistent_workers=True,
    )
    sums = torch.zeros((), dtype=torch.int64, device=device.name)
    if device.is_gpu:
        device.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    after_warmup = None
    with closing(loader):
        done = 0
        while done < steps:
            for arrived in loader:
                sums += arrived.data[:, 0].sum()
                step()
                done += 1
                if done == _WARM:
                    after_warmup = _taken(loader, device)
                if done == steps:
                    break
        device.synchronize()
        now = _taken(loader, device)
    if after_warmup is None:
        raise ValueError(f"{steps} steps are fewer than {_WARM}")
    return Growth(*(later - earlier for later, earlier in zip(now, after_warmup, strict=True)))


def _taken(loader: Any, device: Device) -> Growth:
    """Return how much was allocated so far, and the peak of the device."""
    transfer = loader.stats.transfer
    allocations, peak, reserved = transfer.grown, 0, 0
    if device.is_gpu:
        peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        if hasattr(torch.cuda, "host_memory_stats"):  # younger than the oldest PyTorch that will do
            allocations += int(torch.cuda.host_memory_stats().get("num_host_alloc", 0))
    return Growth(allocations, transfer.pinned_bytes, peak, reserved)
