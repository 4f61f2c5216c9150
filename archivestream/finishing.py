"""What is done to a batch on the device, so that bytes cross the bus, and not floats."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("ArchiveLoader needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["Finish", "Normalize", "finish_samples"]

Finish: TypeAlias = Callable[[Any], Any]


def finish_samples(finish: Finish | None, batch: Any, *, labelled: bool) -> Any:
    """Apply what a batch is finished with: to its samples, where they come with labels."""
    if finish is None:
        return batch
    if labelled:
        samples, labels = batch
        return finish(samples), labels
    return finish(batch)


@dataclass(frozen=True)
class Normalize:
    """Images as a network takes them: ``ArchiveLoader(..., finish=Normalize(mean, std))``.

    What torchvision's ``ToTensor`` and ``Normalize`` do to one image on the CPU, to a batch wherever it is: values are
    brought to [0, 1], where they are uint8, less `mean`, over `std`; channels come first. Computed in float32, by one
    multiplication and one addition, so that all devices come to the same; the result may differ from torchvision's in
    the last bit.

    Parameters
    ----------
    mean, std : float or sequence of float
        For all channels, or for each.
    dtype : torch.dtype
        Of the result: float32, float16 or bfloat16.
    channels_first : bool
        Whether the result has shape (n, channels, height, width), contiguous, or that of the images.

    Raises
    ------
    ValueError
        If `std` is 0, `mean` and `std` are for other numbers of channels, or `dtype` is no floating point type.
    """

    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    dtype: torch.dtype = torch.float32
    channels_first: bool = True

    def __post_init__(self) -> None:
        # Tuples: they compare and hash.
        object.__setattr__(self, "mean", _floats(self.mean))
        object.__setattr__(self, "std", _floats(self.std))
        mean, std = len(_floats(self.mean)), len(_floats(self.std))
        if mean != std and 1 not in (mean, std):
            raise ValueError(f"mean is for {mean} channels, and std for {std}")
        if 0.0 in _floats(self.std):
            raise ValueError("std must not be 0")
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating point type, not {self.dtype}")

    def __call__(self, images: Any) -> torch.Tensor:
        """Return the normalised images.

        Parameters
        ----------
        images : Tensor, shape (n, height, width, channels) or (n, height, width)
            Of uint8, or of floats, which are not brought to [0, 1].

        Raises
        ------
        TypeError, ValueError
            If it is no tensor of images, or has another number of channels than `mean` or `std`.
        """
        if not isinstance(images, torch.Tensor) or images.ndim not in (3, 4):
            what = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
            raise TypeError(
                "Normalize is for one tensor of images, (n, height, width, channels) or (n, height, width), not for "
                f"{what}: give a callable that applies it to a part of the batch"
            )
        if images.ndim == 3:
            images = images.unsqueeze(-1)
        whole = 255.0 if images.dtype == torch.uint8 else 1.0
        if self.channels_first:
            images = images.permute(0, 3, 1, 2)
        constants = _constants(_floats(self.mean), _floats(self.std), whole, self.channels_first, images.device)
        factor, offset = constants
        channels = images.shape[1 if self.channels_first else 3]
        if factor.numel() not in (1, channels):
            raise ValueError(f"mean and std are for {factor.numel()} channels, and the images have {channels}")
        floats: torch.Tensor = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return floats.mul_(factor).add_(offset).to(self.dtype)


def _floats(values: float | Sequence[float]) -> tuple[float, ...]:
    floats: list[float] = np.ravel(values).astype(float).tolist()
    return tuple(floats)


@functools.lru_cache(maxsize=64)  # on a device, that is a copy
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], whole: float, channels_first: bool, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    means, stds = np.broadcast_arrays(mean, std)
    shape = (-1, 1, 1) if channels_first else (-1,)
    factor, offset = (torch.tensor(values, dtype=torch.float32) for values in (1 / (whole * stds), -means / stds))
    return factor.reshape(shape).to(device), offset.reshape(shape).to(device)
