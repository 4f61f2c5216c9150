"""ZIPs: each way to compress, to write sizes and names, and what the packers of the package add."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from zipmaker import BZIP2, DEFLATE, LZMA, STORED, XZ, ZSTD, Entry, Zip, padding, unicode_path

import archivestream

from .subjects import ABOUT, NAMES, NONE, ArchiveReader, Field, Loose, Subject

__all__ = ["KINDS", "fields_of"]

TEXT = b"a text that compresses, and compresses, and compresses. "
LZ4 = 30
METHODS = {"stored": STORED, "deflate": DEFLATE, "bzip2": BZIP2, "lzma": LZMA, "zstd": ZSTD, "xz": XZ, "lz4": LZ4}

PATH = unicode_path("名".encode(), b"raw")

# The fields of the headers (APPNOTE 4.3.7 to 4.3.16): offset, size, and what may be another without an error.
TIMES = MODES = frozenset({ABOUT})
LOCAL = ((4, 2), (6, 2), (8, 2), (10, 2), (12, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
CENTRAL = (
    *((4, 2, MODES), (6, 2), (8, 2, frozenset({NAMES})), (10, 2), (12, 2, TIMES), (14, 2, TIMES), (16, 4), (20, 4)),
    *((24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (36, 2), (38, 4, MODES), (42, 4)),
)
EMPTY = frozenset({NONE})  # where the number of members and the size of the directory both become 0
END = ((4, 2), (6, 2), (8, 2), (10, 2, EMPTY), (12, 4, EMPTY), (16, 4), (20, 2))
END64 = ((4, 8), (12, 2), (14, 2), (16, 4), (20, 4), (24, 8), (32, 8, EMPTY), (40, 8, EMPTY), (48, 8))
LOCATOR = ((4, 4), (8, 8), (16, 4))
HEADERS = {b"PK\3\4": LOCAL, b"PK\1\2": CENTRAL, b"PK\5\6": END, b"PK\6\6": END64, b"PK\6\7": LOCATOR}


def fields_of(data: bytes) -> Iterator[Field]:
    """Find the numbers in all headers of a ZIP that is whole; of the extra fields, too."""
    for signature, table in HEADERS.items():
        at = -1
        while (at := data.find(signature, at + 1)) >= 0:
            fixed = frozenset[str]()
            if signature in (b"PK\3\4", b"PK\1\2"):
                size, lengths = (30, 26) if signature == b"PK\3\4" else (46, 28)
                name, extra = struct.unpack_from("<2H", data, at + lengths)
                yield from fields_of_extra(data, at + size + name, at + size + name + extra)
                if data[at + size : at + size + name].isascii():  # in any encoding the same
                    fixed = frozenset({NAMES})
            for offset, size, *may in table:
                yield Field(at + offset, size, "little", frozenset(*may) - fixed)


def fields_of_extra(data: bytes, at: int, end: int) -> Iterator[Field]:
    """Find the numbers in extra fields: kinds, sizes, and what the known ones hold."""
    while at + 4 <= end:
        kind, size = struct.unpack_from("<2H", data, at)
        yield from (Field(at, 2), Field(at + 2, 2))
        if kind == 1:
            yield from (Field(place, 8) for place in range(at + 4, at + size, 8))
        elif kind == 0x7075:
            yield from (Field(at + 4, 1), Field(at + 5, 4))
        elif kind == 0x5341:  # where the segments of a member are
            yield Field(at + 4, 1)
            yield from (Field(place, 4) for place in range(at + 5, at + 4 + size - 3, 4))
        at += 4 + size


def subject_of(data: bytes, folder: Path) -> Subject:
    at = data.find(PATH, data.find(b"PK\1\2"))
    # The checksum in a Unicode path is that of the other name; the path itself has none.
    loose = [Loose(at, at + len(PATH), frozenset({NAMES}))] if at >= 0 else []
    return Subject(data, ArchiveReader(folder / "archive"), list(fields_of(data)), loose)


def made(archive: Zip) -> Callable[[Path], Subject]:
    return lambda folder: subject_of(archive.build(), folder)


def packed(**options: object) -> Callable[[Path], Subject]:
    """What the packer of the package writes."""

    def make(folder: Path) -> Subject:
        repeats = (4, 170) if "segment_size" in options else (4, 2)
        source = [(name, TEXT * repeat) for name, repeat in zip(("a.txt", "b.txt"), repeats, strict=True)]
        if options.get("metadata"):
            source = [(data, {"label": i}) for i, (_, data) in enumerate(source)]  # type: ignore[misc]
        chosen = {key: value for key, value in options.items() if key != "metadata"}
        archivestream.pack(source, folder / "made.zip", **chosen)  # type: ignore[arg-type]
        return subject_of((folder / "made.zip").read_bytes(), folder)

    return make


def method(number: int) -> Callable[[Path], Subject]:
    def make(folder: Path) -> Subject:
        payload = None
        if number == LZ4:
            import lz4.block

            payload = lz4.block.compress(TEXT, store_size=False)
        entries = [Entry(b"a", TEXT, number, payload), Entry(b"b", TEXT[:9], STORED)]
        return subject_of(Zip(entries).build(), folder)

    return make


KINDS: dict[str, Callable[[Path], Subject]] = {
    **{f"zip, {name}": method(number) for name, number in METHODS.items()},
    "zip, zip64": made(
        Zip(
            [
                Entry(b"s", TEXT, zip64=["size", "compressed_size", "offset"], local_extra=padding(9)),
                Entry(b"d", TEXT, DEFLATE, zip64=["offset"]),
            ],
            zip64=True,
            count=0xFFFF,
            directory_offset=0xFFFFFFFF,
            order=[1, 0],
        )
    ),
    "zip, data descriptors": made(
        Zip(
            [
                Entry(b"s", TEXT, STORED, descriptor=(True, False)),
                Entry(b"d", TEXT, DEFLATE, descriptor=(False, True)),
                Entry("zß".encode(), TEXT, ZSTD, descriptor=(True, True), flags=0x0800),
            ]
        )
    ),
    "zip, Unicode path": made(
        Zip(
            [
                Entry(b"raw", TEXT, DEFLATE, extra=PATH, local_extra=PATH),
                Entry(b"folder/", b"", comment=b"a comment"),
                Entry(b"empty", b""),
            ],
            comment=b"of the archive",
        )
    ),
    "zip, prefix and gap": made(
        Zip(
            [Entry(b"a", TEXT, DEFLATE), Entry(b"b", b"more", gap=b"gap")],
            prefix=b"#!/bin/sh\n",
            counts_prefix=False,
            gap=b"APK Sig Block 42",
        )
    ),
    "zip, segments": packed(segment_size=4096),
    "zip, aligned": packed(method="stored", align=64),
    "zip, metadata": packed(metadata=True),
}
