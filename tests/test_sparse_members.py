"""Sparse members of tars: any range of them, in time and memory that are in proportion to what is stored."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import tarmaker as make
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream import reader as reader_module
from archivestream.reader import MemberReader

WRAPS: dict[str, Callable[[bytes], bytes]] = {"tar": bytes, "tar.zst": zstandard.compress, "tar.gz": gzip.compress}


def sparse(extents: list[tuple[int, int]], real: int, packed: bytes) -> bytes:
    """A tar of one sparse member, of version 1.0."""
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    text = make.block(b"".join(b"%d\n" % number for number in numbers))
    keys = (b"major", b"1"), (b"minor", b"0"), (b"name", b"s"), (b"realsize", b"%d" % real)
    head = make.pax(*((b"GNU.sparse." + key, value) for key, value in keys))
    return head + make.member(b"s", text + packed) + make.END


def open_as(kind: str, data: bytes, **options: Any) -> tuple[archivestream.Archive, MemberReader]:
    archive = archivestream.open(WRAPS[kind](data), index="memory", **options)
    return archive, archive._shared.reader


@pytest.mark.parametrize("kind", WRAPS)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_any_range_of_any_member(kind: str, data: st.DataObject) -> None:
    holes = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
    piece = data.draw(st.integers(1, 20))
    extents, whole, packed, rng = [], bytearray(), b"", random.Random(1)
    for hole, size in holes:
        whole += bytes(hole)
        extents.append((len(whole), size))
        new = rng.randbytes(size)
        whole += new
        packed += new
    whole += bytes(data.draw(st.integers(0, 9)))
    archive, reader = open_as(kind, sparse(extents, len(whole), packed))
    before = reader_module._PIECE
    reader_module._PIECE = piece  # so that some extents are read together, and others are not
    try:
        assert archive["s"] == whole
        assert archive.verify().ok
        for begin in range(len(whole) + 1):
            end = data.draw(st.integers(begin, len(whole)))
            buffer = bytearray(b"x" * (end - begin))
            reader.read_range(0, begin, memoryview(buffer))
            assert buffer == whole[begin:end]
    finally:
        reader_module._PIECE = before


@pytest.mark.parametrize("kind", WRAPS)
def test_extents_that_follow_one_another_are_read_together(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, each = 10_000, 100
    packed = random.Random(1).randbytes(count * each)
    extents = [(i * (each + 1), each) for i in range(count)]
    archive, reader = open_as(kind, sparse(extents, count * (each + 1), packed), cache=0)
    whole = b"".join(packed[i * each : (i + 1) * each] + b"\0" for i in range(count))
    calls: list[int] = []
    real = MemberReader._read_stream

    def read_stream(self: MemberReader, member: int, begin: int, buffer: memoryview, **options: bool) -> None:
        calls.append(len(buffer))
        real(self, member, begin, buffer, **options)

    monkeypatch.setattr(MemberReader, "_read_stream", read_stream)
    assert archive["s"] == whole
    assert archive.verify().ok
    assert calls == [len(packed), len(packed)]
    # Of a piece, those extents alone are looked at that lie in it.
    assert len(reader.index.extents(0, 5 * 101 + 50, 8 * 101 + 7)) == 4


@pytest.mark.parametrize("kind", WRAPS)
def test_holes_take_no_memory_where_a_member_is_verified(kind: str) -> None:
    real = 100 << 20
    archive, _ = open_as(kind, sparse([(0, 1000), (real - 1000, 1000)], real, bytes(2000)))
    tracemalloc.start()
    try:
        assert archive.verify().ok
        assert archive.verify().bytes == real
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("verify", [False, True])
def test_verify_checks_what_is_stored_anew(verify: bool) -> None:
    packed = random.Random(2).randbytes(200_000)
    data = sparse([(1000, len(packed))], 300_000, packed)
    compressed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(data))
    archive = archivestream.open(compressed, index="memory", verify=verify)
    assert archive["s"] == bytes(1000) + packed + bytes(99_000)  # which the cache keeps
    assert archive.verify().ok
    compressed[len(compressed) // 2] ^= 1
    assert [type(error) for error in archive.verify().errors] == [archivestream.CorruptArchiveError]
