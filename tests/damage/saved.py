"""Saved indexes of each format, and what an interrupted build has left; manifests."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import recordmaker
from samples import as_frames, tar_of, text, zst_of

import archivestream
from archivestream import ArchiveError, Limits, Manifest, sidecar
from archivestream.sources import LocalSource

from .compressed import GZIP, TAR, gzip_of
from .subjects import ANYTHING, Field, Found, Loose, Part, Subject, archive, named

__all__ = ["KINDS"]

LIMITS = Limits(max_member_bytes=1 << 20, max_window_bytes=8 << 20, max_index_bytes=1 << 24)
CRC = re.compile(rb'"crc32:(\w+)":"([0-9a-f]{8})"')
HEADER_CRC = b'{"__metadata__":{"header_crc32":"'


def mender(data: bytes) -> Callable[[bytes], bytes]:
    """Make what sets the checksums of a saved index right, those of its columns and that of its header."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    spans = {name.encode(): entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    places = [(found.start(2), *spans[found.group(1)]) for found in CRC.finditer(data[:size])]
    place = 8 + len(HEADER_CRC)

    def mend(damaged: bytes) -> bytes:
        result = bytearray(damaged)
        for at, begin, end in places:
            result[at : at + 8] = b"%08x" % zlib.crc32(result[size + begin : size + end])
        result[place : place + 8] = b"0" * 8
        result[place : place + 8] = b"%08x" % zlib.crc32(result[:size])
        return bytes(result)

    return mend


def numbers_of(data: bytes) -> Iterator[Field]:
    """Find the size of the header, and each value of each column."""
    size = 8 + int.from_bytes(data[:8], "little")
    yield Field(0, 8)
    for name, entry in json.loads(data[8:size]).items():
        if name != "__metadata__":
            width = int(entry["dtype"][1:]) // 8
            begin, end = entry["data_offsets"]
            if width > 1:
                yield from (Field(at, width) for at in range(size + begin, size + end, width))


def index_of(contents: bytes, **bounds: int) -> Callable[[Path], Subject]:
    """A saved index: an error where it is required, and else built anew."""

    def make(folder: Path) -> Subject:
        path, beside = folder / "archive", folder / "archive.asidx"
        path.write_bytes(contents)
        with archivestream.open(path) as opened:
            saved = list(map(Path, opened.summary().saved_indexes))
        assert saved == [beside]
        data = beside.read_bytes()
        whole = archive(path, str(path), limits=LIMITS)
        count = 0

        def read(damaged: bytes) -> Found:
            nonlocal count
            count += 1
            put(beside, damaged)
            found = archive(path, str(path), index="require", limits=LIMITS)
            if isinstance(found, ArchiveError):
                named(found, str(path))
                if count % 16 == 0:
                    assert archive(path, str(path), index="auto", limits=LIMITS) == whole, "it is not built anew"
                    assert beside.read_bytes() == data, "what is built anew is not saved"
            return found

        return Subject(
            data,
            read,
            list(numbers_of(data)),
            mend=mender(data),
            mendable=[(0, len(data))],
            windows=[(0, 8)],
            **bounds,
        )

    return make


def partial(folder: Path) -> Subject:
    """What an interrupted build has left: whatever it is, the archive is read."""
    path, beside = folder / "archive.tar.zst", folder / "archive.tar.zst.asidx"
    part = folder / "archive.tar.zst.asidx.part"
    path.write_bytes(as_frames(TAR, 700))
    with archivestream.open(path):
        pass
    with contextlib.closing(LocalSource(path)) as source:
        saved = sidecar.load(beside, source)
        names = [name for name in saved.columns if name.startswith(("block_", "aux", "dictionary"))]
        columns = {name: saved.columns[name].copy() for name in names}
        for name in names:  # as far as the second block
            if name.startswith("block_"):
                columns[name] = columns[name][:2]
        columns["aux_offset"] = columns["aux_offset"][:3]
        columns["aux"] = columns["aux"][: int(columns["aux_offset"][-1])]
        sidecar.save_partial(columns, saved.metadata, source)
    beside.unlink()
    data = part.read_bytes()

    def read(damaged: bytes) -> Found:
        beside.unlink(missing_ok=True)
        put(part, damaged)
        found = archive(path, str(path), index="auto", limits=LIMITS)
        assert not part.exists(), "it is left behind"
        return found

    return Subject(data, read, list(numbers_of(data)), mend=mender(data), mendable=[(0, len(data))], windows=[(0, 8)])


def put(path: Path, data: bytes) -> None:
    """Replace a file, which may be mapped."""
    path.with_name("new").write_bytes(data)
    os.replace(path.with_name("new"), path)


def manifest(folder: Path) -> Subject:
    """A manifest has no checksum itself, but those of archives, which must hold."""
    contents = gzip.compress(b"any file", mtime=0)
    (folder / "data.zip").write_bytes(contents)
    path = folder / "datasets.toml"
    digest = hashlib.sha256(contents).hexdigest()
    data = f'[digits]\npath = "data.zip"\nsha256 = "{digest}"\nsplits = {{train = 0.9, val = 0.1}}\nseed = 7\n'.encode()

    def read(damaged: bytes) -> Found:
        path.write_bytes(damaged)
        try:
            found = Manifest(path)
            for named_set in found.values():
                named_set.verify()
                assert named_set.table["sha256"].lower() == digest, "another checksum is taken for right"
        except (ValueError, OSError) as error:
            assert str(folder) in str(error), f"{error!r} names no file"
            return error
        return [Part(name, dict(named_set.table)) for name, named_set in found.items()]

    return Subject(data, read, loose=[Loose(0, len(data))], cut=ANYTHING, cut_front=ANYTHING)


SEGMENTED = zst_of(tar_of({f"{i}": text(3000) * 100 + b"%d" % i for i in range(3)}), 5)
KINDS: dict[str, Callable[[Path], Subject]] = {
    "asidx, tar": index_of(TAR),
    "asidx, tar.zst": index_of(as_frames(TAR, 900)),
    "asidx, segments": index_of(SEGMENTED),
    "asidx, zst": index_of(zst_of(text(900))),
    "asidx, tar.gz": index_of(gzip_of(TAR), **GZIP),
    "asidx, tfrecord": index_of(recordmaker.records([b"one", b"", b"three"])),
    "asidx.part": partial,
    "manifest": manifest,
}
