"""What reads a bomb: this package, and those that it stands beside."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

__all__ = ["READERS", "Refused"]

_PIECE = 1 << 20


class Refused(Exception):
    """What a reader says of what it does not read, in its own way."""


def ours(path: Path, action: str) -> str:
    """Read it by the public interface."""
    import archivestream
    from archivestream.tfrecord import ExampleParser, FixedLenFeature

    try:
        with archivestream.open(path, index="auto" if action == "saved" else "memory") as archive:
            found = f"{len(archive):,} members"
            assert "nothing" not in archive
            assert len(archive.sizes) == len(archive)
            match action:
                case "test":
                    report = archive.verify()
                    found += f", {report.bytes:,} bytes, {len(report.errors):,} bad"
                    if report.errors:
                        _only_ours(report.errors[0])
                        found += f" ({_says(report.errors[0])})"
                case "arrays":
                    archive.read_arrays([0])
                case "images":
                    archive.read_images([0])
                case "examples":
                    ExampleParser({"a": FixedLenFeature([], "int64", default_value=1)}).read(archive, [0])
                case "metadata":
                    found += f", {archive.metadata.num_rows:,} rows"
            return found
    except archivestream.ArchiveError as error:
        raise Refused(_says(error)) from None


def _only_ours(error: Exception) -> None:
    import archivestream

    if not isinstance(error, archivestream.ArchiveError):
        raise error


def _says(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).rpartition('/')[2][:110]}"


def python_zipfile(path: Path, action: str) -> str:
    """Read it by the standard library."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if action != "test":
                return f"{len(infos):,} members"
            size = bad = 0
            for info in infos:
                try:
                    with archive.open(info) as file:
                        while data := file.read(_PIECE):
                            size += len(data)
                except (zipfile.BadZipFile, NotImplementedError):
                    bad += 1
            return f"{len(infos):,} members, {size:,} bytes, {bad:,} bad"
    except zipfile.BadZipFile as error:
        raise Refused(repr(error)) from None


def python_tarfile(path: Path, action: str) -> str:
    """Read it by the standard library; where that knows no zstd, through zstandard."""
    import zstandard

    try:
        with open(path, "rb") as raw:
            if path.name.endswith("zst"):
                stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
                archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115
            else:
                archive = tarfile.open(fileobj=raw)  # noqa: SIM115
            with archive:
                count = size = 0
                for info in archive:
                    count += 1
                    file = archive.extractfile(info) if action == "test" else None
                    while file and (data := file.read(_PIECE)):
                        size += len(data)
        return f"{count:,} members" + f", {size:,} bytes" * (action == "test")
    except tarfile.TarError as error:
        raise Refused(repr(error)) from None


def python_stream(path: Path, action: str) -> str:
    """Decode a single stream by gzip or zstandard."""
    import zstandard

    size = 0
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".zst":
                file = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            else:
                file = gzip.GzipFile(fileobj=raw)
            while data := file.read(_PIECE):
                size += len(data)
    except (zstandard.ZstdError, gzip.BadGzipFile, EOFError) as error:
        raise Refused(repr(error)) from None
    return f"{size:,} bytes"


def libarchive(path: Path, action: str) -> str:
    """Read it by libarchive, through the package libarchive-c."""
    import libarchive as library

    count = size = 0
    try:
        with library.file_reader(str(path)) as archive:
            for entry in archive:
                count += 1
                if action == "test":
                    for block in entry.get_blocks():
                        size += len(block)
    except library.ArchiveError as error:
        raise Refused(f"after {count:,} members, {size:,} bytes: {error}") from None
    return f"{count:,} members" + f", {size:,} bytes" * (action == "test")


# Each with the kinds of file that it is asked for.
READERS: dict[str, tuple[Callable[[Path, str], str], Collection[str]]] = {
    "ours": (ours, ("zip", "tar", "tar.zst", "tar.gz", "zst", "gz", "tfrecord", "tfrecord.gz")),
    "zipfile": (python_zipfile, ("zip",)),
    "tarfile": (python_tarfile, ("tar", "tar.zst", "tar.gz")),
    "gzip, zstandard": (python_stream, ("zst", "gz")),
    "libarchive": (libarchive, ("zip", "tar", "tar.zst", "tar.gz")),
}
