"""Examples that are parsed as they are read: from every kind of source, with every kind of fault."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recordmaker as make
import zstandard

import archivestream
from archivestream.errors import CorruptArchiveError, LimitExceededError
from archivestream.tfrecord import ExampleParser, FixedLenFeature, encode_example

N = 120
SPEC = {
    "data": FixedLenFeature([30, 7], "uint16"),
    "label": FixedLenFeature([], "int64"),
    "weight": FixedLenFeature([2], "float32", [0.5, 1.5]),
    "none": FixedLenFeature([0, 3], "float32", 1),
}


def message(i: int) -> bytes:
    features = {"data": np.full((30, 7), i, np.uint16), "label": -i}
    if i % 2:
        features["weight"] = np.array([i, i + 1], np.float32)
    return encode_example(features)


MESSAGES = [message(i) for i in range(N)]


def check(parsed: dict[str, np.ndarray], rows: list[int]) -> None:
    assert parsed["data"].shape == (len(rows), 30, 7)
    assert (parsed["data"] == np.array(rows, np.uint16)[:, None, None]).all()
    assert parsed["label"].tolist() == [-i for i in rows]
    assert parsed["weight"].tolist() == [[i, i + 1] if i % 2 else [0.5, 1.5] for i in rows]
    assert parsed["none"].shape == (len(rows), 0, 3)


def zipped(method: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for i, one in enumerate(MESSAGES):
            archive.writestr(f"{i}", one)
    return target.getvalue()


def tarred() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for i, one in enumerate(MESSAGES):
            info = tarfile.TarInfo(f"{i}")
            info.size = len(one)
            archive.addfile(info, io.BytesIO(one))
    return target.getvalue()


ARCHIVES: dict[str, Callable[[], bytes]] = {
    **{suffix: (lambda wrap=wrap: wrap(make.records(MESSAGES))) for suffix, wrap in make.WRAPPERS.items()},
    "stored.zip": lambda: zipped(zipfile.ZIP_STORED),
    "deflated.zip": lambda: zipped(zipfile.ZIP_DEFLATED),
    "bzip2.zip": lambda: zipped(zipfile.ZIP_BZIP2),  # which Python decodes
    "tar": tarred,
    "tar.zst": lambda: zstandard.compress(tarred()),
}


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
@pytest.mark.parametrize("cached", [False, True])
def test_every_source(tmp_path, suffix, kind, cached):
    data = ARCHIVES[suffix]()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data)
    source = {"path": path, "bytes": data, "file": io.BytesIO(data)}[kind]
    rows = np.random.default_rng(2).integers(0, N, 300).tolist()
    parser = ExampleParser(SPEC)
    with archivestream.open(source, cache=archivestream.Cache(1 << 20) if cached else None) as archive:
        for _ in range(2):
            check(parser.read(archive, rows), rows)
        check(parser.read(archive, ["7", "0"]), [7, 0])
        check(parser.read(archive, []), [])
        check(parser.read(archive[10:20], range(10)), list(range(10, 20)))


def test_segmented_members_are_fed_whole(tmp_path):
    large = encode_example({"x": np.arange(1 << 20, dtype=np.int32)})
    path = tmp_path / "a.zip"
    archivestream.pack([("0", large), ("1", MESSAGES[3])], path, method="deflate", segment_size=1 << 20)
    with archivestream.open(path) as archive:
        parsed = ExampleParser({"x": FixedLenFeature([1 << 20], "int32")}).read(archive, [0, 0])
        assert (parsed["x"] == np.arange(1 << 20)).all()
        check(ExampleParser(SPEC).read(archive, [1]), [3])


def test_large_records_and_many_threads(tmp_path):
    path = tmp_path / "a.tfrecord"
    images = np.random.default_rng(1).integers(0, 256, (40, 3, 128, 128), np.uint8)
    path.write_bytes(b"".join(_framed(encode_example({"x": image, "y": i})) for i, image in enumerate(images)))
    parser = ExampleParser({"x": FixedLenFeature([3, 128, 128], "uint8"), "y": FixedLenFeature([], "int64")})
    failed: list[str] = []
    with archivestream.open(path, threads=3) as archive:

        def read(seed: int) -> None:
            rows = np.random.default_rng(seed).permutation(40)
            parsed = parser.read(archive, rows)
            if not ((parsed["x"] == images[rows]).all() and (parsed["y"] == rows).all()):
                failed.append(f"seed {seed}")

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def _framed(data: bytes) -> bytes:
    from archivestream._native.tfscan import frame

    header, footer = frame(data)
    return header + data + footer


def test_faults_are_named(tmp_path: Path):
    parser = ExampleParser(SPEC)
    path = tmp_path / "a.tfrecord"
    begin = 3 * (16 + len(MESSAGES[0])) + 12  # of the data of record 3, if all before have its length
    records = [MESSAGES[0]] * 3
    path.write_bytes(make.records([*records, b"\x0b", MESSAGES[1]]))
    with archivestream.open(path) as archive:
        check(parser.read(archive, [0, 4]), [0, 1])
        with pytest.raises(CorruptArchiveError) as caught:
            parser.read(archive, [0, 4, 3, 2])
    reason = "it is no tf.train.Example, or a damaged one: this is a group, which is not handled"
    assert str(caught.value) == f"{path}: member '3': offset {begin + 1}: {reason}"
    path.write_bytes(make.records([*records, encode_example({"label": 3})]))
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match=r"'3': .*'data' is missing"):
        parser.read(archive, range(4))
    damaged = bytearray(make.records([*records, MESSAGES[0]]))
    damaged[begin + 5] ^= 1
    path.write_bytes(damaged)
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match=r"member '3': .*CRC-32C"):
        parser.read(archive, range(4))
    limits = archivestream.Limits(max_member_bytes=10)
    with (
        archivestream.open(path, limits=limits) as archive,
        pytest.raises(LimitExceededError, match=r"Limits\.max_member_bytes = 10"),
    ):
        parser.read(archive, [0])
    with archivestream.open(path) as archive, pytest.raises(IndexError, match="member 4 of an archive of 4"):
        parser.read(archive, [0, 4])
