"""tar: every row of the table of cases, and of that of hostile input; against `tarfile` and GNU tar."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tarmaker as make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archivestream._native.columns import MemberFlag
from archivestream._native.tarheader import Fault
from archivestream._native.tarscan import TarScanner
from archivestream.errors import (
    ArchiveError,
    CorruptArchiveError,
    LimitExceededError,
    SourceError,
    UnsupportedFeatureError,
)
from archivestream.formats import tar
from archivestream.limits import Limits
from archivestream.sources import FileObjectSource, LocalSource, MemorySource, Source

GNU_TAR = shutil.which("tar")
DTYPES = {
    "size": np.uint64,
    "compressed_size": np.uint64,
    "offset": np.uint64,
    "crc32": np.uint32,
    "codec": np.uint16,
    "flags": np.uint16,
    "timestamp": np.uint32,
    "attributes": np.uint32,
    "names": np.uint8,
    "name_offset": np.uint64,
    "raw_member": np.uint32,
    "raw_offset": np.uint64,
    "raw_names": np.uint8,
    "sparse_member": np.uint32,
    "sparse_offset": np.uint64,
    "extent_place": np.uint64,
    "extent_offset": np.uint64,
    "extent_size": np.uint64,
}


class Scanned:
    """The columns of a tar, and the members that they describe, cut out of the stream."""

    def __init__(self, data: bytes, columns: dict[str, Any]) -> None:
        self.data = data
        self.columns = {name: np.frombuffer(bytes(column), DTYPES[name]) for name, column in columns.items()}
        for name in ("size", "compressed_size", "offset", "crc32", "codec", "flags", "timestamp", "attributes"):
            assert len(self.columns[name]) == len(self)

    def __len__(self) -> int:
        return len(self.columns["name_offset"]) - 1

    @property
    def names(self) -> list[str]:
        offsets = self.columns["name_offset"].tolist()
        blob = self.columns["names"].tobytes()
        return [blob[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(offsets)]

    @property
    def modes(self) -> list[int]:
        return [int(value) >> 16 for value in self.columns["attributes"]]

    def contents(self, i: int) -> bytes:
        assert not int(self.columns["flags"][i]) & MemberFlag.BROKEN_LINK_BIT
        offset, size = int(self.columns["offset"][i]), int(self.columns["size"][i])
        if not int(self.columns["flags"][i]) & MemberFlag.SPARSE_BIT:
            piece = self.data[offset : offset + size]
            assert len(piece) == size
            return piece
        row = self.columns["sparse_member"].tolist().index(i)
        whole = bytearray(size)
        for extent in range(*self.columns["sparse_offset"][row : row + 2].tolist()):
            place, begin, length = (
                int(self.columns[name][extent]) for name in ("extent_place", "extent_offset", "extent_size")
            )
            assert length
            assert begin + length <= len(self.data)
            whole[place : place + length] = self.data[begin : begin + length]
        assert len(whole) == size
        return bytes(whole)

    @property
    def members(self) -> list[tuple[str, bytes]]:
        return [(name, self.contents(i)) for i, name in enumerate(self.names)]


def scan(data: bytes, *, strict: bool = False, **options: Any) -> Scanned:
    limits = options.pop("limits", Limits())
    return Scanned(data, tar.scan(MemorySource(data), strict=strict, limits=limits, **options))


def assert_refused(data: bytes, match: str, *, strict: bool = False, error: type = CorruptArchiveError) -> None:
    with pytest.raises(error, match=match) as caught:
        scan(data, strict=strict)
    assert f"<{len(data)} bytes>" in str(caught.value)


def assert_only_strict_minds(data: bytes, match: str) -> Scanned:
    assert_refused(data, match, strict=True)
    return scan(data)


TEXT = b"some text\n"
LONG = b"folder/" * 40 + b"name"


# What a tar is told by.


@pytest.mark.parametrize("magic", [make.USTAR, make.GNU, make.V7])
def test_a_tar_is_told_by_its_first_header(magic: bytes) -> None:
    head = make.header(magic=magic)
    assert tar.is_tar(head)
    assert tar.is_tar(head + TEXT)
    assert not tar.is_tar(head[:-1])
    for at in (0, 130, 300):
        assert not tar.is_tar(head[:at] + b"~" + head[at + 1 :])


def test_what_is_no_tar() -> None:
    for head in (b"", bytes(512), b"PK\3\4" * 128, b"\xff" * 512, random.Random(1).randbytes(512)):
        assert not tar.is_tar(head)
    # A block that adds up by chance, with no numbers where each header has some.
    assert not tar.is_tar(make.header(size=b"no number!!!", magic=make.V7))


# The rows of the table.


def test_v7_gnu_and_ustar() -> None:
    data = (
        make.member(b"old", b"1", magic=make.V7, kind=b"\0")
        + make.member(b"gnu", b"22", magic=make.GNU, prefix=b"no prefix")
        + make.member(b"c", b"333", prefix=b"a/b")
        + make.END
    )
    assert scan(data).members == [("old", b"1"), ("gnu", b"22"), ("a/b/c", b"333")]
    assert len(scan(data, strict=True)) == 3


def test_names_that_fill_their_fields() -> None:
    assert scan(make.member(b"n" * 100, prefix=b"p" * 155)).names == ["p" * 155 + "/" + "n" * 100]
    # star keeps times behind its shorter prefix.
    star = make.member(b"n", prefix=b"p" * 131 + b"00000000001", patches=[(508, b"tar\0")])
    assert scan(star).names == ["p" * 131 + "/n"]


@pytest.mark.parametrize("size", [0, 3, 700, 99999])
def test_the_size_of_pax_counts(size: int) -> None:
    data = make.pax((b"size", b"700")) + make.member(b"a", b"A" * 700, size=size) + make.member(b"b", b"B")
    assert scan(data).members == [("a", b"A" * 700), ("b", b"B")]


def test_the_size_of_pax_counts_where_the_header_has_no_number() -> None:
    data = make.pax((b"size", b"5")) + make.member(b"a", b"hello", size=b"no number!!!")
    assert scan(data).members == [("a", b"hello")]


def test_the_size_of_pax_is_that_of_the_file_alone() -> None:
    data = make.pax((b"size", b"600")) + make.long_name(LONG) + make.member(b"a", b"A" * 600, size=3) + make.member()
    assert_refused(data, "the same member", strict=True)
    assert scan(data).members == [(LONG.decode(), b"A" * 600), ("a", TEXT)]


def test_pax_names_and_times() -> None:
    data = (
        make.pax((b"path", "d/日本".encode()), (b"mtime", b"1700000001.5"), (b"comment", b"x"))
        + make.member(b"short", mtime=5)
        + make.pax((b"linkpath", LONG))
        + make.header(b"l", kind=b"2", link=b"short")
        + make.member(b"next")
    )
    scanned = scan(data, strict=True)
    assert scanned.members == [("d/日本", TEXT), ("l", LONG), ("next", TEXT)]
    # 2023-11-14 22:13:20 UTC, in steps of two seconds
    assert int(scanned.columns["timestamp"][0]) == (2023 - 1980) << 25 | 11 << 21 | 14 << 16 | 22 << 11 | 13 << 5 | 10


@pytest.mark.parametrize(
    ("mtime", "expected"),
    [
        (b"%011o\0" % 0, (1980, 1, 1, 0, 0, 0)),
        (b"%011o\0" % 951782400, (2000, 2, 29, 0, 0, 0)),
        (b"%011o\0" % 1709251199, (2024, 2, 29, 23, 59, 58)),
        (make.base256(1 << 40), (2107, 12, 31, 23, 59, 58)),
        (make.base256(-5), (1980, 1, 1, 0, 0, 0)),
        (b"no number!!!", (1980, 1, 1, 0, 0, 0)),
    ],
)
def test_times(mtime: bytes, expected: tuple[int, ...]) -> None:
    stamp = int(scan(make.member(mtime=mtime)).columns["timestamp"][0])
    date, time = stamp >> 16, stamp & 0xFFFF
    found = (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, time % 32 * 2)
    assert found == expected


@pytest.mark.parametrize("end", [b"\0", b""])
def test_gnu_long_names(end: bytes) -> None:
    data = (
        make.long_name(LONG, end=end)
        + make.member(LONG[:100], magic=make.GNU)
        + make.long_name(LONG, kind=b"K", end=end)
        + make.long_name(b"l" * 200, end=end)
        + make.header(b"l", kind=b"2", link=LONG[:100], magic=make.GNU)
        + make.member(b"next")
    )
    assert scan(data, strict=True).members == [(LONG.decode(), TEXT), ("l" * 200, LONG), ("next", TEXT)]


def test_extensions_of_the_same_kind_add_up_and_the_last_one_counts() -> None:
    data = (
        make.pax((b"path", b"1")) + make.pax((b"path", b"2")) + make.pax((b"size", b"4")) + make.member(b"0", b"four")
    )
    assert scan(data, strict=True).members == [("2", b"four")]
    data = make.long_name(b"1") + make.long_name(b"2") + make.member(b"0")
    assert scan(data, strict=True).names == ["2"]


@pytest.mark.parametrize("end", [0, 1, 2, 20])
def test_any_number_of_zero_blocks_ends_it(end: int) -> None:
    data = make.member() + bytes(512 * end)
    for strict in (False, True):
        assert scan(data, strict=strict).members == [("a", TEXT)]
    assert len(scan(bytes(512 * end))) == 0


def test_global_headers() -> None:
    data = make.pax((b"comment", b"a commit"), (b"mtime", b"1700000000"), kind=b"g") + make.member() + make.member(b"b")
    scanned = scan(data, strict=True)
    assert scanned.members == [("a", TEXT), ("b", TEXT)]
    assert len(set(scanned.columns["timestamp"].tolist())) == 1
    for record in ((b"path", b"p"), (b"size", b"3"), (b"linkpath", b"l")):
        assert_refused(make.pax(record, kind=b"g") + make.member(b"a", b"abc"), "global", strict=True)
    data = make.pax((b"path", b"all"), (b"size", b"3"), kind=b"g") + make.member(b"a", b"abc")
    data += make.pax((b"path", b"one"), (b"size", b"4")) + make.member(b"b", b"four") + make.member(b"c", b"xyz")
    assert scan(data).members == [("all", b"abc"), ("one", b"four"), ("all", b"xyz")]


def test_hard_links() -> None:
    data = (
        make.member(b"a", b"first")
        + make.header(b"l1", kind=b"1", link=b"a")
        + make.member(b"a", b"second", mode=b"0000600\0")
        + make.header(b"l2", kind=b"1", link=b"./a")
        + make.header(b"l3", kind=b"1", link=b"l2")
        + make.header(b"s", kind=b"2", link=b"elsewhere")
        + make.header(b"l4", kind=b"1", link=b"s")
        + make.long_name(LONG)
        + make.member(b"long", b"third")
        + make.long_name(LONG, kind=b"K")
        + make.header(b"l5", kind=b"1", link=LONG[:100])
        + make.END
    )
    scanned = scan(data, strict=True)
    assert [data for _, data in scanned.members] == [
        b"first",
        b"first",
        b"second",
        b"second",
        b"second",
        b"elsewhere",
        b"elsewhere",
        b"third",
        b"third",
    ]
    assert stat.S_ISLNK(scanned.modes[6])
    assert stat.S_ISREG(scanned.modes[4])


@pytest.mark.parametrize("order", [b"la", b"l", b"lm"])
def test_hard_links_that_lead_nowhere(order: bytes) -> None:
    pieces = {b"l": make.header(b"l", kind=b"1", link=b"a"), b"a": make.member(b"a"), b"m": make.member(b"m")}
    data = b"".join(pieces[bytes([piece])] for piece in order) + make.header(b"k", kind=b"1", link=b"l")
    flags = scan(data).columns["flags"]
    assert [i for i in range(len(flags)) if flags[i] & MemberFlag.BROKEN_LINK_BIT] == [0, len(flags) - 1]


def test_many_hard_links() -> None:
    names = [b"%d" % (i * 7919 % 5000) for i in range(5000)]
    files = [make.member(name, name) for name in names]
    links = [make.header(b"l" + name, kind=b"1", link=name) for name in names]
    order = list(range(5000))
    random.Random(2).shuffle(order)
    data = b"".join(files) + b"".join(links[i] for i in order)
    assert [data for _, data in scan(data).members[5000:]] == [names[i] for i in order]


def test_equal_names_are_all_listed() -> None:
    data = make.member(b"a", b"1") + make.member(b"a", b"22")
    assert scan(data, strict=True).members == [("a", b"1"), ("a", b"22")]


@pytest.mark.parametrize(
    "size",
    [
        b"00000000012\0",
        b"000000000012",
        b"         12\0",
        b"         12 ",
        b"12\0         ",
        b"12 \0        ",
        b"          12",
        make.base256(10),
    ],
)
def test_spellings_of_a_size(size: bytes) -> None:
    data = make.member(b"a", TEXT, size=size) + make.member(b"b")
    assert scan(data, strict=True).members == [("a", TEXT), ("b", TEXT)]


@pytest.mark.parametrize("size", [b"0000000008\0", b"x", b"0x10", b"12 3", b"-1", b"1\n"])
def test_what_is_no_size(size: bytes) -> None:
    assert_refused(make.member(size=size.ljust(12, b"\0")), "number")


@pytest.mark.parametrize("value", [-1, (1 << 63) - 1, -(1 << 63), (1 << 63) - 512])
def test_sizes_of_no_file(value: int) -> None:
    assert_refused(make.member(size=make.base256(value)) + make.END, "size in a header")
    if value > 0:
        assert_refused(make.pax((b"size", b"%d" % value)) + make.member(), "size|value")


@pytest.mark.parametrize("value", [1 << 63, 1 << 90, -(1 << 64)])
def test_numbers_that_do_not_fit(value: int) -> None:
    assert_refused(make.member(size=make.base256(value)), "number")


def test_signed_checksums() -> None:
    data = make.member("é".encode("latin-1") * 9, signed=True) + make.member(b"\xff" * 100, signed=False)
    assert scan(data).names == ["\udce9" * 9, "\udcff" * 100]


@pytest.mark.parametrize("kind", [b"7", b"A", b"Q", b"M", b"V", b"\xff"])
def test_other_types_are_regular_data(kind: bytes) -> None:
    scanned = scan(make.member(b"a", TEXT, kind=kind) + make.member(b"b"))
    assert scanned.members == [("a", TEXT), ("b", TEXT)]
    assert stat.S_ISREG(scanned.modes[0])


def test_types() -> None:
    kinds = {b"2": stat.S_ISLNK, b"3": stat.S_ISCHR, b"4": stat.S_ISBLK, b"5": stat.S_ISDIR, b"6": stat.S_ISFIFO}
    data = b"".join(make.header(b"a/b", kind=kind, mode=b"0004755\0", link=b"to") for kind in kinds)
    scanned = scan(data + make.END, strict=True)
    assert [content for _, content in scanned.members] == [b"to", b"", b"", b"", b""]
    for mode, check in zip(scanned.modes, kinds.values(), strict=True):
        assert check(mode)
        assert stat.S_IMODE(mode) == 0o4755


def test_folders() -> None:
    data = (
        make.header(b"new/", kind=b"5")
        + make.header(b"old/", kind=b"\0", magic=make.V7)
        + make.header(b"d//", kind=b"5")
    )
    data += make.pax((b"path", b"pax/")) + make.header(b"x", kind=b"5") + make.member(b"D/", b"Yname\0\0", kind=b"D")
    scanned = scan(data + make.member(b"a"))
    assert scanned.names == ["new", "old", "d", "pax", "D", "a"]
    assert [stat.S_ISDIR(mode) for mode in scanned.modes] == [True] * 5 + [False]
    assert scanned.members[4:] == [("D", b""), ("a", TEXT)]


def test_the_end_mark_ends_it() -> None:
    one = make.member(b"a") + make.END
    for data in (one + one, make.member(b"a") + bytes(512) + make.member(b"b"), one + b"garbage"):
        assert assert_only_strict_minds(data, "behind|follows").names == ["a"]


def test_zeros_can_be_ignored() -> None:
    data = make.member(b"a") + make.END + make.member(b"b") + make.END
    scanner = TarScanner(strict=False, max_members=9, max_bytes=999, ignore_zeros=True)
    assert scanner.feed(data, 0) == scanner.end(len(data)) == Fault.NONE
    assert Scanned(data, scanner.finish()).names == ["a", "b"]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_a_size_of_what_has_no_data(kind: bytes) -> None:
    # POSIX: the size says nothing, and a header follows.
    head = make.member(b"t", b"") + make.header(b"x", 700, kind=kind, link=b"t")
    assert assert_only_strict_minds(head + make.member(b"b"), "claims").members[-1] == ("b", TEXT)
    # Where no header follows, it is data: passed over, as libarchive does.
    assert scan(head + make.block(b"A" * 700) + make.member(b"b")).members[-1] == ("b", TEXT)
    # But a damaged header is no data.
    damaged = bytearray(make.member(b"b"))
    damaged[0] ^= 1
    assert_refused(head + bytes(damaged) + make.member(b"c"), "checksum")


@pytest.mark.parametrize("at", [0, 1, 130, 150, 156, 258, 300, 511])
def test_a_damaged_header_is_an_error(at: int) -> None:
    data = bytearray(make.member(b"a") + make.member(b"b") + make.member(b"c"))
    data[1024 + at] ^= 0x55
    assert_refused(bytes(data), r"checksum .*\(header 1, offset 1024\)")


# Sparse members.

EXTENTS = [(0, 100), (1000, 600), (5000, 24)]
REAL = 6000
PACKED = bytes(random.Random(3).randbytes(724))


def expanded(extents: list[tuple[int, int]] = EXTENTS, real: int = REAL, packed: bytes = PACKED) -> bytes:
    whole, at = bytearray(real), 0
    for place, size in extents:
        whole[place : place + size] = packed[at : at + size]
        at += size
    return bytes(whole)


def entries(extents: list[tuple[int, int]]) -> bytes:
    return b"".join(b"%011o\0%011o\0" % extent for extent in extents)


def old_gnu(extents: list[tuple[int, int]], real: int, packed: bytes, **fields: Any) -> bytes:
    more = [extents[i : i + 21] for i in range(4, len(extents), 21)]
    head = make.header(
        b"s",
        len(packed),
        kind=b"S",
        magic=make.GNU,
        patches=[(386, entries(extents[:4])), (482, bytes([len(more) > 0])), (483, b"%011o\0" % real)],
        **fields,
    )
    for i, some in enumerate(more):
        head += (entries(some).ljust(504, b"\0") + bytes([i + 1 < len(more)])).ljust(512, b"\0")
    return head + make.block(packed)


def pax_00(extents: list[tuple[int, int]], real: int, packed: bytes) -> bytes:
    numbers: list[tuple[bytes, bytes] | bytes] = [(b"GNU.sparse.size", b"%d" % real)]
    numbers.append((b"GNU.sparse.numblocks", b"%d" % len(extents)))
    for place, size in extents:
        numbers += [(b"GNU.sparse.offset", b"%d" % place), (b"GNU.sparse.numbytes", b"%d" % size)]
    return make.pax(*numbers) + make.member(b"s", packed)


def pax_01(extents: list[tuple[int, int]], real: int, packed: bytes) -> bytes:
    numbers = ",".join(f"{place},{size}" for place, size in extents)
    return make.pax(
        (b"GNU.sparse.size", b"%d" % real),
        (b"GNU.sparse.numblocks", b"%d" % len(extents)),
        (b"GNU.sparse.map", numbers.encode()),
        (b"GNU.sparse.name", b"s"),
    ) + make.member(b"GNUSparseFile.0/s", packed)


def pax_10(extents: list[tuple[int, int]], real: int, packed: bytes, count: bytes | None = None) -> bytes:
    numbers = [str(len(extents)).encode() if count is None else count]
    numbers += [b"%d" % number for extent in extents for number in extent]
    return make.pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % real),
    ) + make.member(b"GNUSparseFile.0/s", make.block(b"".join(number + b"\n" for number in numbers)) + packed)


SPARSE: list[Callable[..., bytes]] = [old_gnu, pax_00, pax_01, pax_10]


@pytest.mark.parametrize("write", SPARSE)
@pytest.mark.parametrize(
    "extents",
    [EXTENTS, [*EXTENTS, (REAL, 0)], [(0, 0), *EXTENTS], [(i * 13, 1) for i in range(400)], [(0, REAL)], []],
)
def test_sparse_members(write: Callable[..., bytes], extents: list[tuple[int, int]]) -> None:
    packed = random.Random(4).randbytes(sum(size for _, size in extents))
    data = write(extents, REAL, packed) + make.header(b"l", kind=b"1", link=b"s") + make.member(b"b") + make.END
    whole = expanded(extents, REAL, packed)
    for strict in (False, True):
        assert scan(data, strict=strict).members == [("s", whole), ("l", whole), ("b", TEXT)]


@pytest.mark.parametrize("write", SPARSE)
@pytest.mark.parametrize(
    ("extents", "real"),
    [
        ([(100, 50), (0, 50)], 1000),  # out of order
        ([(0, 500), (100, 100)], 1000),  # one over the other
        ([(0, 50)], 40),  # past the end
        ([(60, 0)], 40),
        ([(0, 800)], 1000),  # more than is stored
        ([(0, 1 << 62), (1 << 62, 1 << 62)], (1 << 63) - 100),
    ],
)
def test_maps_that_cannot_be(write: Callable[..., bytes], extents: list[tuple[int, int]], real: int) -> None:
    if write is old_gnu and real > 1 << 33:
        pytest.skip("does not fit the octal digits")
    assert_refused(write(extents, real, b"x" * 724), "map|value")


@pytest.mark.parametrize("write", SPARSE)
def test_the_longest_map(write: Callable[..., bytes]) -> None:
    extents = [(2 * i, 1) for i in range(10_000)]
    assert scan(write(extents, 20_000, b"x" * 10_000)).members == [("s", b"x\0" * 10_000)]
    extents.append((20_000, 1))
    assert_refused(write(extents, 20_001, b"x" * 10_001), "10,000", error=LimitExceededError)


@pytest.mark.parametrize("write", SPARSE)
def test_strict_wants_all_that_is_stored_in_the_map(write: Callable[..., bytes]) -> None:
    assert assert_only_strict_minds(write([(0, 5)], 100, b"x" * 9), "account").members == [("s", b"x" * 5 + bytes(95))]


def test_maps_of_pax_that_are_malformed() -> None:
    for count in (b"4", b"", b"x", b"-1", b"9" * 30, b"3 "):
        assert_refused(pax_10(EXTENTS, REAL, PACKED, count), "map")
    assert_refused(pax_10(EXTENTS, REAL, PACKED, b"99999999999"), "10,000", error=LimitExceededError)
    for text in (b"0", b"0,", b"0,5,", b",", b"a,b", b"0,5,,", b"0;5"):
        head = make.pax((b"GNU.sparse.map", text), (b"GNU.sparse.size", b"9"))
        assert_refused(head + make.member(b"s", b"12345"), "map")
    for keys in (["offset"], ["numbytes"], ["offset", "offset"], ["offset", "numbytes", "numbytes"]):
        head = make.pax(*((f"GNU.sparse.{key}".encode(), b"1") for key in keys))
        assert_refused(head + make.member(b"s", b"12345"), "map|record")
    assert_refused(make.pax((b"GNU.sparse.name", b"n")) + make.member(), "map")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "keys", [["offset", "map", "numbytes"], ["offset", "numbytes", "map"], ["map", "map"], ["map", "offset"]]
)
@pytest.mark.parametrize("value", [b"", b"0,5"])
def test_maps_that_are_given_in_two_ways(keys: list[str], value: bytes, strict: bool) -> None:
    # 65 would be the size of a block of memory, where it is written in front of one.
    values = {"offset": b"0", "map": value, "numbytes": b"65"}
    head = make.pax((b"GNU.sparse.size", b"9"), *((f"GNU.sparse.{key}".encode(), values[key]) for key in keys))
    data = head + make.member(b"s", b"12345") + make.END
    if value == b"" and keys == ["map", "map"] and not strict:
        assert scan(data).members == [("s", bytes(9))]
    else:
        assert_refused(data, "map|record|twice|account", strict=strict)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_numbers_of_a_map_are_of_bounded_length(at: int) -> None:
    numbers = [b"1", b"0", b"5"]
    for digits in (19, 20, 5000):
        numbers[at] = numbers[at].rjust(digits, b"0")
        text = make.block(b"".join(number + b"\n" for number in numbers))
        keys = (b"major", b"1"), (b"minor", b"0"), (b"realsize", b"9"), (b"name", b"s")
        head = make.pax(*((b"GNU.sparse." + key, value) for key, value in keys))
        data = head + make.member(b"s", text + b"12345") + make.END
        if digits == 19:
            assert scan(data).members == [("s", b"12345" + bytes(4))]
        else:
            assert_refused(data, "map")


def test_a_map_that_never_ends_is_not_kept() -> None:
    # Each line begins in one window of the scanner, and ends just before the next one would.
    windows = [512 << i for i in range(15)]
    lines = (b"10000\n".rjust(end - begin, b"0") for begin, end in pairwise([5, *windows]))
    keys = (b"major", b"1"), (b"minor", b"0"), (b"realsize", b"9"), (b"name", b"s")
    head = make.pax(*((b"GNU.sparse." + key, value) for key, value in keys))
    data = head + make.header(b"s", windows[-1]) + b"0" * 5 + b"".join(lines)
    scanner = TarScanner(strict=False, max_members=9, max_bytes=999)
    for begin in range(0, len(data), make.BLOCK):
        if scanner.feed(data[begin : begin + make.BLOCK], begin):
            break
    assert begin < 1 << 20


def test_a_kind_of_sparse_that_is_not_known() -> None:
    head = make.pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.realsize", b"9"))
    assert_refused(head + make.member(), "GNU tar", error=UnsupportedFeatureError)


def test_links_to_sparse_members_are_bounded() -> None:
    extents = [(2 * i, 1) for i in range(10_000)]
    data = pax_10(extents, 20_000, b"x" * 10_000)
    data += b"".join(make.header(b"%d" % i, kind=b"1", link=b"s") for i in range(300))
    assert_refused(data, "links multiply", error=LimitExceededError)


# Names.


def test_names_that_are_not_utf8() -> None:
    raw = "caf\u00e9 日本 ".encode() + b"\xff\xc0\x80\xed\xa0\x80\xe4\xb8 \xf4\x90\x80\x80\xc3"
    data = make.member(b"plain") + make.pax((b"path", raw)) + make.member() + make.long_name(raw) + make.member()
    scanned = scan(data)
    assert scanned.names == ["plain", *[raw.decode("utf-8", "surrogateescape")] * 2]
    assert [bool(flags & MemberFlag.RAW_NAME_BIT) for flags in scanned.columns["flags"]] == [False, True, True]
    assert scanned.columns["raw_member"].tolist() == [1, 2]
    assert scanned.columns["raw_names"].tobytes() == raw * 2
    assert scanned.columns["raw_offset"].tolist() == [0, len(raw), 2 * len(raw)]


@given(st.binary(max_size=100))
def test_names_are_as_python_has_them(raw: bytes) -> None:
    head = make.pax((b"path", raw + b"/x")) + make.member()
    assert scan(head).names == [(raw + b"/x").decode("utf-8", "surrogateescape")]


def test_names_in_an_encoding() -> None:
    data = make.member("日本".encode("shift-jis")) + make.member("日本".encode()) + make.member(b"a")
    assert scan(data, metadata_encoding="shift-jis").names == ["日本", "日本", "a"]
    with pytest.raises(CorruptArchiveError, match="metadata_encoding='ascii'"):
        scan(data, metadata_encoding="ascii")


def test_odd_names_are_listed_as_they_are() -> None:
    for name in (b"../a", b"/etc/passwd", b"C:\\a", b"a//b", b"a\nb"):
        assert assert_only_strict_minds(make.member(name), "its name").names == [name.decode()]
    assert assert_only_strict_minds(make.pax((b"path", b"a\0b")) + make.member(), "NUL").names == ["a\0b"]
    assert scan(make.member(b"") + make.pax((b"path", b"")) + make.member(), strict=True).names == ["", ""]
    assert scan(make.member(b"./a") + make.header(b"./", kind=b"5"), strict=True).names == ["./a", "."]


def test_texts_that_go_on_behind_their_end() -> None:
    for fields in ({"name": b"a\0b"}, {"link": b"a\0b"}, {"user": b"a\0b"}, {"prefix": b"a\0b"}):
        assert_only_strict_minds(make.header(**fields), "behind its end")
    assert assert_only_strict_minds(make.long_name(b"a\0b") + make.member(), "behind its end").names == ["a"]


# PAX records.


@pytest.mark.parametrize(
    "payload",
    [
        b"0 path=a\n",
        b"7 path\n",
        b"8 path\n\n",
        b"9 path=ab",
        b"999 path=a\n",
        b"11 path=a\n",
        b"8 path=a\n",
        b"99999999999999999999999 path=a\n",
        b"-9 path=a\n",
        b" 9 path=a\n",
        b"path=a\n",
        b"5 =a\n",
        b"11",
        b"9 path=a\n\0x",
        b"11\tpath=ab\n",
    ],
)
def test_malformed_records(payload: bytes) -> None:
    data = make.pax(payload) + make.member()
    assert_refused(data, "malformed")
    assert_refused(make.pax(payload, kind=b"g") + make.member(), "malformed")


def test_records_that_may_be() -> None:
    for payload, name in (
        (b"", "a"),
        (b"9 path=p\n\0\0\0", "p"),
        (b"016 path=abcdef\n", "abcdef"),
        (make.record(b"path", b"a=b\nc"), "a=b\nc"),
    ):
        assert scan(make.pax(payload) + make.member()).names == [name]


@pytest.mark.parametrize("size", [b"", b"12x", b"-1", b"1.5", b" 1", b"9223372036854775808", b"9" * 40])
def test_sizes_of_pax_that_are_none(size: bytes) -> None:
    assert_refused(make.pax((b"size", size)) + make.member(), "value|size")


def test_what_strict_minds_in_records() -> None:
    for records, match in (
        ([(b"path", b"a"), (b"path", b"b")], "twice"),
        ([(b"mtime", b"1x")], "value"),
        ([(b"hdrcharset", b"latin-1")], "encoding"),
        ([(b"pa\0th", b"a")], "NUL"),
        ([(b"k", b"\xff")], "UTF-8"),
        ([(b"\xff", b"v")], "UTF-8"),
    ):
        assert len(assert_only_strict_minds(make.pax(*records) + make.member(), match)) == 1
    assert len(scan(make.pax((b"SCHILY.xattr.user.x", b"\0\xff")) + make.member(), strict=True)) == 1
    assert_only_strict_minds(make.pax((b"mtime", b"1")) + make.pax(kind=b"g") + make.member(), "same member")
    assert_only_strict_minds(make.header(magic=make.V7, kind=b"7"), "magic")
    assert_only_strict_minds(make.header(mode=b"rw-r--r-"), "number")


def test_bounds_of_extensions() -> None:
    most = 1 << 20
    assert scan(make.long_name(b"n" * most, end=b"") + make.member()).names == ["n" * most]
    for kind in (b"L", b"K", b"x", b"g"):
        assert_refused(make.header(size=most + 1, kind=kind), "1 MiB", error=LimitExceededError)
        assert_refused(make.header(size=make.base256(-1), kind=kind), "size")
    assert len(scan(make.pax((b"k", b"v")) * 16 + make.member())) == 1
    assert_refused(make.pax((b"k", b"v")) * 17 + make.member(), "16", error=LimitExceededError)
    # A million of them would be a million calls, were they read by recursion; global ones have no bound.
    assert len(scan(make.pax((b"k", b"v"), kind=b"g") * 100_000 + make.member())) == 1


@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_what_all_members_inherit_is_bounded(key: bytes) -> None:
    data = make.header(kind=b"1", link=b"a") + make.END
    assert len(scan(make.pax((key, b"p" * 4096), kind=b"g") + data)) == 1
    longer = key, b"p" * 4097
    assert len(scan(make.pax(longer) + data)) == 1
    assert_refused(make.pax(longer, kind=b"g") + data, "4,096", error=LimitExceededError)


@pytest.mark.parametrize("end", [b"", make.END])
def test_an_extension_of_no_member(end: bytes) -> None:
    for extension in (make.pax((b"path", b"p")), make.long_name(b"n"), make.long_name(b"n", kind=b"K")):
        assert_refused(make.member() + extension + end, "missing")


# Limits, sources, errors.


def test_limits() -> None:
    data = b"".join(make.member(b"%04d" % i) for i in range(100)) + make.END
    assert len(scan(data, limits=Limits(max_members=100))) == 100
    with pytest.raises(LimitExceededError, match="max_members = 99"):
        scan(data, limits=Limits(max_members=99))
    room = 100 * (48 + 4)  # a row in each column, and a name
    with pytest.raises(LimitExceededError, match=f"max_index_bytes = {room - 1}"):
        scan(data, limits=Limits(max_index_bytes=room - 1))
    assert len(scan(data, limits=Limits(max_index_bytes=room))) == 100


class Shy(FileObjectSource):
    """A file object that says what was read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.read = 0

    def readinto_at(self, offset: int, buffer: memoryview) -> int:
        self.read += len(buffer)
        return super().readinto_at(offset, buffer)


def mixed_tar(seed: int = 5) -> tuple[bytes, list[tuple[str, bytes]]]:
    rng = random.Random(seed)
    members = [
        (f"{'d/' * rng.randrange(70)}{i}", rng.randbytes(rng.choice([0, 1, 511, 512, 513, 40_000]))) for i in range(60)
    ]
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return file.getvalue(), members


def test_every_kind_of_source(tmp_path: Path) -> None:
    data, members = mixed_tar()
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    sources: list[Source] = [MemorySource(data), LocalSource(path), FileObjectSource(io.BytesIO(data))]
    for source in sources:
        seen: list[tuple[int, int]] = []
        columns = tar.scan(source, strict=True, limits=Limits(), progress=lambda *at, seen=seen: seen.append(at))
        assert Scanned(data, columns).members == members
        assert seen[-1] == (len(data), len(data))


def test_payloads_are_not_read() -> None:
    data = b"".join(make.member(b"%d" % i, bytes(1 << 20)) for i in range(64))
    source = Shy(data)
    assert len(tar.scan(source, strict=False, limits=Limits())["size"]) == 8 * 64
    assert source.read < len(data) // 100


def test_progress_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    with path.open("wb") as file:
        for i in range(20):
            file.write(make.header(b"%d" % i, size=make.base256(1 << 33)))
            file.seek(1 << 33, os.SEEK_CUR)
        file.truncate()
    source = LocalSource(path)
    columns = tar.scan(source, strict=False, limits=Limits())
    assert np.frombuffer(columns["offset"], np.uint64).tolist() == [512 + i * ((1 << 33) + 512) for i in range(20)]


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make.member() * 9)
    source = LocalSource(path)
    os.truncate(path, 3000)
    with pytest.raises(CorruptArchiveError, match="truncated"):
        tar.scan(source, strict=False, limits=Limits())


def test_a_read_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make.member())
    with path.open("ab") as file:
        source = LocalSource(path)
        source.descriptor = file.fileno()  # not open for reading
        with pytest.raises(SourceError, match="Bad file descriptor") as caught:
            tar.scan(source, strict=False, limits=Limits())
    assert caught.value.errno == errno.EBADF


def test_an_error_names_the_member_that_is_cut() -> None:
    data = make.member(b"first") + make.member(b"cut", b"x" * 5000)
    with pytest.raises(CorruptArchiveError, match=r"member 'cut': .*within the data") as caught:
        scan(data[:4000])
    assert caught.value.member == "cut"

    with pytest.raises(CorruptArchiveError, match="within an extension") as caught:
        scan(make.member(b"whole") + make.long_name(LONG)[:600])
    assert caught.value.member is None


# A stream in pieces.


def feed(data: bytes, pieces: list[int], *, strict: bool = False) -> Scanned:
    scanner = TarScanner(strict=strict, max_members=1000, max_bytes=1 << 20)
    at = 0
    for size in [*pieces, len(data)]:
        assert scanner.feed(data[at : at + size], at) == Fault.NONE
        at = min(at + size, len(data))
    assert scanner.end(len(data)) == Fault.NONE
    return Scanned(data, scanner.finish())


SMALL = (
    make.pax((b"comment", b"c"), kind=b"g")
    + make.long_name(LONG)
    + make.member(b"x", b"hello")
    + old_gnu([(10 * i, 2) for i in range(30)], 300, b"ab" * 30)
    + pax_10(EXTENTS, REAL, PACKED)
    + make.header(b"l", kind=b"1", link=b"s")
    + make.END
)


@pytest.mark.parametrize("strict", [False, True])
def test_every_split_into_two(strict: bool) -> None:
    whole = feed(SMALL, [], strict=strict)
    assert whole.members == [(LONG.decode(), b"hello"), *scan(SMALL).members[1:]]
    for at in range(len(SMALL) + 1):
        assert feed(SMALL, [at], strict=strict).members == whole.members


@pytest.mark.parametrize("size", [1, 2, 3, 100, 511, 513, 4000])
def test_pieces_of_one_size(size: int) -> None:
    assert feed(SMALL, [size] * (len(SMALL) // size)).members == scan(SMALL).members


def test_only_what_is_wanted_need_be_fed() -> None:
    data, members = mixed_tar()
    scanner = TarScanner(strict=False, max_members=1000, max_bytes=1 << 20)
    fed = 0
    while scanner.wanted < len(data):
        at = scanner.wanted
        assert scanner.feed(data[at : at + 100], at) == Fault.NONE
        fed += 100
    assert scanner.finished
    assert scanner.wanted == (1 << 64) - 1
    assert scanner.feed(data[:0], 0) == scanner.end(len(data)) == Fault.NONE
    assert Scanned(data, scanner.finish()).members == members
    assert fed < len(data) / 3


def test_a_gap_is_refused() -> None:
    scanner = TarScanner(strict=False, max_members=1000, max_bytes=1 << 20)
    with pytest.raises(ValueError, match="wanted from 0"):
        scanner.feed(bytes(512), 1)


def test_a_fault_is_for_good() -> None:
    scanner = TarScanner(strict=False, max_members=1000, max_bytes=1 << 20)
    for data in (b"x" * 512, make.member(), b""):
        assert scanner.feed(data, 0) == Fault.BAD_CHECKSUM
    assert scanner.end(512) == Fault.BAD_CHECKSUM


# Damage.


def headers(scanned: Scanned) -> list[tuple[Any, ...]]:
    columns = [scanned.columns[name].tolist() for name in ("size", "offset", "flags", "timestamp", "attributes")]
    return list(zip(scanned.names, *columns, strict=True))


@pytest.mark.parametrize("strict", [False, True])
def test_every_truncation(strict: bool) -> None:
    whole = headers(scan(SMALL, strict=strict))
    for size in range(len(SMALL)):
        try:
            found = headers(scan(SMALL[:size], strict=strict))
        except ArchiveError:
            continue
        # Links at the end are members, too: what is left is a tar without its last ones.
        assert size % 512 == 0 or size > len(SMALL) - 1024
        assert found == whole[: len(found)]


def test_every_flip() -> None:
    data = make.member(b"first", b"x" * 600) + make.long_name(LONG) + make.member(b"second") + make.END
    whole = headers(scan(data))
    payloads = [*range(512, 1536), *range(2048, 2560), *range(3072, 3584)]
    for at in range(len(data)):
        for bit in (1, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= bit
            try:
                found = headers(scan(bytes(damaged)))
            except ArchiveError:
                assert at not in payloads or 2048 <= at < 2560
                continue
            if 2048 <= at < 2560:  # a name has no checksum of its own
                continue
            # The checksum itself can be written in several ways.
            assert found == whole, at


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_arbitrary_damage(draw: st.DataObject) -> None:
    data = bytearray(SMALL)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        new = draw.draw(st.binary(min_size=1, max_size=40))
        data[at : at + len(new)] = new
    # Headers that add up again, so that what they say is looked at.
    for at in range(0, len(data) - 511, 512):
        head = data[at : at + 512]
        if head[257:262] == b"ustar":
            total = sum(head) - sum(head[148:156]) + 256
            data[at + 148 : at + 156] = b"%06o\0 " % total
    for strict in (False, True):
        try:
            scanned = scan(bytes(data), strict=strict)
        except ArchiveError:
            continue
        for i in range(len(scanned)):
            if (
                not int(scanned.columns["flags"][i]) & MemberFlag.BROKEN_LINK_BIT
                and scanned.columns["size"][i] < 1 << 24
            ):
                scanned.contents(i)


# Against other programs.


def assert_as_tarfile(data: bytes) -> None:
    scanned = scan(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = archive.getmembers()
        assert scanned.names == [info.name for info in expected]
        for i, info in enumerate(expected):
            mode = scanned.modes[i]
            assert stat.S_IMODE(mode) == stat.S_IMODE(info.mode)
            if info.issym():
                assert stat.S_ISLNK(mode)
                assert scanned.contents(i).decode("utf-8", "surrogateescape") == info.linkname
            elif info.isdir():
                assert stat.S_ISDIR(mode)
                assert scanned.contents(i) == b""
            else:
                file = archive.extractfile(info)
                assert (scanned.contents(i) if file else b"") == (file.read() if file else b"")


NAMES = st.lists(
    st.text(st.characters(blacklist_characters="\0/", blacklist_categories=("Cs",)), min_size=1, max_size=60),
    min_size=1,
    max_size=6,
).map("/".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    files=st.lists(
        st.tuples(
            NAMES,
            st.integers(0, 1600),
            st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]),
            st.floats(0, 4e9) | st.integers(0, 1 << 34),
        ),
        max_size=8,
    ),
)
def test_what_tarfile_writes(form: int, files: list[tuple[str, int, bytes, float]]) -> None:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
            for name, size, kind, mtime in files:
                info = tarfile.TarInfo(name)
                info.type, info.mtime = kind, mtime
                info.size = size if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
                info.linkname = name[::-1] if kind == tarfile.SYMTYPE else ""
                try:
                    archive.addfile(info, io.BytesIO(bytes([len(name) % 256]) * size))
                except ValueError:
                    assert form == tarfile.USTAR_FORMAT  # has no room for it
        data = file.getvalue()
    assert_as_tarfile(data)


@pytest.mark.skipif(GNU_TAR is None, reason="needs GNU tar")
@pytest.mark.parametrize(
    "options",
    [
        ["--format=v7"],
        ["--format=ustar"],
        ["--format=oldgnu"],
        ["--format=gnu"],
        ["--format=posix"],
        ["--format=gnu", "-S"],
        ["--format=posix", "-S", "--sparse-version=0.0"],
        ["--format=posix", "-S", "--sparse-version=0.1"],
        ["--format=posix", "-S", "--sparse-version=1.0"],
        ["--format=gnu", "--label=volume"],
        ["--format=gnu", "-b1"],
    ],
    ids=" ".join,
)
def test_what_gnu_tar_writes(options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "files"
    deep = folder / ("sub/" * 10)
    deep.mkdir(parents=True)
    (deep / "a.txt").write_bytes(TEXT)
    if options[0] not in ("--format=v7", "--format=ustar"):
        (deep / ("long" * 50)).write_bytes(b"long")
        (folder / "far").symlink_to("far/" * 50)
    (folder / "empty").touch()
    (folder / os.fsdecode(b"caf\xe9")).write_bytes(b"latin")
    (folder / "near").symlink_to("empty")
    os.link(deep / "a.txt", folder / "linked")
    if options[0] != "--format=v7":  # which had no type for it
        os.mkfifo(folder / "fifo")
    with (folder / "sparse").open("wb") as file:
        for i in range(60):
            file.seek(i * 65536 + 4096)
            file.write(b"%04096d" % i)
        file.truncate(8 << 20)
    path = tmp_path / "a.tar"
    assert GNU_TAR is not None
    subprocess.run([GNU_TAR, "-cf", str(path), *options, "-C", str(tmp_path), "files"], check=True)
    data = path.read_bytes()
    if "--sparse-version=1.0" not in options:  # which tarfile gives the size of what is stored, before 3.14
        assert_as_tarfile(data)
    scanned = scan(data)
    for i, name in enumerate(scanned.names):
        real = tmp_path / os.fsencode(name).decode("utf-8", "surrogateescape")
        if real.is_symlink():
            assert os.fsencode(os.readlink(real)) == scanned.contents(i)
        elif real.is_file():
            assert real.read_bytes() == scanned.contents(i)
    assert bool(int(scanned.columns["flags"][scanned.names.index("files/sparse")]) & MemberFlag.SPARSE_BIT) == (
        "-S" in options
    )
