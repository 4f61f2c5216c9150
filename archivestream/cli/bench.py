"""``archivestream bench``."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated, Literal

import typer

import archivestream
from archivestream.cli.errors import CommandError, print_error
from archivestream.cli.opening import ArchivePaths, Encoding, Strict, expand_paths
from archivestream.cli.progress import Bar
from archivestream.cli.text import plural, printable
from archivestream.threads import MOST_THREADS

__all__ = ["bench"]

_SHOWN = 5  # bad members


def bench(
    archives: ArchivePaths,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a batch.")] = 64,
    num_workers: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_THREADS, show_default="one per processor", help="Threads that make batches."),
    ] = None,
    decode: Annotated[
        str, typer.Option(help="What becomes of a member: bytes, auto (by its extension), image, numpy, json, ...")
    ] = "bytes",
    shuffle: Annotated[Literal["no", "global", "block"], typer.Option(help="The order of the samples.")] = "global",
    collate: Annotated[
        Literal["list", "pad", "packed", "stack"],
        typer.Option(
            help="What a batch is: its samples, one tensor with rows as long as the longest, one with bytes one after "
            "the other, or one of equal samples."
        ),
    ] = "list",
    device: Annotated[
        str | None,
        typer.Option(show_default="the host", help="Where batches arrive: cuda, cuda:1, auto (CUDA, if there is any)."),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(show_default="all files", help="Keep only names that this glob matches.")
    ] = None,
    cache: Annotated[int, typer.Option(min=0, help="Bytes of decoded members to keep in memory.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="How often to go through the archive.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Most seconds of an epoch; 0 for all of it.")] = 10.0,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Load batches as a training loop does, and say how fast that is, and what limits it."""
    with Bar("reading the index") as bar:
        archive = archivestream.open(
            expand_paths(archives),
            strict=strict,
            metadata_encoding=encoding,
            progress=bar,
            cache=archivestream.Cache(cache) if cache else None,
        )
    with archive:
        try:
            dataset = archivestream.ArchiveDataset(
                archive, decode=None if decode == "bytes" else decode, pattern=pattern
            )
        except (ValueError, ImportError) as error:
            raise CommandError(str(error)) from error
        if not len(dataset):
            raise CommandError("there is nothing to load: no member fits")
        try:
            loader = archivestream.ArchiveLoader(
                dataset,
                batch_size,
                shuffle=False if shuffle == "no" else shuffle,
                num_workers=num_workers,
                collate_fn=None if collate == "stack" else collate,
                on_error="skip",
                persistent_workers=True,
                device=device,
            )
        except (ValueError, archivestream.CudaUnavailableError) as error:
            raise CommandError(str(error)) from error
        with closing(loader):
            for epoch in range(epochs):
                _epoch(loader, epoch, epochs, seconds)


def _epoch(loader: archivestream.ArchiveLoader, epoch: int, epochs: int, seconds: float) -> None:
    title = f"epoch {epoch + 1} of {epochs}" if epochs > 1 else "loading"
    end = time.monotonic() + seconds if seconds else float("inf")
    total = len(loader)
    with Bar(title, count_bytes=False) as bar:
        try:
            for done, _ in enumerate(loader, 1):
                bar(done, total)
                if time.monotonic() > end:
                    break
        except ValueError as error:
            raise CommandError(f"{error} (here: --collate)" if "collate_fn" in str(error) else str(error)) from error
    stats = loader.stats
    if epochs > 1:
        print(f"{title}:")
    for line in str(stats).split("\n"):
        print(printable(line))
    for bad in stats.skipped[:_SHOWN]:
        print_error(bad)
    if len(stats.skipped) > _SHOWN:
        print(f"and {plural(len(stats.skipped) - _SHOWN, 'more bad member')}")
