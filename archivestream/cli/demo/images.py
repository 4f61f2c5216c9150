"""The images of the demo: digits as a ZIP of PNG files, and both ways to read such an archive."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from archivestream.cli.errors import CommandError
from archivestream.dataset import ArchiveDataset

__all__ = ["DIGIT_SIZE", "USER_IMAGE_SIZE", "ToTensor", "ZipfileDataset", "open_images", "write_digits"]

DIGIT_SIZE = 8  # pixels, of width and of height
USER_IMAGE_SIZE = 64
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
_FEWEST_IMAGES = 10


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits as PNG files in folders ``0`` to ``9``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            png = BytesIO()
            Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(png, "png")
            archive.writestr(f"{label}/{number:04}.png", png.getvalue())


class ToTensor:
    """From an image to a float tensor of shape (3, size, size) between 0 and 1.

    Parameters
    ----------
    size : int
        Width and height, in pixels; an image of another size is resized.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert one image."""
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def open_images(path: Path, size: int) -> ArchiveDataset:
    """Open a ZIP of class folders as a dataset of labelled images, or say what it lacks."""
    try:
        images = ArchiveDataset(
            path, decode="image", transform=ToTensor(size), labels="folder", extensions=_EXTENSIONS
        )
    except ArchiveError:
        raise
    except ValueError as error:  # images outside of folders
        raise CommandError(str(error)) from error
    if len(images) < _FEWEST_IMAGES or len(images.classes) < 2:
        raise CommandError(
            f"{path}: {len(images)} images in {len(images.classes)} folders; the demo needs at least "
            f"{_FEWEST_IMAGES} images ({' '.join(_EXTENSIONS)}) in folders named after at least 2 classes"
        )
    return images


class ZipfileDataset(Dataset[Any]):
    """The samples of an `ArchiveDataset`, read through `zipfile`: the plain way, to compare with.

    Parameters
    ----------
    path : Path
        The ZIP archive.
    images : ArchiveDataset
        Says which members, in which order, with which labels.
    decode, transform : callable or None
        The same as that dataset uses.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        make_sample: Callable[[int, bytes], Any],
    ) -> None:
        ...
