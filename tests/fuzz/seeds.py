"""Inputs to begin with: the corpus of other projects, and what the packers make."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from recordmaker import records
from samples import as_frames, as_seekable, tar_of, text, zip_of, zst_of
from zstdmaker import library

import archivestream
from archivestream.tfrecord import encode_example

__all__ = ["archives", "examples", "from_corpus", "streams", "tars", "tfrecords", "zips", "zsts"]

CORPUS = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
MEMBERS = {"a": text(300), "folder/b": b"", "c" * 60: random.Random(1).randbytes(100), "d": text(900, 2)}
LARGEST = 8 << 10


def from_corpus(*suffixes: str) -> Iterator[bytes]:
    """Small files of the corpus, by suffix."""
    for path in sorted(CORPUS.rglob("*")):
        if path.name.endswith(suffixes) and path.is_file() and path.stat().st_size <= LARGEST:
            yield path.read_bytes()


def _packed(suffix: str, **options: object) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a.{suffix}")
        members = [*MEMBERS.items(), ("e.npy", np.arange(12).reshape(3, 4)), ("f", text(9000, 3))]
        archivestream.pack(members, path, threads=1, **options)  # type: ignore[arg-type]
        return path.read_bytes()


def zips() -> Iterator[bytes]:
    """ZIP, by us in each method, by zipfile and others."""
    yield zip_of(MEMBERS)
    for method in ("stored", "deflate", "zstd"):
        yield _packed("zip", method=method)
    yield _packed("zip", method="deflate", segment_size=4096)
    yield _packed("zip", method="stored", align=64)
    yield from from_corpus(".zip", ".jar", ".apk", ".whl")


def tars() -> Iterator[bytes]:
    """tar, by us and others, without most of the zeros behind their ends."""
    yield _packed("tar")
    for data in (tar_of(MEMBERS), *from_corpus(".tar")):
        end = len(data.rstrip(b"\0"))
        yield data[: min(len(data), (end + 511) // 512 * 512 + 1024)]


def zsts() -> Iterator[bytes]:
    """zstd: one frame and many, with and without sizes, checksums and seek tables."""
    tar = tar_of(MEMBERS)[:-7000]
    yield _packed("tar.zst")
    yield _packed("tar.zst", frame_size=4096)
    yield from (zst_of(tar), as_frames(tar, 700), as_seekable(tar, 700), zst_of(text(2000)), library(b""))
    yield from streams()
    yield from from_corpus(".zst")


def streams() -> Iterator[bytes]:
    """Frames of several blocks, of all kinds."""
    content = text(3000) + bytes(4000) + random.Random(3).randbytes(500) + text(3000)[::-1] + text(3000)
    for level in (-5, 1, 3, 19):
        yield library(content, level=level, window_log=12)
        yield library(content, level=level, write_content_size=False, write_checksum=level > 1)
    yield library(content, level=9, window_log=10)


def tfrecords() -> Iterator[bytes]:
    """Records. (What unpacks gzip and zlib is rapidgzip, which is not built with the sanitizers.)"""
    yield records([b"one", b"", text(100)])
    yield records(list(examples())[:3])
    yield from from_corpus(".tfrecord")


def examples() -> Iterator[bytes]:
    """Messages of `tf.train.Example`."""
    yield b""
    yield encode_example({"a": [b"one", b"two"], "b": [1.5, 2.5], "label": [1, -2, 300]})
    yield encode_example({"image": np.arange(4, dtype=np.uint8).reshape(2, 2), "größe": 3, "": [b""], "x": [0.5]})
    yield encode_example({"n": list(range(100, 140)), "f": [float(i) for i in range(20)], "not there": [1.0]})


def deflated() -> Iterator[bytes]:
    """Streams of deflate, zlib and gzip."""
    content = text(1500) + bytes(600)
    for level in (0, 1, 6, 9):
        for wbits in (-15, 15, 31, 9):
            compressor = zlib.compressobj(level, zlib.DEFLATED, wbits)
            yield compressor.compress(content) + compressor.flush()
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15, 8, zlib.Z_FIXED)
    yield compressor.compress(b"fixed codes") + compressor.flush()
    file = io.BytesIO()
    with gzip.GzipFile("a name", "wb", 6, file, 1) as writer:
        writer.write(content)
    yield file.getvalue() + b"behind"


def archives() -> Iterator[bytes]:
    """Some of each kind."""
    for make in (zips, tars, zsts, tfrecords):
        yield from itertools.islice(make(), 0, None, 4)
