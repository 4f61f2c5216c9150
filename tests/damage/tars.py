"""Plain tars: their headers have checksums, and nothing else in them has."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tarmaker as make
from tarmaker import BLOCK, END, GNU, V7

from archivestream import Limits
from archivestream._native.tarheader import is_header

from .subjects import ANYTHING, FIRST, LAST, NONE, ArchiveReader, Field, Loose, Raw, Subject

__all__ = ["KINDS", "PLAIN"]

TEXT = b"some text in a tar; "
# The numbers of a header, and how long they are; those of old GNU's sparse files follow (see `tarheader.pyx`).
NUMBERS = ((100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (148, 8), (329, 8), (337, 8))
SPARSE = (*((at, 12) for at in range(386, 482, 12)), (483, 12))
TYPE, CHECKSUM, EXTENDED = 156, slice(148, 156), 482
MAGIC = (257, 265)
USED = 500  # bytes of a header
EXTENSIONS = b"xgLK"  # their payload says what the next header is
SMALL = Limits(max_member_bytes=1 << 20)  # holes have no bytes that a size could be compared with


def header_places(data: bytes) -> list[int]:
    """Find all headers: blocks that have their checksum."""
    return [at for at in range(0, len(data), BLOCK) if checksum(data[at : at + BLOCK]) == data[at:][CHECKSUM]]


def checksum(header: bytes) -> bytes:
    return b"%06o\0 " % (sum(header) - sum(header[CHECKSUM]) + 8 * ord(" "))


def fields_of(data: bytes) -> Iterator[Field]:
    for at in header_places(data):
        yield Field(at + TYPE, 1)
        for offset, size in NUMBERS + SPARSE * (data[at + TYPE : at + TYPE + 1] == b"S"):
            yield from (Field(at + offset, size, "octal"), Field(at + offset, size, "base256"))


def loose_of(data: bytes) -> Iterator[Loose]:
    """Find what no checksum protects, besides the data: extension headers, and the maps of sparse files."""
    is_sparse = False
    for at, end in zip(places := header_places(data), [*places[1:], len(data)], strict=True):
        kind = data[at + TYPE : at + TYPE + 1]
        if kind in EXTENSIONS:
            yield Loose(at + BLOCK, end)
            is_sparse = b"GNU.sparse" in data[at:end]
        elif kind == b"S" or is_sparse:
            yield Loose(at + BLOCK, end)
            is_sparse = False


def raw_of(data: bytes) -> Iterator[Raw]:
    """Find the data of members as the standard library does."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    for number, member in enumerate(members):
        target = member
        if member.islnk():  # its bytes are those of another
            target = next(one for one in members if one.name == member.linkname)
        if target.isreg() and not target.issparse():
            yield Raw(target.offset_data, target.offset_data + target.size, number)


def windows_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Return what of the headers holds something, and all of what is no data."""
    for at in header_places(data):
        yield from ((at, at + 16), (at + 100, at + 172), (at + MAGIC[0], at + MAGIC[1] + 8), (at + 325, at + 353))
        if data[at + TYPE : at + TYPE + 1] == b"S":
            yield at + 384, at + 496
    for loose in loose_of(data):
        filled = data[loose.begin : loose.end].rstrip(b"\0")
        yield loose.begin, loose.begin + len(filled)
    yield len(data) - len(END), len(data) - len(END) + 16


def mender(data: bytes) -> Callable[[bytes], bytes]:
    """Make what sets the checksums of all headers right."""
    places = header_places(data)

    def mend(damaged: bytes) -> bytes:
        result = bytearray(damaged)
        for at in places:
            result[at + CHECKSUM.start : at + CHECKSUM.stop] = checksum(bytes(result[at : at + BLOCK]))
        return bytes(result)

    return mend


def keeps_sum(data: bytes, damaged: bytes, begin: int, end: int) -> bool:
    """Whether a header that is damaged still has its checksum, which does not depend on the order of its bytes."""
    for at in header_places(data):
        block = damaged[at : at + BLOCK]
        if at < end and begin < at + BLOCK and block != data[at : at + BLOCK] and is_header(block):
            return True
    return False


def subject_of(data: bytes, folder: Path) -> Subject:
    data += END
    return Subject(
        data,
        ArchiveReader(folder / "archive", {"limits": SMALL}),
        list(fields_of(data)),
        list(loose_of(data)),
        list(raw_of(data)),
        cut=frozenset({FIRST, NONE}),
        cut_front=ANYTHING if any(loose_of(data)) else frozenset({LAST, NONE}),  # what an extension says is lost
        mend=mender(data),
        mendable=[(at, at + USED) for at in header_places(data)],
        escapes=lambda damaged, begin, end: keeps_sum(data, damaged, begin, end),
        windows=list(windows_of(data)),
    )


def pax_sparse(version: int) -> bytes:
    """A sparse file as PAX has it, in its versions 0.0, 0.1 and 1.0: five bytes at 100 of 600, three at 400."""
    size, contents, spans = b"600", b"holes and", [(100, 5), (400, 4)]
    numbers = [b"%d" % number for span in spans for number in span]
    if version == 0:
        records = [(b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", b"2")]
        for offset, length in spans:
            records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
    elif version == 1:
        records = [(b"GNU.sparse.size", size), (b"GNU.sparse.numblocks", b"2"), (b"GNU.sparse.map", b",".join(numbers))]
        records += [(b"GNU.sparse.name", b"sparse")]
    else:
        records = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"sparse")]
        records += [(b"GNU.sparse.realsize", size)]
        contents = make.block(b"2\n" + b"".join(number + b"\n" for number in numbers)) + contents
    return make.pax(*records) + make.member(b"GNUSparseFile.0/sparse", contents) + make.member(b"b", TEXT)


def gnu_sparse() -> bytes:
    """A sparse file as GNU has it of old, with a second block of its map."""
    here = b"".join(b"%011o\0" % number for at in range(4) for number in (at * 100, 5))
    head = make.header(
        b"sparse", 25, kind=b"S", magic=GNU, patches=[(386, here), (482, b"\1"), (483, b"%011o\0" % 900)]
    )
    more = b"%011o\0%011o\0" % (500, 5)
    return head + make.block(more) + make.block(b"five " * 5) + make.member(b"b", TEXT, magic=GNU)


def links() -> bytes:
    """Links, and a name and a target that are too long for a header."""
    long = b"long" * 30
    data = make.member(b"a", TEXT, magic=GNU) + make.header(b"hard", kind=b"1", link=b"a", magic=GNU)
    data += make.header(b"soft", kind=b"2", link=b"a", magic=GNU) + make.header(b"folder/", kind=b"5", magic=GNU)
    data += make.long_name(long) + make.member(long[:100], TEXT * 2, magic=GNU)
    return data + make.long_name(long, b"K") + make.header(b"far", kind=b"1", link=long[:100], magic=GNU)


def pax() -> bytes:
    data = make.pax((b"comment", b"of all"), kind=b"g")
    data += make.pax((b"path", "größe".encode()), (b"mtime", b"1.5"), (b"size", b"20")) + make.member(
        b"x", TEXT, size=0
    )
    return data + make.member(b"b", TEXT[:5], prefix=b"folder")


PLAIN: dict[str, bytes] = {
    "v7": make.member(b"a", TEXT, magic=V7, kind=b"\0") + make.member(b"b", b"", magic=V7),
    "ustar": make.member(b"a", TEXT, prefix=b"folder") + make.member(b"b", TEXT * 2),
    "GNU links": links(),
    "GNU sparse": gnu_sparse(),
    "PAX": pax(),
    **{f"PAX sparse {version}": pax_sparse(number) for number, version in enumerate(("0.0", "0.1", "1.0"))},
}


def _kind(data: bytes) -> Callable[[Path], Subject]:
    return lambda folder: subject_of(data, folder)


KINDS: dict[str, Callable[[Path], Subject]] = {f"tar, {name}": _kind(data) for name, data in PLAIN.items()}
