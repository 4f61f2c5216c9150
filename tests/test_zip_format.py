"""Every case of a ZIP that is met in the wild, by default and with ``strict=True``.

The numbers are the rows of the table of cases that the format was designed from.
"""

from __future__ import annotations

import functools
import io
import itertools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from zipmaker import (
    DEFLATE,
    LZMA,
    METHODS,
    STORED,
    XZ,
    ZSTD,
    Entry,
    Zip,
    compress,
    extra,
    lzma_without_end_mark,
    make,
    padding,
    unicode_path,
)

import archivestream
from archivestream import (
    Archive,
    ArchiveError,
    CorruptArchiveError,
    UnsupportedFeatureError,
)

Check = Callable[..., None]
OpenAs = Callable[..., Archive]

A = Entry(b"a.txt", b"first\n")
B = Entry(b"b.txt", b"second " * 40, DEFLATE)
PLAIN = [("a.txt", A.data), ("b.txt", B.data)]
LOCATOR = struct.pack("<4sLQL", b"PK\6\7", 0, 64, 1)


def opens(open_as: OpenAs, data: bytes, *, strict: bool = True) -> list[Archive]:
    """Open an archive by default, and with strict=True, which must refuse it if `strict` is False."""
    if not strict:
        with pytest.raises(CorruptArchiveError, match="strict"):
            open_as(data, strict=True)
        return [open_as(data)]
    return [open_as(data), open_as(data, strict=True)]


def refuses(open_as: OpenAs, data: bytes, kind: type[ArchiveError], match: str | None = None) -> None:
    for strict in (False, True):
        with pytest.raises(kind, match=match) as caught:
            open_as(data, strict=strict)
        assert caught.value.archive


# ---- 1: data begin behind the local extra field ----------------------------------------------------------------

CONTENTS = [random.Random(n).randbytes(n // 2) + bytes(n - n // 2) for n in (0, 1, 10, 5000, 17000, 300_000)]


@pytest.mark.parametrize("length", [1, 3, 4, 511, 512, 513, 600, 16384, 65535])
def test_local_extra(open_as: OpenAs, assert_reads: Check, length: int) -> None:
    local_extra = padding(length) if length >= 4 else bytes(length)
    for method, contents in itertools.product([STORED, DEFLATE, ZSTD, LZMA], CONTENTS):
        odd = Entry(b"odd", contents, method, local_extra=local_extra)
        for archive in opens(open_as, make(A, odd, B)):
            assert_reads(archive, [PLAIN[0], ("odd", contents), PLAIN[1]])


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("extra_in_directory", [b"", padding(40)])
def test_local_extras_in_batches(open_as: OpenAs, threads: int, extra_in_directory: bytes) -> None:
    rng = random.Random(threads)
    entries = [
        Entry(
            b"%d" % i,
            rng.randbytes(rng.choice([0, 1, 50, 700, 17000])),
            rng.choice([STORED, STORED, DEFLATE, ZSTD]),
            extra=extra_in_directory,
            local_extra=padding(rng.choice([4, 28, 512, 513, 700, 4200, 65535])) * (i % 3 > 0),
        )
        for i in range(120)
    ]
    data = make(*entries)
    for _ in range(6):
        # Read an archive anew: where the data begin is remembered once it is known.
        archive = open_as(data, threads=threads)
        for _ in range(3):
            keys = rng.choices(range(120), k=200)
            assert archive.read_many(keys) == [entries[key].data for key in keys]
            assert archive.read_batch(keys).data.tobytes() == b"".join(entries[key].data for key in keys)


# ---- 2: ZIP64 --------------------------------------------------------------------------------------------------

SUBSETS = [
    subset
    for count in range(1, 5)
    for subset in itertools.combinations(("size", "compressed_size", "offset", "disk"), count)
]


@pytest.mark.parametrize("fields", SUBSETS, ids="+".join)
def test_zip64_fields(open_as: OpenAs, assert_reads: Check, fields: tuple[str, ...]) -> None:
    for in_front, behind in itertools.product([b"", padding(4), padding(9)], [b"", padding(4), b"\1\0\0"]):
        wide = Entry(b"wide", B.data, DEFLATE, zip64=fields, extra_in_front=in_front, extra=behind)
        for archive in opens(open_as, make(A, wide, B)):
            assert_reads(archive, [PLAIN[0], ("wide", wide.data), PLAIN[1]])


@pytest.mark.parametrize("fields", SUBSETS, ids="+".join)
def test_zip64_field_too_short(open_as: OpenAs, fields: tuple[str, ...]) -> None:
    length = 8 * len(fields) - 4 * ("disk" in fields)
    for short in {0, 3, length - 4, length - 1}:
        bad = Entry(b"wide", B.data, zip64=fields, zip64_length=short)
        refuses(open_as, make(A, bad), CorruptArchiveError, "ZIP64")


@pytest.mark.parametrize("junk", [b"", b"x", b"\xff" * 7, b"\xff" * 28, b"\0" * 32])
def test_zip64_field_that_nothing_refers_to(open_as: OpenAs, assert_reads: Check, junk: bytes) -> None:
    for archive in opens(open_as, make(Entry(A.name, A.data, extra=extra(1, junk)), B)):
        assert_reads(archive, PLAIN)


SENTINELS = {"count_here": 0xFFFF, "count": 0xFFFF, "directory_size": 0xFFFFFFFF, "directory_offset": 0xFFFFFFFF}


@pytest.mark.parametrize(("prefix", "counted"), [(b"", True), (b"#!/bin/sh\n" * 9, True), (b"#!/bin/sh\n" * 9, False)])
@pytest.mark.parametrize("extensible", [b"", b"more" * 30])
def test_zip64_end(open_as: OpenAs, assert_reads: Check, prefix: bytes, counted: bool, extensible: bytes) -> None:
    if extensible and not counted:
        pytest.skip("where the record begins is not known then")
    around = {"prefix": prefix, "counts_prefix": counted, "extensible": extensible, "comment": b"hello"}
    for chosen in itertools.chain.from_iterable(itertools.combinations(SENTINELS.items(), n) for n in range(5)):
        archive = Zip([A, B], zip64=True, **around, **dict(chosen))  # type: ignore[arg-type]
        for opened in opens(open_as, archive.build()):
            assert_reads(opened, PLAIN)


WRONG_END64 = {
    "size": [0, 43, 45, 2**63, 2**64 - 1, 2**64 - 12],
    "count": [0, 1, 3, 2**32 - 1],
    "directory_size": [0, 1, 46, 2**32, 2**63, 2**64 - 1],
    "directory_offset": [0, 1, 2**32, 2**63, 2**64 - 1],
    "disk": [1, 2**32 - 1],
    "directory_disk": [1, 2**32 - 1],
}


@pytest.mark.parametrize("sentinels", [{}, SENTINELS], ids=["none", "all"])
@pytest.mark.parametrize("field", WRONG_END64)
def test_zip64_end_that_is_wrong(open_as: OpenAs, sentinels: dict[str, int], field: str) -> None:
    for value in WRONG_END64[field]:
        refuses(open_as, Zip([A, B], zip64=True, end64={field: value}, **sentinels).build(), ArchiveError)


@pytest.mark.parametrize("locator", [{"disks": 2}, {"disk": 1}])
def test_zip64_locator_of_several_disks(open_as: OpenAs, locator: dict[str, int]) -> None:
    refuses(open_as, Zip([A, B], zip64=True, locator=locator, **SENTINELS).build(), UnsupportedFeatureError, "disks")


# ---- 3: data descriptors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_data_descriptor(open_as: OpenAs, assert_reads: Check, signature: bool, wide: bool) -> None:
    # The data look like a descriptor and a local header themselves: nobody may search for one.
    contents = b"PK\7\x08" + bytes(12) + A.local() + b"text " * 50
    entries = [Entry(b"%d" % i, contents, method, descriptor=(signature, wide)) for i, method in enumerate(METHODS * 2)]
    for archive in opens(open_as, make(*entries)):
        assert_reads(archive, [(entry.name.decode(), contents) for entry in entries])


@pytest.mark.parametrize("wrong", [{"crc": 1}, {"compressed_size": 1}, {"size": 1}])
def test_wrong_data_descriptor_is_strict_error(open_as: OpenAs, assert_reads: Check, wrong: dict[str, int]) -> None:
    right = Entry(b"a.txt", A.data, descriptor=(True, False))
    values = {"crc": right.crc, "compressed_size": right.compressed_size, "size": right.size, **wrong}
    odd = Entry(b"a.txt", A.data, descriptor=b"PK\7\x08" + struct.pack("<3L", *values.values()))
    for archive in opens(open_as, make(odd, B), strict=False):
        assert_reads(archive, PLAIN)


class Pipe(io.RawIOBase):
    """Takes bytes, and can neither seek nor tell."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


@pytest.mark.parametrize("wide", [False, True])
def test_stream_of_zipfile(open_as: OpenAs, assert_reads: Check, wide: bool) -> None:
    pipe = Pipe()
    members = [(f"{method}", b"streamed %d " % method * 99) for method in (0, 8, 12, 14)]
    with zipfile.ZipFile(pipe, "w") as file:  # type: ignore[arg-type]
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = int(name)
            with file.open(info, "w", force_zip64=wide) as member:
                member.write(data)
    for archive in opens(open_as, bytes(pipe.data)):
        assert_reads(archive, members)


# ---- 14: names in a Unicode Path field -------------------------------------------------------------------------

PATH = "päth/名".encode()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (unicode_path(PATH, b"raw"), PATH.decode()),
        (padding(8) + unicode_path(PATH, b"raw") + b"\0\0", PATH.decode()),
        (unicode_path(PATH, b"raw", crc=1), "raw"),
        (unicode_path(b"\xff", b"raw", crc=1), "raw"),
        (unicode_path(PATH, b"raw", version=2), "raw"),
        (unicode_path(PATH, b"raw", version=0), "raw"),
        (unicode_path(b"", b"raw"), "raw"),
        (
            unicode_path(PATH, b"raw", crc=1) * 3 + unicode_path(PATH, b"raw") + unicode_path(PATH, b"raw", crc=2),
            PATH.decode(),
        ),
    ],
)
def test_unicode_path(open_as: OpenAs, assert_reads: Check, fields: bytes, name: str) -> None:
    for archive in opens(open_as, make(A, Entry(b"raw", b"named", extra=fields, local_extra=fields), B)):
        assert_reads(archive, [PLAIN[0], (name, b"named"), PLAIN[1]])
        assert archive[b"raw"] == b"named"


def test_many_unicode_paths_take_one_checksum_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def count(name: bytes) -> int:
        counted.append(name)
        return real(name)

    real = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", count)
    name = b"n" * 60_000
    fields = unicode_path(b"x", name, crc=1) * 6000
    data = make(Entry(name, b"named", extra=fields, local_extra=fields))
    counted.clear()
    assert list(archivestream.open(data, strict=True)) == [b"named"]
    assert counted == [name] * 2  # of the central header and of the local one


def test_unicode_path_that_is_not_utf8(open_as: OpenAs) -> None:
    bad = Entry(b"raw", b"named", extra=unicode_path(b"\xff\xfe", b"raw"))
    refuses(open_as, make(A, bad), CorruptArchiveError, "Unicode Path")


# ---- 6, 7: directories, empty members, empty archives, duplicates ----------------------------------------------


@pytest.mark.parametrize("name", [b"empty", b"folder/", b"a/b/c/"])
def test_empty_member(open_as: OpenAs, assert_reads: Check, name: bytes) -> None:
    for method in METHODS:
        for archive in opens(open_as, make(A, Entry(name, b"", method), B)):
            assert_reads(archive, [PLAIN[0], (name.decode(), b""), PLAIN[1]])
            assert archive.info(1).is_dir() == name.endswith(b"/")


@pytest.mark.parametrize("method", METHODS)
def test_empty_member_without_a_stream(open_as: OpenAs, assert_reads: Check, method: int) -> None:
    # zipfile reads no byte of a member that is declared as empty, whatever its method.
    data = make(A, Entry(b"empty", b"", method, payload=b""), B)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert method in (ZSTD, XZ) or file.read("empty") == b""
    assert_reads(open_as(data), [PLAIN[0], ("empty", b""), PLAIN[1]])


def test_directory_with_contents(open_as: OpenAs, assert_reads: Check) -> None:
    for archive in opens(open_as, make(Entry(b"folder/", b"contents")), strict=False):
        assert_reads(archive, [("folder/", b"contents")])


@pytest.mark.parametrize("zip64", [False, True])
def test_empty_archive(open_as: OpenAs, assert_reads: Check, zip64: bool) -> None:
    for comment, prefix in itertools.product([b"", b"c" * 65535], [b"", b"\0" * 1000]):
        for archive in opens(open_as, Zip([], comment=comment, zip64=zip64, prefix=prefix).build()):
            assert_reads(archive, [])
            assert archive.read_batch([]).data.size == 0
            assert list(archive) == []
            with pytest.raises(IndexError):
                archive[0]


def test_duplicates(open_as: OpenAs, assert_reads: Check) -> None:
    data = make(Entry(b"x", b"first"), B, Entry(b"x", b"last", DEFLATE))
    for archive in opens(open_as, data, strict=False):
        assert_reads(archive, [("x", b"first"), PLAIN[1], ("x", b"last")])
        assert archive.info("x").position == 2


# ---- 8, 9, 20: how many members there are ----------------------------------------------------------------------


@functools.cache
def many(count: int, comment: bytes = b"") -> bytes:
    entries = [Entry(b"%d" % i, b"") for i in range(count)]
    entries[-1].comment = comment
    return Zip(entries, count=count & 0xFFFF, count_here=count & 0xFFFF).build()


@pytest.mark.parametrize("count", [65535, 65536, 70_000])
def test_many_members(count: int) -> None:
    for archive in opens(archivestream.open, many(count), strict=count < 65536):
        assert len(archive) == count
        assert archive.namelist() == [str(i) for i in range(count)]
        assert archive[str(count - 1)] == b""


def test_65535_members_and_a_comment_like_a_locator() -> None:
    assert len(archivestream.open(many(65535, LOCATOR))) == 65535


@pytest.mark.parametrize("count", [0, 1, 3, 65535])
@pytest.mark.parametrize("fields", [("count",), ("count", "count_here")])
def test_count_that_is_wrong(open_as: OpenAs, count: int, fields: tuple[str, ...]) -> None:
    data = Zip([A, B], **dict.fromkeys(fields, count)).build()
    refuses(open_as, data, CorruptArchiveError, "counts|none")


# ---- 10, 11: bytes around the archive --------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [b"", b"MZ" + bytes(3000), b"PK\7\x08", b"PK00PK", b"\x89PNG\r\n"])
@pytest.mark.parametrize("counted", [False, True])
def test_bytes_around(open_as: OpenAs, assert_reads: Check, prefix: bytes, counted: bool) -> None:
    for gap, comment in itertools.product([b"", b"APK Sig Block 42" * 300], [b"", b"c", bytes(65535)]):
        archive = Zip([A, B], prefix=prefix, counts_prefix=counted, gap=gap, comment=comment)
        for opened in opens(open_as, archive.build()):
            assert_reads(opened, PLAIN)


@pytest.mark.parametrize("trailing", [b"\n", bytes(1000), b"x" * 60_000, b"PK\5\6", b"PK\5\6" + b"x" * 17])
def test_trailing_bytes(open_as: OpenAs, assert_reads: Check, trailing: bytes) -> None:
    data = Zip([A, B], comment=b"hello", trailing=trailing).build()
    for opened in opens(open_as, data, strict=False):
        assert_reads(opened, PLAIN)


def test_comment_past_the_end(open_as: OpenAs) -> None:
    data = Zip([A, B], comment=b"hello", comment_length=6).build()
    refuses(open_as, data, CorruptArchiveError, "comment")


def test_archives_one_after_the_other(open_as: OpenAs, assert_reads: Check) -> None:
    for opened in opens(open_as, make(Entry(b"x", b"hidden")) + make(A, B), strict=False):
        assert_reads(opened, PLAIN)


@pytest.mark.parametrize("order", [[1, 0], [2, 0, 1], [1, 2, 0], [2, 1, 0]])
def test_order_of_the_directory(open_as: OpenAs, assert_reads: Check, order: list[int]) -> None:
    entries = [A, B, Entry(b"big", bytes(20000), local_extra=padding(700))][: len(order)]
    for opened in opens(open_as, Zip(entries, order=order).build()):
        assert_reads(opened, [(entries[i].name.decode(), entries[i].data) for i in order])


# ---- 12, 13: sentinels without a ZIP64 field, and what looks like a locator ------------------------------------


@pytest.mark.parametrize("field", ["disk", "directory_disk", "directory_size", "directory_offset"])
def test_sentinel_without_zip64_end(open_as: OpenAs, field: str) -> None:
    value = 0xFFFF if "disk" in field else 0xFFFFFFFF
    archive = Zip([A, B], **{field: value})
    if field == "directory_offset":  # bytes lost in front: it opens, and no member is in bounds
        assert len(open_as(archive.build()).verify().errors) == 2
    else:
        refuses(open_as, archive.build(), ArchiveError, "ZIP64|larger")


@pytest.mark.parametrize("locator", [LOCATOR, struct.pack("<4sLQL", b"PK\6\7", 0, 2**64 - 1, 9)])
@pytest.mark.parametrize("where", ["name", "comment", "extra"])
def test_what_looks_like_a_locator(open_as: OpenAs, assert_reads: Check, locator: bytes, where: str) -> None:
    field = extra(0x4444, locator) if where == "extra" else locator
    last = Entry(**{"name": b"x", "data": b"last", where: field})
    name = last.name.split(b"\0")[0].decode("cp437")
    assert_reads(open_as(make(A, last)), [PLAIN[0], (name, b"last")])


def test_locator_that_leads_to_another_directory(open_as: OpenAs) -> None:
    """The end record has no sentinel, and is right; a comment leads to a ZIP64 record within the data."""
    evil = Entry(b"a.txt", b"another file")
    start = 30 + len(A.name)
    directory = evil.central(start)
    place = start + len(evil.local()) + len(directory)

    def build(reach: int) -> bytes:
        record = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", reach, 45, 45, 0, 0, 1, 1, len(directory), start + len(evil.local())
        )
        hidden = evil.local() + directory + record
        return make(Entry(b"a.txt", hidden, comment=struct.pack("<4sLQL", b"PK\6\7", 0, place, 1)))

    data = build(len(build(0)) - 22 - 20 - place - 12)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        expected = file.read("a.txt")
    try:
        archive = open_as(data)
    except ArchiveError:
        return
    assert archive["a.txt"] == expected


# ---- 15, 19: compression methods, several disks ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_method(open_as: OpenAs, assert_reads: Check, method: int) -> None:
    for size in (1, 1000, 20_000, 300_000):
        contents = random.Random(size).randbytes(size // 3 + 1) * 3
        for archive in opens(open_as, make(A, Entry(b"x", contents, method), B)):
            assert_reads(archive, [PLAIN[0], ("x", contents), PLAIN[1]])


@pytest.mark.parametrize("size", [1, 62, 81, 97, 1000, 5000])
def test_lzma_without_end_mark(open_as: OpenAs, assert_reads: Check, size: int) -> None:
    contents = random.Random(size).randbytes(size)
    payload = lzma_without_end_mark(contents)
    for archive in opens(open_as, make(A, Entry(b"x", contents, LZMA, payload), B)):
        assert_reads(archive, [PLAIN[0], ("x", contents), PLAIN[1]])


def test_several_frames_of_zstd(open_as: OpenAs, assert_reads: Check) -> None:
    skippable = b"\x53\x2a\x4d\x18" + struct.pack("<L", 5) + b"12345"
    payload = compress(b"one ", ZSTD) + skippable + compress(b"two", ZSTD)
    for archive in opens(open_as, make(Entry(b"x", b"one two", ZSTD, payload))):
        assert_reads(archive, [("x", b"one two")])


@pytest.mark.parametrize("fields", [{"disk": 1}, {"directory_disk": 1}, {"disk": 3, "directory_disk": 3}])
@pytest.mark.parametrize("zip64", [False, True])
def test_several_disks(open_as: OpenAs, fields: dict[str, int], zip64: bool) -> None:
    refuses(open_as, Zip([A, B], zip64=zip64, **fields).build(), UnsupportedFeatureError, "disks")


# ---- 17, 18: stray bytes in extra fields, symbolic links -------------------------------------------------------


@pytest.mark.parametrize("stray", [b"\0", b"\1\0", b"\1\0\1", bytes(3)])
def test_stray_bytes(open_as: OpenAs, assert_reads: Check, stray: bytes) -> None:
    for field in (b"", padding(5), extra(0x5455, b"\1" + bytes(4))):
        odd = Entry(A.name, A.data, extra=field + stray, local_extra=field + stray)
        for archive in opens(open_as, make(odd, B)):
            assert_reads(archive, PLAIN)


@pytest.mark.parametrize("length", [5, 100, 65535])
def test_extra_field_past_its_end(open_as: OpenAs, length: int) -> None:
    bad = Entry(b"bad", b"contents", extra=struct.pack("<2H", 0x4444, length) + bytes(4))
    refuses(open_as, make(A, bad, B), CorruptArchiveError, "extra field")


def test_symbolic_link(open_as: OpenAs, assert_reads: Check) -> None:
    link = Entry(b"link", b"/etc/passwd", external=0o120777 << 16)
    for archive in opens(open_as, make(A, link)):
        assert_reads(archive, [PLAIN[0], ("link", b"/etc/passwd")])
        assert archive.info("link").is_symlink()
        assert not archive.info("a.txt").is_symlink()


# ---- strict: local and central header say the same -------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"local_method": DEFLATE},
        {"local_flags": 0x0800},
        {"local_time": 1},
        {"local_date": 1},
        {"local_crc": 1},
        {"local_size": 1},
        {"local_compressed_size": 1},
        {"local_needed": 46},
        {"local_extra": extra(0x4444, b"xx")[:5]},
        {"flags": 0x0080},
        {"internal": 0x8000},
        {"name": b"../a.txt"},
        {"name": b"/a.txt"},
        {"name": b"a//b"},
        {"name": b""},
        {"name": b"a\0b"},
        {"gap": A.local()},
    ],
    ids=str,
)
def test_strict_refuses(open_as: OpenAs, fields: dict[str, object]) -> None:
    odd = Entry(**{"name": b"odd", "data": b"contents", **fields})  # type: ignore[arg-type]
    for archive in opens(open_as, make(A, odd, B), strict=False):
        assert list(archive) == [A.data, odd.data, B.data]
    encrypted = Entry(b"odd", b"contents", flags=1)  # it is well-formed, so it is refused when it is read
    assert len(open_as(make(A, encrypted), strict=True)) == 2


def test_numpy_sees_what_zipfile_writes(open_as: OpenAs) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(5), y=np.eye(3))
    archive = open_as(buffer.getvalue(), strict=True)
    assert archive.namelist() == ["x.npy", "y.npy"]
    assert np.array_equal(archive.read_arrays(["y.npy"])[0], np.eye(3))


@pytest.mark.parametrize("junk", [b"", b"\0", b"x" * 99, bytes((1 << 20) - 7), bytes((1 << 20) + 7)], ids=len)
def test_strict_finds_members_that_are_not_listed(open_as: OpenAs, junk: bytes) -> None:
    hidden = junk + Entry(b"hidden", b"hidden").local() + b"after"
    data = Zip([A, replace(B, gap=hidden)]).build()
    assert open_as(data).namelist() == ["a.txt", "b.txt"]
    with pytest.raises(CorruptArchiveError, match="does not list"):
        open_as(data, strict=True)


def test_strict_minds_no_mark_alone(open_as: OpenAs) -> None:
    data = Zip([A, replace(B, gap=b"PK\3\4 is how one begins" * 3)]).build()
    assert len(open_as(data, strict=True)) == 2
