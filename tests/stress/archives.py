"""The same members in an archive of every kind, and what each of them must be."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import samples
import zipmaker
from PIL import Image

import archivestream
from archivestream.tfrecord import TFRecordWriter, encode_example

__all__ = ["KINDS", "Sample", "make", "make_all"]

# Where members of one use lie, in all archives.
ARRAYS = range(20)
IMAGES = range(20, 40)
EXAMPLES = range(40, 60)
PLAIN = range(60, 200)  # bytes of all sizes
LARGE = 200  # of a size that is read piece by piece as a file
SHAPE = (7, 5)
Contents: TypeAlias = Mapping[str, bytes]
IMAGE_SHAPE = (12, 16, 3)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _image(pixels: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def _contents() -> dict[str, bytes]:
    numbers = np.random.default_rng(1)
    found = {f"array/{i:03}.npy": _npy(numbers.integers(0, 99, SHAPE)) for i in ARRAYS}
    for i in IMAGES:
        form = ("jpeg", "png")[i % 2]
        found[f"image/{i:03}.{form}"] = _image(numbers.integers(0, 256, IMAGE_SHAPE, np.uint8), form)
    for i in EXAMPLES:
        found[f"example/{i:03}"] = encode_example({"label": i, "text": b"x" * (i % 7 * 40)})
    sizes = [random.Random(i).choice([0, 1, 100, 3000, 20_000, 120_000]) for i in PLAIN]
    plain = samples.make_members(sizes)
    found |= {f"plain/{i:03}": data for i, data in zip(PLAIN, plain.values(), strict=True)}
    found["large"] = samples.text(1 << 20) * 17
    return found


CONTENTS = _contents()
ORDERED = list(CONTENTS.values())


def _zip_of_all_methods(members: Contents, path: Path) -> None:
    # Those of Python are slow: not for the large one.
    methods = (zipmaker.STORED, zipmaker.DEFLATE, zipmaker.ZSTD, zipmaker.DEFLATE, *zipmaker.METHODS)
    entries = (
        zipmaker.Entry(name.encode(), data, zipmaker.DEFLATE if len(data) > 1 << 20 else methods[i % len(methods)])
        for i, (name, data) in enumerate(members.items())
    )
    path.write_bytes(zipmaker.make(*entries))


def _tfrecord(members: Contents, path: Path) -> None:
    with TFRecordWriter(path) as writer:
        for data in members.values():
            writer.write(data)


def _gzip_of_tfrecord(members: Contents, path: Path) -> None:
    _tfrecord(members, path)
    path.write_bytes(gzip.compress(path.read_bytes(), 1))


def _packed(**options: object) -> Callable[[Contents, Path], object]:
    return lambda members, path: archivestream.pack(members.items(), path, **options)


def _written(make: Callable[[Contents], bytes]) -> Callable[[Contents, Path], object]:
    return lambda members, path: path.write_bytes(make(members))


KINDS: dict[str, Callable[[Contents, Path], object]] = {
    "all-methods.zip": _zip_of_all_methods,
    "stored.zip": _packed(method="stored", align=64),
    "segments.zip": _packed(method="deflate", level=1, segment_size=64 << 10),
    "plain.tar": _written(samples.tar_of),
    "frame.tar.zst": _written(samples.MAKERS["tar.zst"]),
    "seekable.tar.zst": _packed(frame_size=200 << 10),
    "plain.tar.gz": _written(samples.MAKERS["tar.gz"]),
    "plain.tfrecord": _tfrecord,
    "gzip.tfrecord.gz": _gzip_of_tfrecord,
}


@dataclass(frozen=True)
class Sample:
    """An archive, and what its members must be."""

    kind: str
    path: Path

    @cached_property
    def names(self) -> list[str]:
        """Their names: records have numbers."""
        return list(map(str, range(len(ORDERED)))) if "tfrecord" in self.kind else list(CONTENTS)

    @property
    def maps_arrays(self) -> bool:
        """Whether its arrays lie in the file as they are."""
        return self.kind in ("stored.zip", "plain.tar", "plain.tfrecord")

    @cached_property
    def damaged(self) -> Path:
        """The same with 64 bytes in its middle inverted."""
        data = bytearray(self.path.read_bytes())
        middle = slice(len(data) // 2, len(data) // 2 + 64)
        data[middle] = bytes(byte ^ 0xFF for byte in data[middle])
        path = self.path.with_name(f"bad-{self.path.name}")
        path.write_bytes(data)
        return path


def make(kind: str, folder: Path, *, large: bool = True) -> Sample:
    """Make the archive of a kind, with the large member or without."""
    path = folder / kind
    KINDS[kind](CONTENTS if large else {name: data for name, data in CONTENTS.items() if name != "large"}, path)
    return Sample(kind, path)


def make_all(folder: Path) -> list[Sample]:
    """Make an archive of each kind."""
    return [make(kind, folder) for kind in KINDS]
