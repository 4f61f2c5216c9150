"""Damaged and hostile ZIPs: a clear error or the right bytes, and never memory out of proportion."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from zipmaker import DEFLATE, LZMA, METHODS, STORED, XZ, ZSTD, Entry, Zip, make, padding

import archivestream
from archivestream import (
    Archive,
    ArchiveError,
    CorruptArchiveError,
    EncryptedMemberError,
    LimitExceededError,
    Limits,
    UnsupportedFeatureError,
)

OpenAs = Callable[..., Archive]

A = Entry(b"a.txt", b"first\n")
B = Entry(b"b.txt", b"second " * 40, DEFLATE)

TEXT = b"a text that compresses, and compresses, and compresses. "

# ---- checksums, and pieces -------------------------------------------------------------------------------------


def test_damage_in_crc() -> None:
    for entry in (Entry(b"x", TEXT, method) for method in METHODS):
        for crc in (0, 1, 0xFFFFFFFF, entry.crc ^ 1 << 31):
            data = make(A, Entry(b"x", TEXT, entry.method, crc=crc, local_crc=entry.crc))
            with pytest.raises(CorruptArchiveError, match=f"CRC-32 {crc:#010x}"):
                archivestream.open(data)[1]
            assert archivestream.open(data, verify=False)[1] == TEXT


def test_garbage() -> None:
    rng = random.Random(0)
    signatures = [b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08"]
    for _ in range(3000):
        # Nothing but pieces of an archive, in any order.
        data = b"".join(rng.choice(signatures) + rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(9)))
        data += rng.choice([b"", struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, rng.randrange(200), 0, 0)])
        try:
            archivestream.open(data).verify()
        except ArchiveError as error:
            assert error.archive


@pytest.mark.timeout(60)
def test_signatures_in_plenty(open_as: OpenAs) -> None:
    for unit in (b"PK\5\6", b"PK\1\2", b"PK\6\7" + bytes(16), b"PK\5\6" + b"\0" * 16 + b"x\0"):
        with pytest.raises(ArchiveError):
            open_as(unit * (3_000_000 // len(unit)))


# ---- one member that is not handled or damaged, among good ones ------------------------------------------------


def only_refuses(open_as: OpenAs, bad: Entry, kind: type[ArchiveError], match: str | None = None) -> None:
    """See that the archive opens, `bad` raises whichever way it is read, and its neighbours can be read."""
    archive = open_as(make(A, bad, B))
    ways: list[Callable[[], object]] = [
        lambda: archive[1],
        lambda: archive[-2],
        lambda: archive.read_many([0, 1, 2]),
        lambda: archive.read_batch([2, 1]),
        lambda: archive.submit([1, 0]).result(),
        lambda: archive.open_member(1).read(),
    ]
    for way in ways:
        with pytest.raises(kind, match=match) as caught:
            way()
        assert type(caught.value) is kind
        assert caught.value.member == archive.names[1]
        assert caught.value.archive
    assert archive.read_many([2, 0, 2]) == [B.data, A.data, B.data]
    assert [error.member for error in archive.verify().errors] == [archive.names[1]]  # type: ignore[attr-defined]
    assert archive.testzip() == archive.names[1]


NAMED = {1: "shrink", 6: "implode", 9: "deflate64", 10: "implode", 18: "terse", 96: "jpeg", 97: "wavpack", 98: "ppmd"}


def test_methods_that_are_not_handled(open_as: OpenAs) -> None:
    for method in [*NAMED, 2, 3, 4, 5, 7, 11, 13, 15, 16, 20, 94, 100, 255, 0xFFFF]:
        match = rf"\b{method}\b.*{NAMED.get(method, '')}"
        only_refuses(open_as, Entry(b"bad", b"contents", method), UnsupportedFeatureError, match)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"flags": 0x0001}, EncryptedMemberError),
        ({"flags": 0x0041}, EncryptedMemberError),
        ({"flags": 0x0009, "descriptor": (True, False)}, EncryptedMemberError),
        ({"method": 99}, EncryptedMemberError),
        ({"flags": 0x0001, "method": 99}, EncryptedMemberError),
        ({"flags": 0x0020}, UnsupportedFeatureError),
        ({"needed": 64}, UnsupportedFeatureError),
        ({"needed": 0x0AFF}, UnsupportedFeatureError),
        ({"disk": 1}, UnsupportedFeatureError),
        ({"disk": 1, "zip64": ["disk"]}, UnsupportedFeatureError),
        ({"disk": 0xFFFF}, UnsupportedFeatureError),
        # Sentinels without a ZIP64 field are values like any other.
        ({"size": 0xFFFFFFFF}, CorruptArchiveError),
        ({"compressed_size": 0xFFFFFFFF}, CorruptArchiveError),
        ({"offset": 0xFFFFFFFF}, CorruptArchiveError),
        # The local header is another's, or none.
        ({"local_name": b"another"}, CorruptArchiveError),
        ({"local_name": b"bed"}, CorruptArchiveError),
        ({"local_name": b""}, CorruptArchiveError),
        ({"local_signature": b"PK\1\2"}, CorruptArchiveError),
        ({"offset": 0}, CorruptArchiveError),
        ({"offset": 2**63, "zip64": ["offset"]}, CorruptArchiveError),
        ({"offset": 2**64 - 1, "zip64": ["offset"]}, CorruptArchiveError),
    ],
    ids=str,
)
def test_member_that_is_refused(open_as: OpenAs, fields: dict[str, object], kind: type[ArchiveError]) -> None:
    only_refuses(open_as, Entry(**{"name": b"bad", "data": b"contents", **fields}), kind)  # type: ignore[arg-type]


def test_name_marked_as_utf8_that_is_not(open_as: OpenAs) -> None:
    for raw in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xe2\x82"):
        only_refuses(open_as, Entry(raw, b"named", flags=0x0800), CorruptArchiveError, "UTF-8")


@pytest.mark.parametrize("method", METHODS)
def test_stream_of_another_length(open_as: OpenAs, method: int) -> None:
    for declared in (TEXT[:-1], TEXT + b"x", TEXT[:1], b"", TEXT * 3):
        payload = Entry(b"", TEXT, method).payload
        if method == LZMA and len(declared) < len(TEXT):
            continue  # a stream without a mark at its end is ended by its length
        if method == STORED and declared == b"":
            continue  # see below
        # The checksum is that of the declared length, so that only the lengths differ.
        only_refuses(open_as, Entry(b"bad", declared, method, payload), CorruptArchiveError)


def test_stream_that_is_cut_or_goes_on(open_as: OpenAs) -> None:
    for method in METHODS[1:]:
        payload = Entry(b"", TEXT, method).payload
        assert payload is not None
        for length in range(len(payload) - (6 if method == LZMA else 1)):
            only_refuses(open_as, Entry(b"bad", TEXT, method, payload[:length]), CorruptArchiveError)
        more = make(A, Entry(b"odd", TEXT, method, payload + b"more"))
        try:
            assert open_as(more)[1] == TEXT
        except CorruptArchiveError:
            assert method == ZSTD  # its library takes the bytes for another frame
        with pytest.raises(CorruptArchiveError):
            open_as(more, strict=True)[1]


# ---- sizes that are declared and not there ---------------------------------------------------------------------

HUGE = [2**31, 2**32 - 2, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("method", METHODS)
def test_huge_declared_size(open_as: OpenAs, method: int) -> None:
    for size in HUGE:
        bad = Entry(b"bad", TEXT, method, size=size, zip64=["size"])
        only_refuses(open_as, bad, LimitExceededError if size > 16 << 30 and size < 2**63 else CorruptArchiveError)
        bad = Entry(b"bad", TEXT, method, compressed_size=size, zip64=["compressed_size"])
        only_refuses(open_as, bad, CorruptArchiveError)


@pytest.mark.parametrize("size", [2**40, 2**62, 2**63 - 1])
@pytest.mark.parametrize("most", [16 << 30, 2**63])
def test_verify_comes_to_every_member(open_as: OpenAs, size: int, most: int) -> None:
    """Sums of declared sizes can be larger than any number of bytes."""
    huge = [Entry(b"huge %d" % i, TEXT, DEFLATE, size=size, zip64=["size"]) for i in range(3)]
    bad = [Entry(b"bad %d" % i, TEXT, DEFLATE, crc=1) for i in range(3)]
    entries = [entry for pair in zip(huge, bad, strict=True) for entry in (A, *pair)]
    report = open_as(make(*entries), limits=Limits(max_member_bytes=most)).verify()
    assert [error.member for error in report.errors] == [entry.name.decode() for entry in entries if entry is not A]  # type: ignore[attr-defined]
    assert report.members == 9
    assert report.bytes >= 0


CONFINED = """
import resource, sys
import numpy as np
import archivestream
from archivestream import ArchiveError, Limits
from zipmaker import *

payloads = {method: bytes(3000) for method in (8, 14, 95)}
data = make(*(Entry(b"%d" % method, b"", method, payload, size=1 << 30) for method, payload in payloads.items()),
            Entry(b"stored", b"", 0, b"x" * 3000, size=1 << 30))
count = Zip([Entry()], zip64=True, count=0xFFFF, count_here=0xFFFF,
            end64={"count": 2**64 - 1, "count_here": 2**64 - 1}).build()
with archivestream.open(data) as archive:  # what libraries and threads take is taken before the limit
    archive.verify()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
archive = archivestream.open(data, limits=Limits(max_member_bytes=2**62))
for i in range(len(archive)):
    for read in (
        archive.read,
        lambda i: archive.read_many([i]),
        lambda i: archive.read_batch([i, i]),
        lambda i: archive.submit([i]).result(),
        lambda i: archive.read_arrays([i]),
        lambda i: archive.open_member(i).read(),
        lambda i: archive.extract([i], sys.argv[1]),
    ):
        try:
            read(i)
        except ArchiveError as error:
            assert error.member == archive.names[i]
        else:
            raise AssertionError(i)
try:
    archivestream.open(count)
except ArchiveError:
    pass
taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert taken < 50_000, taken
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_no_memory_is_taken_for_a_declared_size(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONFINED, str(tmp_path)]
    paths = [str(Path(__file__).parent), str(Path(archivestream.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_limits(open_as: OpenAs) -> None:
    data = make(A, B, Entry(b"c", bytes(1000), DEFLATE))
    with pytest.raises(LimitExceededError, match="max_members"):
        open_as(data, limits=Limits(max_members=2))
    assert len(open_as(data, limits=Limits(max_members=3))) == 3
    size = sum(len(entry.central(0)) for entry in (A, B, Entry(b"c")))
    with pytest.raises(LimitExceededError, match="max_index_bytes"):
        open_as(data, limits=Limits(max_index_bytes=size - 1))
    assert len(open_as(data, limits=Limits(max_index_bytes=size))) == 3
    for most, good in ((999, [0, 1]), (1000, [0, 1, 2]), (len(A.data), [0])):
        archive = open_as(data, limits=Limits(max_member_bytes=most))
        errors = archive.verify().errors
        assert all(type(error) is LimitExceededError for error in errors)
        assert len(errors) == 3 - len(good)
        archive.read_many(good)
        if len(good) < 3:
            with pytest.raises(LimitExceededError):
                archive.open_member(2)


@pytest.mark.parametrize("method", [LZMA, XZ])
def test_limit_of_the_window(open_as: OpenAs, method: int) -> None:
    contents = random.Random(0).randbytes(100_000)
    bad = make(Entry(b"x", contents, method))
    with pytest.raises(LimitExceededError, match="'x'"):
        open_as(bad, limits=Limits(max_window_bytes=5000))[0]
    assert open_as(bad)[0] == contents


# ---- members over one another ----------------------------------------------------------------------------------


def overlapping() -> dict[str, tuple[bytes, list[bytes]]]:
    """Archives of which the first member must be refused, and what they hold."""
    inner = Entry(b"inner", b"inner contents")
    quoted = Zip([Entry(b"outer", inner.local()), Entry(b"inner", inner.data, offset=35)])
    by_one = Entry(b"outer", b"contents", local_compressed_size=9, compressed_size=9, size=9)
    return {
        "quoted": (quoted.build(), [inner.local(), inner.data]),
        "by one byte": (make(by_one, B), []),
        "into the directory": (Zip([B, by_one], order=[1, 0]).build(), []),
    }


@pytest.mark.parametrize("kind", overlapping())
def test_overlap(open_as: OpenAs, kind: str) -> None:
    data, contents = overlapping()[kind]
    archive = open_as(data)
    for way in (
        archive.read,
        archive.open_member,
        lambda i: archive.read_many([1, i]),
        lambda i: archive.read_batch([i]),
    ):
        with pytest.raises(CorruptArchiveError, match="allow_overlap"):
            way(0)
    assert archive[1]
    with pytest.raises(CorruptArchiveError):
        open_as(data, strict=True).read_many([0, 1])
    if contents:
        allowed = open_as(data, limits=Limits(allow_overlap=True))
        assert allowed.read_many([1, 0, 1, 0]) == contents[::-1] * 2
        assert list(allowed) == contents


@pytest.mark.parametrize("length", [10, 600, 60_000])
def test_local_extra_field_over_the_next_member(open_as: OpenAs, length: int) -> None:
    """The data of the first member, behind its extra field, are those of the second."""
    second = Entry(b"second", b"contents", local_extra=padding(length))
    first = Entry(b"first", b"contents", payload=b"", compressed_size=8, local_extra=b"")
    head = bytearray(first.local())
    struct.pack_into("<H", head, 28, len(second.local()) - 8)
    data = Zip([first, second]).build().replace(first.local(), bytes(head), 1)
    archive = open_as(data)
    for way in (
        archive.read,
        archive.open_member,
        lambda i: archive.read_many([1, i]),
        lambda i: archive.read_batch([i]),
    ):
        with pytest.raises(CorruptArchiveError):
            way(0)
    assert archive[1] == b"contents"
    assert open_as(data, limits=Limits(allow_overlap=True))[0] == b"contents"


@pytest.mark.parametrize("same_name", [False, True])
def test_members_that_share_a_local_header(open_as: OpenAs, same_name: bool) -> None:
    first = Entry(b"x" if same_name else b"y", TEXT, DEFLATE, payload=b"", offset=0)
    shared = Zip([Entry(b"x", TEXT, DEFLATE), first], order=[1, 0]).build()
    archive = open_as(shared)
    good = [i for i in (0, 1) if reads(archive, i)]
    assert len(good) <= 1, "bytes that are stored once would come out twice"
    with pytest.raises(CorruptArchiveError):
        archive.read_many([0, 1])


def reads(archive: Archive, key: int) -> bool:
    """Say whether a member can be read."""
    try:
        return archive[key] == TEXT
    except CorruptArchiveError:
        return False


@pytest.mark.timeout(60)
def test_many_overlapping_members(open_as: OpenAs) -> None:
    """The "quoted overlap" bomb: each member quotes the headers of all that follow."""
    kernel = Entry(b"kernel", bytes(10_000), DEFLATE)
    entries = [
        Entry(b"%d" % i, b"", offset=0, payload=b"", size=1 << 20, method=DEFLATE, compressed_size=1 << 10)
        for i in range(20_000)
    ]
    archive = open_as(Zip([kernel, *entries]).build())
    errors = archive.verify().errors
    assert len(errors) >= 20_000
    assert {type(error) for error in errors} == {CorruptArchiveError}
