"""The same members in every kind of archive, for tests."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence

import zstandard

from archivestream._native.zstdscan import make_seek_table

__all__ = ["KINDS", "MAKERS", "as_frames", "as_seekable", "make_members", "tar_of", "text", "zip_of", "zst_of"]

WORDS = [b"%x " % random.Random(i).getrandbits(i % 60 + 4) for i in range(3000)]


def text(size: int, seed: int = 1) -> bytes:
    """Bytes that any codec halves or so."""
    return b"".join(random.Random(seed).choices(WORDS, k=size // 5 + 10))[:size]


def make_members(sizes: Sequence[int], seed: int = 1) -> dict[str, bytes]:
    """Text and noise in turns."""
    chance = random.Random(seed)
    return {f"folder/{i:03}": text(size, seed + i) if i % 3 else chance.randbytes(size) for i, size in enumerate(sizes)}


def tar_of(members: Mapping[str, bytes]) -> bytes:
    """Regular files only."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as writer:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    """Deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return file.getvalue()


def zst_of(data: bytes, level: int = 1) -> bytes:
    """One frame, with its size and a checksum."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(data)


def _frames(data: bytes, size: int) -> list[tuple[bytes, int]]:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return [(zst_of(piece), len(piece)) for piece in pieces]


def as_frames(data: bytes, size: int = 100_000) -> bytes:
    """Frames one behind the other."""
    return b"".join(frame for frame, _ in _frames(data, size))


def as_seekable(data: bytes, size: int = 100_000) -> bytes:
    """Frames and a seek table."""
    frames = _frames(data, size)
    return b"".join(frame for frame, _ in frames) + make_seek_table([(len(frame), n) for frame, n in frames])


# From members to an archive. Those of one member take the first.
MAKERS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "zip": zip_of,
    "tar": tar_of,
    "tar.zst": lambda members: zst_of(tar_of(members)),
    "tar.zst, frames": lambda members: as_frames(tar_of(members)),
    "tar.zst, seekable": lambda members: as_seekable(tar_of(members)),
    "tar.gz": lambda members: gzip.compress(tar_of(members), 1, mtime=0),
    "zst": lambda members: zst_of(next(itertools.islice(members.values(), 1))),
    "gz": lambda members: gzip.compress(next(itertools.islice(members.values(), 1)), 1, mtime=0),
}
KINDS = tuple(MAKERS)
