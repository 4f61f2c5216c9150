"""Moving from WebDataset: the same shards, with random access.

python from_webdataset.py ["SHARDS-{000..003}.tar"]   # with jpg and cls, images of one size; without it, made here

WebDataset                             archivestream
----------                             -------------
WebDataset("train-{000..127}.tar")     ArchiveDataset("train-{000..127}.tar", group=True)
.decode("torchrgb8"), .decode("pil")   decode={"jpg": "image", "cls": "int"}, "pil"
.shuffle(1000), shardshuffle=True      ArchiveLoader(..., shuffle=True): a real shuffle
split_by_node, split_by_worker         nothing: each sample comes once, to one rank
.with_epoch(n), resampled=True         len(loader) is known; drop_last=, pad=
handler=wds.warn_and_continue          on_error="skip"; what was skipped: loader.stats

Shards can be compressed (``.tar.zst``), and parts of a sample need not lie next to each other.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader


def before(shards: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A stream of samples; to shuffle it is to keep some of them in a buffer."""
    import webdataset as wds

    dataset = wds.WebDataset(shards, shardshuffle=False).decode("torchrgb8").to_tuple("jpg", "cls")
    images, labels = zip(*wds.WebLoader(dataset, batch_size=32), strict=True)
    return torch.cat(images).permute(0, 2, 3, 1), torch.cat(labels)


def now(shards: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A dataset with a length; ``shuffle=True`` would shuffle all of it."""
    dataset = ArchiveDataset(shards, group=True, decode={"jpg": "image", "cls": "int"})
    print(f"{len(dataset)} samples; the last one: {sorted(dataset[-1])}")
    batches = list(ArchiveLoader(dataset, batch_size=32))
    return torch.cat([batch["jpg"] for batch in batches]), torch.cat([batch["cls"] for batch in batches])


def main() -> None:
    """Read shards in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="?")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards or write_shards(Path(folder))
        images, labels = now(shards)
        print(f"images {tuple(images.shape)}, {images.dtype}; labels {tuple(labels.shape)}")
        try:
            images_before, labels_before = before(shards)
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        else:
            print("the same as before:", torch.equal(images, images_before) and torch.equal(labels, labels_before))


def write_shards(folder: Path) -> str:
    """Write samples of a JPEG file and a label to four shards."""
    random = np.random.default_rng(0)

    def members(shard: int) -> Iterator[tuple[str, bytes]]:
        for number in range(25 * shard, 25 * (shard + 1)):
            file = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 48)).save(file, "jpeg")
            yield f"{number:04}.jpg", file.getvalue()
            yield f"{number:04}.cls", str(number % 7).encode()

    for shard in range(4):
        archivestream.pack(members(shard), folder / f"train-{shard:03}.tar")
    return str(folder / "train-{000..003}.tar")


if __name__ == "__main__":
    main()
