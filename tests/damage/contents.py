"""What members hold, in archives whose checksums are right: arrays, images, metadata."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zipmaker
from zipmaker import Entry

import archivestream
from archivestream import ArchiveError
from archivestream.images import ImageDecoder
from archivestream.tables import MEMBER, write_ipc

from .subjects import ANYTHING, CONTENTS, Field, Found, Loose, Part, Subject, named

__all__ = ["KINDS"]


def in_zip(data: bytes, name: bytes) -> archivestream.Archive:
    return archivestream.open(zipmaker.make(Entry(name, data)), threads=1)


def npy(version: tuple[int, int], array: np.ndarray) -> Callable[[Path], Subject]:
    """An array with its header: an error, or what NumPy makes of it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    data = file.getvalue()
    header = data.index(b"{")

    def read(damaged: bytes) -> Found:
        with in_zip(damaged, b"a.npy") as opened:
            try:
                return [_part(opened.read_arrays([0])[0])]
            except ArchiveError as error:
                return named(error, "<", "a.npy")

    def numpy(damaged: bytes) -> Found:
        try:
            return [_part(np.load(io.BytesIO(damaged), allow_pickle=False))]
        except Exception as error:  # of any class: the header is parsed as Python is
            return error

    fields = [Field(6, 1), Field(7, 1), Field(8, 2), Field(8, 4)]
    return lambda folder: Subject(data, read, fields, means=numpy, windows=[(0, header + 8)])


def _part(array: np.ndarray) -> Part:
    return Part("array", (array.dtype.str, array.shape, array.tobytes()))


def jpeg(progressive: bool) -> Callable[[Path], Subject]:
    """An image: JPEG has no checksum, so that pixels may be any."""

    def make(folder: Path) -> Subject:
        import PIL.Image

        pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=30, progressive=progressive, optimize=True)
        data = file.getvalue()
        decode = ImageDecoder(max_pixels=1 << 16)

        def read(damaged: bytes) -> Found:
            with in_zip(damaged, b"a.jpg") as opened:
                try:
                    [image] = opened.read_images([0], size=(8, 8))
                    assert image.shape == (8, 8, 3)
                except ArchiveError as error:
                    named(error, "<", "a.jpg")
            try:
                image = decode(memoryview(damaged))
            except ArchiveError as error:
                return error
            assert image.dtype == np.uint8
            assert image.ndim == 3
            return [Part("a.jpg", image.tobytes())]

        may = frozenset({CONTENTS})
        return Subject(data, read, list(marker_fields(data)), [Loose(0, len(data), may)], cut=may, cut_front=may)

    return make


def marker_fields(data: bytes) -> Iterator[Field]:
    """Find the lengths of the segments, and the size of the image (ITU T.81, B.1.1.4 and B.2.2)."""
    at = 2
    while data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield Field(at + 2, 2, "big")
        if data[at + 1] in (0xC0, 0xC2):
            yield from (Field(at + 5, 2, "big"), Field(at + 7, 2, "big"), Field(at + 9, 1))
        at += 2 + size
    yield Field(at + 2, 2, "big")


def metadata(folder: Path) -> Subject:
    """The metadata of an archive, as Arrow's format has them, with no checksum."""
    import pyarrow

    rows = {"__member__": ["a", "b"], "label": [1, None], "text": ["x", "yy"]}
    whole = write_ipc(pyarrow.table(rows))

    def read(damaged: bytes) -> Found:
        made = zipmaker.make(Entry(b"a", b"1"), Entry(b"b", b"2"), Entry(MEMBER.encode(), damaged))
        with archivestream.open(made, threads=1) as opened:
            try:
                table = opened.metadata
                return [Part("table", repr(table.to_pylist())), Part("types", str(table.schema))]
            except ArchiveError as error:
                return named(error, "<")

    fields = [Field(at, 4) for at in range(8, len(whole) - 8, 4)]
    return Subject(whole, read, fields, [Loose(0, len(whole))], cut=ANYTHING, cut_front=ANYTHING, windows=[(0, 64)])


ARRAY = np.arange(6, dtype="<i2").reshape(2, 3)
KINDS: dict[str, Callable[[Path], Subject]] = {
    "npy 1.0": npy((1, 0), ARRAY),
    "npy 2.0": npy((2, 0), np.asfortranarray(ARRAY.astype(">f8"))),
    "npy 3.0": npy((3, 0), np.array([(1, 2.0)], [("größe", "<i4"), ("b", "<f4")])),
    "jpeg": jpeg(progressive=False),
    "jpeg, progressive": jpeg(progressive=True),
    "metadata": metadata,
}
