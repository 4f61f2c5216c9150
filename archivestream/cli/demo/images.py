"""The images of the demo, and both ways to read them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from archivestream.cli.errors import CommandError
from archivestream.dataset import ArchiveDataset
from archivestream.decoding import decode_pil
from archivestream.errors import ArchiveError

__all__ = [
    "DIGIT_SIZE",
    "IMAGE_SIZE",
    "DecodeTensor",
    "ZipfileDataset",
    "ZipfileError",
    "open_images",
    "write_digits",
]

DIGIT_SIZE = 8  # pixels, in width and in height
IMAGE_SIZE = 64  # that of a user's images
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
_FEWEST_IMAGES = 10


class DecodeTensor:
    """From the bytes of an image to a float tensor of shape (3, size, size), between 0 and 1.

    Parameters
    ----------
    size : int
        Width and height in pixels; an image of another size is resized.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, data: bytes | memoryview) -> torch.Tensor:
        """Decode one image."""
        image = decode_pil(memoryview(data))
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class ZipfileError(CommandError):
    """The standard library cannot read the archive."""


class ZipfileDataset(Dataset[Any]):
    """Labelled members read through `zipfile`, as one would without archivestream.

    Parameters
    ----------
    path : Path
        The archive.
    names : sequence of str
        The members.
    targets : ndarray of int64
        The label of each.
    decode : callable, optional
        From the bytes of a member to a sample; default: the bytes.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        targets: NDArray[np.int64],
        decode: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._path = path
        self._names = names
        self._targets = targets
        self._decode = decode

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        # Opened on first use, so that every worker has its own: processes cannot share one.
        return zipfile.ZipFile(self._path)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return (sample, label)."""
        try:
            data = self._archive.read(self._names[index])
        except (KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise ZipfileError(f"zipfile cannot read {self._names[index]!r}: {error}") from error
        return data if self._decode is None else self._decode(data), int(self._targets[index])


def open_images(path: Path, decode: DecodeTensor) -> ArchiveDataset:
    """Open a ZIP of class folders as a dataset of labelled tensors, or say what it lacks."""
    try:
        images = ArchiveDataset(path, decode=decode, labels="folder", extensions=_EXTENSIONS)
    except ArchiveError:
        raise
    except ValueError as error:
        raise CommandError(
            f"{path}: some images lie in no folder; the demo takes the folder of each for its class"
        ) from error
    if len(images) < _FEWEST_IMAGES or len(images.classes) < 2:
        raise CommandError(
            f"{path}: there are {len(images)} images ({' '.join(_EXTENSIONS)}) in "
            f"{len(images.classes)} folders; the demo needs at least {_FEWEST_IMAGES} images, "
            "in at least 2 folders named after their classes"
        )
    return images


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as PNG files in folders ``0`` to ``9``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            png = BytesIO()
            Image.fromarray((pixels * (255 / 16)).round().astype(np.uint8)).save(png, "png")
            archive.writestr(f"{label}/{number:04}.png", png.getvalue())
