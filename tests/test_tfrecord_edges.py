"""TFRecord: records that look like something else, messages that change, and writers that fail."""

from __future__ import annotations

import itertools
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import archivestream
from archivestream import CorruptArchiveError
from archivestream._native.examples import Examples, Schema
from archivestream.tfrecord import ExampleParser, TFRecordWriter, VarLenFeature, encode_example
from archivestream.tfrecord.encoding import _field


@pytest.mark.parametrize("size", [248, 376, 1256, 3400, 35615, 0x04034B50 & 0xFFFF])
@pytest.mark.parametrize("name", ["a.tfrecord", "a.bin"])
def test_lengths_that_look_like_another_format(size: int, name: str, tmp_path: Path) -> None:
    with TFRecordWriter(tmp_path / name) as writer:
        for i in range(3):
            writer.write(bytes([i]) * size)
    with archivestream.open(tmp_path / name, index="memory") as archive:
        assert [*archive] == [bytes([i]) * size for i in range(3)]


@pytest.mark.parametrize("head", [b"\x78\x9c", b"\x78", b"\x1f\x8b", b"\x78\x9c\x03"])
def test_files_of_a_few_bytes(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tfrecord").write_bytes(head)
    with pytest.raises(CorruptArchiveError, match=r"x\.tfrecord"):
        archivestream.open(tmp_path / "x.tfrecord", index="memory")


def message(payload: bytes) -> bytes:
    return _field(1, _field(1, _field(1, b"x") + _field(2, _field(3, _field(1, payload)))))


N = 20_000
LONG = message((b"\x81" * 7 + b"\x01") * N)
SHORT = message(b"\x01" * 8 * N)  # as long, with eight times as many values


@pytest.mark.parametrize(("first", "second"), [(LONG, SHORT), (SHORT, LONG)])
def test_a_message_that_changes_between_the_walks(first: bytes, second: bytes) -> None:
    assert len(first) == len(second)
    data = bytearray(first)
    examples = Examples(Schema([(b"x", 3, -1, 8, False, False)]), [data])
    splits = np.empty(2, np.int64)
    examples.splits(0, splits)
    room = np.zeros(8 * N + 10, np.int64)
    examples.place([(room[: splits[1]].view(np.uint8), splits, None)])
    data[:] = second
    with pytest.raises(ValueError, match="changed while"):
        examples.fill(threads=1)
    assert not room[splits[1] :].any()


@pytest.mark.parametrize("kinds", list(itertools.permutations((1, 2, 3), 2)), ids=str)
def test_a_feature_of_another_kind_the_second_time(kinds: tuple[int, int]) -> None:
    """Of as many values and bytes, so that nothing but the kind tells."""

    def message(kind: int, values: bytes) -> bytes:
        def field(number: int, data: bytes) -> bytes:
            return bytes([number << 3 | 2, len(data)]) + data

        return field(1, field(1, field(1, b"x") + field(2, field(kind, values))))

    values = {1: b"\x0a\x08" + b"A" * 8, 2: b"\x0a\x08" + b"A" * 8, 3: b"\x08" + b"\xff" * 8 + b"\1"}
    first, second = (message(kind, values[kind]) for kind in kinds)
    assert len(first) == len(second)
    item = {1: 0, 2: 4, 3: 8}[kinds[0]]
    data = bytearray(first)
    examples = Examples(Schema([(b"x", kinds[0], -1, item, False, False)]), [data])
    assert examples.failed() == []
    splits = np.empty(2, np.int64)
    examples.splits(0, splits)
    room = np.zeros(splits[1] * item, np.uint8)
    examples.place([(room if item else None, splits, None)])
    data[:] = second
    with pytest.raises(ValueError, match="changed while"):
        examples.fill(threads=1)
    assert not room.any()


def test_messages_that_another_thread_changes() -> None:
    data, stop = bytearray(LONG), threading.Event()
    parser = ExampleParser({"x": VarLenFeature("int64")}, threads=2)

    def change() -> None:
        while not stop.is_set():
            data[:] = SHORT
            data[:] = LONG

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            try:
                parsed = parser.parse([data])
            except ValueError:
                continue
            assert len(parsed["x"].values) in (N, 8 * N)
    finally:
        stop.set()
        thread.join()


def test_a_consumer_takes_as_many_as_it_expects(tmp_path: Path) -> None:
    with TFRecordWriter(tmp_path / "a.tfrecord") as writer:
        for _ in range(100):
            writer.write(encode_example({"x": 1}))
    examples = Examples(Schema([(b"x", 3, 1, 8, False, False)]), 1)
    examples.place([(np.zeros(8, np.uint8), None, None)])
    examples.await_all()
    with archivestream.open(tmp_path / "a.tfrecord") as archive, pytest.raises(ValueError, match="takes 1 members"):
        archive.feed(range(100), examples)
    with pytest.raises(IndexError):
        examples.take(1, b"")


def test_half_a_record_is_not_kept(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    writer = TFRecordWriter(tmp_path / "a.tfrecord")
    writer.write(b"first")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            [writer.write(bytes(100_000)) for _ in range(40)]  # type: ignore[func-returns-value]
        with pytest.raises(ValueError, match="closed"):
            writer.write(b"more")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.close()
    assert not [*tmp_path.iterdir()]
