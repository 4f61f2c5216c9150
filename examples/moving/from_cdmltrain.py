"""Moving from cdmltrain: the archives stay as they are.

    python from_cdmltrain.py [IMAGES.zip | IMAGES.tar.zst]   # images of one size; without it, a few are made

    cdmltrain                                   archivestream
    ---------                                   -------------
    CDMLStreamDataset("a.zip"), get_filenames   archivestream.open("a.zip"), archive.names
    dataset[i], get_by_filename(name)           archive[i], archive[name]
    extract_sample_to_disk(i, folder)           archive.extract([i], folder)
    max_cache_mb=64                             open(..., cache=archivestream.Cache(64 << 20))
    is_image=True, transform=f                  ArchiveDataset("a.zip", decode="pil", transform=f)
    GPUDirectLoader(dataset, 32, "auto")        ArchiveLoader(dataset, 32, device="auto")
    LiveBatchLoader("a.zip").get_all()          archive.by_type()
    CDMLTrainerDDP, make_ddp_loaders            ArchiveLoader under torchrun: ../train_ddp.py
    cdmltrain-check --path a.zip                archivestream verify a.zip

A ``.tar.zst`` is not decompressed to memory as a whole, and datasets can be used in worker processes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader


def before(path: str) -> tuple[bytes, torch.Tensor]:
    """One call, and one image of Pillow's, for each sample."""
    from cdmltrain import CDMLStreamDataset

    with CDMLStreamDataset(path) as files:
        first = files.get_by_filename(files.get_filenames()[0])
    dataset = CDMLStreamDataset(path, is_image=True, transform=lambda image: torch.from_numpy(np.array(image)))
    return first, torch.cat(list(DataLoader(dataset, batch_size=32)))


def now(path: str) -> tuple[bytes, torch.Tensor]:
    """Threads read and decode whole batches, straight to their places in one tensor."""
    with archivestream.open(path) as archive:
        first = archive[archive.names[0]]
        print({kind: len(members) for kind, members in archive.by_type().items()})
    dataset = ArchiveDataset(path, decode="image")
    return first, torch.cat(list(ArchiveLoader(dataset, batch_size=32, device="auto"))).cpu()


def main() -> None:
    """Read an archive in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.archive or write_images(Path(folder))
        first, images = now(path)
        print(f"{len(images)} images, {tuple(images.shape[1:])}; the first has {len(first)} bytes")
        try:
            first_before, images_before = before(path)
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        else:
            print("the same as before:", first == first_before and torch.equal(images, images_before))


def write_images(folder: Path) -> str:
    """Write a ``.tar.zst`` of small JPEG files."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(100):
        pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / "images" / f"{number:03}.jpg")
    return str(archivestream.pack(folder / "images", folder / "images.tar.zst")[0])


if __name__ == "__main__":
    main()
