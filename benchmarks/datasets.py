"""The two datasets that a `torch.utils.data.DataLoader` is timed with. Imports torch."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from archivestream import ArchiveDataset

__all__ = ["shuffled"]


class ZipFileDataset(Dataset[bytes]):
    """What people write today: members read one by one with `zipfile`."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._names = self._archive.namelist()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> bytes:
        """Return the bytes of a member; `zipfile` checks its CRC-32."""
        return self._archive.read(self._names[index])


def shuffled(side: str, source: Path | range, batch_size: int) -> Callable[[], Iterable[Any]]:
    """Make a function that begins an epoch, in the same random order each time.

    Parameters
    ----------
    side : {"ours", "zipfile", "order"}
        Which dataset; the last one gives the numbers of the members in place of their bytes.
    source : Path or range
        The archive; for the order, the numbers.
    batch_size : int
        Samples of a batch; the last one may be smaller.
    """
    dataset: Any = source
    if side == "ours":
        dataset = ArchiveDataset(str(source))
    elif side == "zipfile":
        dataset = ZipFileDataset(Path(str(source)))
    generator = torch.Generator()

    def epoch() -> Iterable[Any]:
        generator.manual_seed(0)
        return DataLoader(dataset, batch_size, shuffle=True, generator=generator, num_workers=0)

    return epoch
