"""Loaders that send members to a device, and what they are compared with. Imports torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream import ArchiveDataset, ArchiveLoader
from benchmarks.cuda_device import Device
from benchmarks.limit import BatchLoop, CopyLoop, Payloads
from benchmarks.loading import total
from benchmarks.measure import Digest, Kind, Side

__all__ = ["Stream", "members_of"]


@dataclass(frozen=True)
class Stream:
    """Members that come in packed batches, from an archive that is gone through several times in an epoch.

    Attributes
    ----------
    path : Path
        The ZIP; it stays in the page cache.
    members, size : int
        How many it has, and the bytes of each.
    batch : int
        Members of a batch.
    threads : int
        How many make batches.
    device : Device
        Where they go.
    """

    path: Path
    members: int
    size: int
    batch: int
    threads: int
    device: Device

    @property
    def repeats(self) -> int:
        """How often an epoch goes through the archive: so that it takes as long on a machine of many processors."""
        return 2 * self.threads

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.members * self.repeats // self.batch)

    @property
    def bytes(self) -> int:
        """Bytes of an epoch."""
        return self.members * self.repeats * self.size

    def loader(self, device: str | None, repeats: int | None = None) -> Any:
        """Make a loader; its threads and its memory are kept from epoch to epoch."""
        return ArchiveLoader(
            ArchiveDataset([str(self.path)] * (repeats or self.repeats)),
            batch_size=self.batch,
            shuffle=True,
            num_workers=self.threads,
            collate_fn="packed",
            persistent_workers=True,
            device=device,
        )

    def take(self, batches: Iterable[object], step: Callable[[], object] | None = None) -> None:
        """Go through batches as a training loop does, with a step for each, and wait for the device in the end."""
        for _ in batches:
            if step is not None:
                step()
        self.device.synchronize()

    def side(self, name: str, kind: Kind, device: str | None) -> Side:
        """Make the side of a loader: to a device, or to plain memory of the host."""

        def digest() -> Digest:
            """Read the archive once: that takes as many threads, and as many slots."""
            with self.loader(device, 1) as once:
                return total(member for batch in once for member in members_of(batch))

        return Side(name, kind, partial(self.take, self.loader(device)), digest)

    def inflate(self, name: str) -> Side:
        """Make the side of the C loop, which decompresses and checks, with as many threads."""
        order = np.random.default_rng(7).permutation(self.members)
        once = np.split(order, range(self.batch, self.members, self.batch))
        loop = BatchLoop(Payloads.of(self.path), once * self.repeats, threads=self.threads)

        def digest() -> Digest:
            with zipfile.ZipFile(self.path) as archive:
                return total(map(archive.read, archive.infolist()))

        return Side(name, "limit", loop.run, digest)

    def copy(self, name: str) -> Side:
        """Make the side of nothing but the copies: as many bytes from page-locked memory, a batch at a time."""
        piece = self.batch * self.size
        room = self.members // self.batch * piece
        return Side(name, "limit", self.device.copies(piece, room, self.bytes))

    def memcpy(self, name: str) -> Side:
        """Make the side of a copy in the memory of the host: as many bytes, with as many threads."""
        loop = CopyLoop(self.members * self.size, self.repeats, self.threads)
        return Side(name, "limit", loop.run)


def members_of(batch: Any) -> Iterator[NDArray[np.uint8]]:
    """Take a batch of bytes back to the host, `Padded` or `Packed`, and give its members.

    A padded one with anything but zeros behind it comes as all of its row, so that it is not what was expected.
    """
    data = batch.data.cpu().numpy()
    lengths = batch.lengths.tolist()
    if hasattr(batch, "offsets"):
        for begin, length in zip(batch.offsets.tolist(), lengths, strict=True):
            yield data[begin : begin + length]
    else:
        for row, length in zip(data, lengths, strict=True):
            yield row if row[length:].any() else row[:length]
