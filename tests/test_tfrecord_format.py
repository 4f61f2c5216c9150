"""TFRecord as a format: what is read, how it may be damaged, and what is said of it."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import recordmaker as make
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream._native.checksums import crc32c
from archivestream._native.tfscan import RecordFault, RecordScanner, frame
from archivestream.errors import CorruptArchiveError, LimitExceededError

SMALL = [b"", b"a", b"some bytes", b"", bytes(range(60))]
random.seed(5)
CONTENTS = [*SMALL, random.randbytes(20_000), *(random.randbytes(random.randrange(400)) for _ in range(60))]


@pytest.fixture(scope="module")
def data() -> bytes:
    return make.records(CONTENTS)


# ---- CRC-32C ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these three: RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_of_the_standard(text, crc):
    assert crc32c(text) == crc32c(text, portable=True) == make.crc32c(text) == crc


def test_crc32c_is_one_with_and_without_the_instruction():
    text = random.randbytes(40_000)
    for size in (*range(40), 767, 768, 769, 6000, 12_287, 12_288, 12_289, 39_000):
        for begin in (0, 1, 7):
            piece = text[begin : begin + size]
            crc = crc32c(piece, portable=True)
            assert crc32c(piece) == crc
            assert crc32c(piece[size // 3 :], crc32c(piece[: size // 3])) == crc
    assert crc32c(text[:1500]) == make.crc32c(text[:1500])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_frames_are_those_of_the_format(content):
    header, footer = frame(content)
    assert header + content + footer == make.record(content)


# ---- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", make.WRAPPERS)
@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_every_way_of_reading(tmp_path, data, suffix, kind):
    wrapped = make.WRAPPERS[suffix](data)
    path = tmp_path / f"train.{suffix}"
    path.write_bytes(wrapped)
    n = len(CONTENTS)
    order = random.sample(range(n), n)
    with archivestream.open({"path": path, "bytes": wrapped, "file": io.BytesIO(wrapped)}[kind]) as archive:
        assert list(archive) == CONTENTS
        assert archive.names[:3] == ["0", "1", "2"]
        assert archive["12"] == CONTENTS[12]
        assert archive[-1] == CONTENTS[-1]
        assert archive.read_many(order) == [CONTENTS[i] for i in order]
        assert [bytes(one) for one in archive.read_batch(order)] == [CONTENTS[i] for i in order]
        assert [bytes(one) for one in archive.submit(order).result()] == [CONTENTS[i] for i in order]
        rows, lengths = archive.read_padded(order)
        assert [row[:size].tobytes() for row, size in zip(rows, lengths, strict=True)] == [CONTENTS[i] for i in order]
        with archive.open_member("5") as file:
            file.seek(19_000)
            assert file.read() == CONTENTS[5][19_000:]
        assert archive.verify().ok
        assert archive.info(2).size == 10
        assert archive.info(2).crc32 is None
        assert archive.select("6?").names[:] == [f"6{i}" for i in range(n - 60)]


def test_the_index_is_saved_and_small(tmp_path, data):
    path = tmp_path / "train.tfrecord"
    path.write_bytes(data)
    with archivestream.open(path) as archive:
        saved = archive.names[:]
    assert path.with_name("train.tfrecord.asidx").exists()
    with archivestream.open(path, index="require") as archive:
        assert archive.names[:] == saved
        assert list(pickle.loads(pickle.dumps(archive))) == CONTENTS
    columns = RecordScanner(max_records=1 << 20)
    columns.feed(memoryview(make.record(b"") * 100_000), 0)
    assert columns.end(1_600_000) == RecordFault.FINE
    found = columns.finish()
    names, offsets = bytes(found["names"]), np.frombuffer(found["name_offset"], np.uint64)
    assert [int(names[offsets[i] : offsets[i + 1]]) for i in range(100_000)] == list(range(100_000))
    assert len(names) / 100_000 + 48 <= 64  # bytes of a row in the index


def test_several_files_are_one(tmp_path):
    for i in range(3):
        wrapped = make.WRAPPERS["tfrecord.gz" if i == 1 else "tfrecord"](make.records([b"%d" % i, b"%d!" % i]))
        (tmp_path / f"part.tfrecord-{i:05d}-of-00003").write_bytes(wrapped)
    (tmp_path / "part.tfrecord-00003-of-00003").write_bytes(b"")
    with archivestream.open(tmp_path / "part.tfrecord-*") as archive:
        assert list(archive) == [b"0", b"0!", b"1", b"1!", b"2", b"2!"]
        assert archive.read_many([5, 0, 3]) == [b"2!", b"0", b"1!"]


@pytest.mark.parametrize("suffix", make.WRAPPERS)
def test_empty_files(tmp_path, suffix):
    path = tmp_path / f"empty.{suffix}"
    path.write_bytes(make.WRAPPERS[suffix](b""))
    with archivestream.open(path) as archive:
        assert len(archive) == 0
        assert archive.verify().ok


def test_told_by_content_and_by_name_where_there_is_none(tmp_path, data):
    for name, wrap in (("a.zip", bytes), ("b", gzip.compress), ("c.bin", zlib.compress)):
        (tmp_path / name).write_bytes(wrap(data))
        assert archivestream.open(tmp_path / name)["2"] == CONTENTS[2]
    for text in (b"", b"x" * 40, zlib.compress(b"some text")):
        (tmp_path / "data").write_bytes(text)
        with pytest.raises(CorruptArchiveError, match="not an archive that is read"):
            archivestream.open(tmp_path / "data")
    with archivestream.open(gzip.compress(b"some text")) as archive:
        assert list(archive) == [b"some text"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.data())
def test_pieces_of_any_size(contents, draw):
    stream = make.records(contents)
    scanner = RecordScanner(max_records=1000)
    at = 0
    while at < len(stream):
        size = draw.draw(st.integers(1, 30))
        assert scanner.feed(stream[at : at + size], at) == RecordFault.FINE
        at += size
    assert scanner.end(len(stream)) == RecordFault.FINE
    found = scanner.finish()
    assert np.frombuffer(bytes(found["size"]), np.uint64).tolist() == [len(one) for one in contents]
    assert np.frombuffer(bytes(found["crc32"]), np.uint32).tolist() == [make.crc32c(one) for one in contents]


def test_the_reader_of_pypi_reads_the_same(tmp_path, data):
    reader = pytest.importorskip("tfrecord.reader")
    for name, wrap, kind in (("a.tfrecord", bytes, None), ("b.tfrecord.gz", gzip.compress, "gzip")):
        path = tmp_path / name
        path.write_bytes(wrap(data))
        theirs = [bytes(one) for one in reader.tfrecord_iterator(str(path), compression_type=kind)]
        assert theirs == list(archivestream.open(path))


# ---- damage -----------------------------------------------------------------------------------------------------


def test_every_byte_flipped():
    good = make.records(SMALL)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        begin = number = 0
        while at >= begin + 16 + len(SMALL[number]):  # the record that the byte is of
            begin += 16 + len(SMALL[number])
            number += 1
        if at < begin + 12 and number == 0:
            with pytest.raises(CorruptArchiveError, match="not an archive"):
                archivestream.open(bytes(bad))
        elif at < begin + 12:
            with pytest.raises(CorruptArchiveError, match=rf"record {number} \(offset {begin}\): its length"):
                archivestream.open(bytes(bad))
        else:
            with archivestream.open(bytes(bad)) as archive:
                (error,) = archive.verify().errors
                assert f"member '{number}'" in str(error)
                assert f"offset {begin + 12}" in str(error)
                errors: dict[int, Exception] = {}
                found = archive.read_many(range(len(SMALL)), errors=errors)
                assert list(errors) == [number]
                assert [one for one in found if one is not None] == SMALL[:number] + SMALL[number + 1 :]
                with pytest.raises(CorruptArchiveError, match="do not have their CRC-32C"):
                    archive[number]
                with archivestream.open(bytes(bad), verify=False) as unchecked:
                    assert len(unchecked[number]) == len(SMALL[number])


def test_every_truncation(tmp_path):
    good = make.records(SMALL)
    ends = np.cumsum([0, *(16 + len(one) for one in SMALL)]).tolist()
    path = tmp_path / "cut.tfrecord"
    for size in range(len(good)):
        path.write_bytes(good[:size])
        if size in ends:
            assert list(archivestream.open(path, index="memory")) == SMALL[: ends.index(size)]
            continue
        number = next(i for i, end in enumerate(ends) if end > size) - 1
        with pytest.raises(CorruptArchiveError, match=rf"cut.tfrecord: record {number} \(offset {ends[number]}\)"):
            archivestream.open(path, index="memory")


@pytest.mark.parametrize(("wrap", "unwrap"), [(gzip.compress, gzip.decompress), (zlib.compress, zlib.decompress)])
def test_compressed_files_with_a_byte_flipped_or_cut_off(tmp_path, wrap, unwrap):
    """Nothing but the records as they were ever comes out, and that where Python takes the file for sound, too."""
    good = wrap(make.records(SMALL))
    path = tmp_path / "a.tfrecord"
    for at in range(0, len(good) - 1, 3):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        for damaged in (bytes(bad), good[: at + 1]):
            path.write_bytes(damaged)
            try:
                with archivestream.open(path, index="memory") as archive:
                    assert list(archive) == SMALL
                    assert unwrap(damaged) == make.records(SMALL)
            except (CorruptArchiveError, archivestream.UnsupportedFeatureError) as error:
                assert "a.tfrecord" in str(error)


@pytest.mark.parametrize("wrap", [bytes, gzip.compress, zlib.compress])
def test_a_bad_record_harms_no_other(data, wrap):
    at = sum(16 + len(one) for one in CONTENTS[:5]) + 12 + 500
    with archivestream.open(wrap(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])) as archive:
        errors: dict[int, Exception] = {}
        found = archive.read_many(range(len(CONTENTS)), errors=errors)
        assert list(errors) == [5]
        assert found[:5] + found[6:] == CONTENTS[:5] + CONTENTS[6:]
        assert [error.member for error in archive.verify().errors] == ["5"]
        errors.clear()
        archive.read_batch([4, 5, 6], errors=errors)
        assert list(errors) == [1]


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"x", "its header"),
        (bytes(4), "its header"),
        (bytes(1024), "no record"),
        (make.header(1 << 62), "within its data, which have 4611686018427387904 bytes"),
        (make.header((1 << 64) - 1), "more than any file has"),
        (make.header((1 << 63) - 1), "more than any file has"),
        (make.header(0), "the checksum of its data"),
    ],
)
def test_what_stands_behind_the_records(tail, reason):
    good = make.records(SMALL)
    with pytest.raises(CorruptArchiveError, match=rf"record 5 \(offset {len(good)}\): .*{reason}"):
        archivestream.open(good + tail)


def test_what_stands_behind_a_compressed_stream(tmp_path):
    good = make.records(SMALL)
    path = tmp_path / "a.tfrecord"
    for wrap, what in ((gzip.compress, "gzip member"), (zlib.compress, "zlib stream")):
        path.write_bytes(wrap(good) + bytes(100))
        assert list(archivestream.open(path, index="memory")) == SMALL
        path.write_bytes(wrap(good) + b"something else")
        with pytest.raises(CorruptArchiveError, match=f"what follows the last {what}"):
            archivestream.open(path, index="memory")


def test_limits(data):
    limits = archivestream.Limits
    with pytest.raises(LimitExceededError, match=r"Limits\.max_members = 3 allows"):
        archivestream.open(data, limits=limits(max_members=3))
    with pytest.raises(LimitExceededError, match=r"Limits\.max_index_bytes = 100 allows"):
        archivestream.open(data, limits=limits(max_index_bytes=100))
    alike = gzip.compress(make.records([b""]) * 10_000)
    room, says = 58 * 9_999, r"more records than Limits\.max_index_bytes = "
    with pytest.raises(LimitExceededError, match=says):
        archivestream.open(alike, limits=limits(max_index_bytes=room))
    with archivestream.open(alike, limits=limits(max_index_bytes=room + 58)) as archive:
        assert len(archive) == 10_000
    with archivestream.open(data, limits=limits(max_member_bytes=1000)) as archive:
        assert archive[2] == CONTENTS[2]
        with pytest.raises(LimitExceededError, match="member '5'"):
            archive[5]


def test_a_large_record_is_checked_piece_by_piece(tmp_path):
    path = tmp_path / "large.tfrecord"
    size = (64 << 20) + 100
    content = bytes(size)
    header, footer = frame(content)
    path.write_bytes(make.record(b"first") + header + content + footer)
    with archivestream.open(path) as archive:
        assert archive.verify().ok
        with archive.open_member(1) as file:
            file.seek(size - 5)
            assert file.read() == bytes(5)
    with path.open("r+b") as file:
        file.seek(40 << 20)
        file.write(b"\1")
    with archivestream.open(path) as archive:
        (error,) = archive.verify().errors
        assert re.search(r"large.tfrecord: member '1': .*offset 33.* do not have their CRC-32C", str(error))
        with archive.open_member(1) as file, pytest.raises(CorruptArchiveError, match="CRC-32C"):
            file.read()


def test_a_cache_keeps_records_and_no_bad_one(tmp_path):
    bad = bytearray(make.records(SMALL))
    bad[12 + 4 + 12] ^= 1  # of record 1
    path = tmp_path / "a.tfrecord"
    path.write_bytes(bad)
    with archivestream.open(path, cache=archivestream.Cache(1 << 20)) as archive:
        for _ in range(2):
            assert archive.read_many([2, 4]) == [SMALL[2], SMALL[4]]
            with pytest.raises(CorruptArchiveError, match="member '1'"):
                archive[1]


def test_a_file_that_shrinks_is_an_error(tmp_path, data):
    path = Path(tmp_path / "a.tfrecord")
    path.write_bytes(data)
    with archivestream.open(path) as archive:
        path.write_bytes(data[:1000])
        with pytest.raises(archivestream.ArchiveError):
            archive[-1]


def test_lengths_are_little_endian():
    assert make.header(258)[:8] == struct.pack("<Q", 258) == frame(bytes(258))[0][:8]
