"""Moving from torchvision's ImageFolder: the folder becomes one file, classes and labels stay as they are.

    python from_imagefolder.py [FOLDER]   # with a folder for each class, images of one size; without it, one is made

The same on the command line: ``archivestream pack FOLDER images.zip``. Transforms of torchvision work as before, with
``ArchiveDataset("images.zip", decode="pil", labels="folder", transform=...)``. What they do to every image alike is
faster on the whole batch, behind the bus: ``finish=``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader, Normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def before(folder: str) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """A file is opened for each image; worker processes send float tensors."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    dataset = datasets.ImageFolder(folder, transform)
    images, labels = zip(*DataLoader(dataset, batch_size=32, num_workers=2), strict=True)
    return dataset.classes, torch.cat(images), torch.cat(labels)


def now(folder: str, path: Path) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """One archive; threads decode images to their places in a batch of uint8."""
    archivestream.pack(folder, path)
    dataset = ArchiveDataset(path, decode="image", labels="folder")
    loader = ArchiveLoader(dataset, batch_size=32, num_workers=2, device="auto", finish=Normalize(MEAN, STD))
    images, labels = zip(*loader, strict=True)
    return dataset.classes, torch.cat(images).cpu(), torch.cat(labels).cpu()


def main() -> None:
    """Read a folder in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or write_images(Path(scratch, "images"))
        classes, images, labels = now(folder, Path(scratch, "images.zip"))
        print(f"classes {classes}, of {torch.bincount(labels).tolist()} images: {images.dtype} {tuple(images.shape)}")
        try:
            classes_before, images_before, labels_before = before(folder)
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        else:
            same = classes == classes_before and torch.equal(labels, labels_before)
            print("the same as before:", same and torch.allclose(images, images_before, atol=1e-6))


def write_images(folder: Path) -> str:
    """Write small JPEG files to a folder for each class."""
    random = np.random.default_rng(0)
    for number in range(60):
        name = folder / ("cat", "dog", "owl")[number % 3] / f"{number:03}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 48)).save(name)
    return str(folder)


if __name__ == "__main__":
    main()
