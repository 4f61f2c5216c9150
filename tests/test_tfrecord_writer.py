"""`TFRecordWriter`: what it writes is read again, here and by others; what is not finished is not there."""

from __future__ import annotations

import numpy as np
import pytest
import recordmaker as make

import archivestream
from archivestream.tfrecord import ExampleParser, FixedLenFeature, TFRecordWriter, VarLenFeature, encode_example


@pytest.mark.parametrize("compression", [None, "gzip", "zlib"])
def test_the_writer(tmp_path, compression):
    path = tmp_path / "a.tfrecord"
    contents = [b"", b"one", bytes(100_000), np.arange(10, dtype=np.float32)]
    steps = []
    with TFRecordWriter(path, compression=compression, progress=lambda *step: steps.append(step)) as writer:
        for content in contents:
            writer.write(content)
        assert not path.exists()
        assert writer.path == path
    assert steps[-1] == (100_043, 0)
    assert len(steps) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tfrecord"]
    expected = make.WRAPPERS[{None: "tfrecord", "gzip": "tfrecord.gz", "zlib": "tfrecords"}[compression]]
    if compression is None:
        assert path.read_bytes() == expected(make.records(bytes(memoryview(one).cast("B")) for one in contents))
    with archivestream.open(path) as archive:
        assert list(archive) == [bytes(memoryview(one).cast("B")) for one in contents]
        assert archive.verify().ok


def test_the_writer_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.tfrecord"

    def interrupted() -> None:
        with TFRecordWriter(path) as writer:
            writer.write(b"one")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        TFRecordWriter(path)
    writer = TFRecordWriter(path, overwrite=True)
    writer.write(b"one")
    with pytest.raises(TypeError):
        writer.write("text")
    writer.abandon()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"two")
    assert path.read_bytes() == b"old"
    with TFRecordWriter(path, overwrite=True) as writer:
        writer.write(b"new")
    assert list(archivestream.open(path)) == [b"new"]
    for options in ({"compression": "zstd"}, {"level": 10}):
        with pytest.raises(ValueError, match="is"):
            TFRecordWriter(tmp_path / "b", **options)


def test_the_reader_of_pypi_parses_the_same(tmp_path):
    loader = pytest.importorskip("tfrecord.reader").tfrecord_loader
    path = tmp_path / "a.tfrecord"
    features = [{"x": np.arange(i + 1), "y": np.full(3, i, np.float32), "z": b"%d" % i} for i in range(10)]
    with TFRecordWriter(path) as writer:
        for one in features:
            writer.write(encode_example(one))
    with archivestream.open(path) as archive:
        parser = ExampleParser(
            {"x": VarLenFeature("int64"), "y": FixedLenFeature([3], "float32"), "z": FixedLenFeature([], "bytes")}
        )
        ours = parser.read(archive, range(10))
    theirs = list(loader(str(path), None, {"x": "int", "y": "float", "z": "byte"}))
    for i, one in enumerate(theirs):
        assert one["x"].tolist() == ours["x"][i].tolist()
        assert one["y"].tolist() == ours["y"][i].tolist()
        assert bytes(one["z"]) == ours["z"][i]
