"""``archivestream demo``: train a small model from a ZIP, and do the same through `zipfile`."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from archivestream.cli.errors import CommandError

__all__ = ["demo"]


def demo(
    archive: Annotated[
        Path | None,
        typer.Option(
            show_default="handwritten digits",
            help="A ZIP of images in one folder for each class.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often to go through the images.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one batch.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load batches.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, order and weights.")] = 0,
) -> None:
    """Train a small network straight from a ZIP of images, next to the same through zipfile.

    Both read the same images in the same order, decode them with the same code,
    and train the same network from the same weights; so both come to the same
    accuracy, and only the time differs.
    """
    if archive is not None:
        archive.stat()  # one file, and no pattern: zipfile reads it, too
    with Console(stderr=True).status("Importing PyTorch"):
        _require("PIL", *(() if archive else ("sklearn",)), "torch")
        from archivestream.cli.demo import comparison, images
        from archivestream.cli.demo.training import Settings
    settings = Settings(epochs, batch_size, workers, seed)
    if archive is not None:
        comparison.run(archive, images.IMAGE_SIZE, settings)
        return
    with tempfile.TemporaryDirectory(prefix="archivestream-") as folder:
        path = Path(folder, "digits.zip")
        images.write_digits(path)
        comparison.run(path, images.DIGIT_SIZE, settings)


def _require(*modules: str) -> None:
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CommandError(f"the demo needs {module} ({error}): pip install 'archivestream[demo]'") from error
