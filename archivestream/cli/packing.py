"""``archivestream pack`` and ``archivestream repack``."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer

import archivestream
from archivestream.cli.errors import CommandError
from archivestream.cli.opening import ArchivePath, Encoding, Strict, open_archive
from archivestream.cli.progress import Bar
from archivestream.cli.text import byte_count, plural, printable
from archivestream.threads import MOST_THREADS

__all__ = ["pack", "repack"]

_TARGET_HELP = "The archive to write; a pattern such as train-{:05d}.zip or train-{00..15}.zip for several."

Target: TypeAlias = Annotated[str, typer.Argument(metavar="TARGET", show_default=False, help=_TARGET_HELP)]
Format: TypeAlias = Annotated[
    Literal["zip", "tar.zst", "tar"] | None,
    typer.Option("--format", "-f", show_default="what the suffix says", help="Kind of archive."),
]
Method: TypeAlias = Annotated[
    Literal["auto", "stored", "deflate", "zstd"] | None,
    typer.Option("--method", "-m", show_default="auto", help="ZIP: how members are compressed; auto: if it pays."),
]
Level: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--level", "-l", show_default="6 for deflate, 3 for zstd", help="1 to 12 for deflate, to 22 for zstd."
    ),
]
Align: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="BYTES", show_default=False, help="ZIP: place stored data at multiples, as of 4096."),
]
SegmentSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        show_default="1 MiB, in members of 4 MiB and more",
        help="ZIP: deflate larger members in segments that are read in parallel.",
    ),
]
FrameSize: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="BYTES", show_default="256 KiB", help=".tar.zst: about what is compressed together."),
]
Dictionary: TypeAlias = Annotated[
    bool,
    typer.Option("--dictionary", help=".tar.zst: train a dictionary; other programs cannot read the archive then."),
]
Shards: TypeAlias = Annotated[int | None, typer.Option(min=1, show_default=False, help="Write so many archives.")]
MaxShardBytes: TypeAlias = Annotated[
    int | None, typer.Option(metavar="BYTES", min=1, show_default=False, help="Begin a new archive before this size.")
]
Append: TypeAlias = Annotated[bool, typer.Option("--append", help="Add shards to those that are there.")]
Shuffle: TypeAlias = Annotated[
    int | None, typer.Option(metavar="SEED", show_default=False, help="Write the members in a random order.")
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, show_default="one per processor", help="Threads that compress."),
]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace an archive that is there.")]


def pack(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", show_default=False, help="A folder, for what is in it; or files and folders."),
    ],
    target: Target,
    format: Format = None,
    method: Method = None,
    level: Level = None,
    align: Align = None,
    segment_size: SegmentSize = None,
    frame_size: FrameSize = None,
    dictionary: Dictionary = False,
    shards: Shards = None,
    max_shard_bytes: MaxShardBytes = None,
    append: Append = False,
    shuffle: Shuffle = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Write files to an archive that is read at random and in parallel: ZIP or .tar.zst."""
    options = dict(locals())
    del options["sources"], options["target"]
    _write(archivestream.pack, sources[0] if len(sources) == 1 else sources, target, options)


def repack(
    archive: ArchivePath,
    target: Target,
    format: Format = None,
    method: Method = None,
    level: Level = None,
    align: Align = None,
    segment_size: SegmentSize = None,
    frame_size: FrameSize = None,
    dictionary: Dictionary = False,
    shards: Shards = None,
    max_shard_bytes: MaxShardBytes = None,
    append: Append = False,
    shuffle: Shuffle = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Write the members of an archive to another one: of another kind, or compressed otherwise."""
    options = dict(locals())
    for name in ("archive", "target", "strict", "encoding"):
        del options[name]
    with open_archive(archive, strict=strict, encoding=encoding, threads=threads) as opened:
        _write(archivestream.repack, opened, target, options)


def _write(function: Callable[..., list[Path]], source: Any, target: str, options: dict[str, Any]) -> None:
    with Bar("packing") as bar:
        try:
            written = function(source, target, progress=bar, **options)
        except FileExistsError as error:
            raise FileExistsError(
                errno.EEXIST, "it is there already; --overwrite replaces it", error.filename
            ) from error
        except archivestream.ArchiveError:
            raise
        except ValueError as error:  # what was asked for does not fit together
            raise CommandError(str(error)) from error
    for path in written:
        print(f"{printable(str(path))}: {byte_count(path.stat().st_size)}")
    if len(written) > 1:
        print(plural(len(written), "archive"))
