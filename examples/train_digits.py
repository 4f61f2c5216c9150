"""Train a small network on the images in a ZIP; stop whenever you like, and go on where you stopped.

    python train_digits.py                       # three epochs over digits.zip, which is made where it is not there
    python train_digits.py --archive images.zip  # your own: images of one size, in one folder for each class
    python train_digits.py --max-steps 30        # stop early, as a time limit would; run it again, and it goes on

A checkpoint holds the weights, the optimizer and the loader's state, which is a few numbers. Whoever goes on from it is
given exactly the samples that are left of the epoch, and ends with the same weights as a run that was never stopped.

It needs ``pip install "archivestream[demo]"``.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader, Normalize


def main() -> None:
    """Train, and print how well it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=Path("digits.zip"), help="default: %(default)s")
    parser.add_argument("--checkpoint", type=Path, default=Path("digits.pt"), help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="in all; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps of this run")
    args = parser.parse_args()

    if not args.archive.exists():
        write_digits(args.archive)
    dataset = ArchiveDataset(args.archive, decode="image", labels="folder")
    parts = dataset.split({"train": 0.8, "test": 0.2}, stratify=True)
    print(f"{args.archive}: {len(parts['train'])} images to train on, {len(parts['test'])} to test with")

    # uint8 images cross the bus, where there is a GPU, and become floats behind it.
    loader = ArchiveLoader(parts["train"], args.batch_size, shuffle=True, device="auto", finish=Normalize(0.5, 0.5))
    device = loader.device or torch.device("cpu")
    torch.manual_seed(0)
    network = make_network(len(dataset.classes)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        print("done before: {epoch} epochs and {position} samples".format(**saved["loader"]))

    steps = 0
    while (epoch := loader.state_dict()["epoch"]) < args.epochs:
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if steps == args.max_steps:
                save(args.checkpoint, network, optimizer, loader)
                print(f"stopped in epoch {epoch + 1}, after {steps} steps")
                return
        save(args.checkpoint, network, optimizer, loader)
        loss, accuracy = evaluate(network, parts["test"])
        print(f"epoch {epoch + 1}: loss {loss:.4f}, accuracy {accuracy:.4f}")


def evaluate(network: nn.Module, dataset: ArchiveDataset) -> tuple[float, float]:
    """Return the mean loss, and the share of images that are recognised."""
    loss, right = 0.0, 0
    with torch.inference_mode():
        for images, labels in ArchiveLoader(dataset, 256, device="auto", finish=Normalize(0.5, 0.5)):
            outputs = network(images)
            loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").item()
            right += int((outputs.argmax(1) == labels).sum())
    return loss / len(dataset), right / len(dataset)


def save(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, loader: ArchiveLoader) -> None:
    """Save all that a run needs to go on; an interruption leaves the checkpoint before."""
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loader": loader.state_dict(),
    }
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def make_network(classes: int) -> nn.Module:
    """Make a network for RGB images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, classes),
    )


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, as ``0/0000.png`` and so on."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()

    def members() -> Iterator[tuple[str, bytes]]:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            png = io.BytesIO()
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(png, "png")
            yield f"{label}/{number:04}.png", png.getvalue()

    archivestream.pack(members(), path)


if __name__ == "__main__":
    main()
