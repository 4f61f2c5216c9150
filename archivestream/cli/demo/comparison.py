"""The demo itself: the same training twice, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from archivestream.cli.demo.images import ZipfileDataset, ZipfileError, open_images
from archivestream.cli.demo.training import (
    Epoch,
    Settings,
    loading_rate,
    make_loader,
    make_network,
    train,
)
from archivestream.cli.errors import print_error
from archivestream.cli.text import printable
from archivestream.dataset import ArchiveDataset

__all__ = ["run"]

_HELD_OUT = 0.2  # of the images
_MOST_CLASSES = 12  # that are listed


@dataclass(frozen=True)
class _Reader:
    """One way to read the archive.

    Attributes
    ----------
    name : str
        What it is called in the output.
    raw, images : Dataset
        Labelled bytes, and labelled tensors.
    """

    name: str
    raw: Dataset[Any]
    images: Dataset[Any]


@dataclass(frozen=True)
class _Split:
    """Which images are trained on, and which only tell how well that went."""

    train: list[int]
    held_out: list[int]


@dataclass(frozen=True)
class _Result:
    """What came of one way to read: three rates in samples per second, and the accuracy in the end."""

    reading: float
    loading: float
    training: float
    accuracy: float


def run(path: Path, size: int, settings: Settings) -> None:
    """Train from an archive through archivestream, then through `zipfile`, and print both results."""
    images = open_images(path, size)
    split = _split(len(images), settings.seed)
    _print_contents(path, images, split)
    names, targets, decode = list(images.names), images.targets, images.decode
    readers = [
        _Reader("archivestream", ArchiveDataset(images.archive, labels="folder"), images),
        _Reader(
            "zipfile",
            ZipfileDataset(path, names, targets),
            ZipfileDataset(path, names, targets, decode),
        ),
    ]
    # All training comes first: by then the archive is in the page cache, and no one measures the disk for the other.
    epochs: dict[str, list[Epoch]] = {}
    ...
