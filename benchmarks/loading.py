"""Loaders of batches: ours and its peers, each with as many workers, and their limits. Imports torch."""

from __future__ import annotations

import io
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from archivestream import ArchiveDataset, ArchiveLoader
from benchmarks import cuda_device, data, tar_data
from benchmarks.limit import BatchLoop, Payloads
from benchmarks.measure import Digest, Kind, Side

__all__ = [
    "WORKERS",
    "Work",
    "limit",
    "our_loader",
    "ours",
    "ours_from_tars",
    "spdl",
    "torch_loader",
    "torch_zipfile",
    "total",
    "turbo",
    "webdataset",
]

WORKERS = 2
# How far what FFmpeg makes of a JPEG may be from what libjpeg-turbo makes of it: levels, in the mean.
_CLOSE = 2.0

_Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Work:
    """What all sides of a case do.

    Attributes
    ----------
    path : Path
        The ZIP.
    batches : sequence of ndarray of int64
        The members of each batch: all of them in a random order.
    decode : {"numpy", "image"} or None
        What a member is. None: bytes, which become padded rows; else arrays of one shape, which are stacked.
    workers : int
        Threads or processes of a loader.
    device : {"cuda", "cpu"} or None
        Where the batches go. None: they stay where they are made.
    """

    path: Path
    batches: Sequence[NDArray[np.int64]]
    decode: Literal["numpy", "image"] | None = None
    workers: int = WORKERS
    device: str | None = None

    @property
    def batch(self) -> int:
        """Samples of a batch."""
        return len(self.batches[0])

    def sample(self, member: bytes) -> Any:
        """Make a sample of the bytes of a member, as people do: with NumPy, with Pillow."""
        if self.decode == "numpy":
            return np.load(io.BytesIO(member))
        if self.decode == "image":
            from PIL import Image

            with Image.open(io.BytesIO(member)) as image:
                return np.array(image.convert("RGB"))
        return member

    def collate(self, samples: Sequence[Any]) -> Any:
        """Make a batch of samples."""
        return _pad(samples) if self.decode is None else torch.from_numpy(np.stack(samples))


def _pad(members: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """Put members into equal rows, each at the start of its own."""
    lengths = torch.tensor([len(member) for member in members])
    rows = torch.zeros((len(members), int(lengths.max())), dtype=torch.uint8)
    for row, member in zip(rows.numpy(), members, strict=True):
        row[: len(member)] = np.frombuffer(member, np.uint8)
    return rows, lengths


def _loading(name: str, kind: Kind, epoch: Callable[[], Iterable[Any]]) -> Side:
    """Make a side that takes the batches of an epoch, and waits for what a GPU still has to do."""

    def run() -> None:
        for _ in epoch():
            pass
        cuda_device.find().synchronize()

    return Side(name, kind, run, lambda: total(sample for batch in epoch() for sample in _samples(batch)))


def _samples(batch: Any) -> Iterator[_Array]:
    if isinstance(batch, torch.Tensor):
        yield from batch.cpu().numpy()
    else:
        rows, lengths = batch
        for row, length in zip(rows.cpu().numpy(), lengths.tolist(), strict=True):
            if row[length:].any():
                raise RuntimeError("the rest of a row is not zero")
            yield row[:length]


def total(samples: Iterable[Any]) -> Digest:
    """Add up the sizes and the CRC-32 of samples, arrays or bytes: each side has an order of its own."""
    size = crc = 0
    for sample in samples:
        view = memoryview(sample).cast("B")
        size += view.nbytes
        crc += zlib.crc32(view)
    return Digest(size, crc % (1 << 32))


def our_loader(work: Work, archives: Sequence[Path] | None = None) -> Iterable[Any]:
    """Make our loader, over the ZIP or over other archives of its members.

    Its threads are kept from epoch to epoch, as the processes of the others are.
    """
    loader: Iterable[Any] = ArchiveLoader(
        ArchiveDataset([*map(str, archives or [work.path])], decode=work.decode),
        batch_size=work.batch,
        shuffle=True,
        num_workers=work.workers,
        persistent_workers=True,
        device=work.device,
    )
    return loader


def ours(work: Work) -> Side:
    """Make our side."""
    loader = our_loader(work)
    return _loading("ours", "ours", lambda: loader)


def ours_from_tars(work: Work) -> Side:
    """Make our side over the tars that WebDataset reads, which need no decompression."""
    loader = our_loader(work, tar_data.plain_tars(work.path, WORKERS))
    return _loading("ours, plain tar", "ours", lambda: loader)


class _Members(Dataset[Any]):
    """What people write today: members read one by one with `zipfile`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._opened_by = 0
        self._open()

    def _open(self) -> None:
        # Processes that share a file share its position, too.
        if self._opened_by != os.getpid():
            self._archive, self._opened_by = zipfile.ZipFile(self._work.path), os.getpid()
            self._infos = self._archive.infolist()

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, index: int) -> Any:
        self._open()
        return self._work.sample(self._archive.read(self._infos[index]))


def torch_loader(work: Work) -> Iterable[Any]:
    """Make torch's DataLoader with `zipfile`, in worker processes."""
    return DataLoader(
        _Members(work),
        work.batch,
        shuffle=True,
        num_workers=work.workers,
        persistent_workers=True,
        collate_fn=_pad if work.decode is None else None,
        pin_memory=work.device == "cuda",
    )


def torch_zipfile(work: Work) -> Side:
    """Make the side of that."""
    loader = torch_loader(work)

    def to_device() -> Iterator[Any]:
        for rows, lengths in loader:
            yield rows.to(work.device, non_blocking=True), lengths.to(work.device, non_blocking=True)

    return _loading("DataLoader + zipfile", "peer", lambda: loader if work.device is None else to_device())


def webdataset(work: Work) -> Side:
    """Make the side of WebDataset: plain tars of the same members, one for each worker process, read in their order."""
    wds = import_module("webdataset")
    suffix = zipfile.ZipFile(work.path).namelist()[0].rpartition(".")[2]
    tars = [str(path) for path in tar_data.plain_tars(work.path, WORKERS)]
    dataset = (
        wds.WebDataset(tars, shardshuffle=False)
        .to_tuple(suffix)
        .map(lambda fields: work.sample(fields[0]))
        .batched(work.batch, collation_fn=work.collate)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return _loading("WebDataset", "peer", lambda: loader)


def spdl(work: Work) -> Side:
    """Make the side of SPDL's pipeline: two threads, each makes a whole batch.

    Arrays are read from an archive in memory, with its own decoder. It has none for other members: they are read with
    `zipfile`, and images decoded with FFmpeg.
    """
    pipeline = import_module("spdl.pipeline")
    codecs = import_module("spdl.io")
    opened = threading.local()
    copier = ThreadPoolExecutor(1)  # its thread pins the batches, and copies them on a stream of its own

    def read(members: NDArray[np.int64]) -> list[bytes]:
        if not hasattr(opened, "archive"):
            opened.archive = zipfile.ZipFile(work.path)
            opened.infos = opened.archive.infolist()
        return [opened.archive.read(opened.infos[i]) for i in members.tolist()]

    def load(members: NDArray[np.int64]) -> Any:
        if work.decode == "image":
            return codecs.to_torch(codecs.load_image_batch(read(members), width=None, height=None))
        if work.decode is None:
            return _pad(read(members))
        out = torch.empty((len(members), *npz[npz.files[0]].shape), dtype=torch.uint8)
        for row, i in zip(out.numpy(), members.tolist(), strict=True):
            row[:] = npz[npz.files[i]]
        return out

    if work.decode == "numpy":
        npz = codecs.load_npz(work.path.read_bytes(), max_uncompressed_bytes=1 << 40)
    elif work.decode == "image":
        load(work.batches[0][:1])  # raises where FFmpeg is not there; the pipeline would drop the batches

    def epoch() -> Iterator[Any]:
        builder = pipeline.PipelineBuilder().add_source(work.batches)
        builder = builder.pipe(load, concurrency=work.workers, output_order="input")
        if work.device == "cuda":
            builder = builder.pipe(codecs.transfer_tensor_h2d, executor=copier)
        built = builder.add_sink(work.workers).build(num_threads=work.workers)
        with built.auto_stop():
            yield from built.get_iterator()

    def run() -> object:
        batches = epoch()
        for _ in work.batches:
            next(batches)
        return batches  # dropped once the clock has stopped: a pipeline takes a tenth of a second to stop

    def digest() -> Digest:
        """Compare images with those that Pillow makes, and count these: the last bits of the two differ."""

        def expected() -> Iterator[_Array]:
            for members, batch in zip(work.batches, epoch(), strict=True):
                for image, member in zip(batch.numpy(), read(members), strict=True):
                    reference: _Array = work.sample(member)
                    if np.abs(image.astype(np.int16) - reference).mean() > _CLOSE:
                        raise RuntimeError("SPDL decodes another image")
                    yield reference

        return total(expected())

    exact = _loading("SPDL", "peer", epoch).digest
    return Side("SPDL", "peer", run, digest if work.decode == "image" else exact)


def limit(work: Work, threads: int) -> Side:
    """Make the side of the C loop, which reads, decompresses and checks, and makes no tensors."""
    loop = BatchLoop(Payloads.of(work.path), work.batches, threads=threads)

    def digest() -> Digest:
        loop.run()  # compares each member with the CRC-32 of the directory, as zipfile does
        with zipfile.ZipFile(work.path) as archive:
            return total(work.sample(archive.read(info)) for info in archive.infolist())

    return Side(_threads("limit", threads), "limit", loop.run, digest)


def turbo(work: Work, threads: int) -> Side:
    """Make the side of libjpeg-turbo in a loop, over JPEGs in memory, into memory that is used again.

    A loop in Python, of `simplejpeg`, which calls libjpeg-turbo without the GIL.
    """
    import simplejpeg

    with zipfile.ZipFile(work.path) as archive:
        members = [archive.read(info) for info in archive.infolist()]
    images = [members[i] for batch in work.batches for i in batch.tolist()]
    shares = [images[len(images) * t // threads : len(images) * (t + 1) // threads] for t in range(threads)]
    out = np.ones((threads, *data.PHOTO), np.uint8)
    pool = ThreadPoolExecutor(threads)

    def decode(thread: int) -> None:
        row = out[thread]
        for image in shares[thread]:
            simplejpeg.decode_jpeg(image, buffer=row)

    def run() -> None:
        list(pool.map(decode, range(threads)))

    return Side(_threads("libjpeg-turbo", threads), "limit", run, lambda: total(map(simplejpeg.decode_jpeg, images)))


def _threads(name: str, threads: int) -> str:
    return name if threads == 1 else f"{name}, {threads} threads"
