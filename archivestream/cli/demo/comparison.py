"""The demo itself: the same training twice, and what came of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from archivestream.cli.demo.images import (
    DecodeTensor,
    ZipfileDataset,
    ZipfileError,
    open_images,
)
from archivestream.cli.demo.training import (
    Epoch,
    Settings,
    loading_rate,
    make_loader,
    make_network,
    train,
    warm_up,
)
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
class _Rates:
    """Samples per second, as bytes and as tensors, while nothing is done with them."""

    raw: float
    images: float


def run(path: Path, size: int, settings: Settings) -> None:
    """Train from an archive through archivestream, then through `zipfile`; print both results."""
    torch.set_num_threads(1)  # the network is so small that more would only wait for one another
    decode = DecodeTensor(size)
    images = open_images(path, decode)
    split = _split(len(images), settings.seed)
    _print_contents(path, images, split)
    names = list(images.names)
    readers = [
        _Reader("archivestream", ArchiveDataset(images.archive, labels="folder"), images),
        _Reader(
            "zipfile",
            ZipfileDataset(path, names, images.targets),
            ZipfileDataset(path, names, images.targets, decode),
        ),
    ]
    trained: dict[str, list[Epoch]] = {}
    warm_up(_make_network(size, len(images.classes), settings.seed), size)
    for reader in list(readers):
        network = _make_network(size, len(images.classes), settings.seed)
        try:
            trained[reader.name] = _train(reader, network, split, settings)
        except ZipfileError as error:  # it lacks some compression methods
            print(printable(f"{error}; so there is nothing to compare with"))
            readers.remove(reader)
    # Only now that the archive is in the page cache: no reader warms it for the next.
    with Console(stderr=True).status("Measuring how fast samples come without training"):
        rates = {reader.name: _measure(reader, split, settings) for reader in readers}
    _print_results(trained, rates)


def _split(count: int, seed: int) -> _Split:
    order = np.random.default_rng(seed).permutation(count).tolist()
    held_out = int(count * _HELD_OUT)
    return _Split(order[held_out:], order[:held_out])


def _make_network(size: int, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)  # the same weights for both
    return make_network(size, classes)


def _train(reader: _Reader, network: nn.Module, split: _Split, settings: Settings) -> list[Epoch]:
    def report(epoch: Epoch) -> None:
        print(
            f"{reader.name:<14} epoch {epoch.number}/{settings.epochs}   loss {epoch.loss:.3f}   "
            f"accuracy {epoch.accuracy:.3f}   {epoch.rate:,.0f} images/s",
            flush=True,
        )

    images = make_loader(reader.images, split.train, settings, shuffle=True)
    held_out = make_loader(reader.images, split.held_out, settings, shuffle=False)
    return train(network, images, held_out, settings.epochs, report)


def _measure(reader: _Reader, split: _Split, settings: Settings) -> _Rates:
    raw, images = (
        loading_rate(make_loader(dataset, split.train, settings, shuffle=True))
        for dataset in (reader.raw, reader.images)
    )
    return _Rates(raw, images)


def _print_contents(path: Path, images: ArchiveDataset, split: _Split) -> None:
    counts = np.bincount(images.targets).tolist()
    classes = [f"{name} ({n:,})" for name, n in zip(images.classes, counts, strict=True)]
    more = len(classes) - _MOST_CLASSES
    shown = classes if more <= 0 else [*classes[:_MOST_CLASSES], f"and {more:,} more"]
    print(printable(f"{path}: {len(images):,} images of {len(classes):,} classes: {', '.join(shown)}"))
    print(f"{len(split.train):,} to train on, {len(split.held_out):,} held out", flush=True)


def _print_results(trained: dict[str, list[Epoch]], rates: dict[str, _Rates]) -> None:
    table = Table("", *trained, box=box.SIMPLE)
    if len(trained) == 2:
        table.add_column("ratio")
    for column in table.columns[1:]:
        column.justify = "right"

    def add_rates(label: str, values: list[float]) -> None:
        ratio = [f"{values[0] / values[1]:.2f}"] if len(values) == 2 else []
        table.add_row(label, *(f"{value:,.0f}" for value in values), *ratio)

    add_rates("reading bytes, per second", [rates[name].raw for name in trained])
    add_rates("loading tensors, per second", [rates[name].images for name in trained])
    add_rates(
        "training, images per second (best epoch)",
        [max(epoch.rate for epoch in epochs) for epochs in trained.values()],
    )
    table.add_row(
        "accuracy on held-out images",
        *(f"{epochs[-1].accuracy:.4f}" for epochs in trained.values()),
    )
    Console().print(table)
