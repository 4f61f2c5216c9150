"""The ZIPs that the cases read: the same in every run, kept under ``build/benchmarks``."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from benchmarks import BUILD

__all__ = [
    "PHOTO",
    "PYTHON",
    "LargeArchive",
    "arrays",
    "cached",
    "corpus",
    "digits",
    "jpegs",
    "large",
    "stored",
    "text",
    "texts",
]

_IMAGE = (224, 224, 3)
# The shape of those that are stored as JPEG.
PHOTO = (256, 256, 3)

# Part of the names of files that depend on its library.
PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"
# Part of the name of every file: raise it when what is generated changes.
_VERSION = 1


_TEXT = (8_000, 12_000)


def text(members: int, sizes: tuple[int, int] = _TEXT) -> Path:
    """Make a ZIP of texts of 8 to 12 KB, or of other sizes, deflated at level 6."""
    which = "" if sizes == _TEXT else f"-{sizes[0]}-{sizes[1]}"
    return cached(
        f"text-{members}{which}-{PYTHON}.zip",
        lambda file: _write(file, texts(members, sizes), "txt", zipfile.ZIP_DEFLATED),
    )


def texts(members: int, sizes: tuple[int, int] = _TEXT) -> Iterator[bytes]:
    """Make texts of 8 to 12 KB, or of other sizes."""
    rng = np.random.default_rng(1)
    source = corpus()
    for length in rng.integers(sizes[0], sizes[1] + 1, members).tolist():
        begin = int(rng.integers(len(source) - length))
        yield source[begin : begin + length]


def stored(members: int, smallest: int, largest: int) -> Path:
    """Make a ZIP of random bytes, stored: as images and audio are, which are compressed already."""

    def samples() -> Iterator[bytes]:
        rng = np.random.default_rng(2)
        for length in rng.integers(smallest, largest + 1, members).tolist():
            yield rng.bytes(length)

    return cached(
        f"stored-{members}-{smallest}-{largest}.zip",
        lambda file: _write(file, samples(), "bin", zipfile.ZIP_STORED),
    )


def arrays(members: int) -> Path:
    """Make a ZIP of 224 x 224 x 3 images as ``.npy``, deflated at level 6."""

    def samples() -> Iterator[bytes]:
        rng = np.random.default_rng(3)
        for _ in range(members):
            buffer = io.BytesIO()
            np.save(buffer, _image(rng))
            yield buffer.getvalue()

    return cached(f"arrays-{members}.zip", lambda file: _write(file, samples(), "npy", zipfile.ZIP_DEFLATED))


def jpegs(members: int) -> Path:
    """Make a ZIP of 256 x 256 JPEG images of about 16 KB (quality 90), stored."""

    def samples() -> Iterator[bytes]:
        from PIL import Image

        rng = np.random.default_rng(10)
        for _ in range(members):
            buffer = io.BytesIO()
            Image.fromarray(_photo(rng)).save(buffer, "JPEG", quality=90)
            yield buffer.getvalue()

    return cached(f"jpegs-{members}.zip", lambda file: _write(file, samples(), "jpg", zipfile.ZIP_STORED))


def corpus() -> bytes:
    """Return the sources of Python's library, one after the other: real text, on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests"}
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.py"))]
    sources = b"".join((root / path).read_bytes() for path in paths if not left_out & set(path.parts))
    if len(sources) < 1_000_000:
        raise RuntimeError(f"{root} holds no sources to make texts of")
    return sources


def _image(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make an image: smooth surfaces, edges between them, some texture, the noise of a sensor."""
    height, width, channels = _IMAGE
    surfaces = _field(rng, 6, 1.0, 1)[:, :, 0] > 0.3
    bright = 210.0 + _field(rng, 4, 8.0, 1)[:, :, 0]
    dark = 90.0 + _field(rng, 10, 25.0, 1)[:, :, 0]
    image = np.where(surfaces, bright, dark)[:, :, None] + _field(rng, 4, 12.0, channels)
    # Only the darker surfaces have texture, as ground and leaves have it, and the sky does not.
    noise = np.where(surfaces, 0.2, 0.8) * rng.normal(0, 1.0, (height, width))
    return np.clip(np.rint(image + noise[:, :, None]), 0, 255).astype(np.uint8)


def _photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make an image as `_image` does, with detail of every size, as photographs have it."""
    height, width, channels = PHOTO
    image = np.full(PHOTO, 120.0)
    for cells, amplitude in ((4, 40.0), (12, 25.0), (40, 12.0), (100, 8.0)):
        image += _field(rng, cells, amplitude, 1, PHOTO)
    image += _field(rng, 6, 20.0, channels, PHOTO)
    edges = _field(rng, 8, 1.0, 1, PHOTO) > 0.5
    noise = rng.normal(0, 1.0, (height, width, 1))
    return np.clip(np.rint(np.where(edges, image + 50.0, image) + noise), 0, 255).astype(np.uint8)


def _field(
    rng: np.random.Generator, cells: int, amplitude: float, channels: int, shape: tuple[int, int, int] = _IMAGE
) -> NDArray[np.float64]:
    """Interpolate between random values on a grid: shape (height, width, channels)."""
    height, width, _ = shape
    grid = rng.normal(0, amplitude, (cells, cells, channels))
    rows, columns = _interpolation(height, cells), _interpolation(width, cells)
    return np.asarray(np.einsum("yi,xj,ijc->yxc", rows, columns, grid, optimize=True))


def _interpolation(size: int, cells: int) -> NDArray[np.float64]:
    """Return the matrix, shape (size, cells), that interpolates linearly between the cells."""
    at = np.linspace(0, cells - 1, size)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))
    return weights


def _write(file: IO[bytes], samples: Iterator[bytes], suffix: str, method: int) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for i, sample in enumerate(samples):
            info = zipfile.ZipInfo(f"train/{i // 1000:03d}/{i:08d}.{suffix}")
            archive.writestr(info, sample, compress_type=method, compresslevel=6)


@dataclass(frozen=True)
class LargeArchive:
    """A ZIP64 of many tiny members, and where its central directory lies."""

    path: Path
    members: int
    directory_offset: int
    directory_size: int
    mean_name_size: float


def large(members: int) -> LargeArchive:
    """Make a ZIP64 of stored members of eight bytes; `zipfile` would take a minute for it."""
    prefix, middle, suffix = b"train/", b"/img_", b".jpg"
    name_size = len(prefix) + 6 + len(middle) + 8 + len(suffix)
    local_size, entry_size = 30 + name_size + 8, 46 + name_size

    def write(file: IO[bytes]) -> None:
        number = np.arange(members, dtype="<u8")
        payloads = number.tobytes()
        crc32 = [zlib.crc32(payloads[8 * i : 8 * i + 8]) for i in range(members)]
        fields = [
            ("version", "<u2", 20),
            ("flags", "<u2", 0),
            ("method", "<u2", 0),
            ("timestamp", "<u4", 0x21 << 16),  # 1 January 1980
            ("crc32", "<u4", crc32),
            ("compressed_size", "<u4", 8),
            ("size", "<u4", 8),
            ("name_size", "<u2", name_size),
            ("extra_size", "<u2", 0),
        ]
        name = [
            ("prefix", f"S{len(prefix)}", prefix),
            ("folder", "6u1", digits(number // 100, 6)),
            ("middle", f"S{len(middle)}", middle),
            ("file", "8u1", digits(number, 8)),
            ("suffix", f"S{len(suffix)}", suffix),
        ]
        local = [("signature", "S4", b"PK\3\4"), *fields, *name, ("data", "<u8", number)]
        entry = [("signature", "S4", b"PK\1\2"), ("made_by", "<u2", 0x031E), *fields]
        entry += [
            ("comment_size", "<u2", 0),
            ("disk", "<u2", 0),
            ("internal", "<u2", 0),
            ("external", "<u4", 0o100644 << 16),
            ("offset", "<u4", number * local_size),
            *name,
        ]
        for record in (local, entry):
            rows = np.empty(members, np.dtype([(field, kind) for field, kind, _ in record]))
            for field, _, value in record:
                rows[field] = value
            file.write(rows.tobytes())
        offset, size = members * local_size, members * entry_size
        ends = (members, members, size, offset)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, *ends))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, offset, 0))

    path = cached(f"large-{members}.zip", write)
    return LargeArchive(path, members, members * local_size, members * entry_size, name_size)


def digits(numbers: NDArray[np.uint64], width: int) -> NDArray[np.uint8]:
    """Write numbers in decimal, shape (n, width), as ASCII."""
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.uint64)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)


def cached(name: str, write: Callable[[IO[bytes]], None]) -> Path:
    """Return the file of that name; write it first where it is not there."""
    digest = hashlib.sha256(f"{name} {_VERSION}".encode()).hexdigest()[:8]
    stem, suffix = name.split(".", 1)
    path = BUILD / f"{stem}-{digest}.{suffix}"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            with (Path(scratch) / path.name).open("wb") as file:
                write(file)
            os.replace(file.name, path)
    return path
