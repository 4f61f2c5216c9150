"""A small network, how it is trained, and how fast batches come."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from archivestream.cli.progress import Bar

__all__ = ["Epoch", "Loader", "Settings", "loading_rate", "make_loader", "make_network", "train", "warm_up"]

Loader: TypeAlias = DataLoader[Any]

_CHANNELS = (16, 32, 64)
_LEARNING_RATE = 3e-3
_ROUNDS, _SECONDS = 3, 0.25  # loading is measured as the best of so many rounds, each this long


@dataclass(frozen=True)
class Settings:
    """What the user chose: see the options of ``archivestream demo``."""

    epochs: int
    batch_size: int
    workers: int
    seed: int


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch.

    Attributes
    ----------
    number : int
        From 1.
    loss : float
        Mean cross entropy of the batches.
    accuracy : float
        Part of the held-out images that was recognised.
    rate : float
        Images per second, in training.
    """

    number: int
    loss: float
    accuracy: float
    rate: float


def make_loader(dataset: Dataset[Any], indices: Sequence[int], settings: Settings, *, shuffle: bool) -> Loader:
    """Load some samples of a dataset in batches, in an order that the seed alone decides."""
    return DataLoader(
        Subset(dataset, indices),
        settings.batch_size,
        shuffle=shuffle,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        generator=torch.Generator().manual_seed(settings.seed),
    )


def make_network(size: int, classes: int) -> nn.Module:
    """Make three convolutions and a linear layer, for square images of a size in pixels."""
    stride = 1 if size <= 16 else 2  # small images have nothing to spare
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((3, *_CHANNELS)):
        layers += [
            nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(_CHANNELS[-1] * 16, classes))


def train(
    network: nn.Module,
    images: Loader,
    held_out: Loader,
    epochs: int,
    report: Callable[[Epoch], object],
) -> list[Epoch]:
    """Train a network; report each epoch as it ends."""
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE)
    done = []
    for number in range(1, epochs + 1):
        begin = time.perf_counter()
        loss = _train_epoch(network, images, optimizer)
        rate = _samples(images) / (time.perf_counter() - begin)
        done.append(Epoch(number, loss, _accuracy(network, held_out), rate))
        report(done[-1])
    return done


def _train_epoch(network: nn.Module, images: Loader, optimizer: torch.optim.Optimizer) -> float:
    network.train()
    losses = []
    with Bar("training", count_bytes=False) as bar:
        for number, (samples, labels) in enumerate(images, 1):
            losses.append(_train_batch(network, optimizer, samples, labels))
            bar(number, len(images))
    return sum(losses) / len(losses)


def _train_batch(
    network: nn.Module, optimizer: torch.optim.Optimizer, samples: torch.Tensor, labels: torch.Tensor
) -> float:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(network(samples), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def warm_up(network: nn.Module, size: int) -> None:
    """Train on a batch of nothing: what PyTorch does once is no part of any reader's time."""
    optimizer = torch.optim.AdamW(network.parameters(), _LEARNING_RATE)
    _train_batch(network, optimizer, torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long))


@torch.no_grad()
def _accuracy(network: nn.Module, images: Loader) -> float:
    network.eval()
    right = 0
    for samples, labels in images:
        right += int((network(samples).argmax(1) == labels).sum())
    return right / _samples(images)


def _samples(loader: Loader) -> int:
    subset: Any = loader.dataset
    return len(subset)


def loading_rate(loader: Loader) -> float:
    """Measure how many samples come per second while nothing is done with them."""
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    next(batches)  # starts the workers
    rates = []
    for _ in range(_ROUNDS):
        samples, elapsed, begin = 0, 0.0, time.perf_counter()
        while elapsed < _SECONDS:
            samples += len(next(batches)[1])
            elapsed = time.perf_counter() - begin
        rates.append(samples / elapsed)
    return max(rates)
