"""zstd and gzip: tars in them, and single files; and the streams of `archivestream.deflate`."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import tarmaker as make
import zstandard
from samples import as_frames, as_seekable, text, zst_of
from zstdmaker import skippable

import archivestream
from archivestream import Limits, deflate

from .subjects import (
    ABOUT,
    CONTENTS,
    NAMES,
    ArchiveReader,
    Field,
    Found,
    Loose,
    Part,
    Subject,
    archive,
)

__all__ = ["KINDS", "TAR", "frames_of"]

TAR = make.member(b"a", text(300)) + make.member(b"b", text(700, 2)) + make.END
SMALL = Limits(max_member_bytes=1 << 20, max_window_bytes=8 << 20)
GZIP: dict[str, int] = {
    "room": 2 << 30,  # rapidgzip ends the process where its threads find no address space for their heaps
    "limit": 8 * 24 << 20,  # what the package lets its readers take: see `archivestream/sources/gzip.py`
    "kept": 8 << 10,  # it keeps 3 to 5 KiB for each reader that there was
}
SKIPPABLE = 0x184D2A50
MAGIC = 0xFD2FB528
TABLE = 0x8F92EAB1


def frames_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Find the frames of a zstd file, those to skip, too."""
    at = 0
    while at < len(data):
        number = int.from_bytes(data[at : at + 4], "little")
        if number & ~15 == SKIPPABLE:
            end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            if end > len(data):
                raise ValueError("a frame to skip goes on behind the end")
        else:
            decompressor = zstandard.ZstdDecompressor().decompressobj()
            decompressor.decompress(data[at:])
            if not decompressor.eof:
                raise ValueError("a frame goes on behind the end")
            end = len(data) - len(decompressor.unused_data)
        yield at, end
        at = end


def content_of(data: bytes) -> bytes:
    """Decode a zstd file as libzstd does, frame by frame."""
    content = b""
    for begin, end in frames_of(data):
        if int.from_bytes(data[begin : begin + 4], "little") == MAGIC:
            content += zstandard.ZstdDecompressor().decompressobj().decompress(data[begin:end])
    return content


def means(decode: Callable[[bytes], bytes], name: str = "") -> Callable[[bytes], Found]:
    """Make what reads the content that another program decodes: as a tar, or as the one member of a file."""

    def read(data: bytes) -> Found:
        try:
            content = decode(data)
        except (ValueError, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            return error
        found = archive(content, "<", every_way=False, limits=SMALL)
        return [Part(name, content)] if isinstance(found, Exception) else found

    return read


def zstd_fields(data: bytes) -> Iterator[Field]:
    """Find the numbers of frames (RFC 8878, 3.1.1), of their blocks, and of the seek table."""
    for begin, end in frames_of(data):
        yield Field(begin, 4)
        if int.from_bytes(data[begin : begin + 4], "little") != MAGIC:
            yield Field(begin + 4, 4)
            if data[end - 4 : end] == struct.pack("<L", TABLE):
                yield from (Field(at, 4) for at in range(begin + 8, end - 9, 4))
                yield from (Field(end - 9, 4), Field(end - 5, 1), Field(end - 4, 4))
            continue
        descriptor = data[begin + 4]
        is_single = descriptor >> 5 & 1
        size = (is_single, 2, 4, 8)[descriptor >> 6]
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        at = begin + 6 - is_single
        yield from (Field(begin + 4, 1), Field(begin + 5, 1))
        if dictionary:
            yield Field(at, dictionary)
        if size:
            yield Field(at + dictionary, size)
        at += dictionary + size
        while at + 3 <= end:  # the blocks
            yield from (Field(at, 3), Field(at + 3, 2))
            head = int.from_bytes(data[at : at + 3], "little")
            at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
            if head & 1:
                break
        if descriptor & 4:
            yield Field(end - 4, 4)


def zstd(data: bytes) -> Callable[[Path], Subject]:
    """A zstd file, which may also be cut between frames: what libzstd makes of it is what it is then."""
    return lambda folder: Subject(
        data,
        ArchiveReader(folder / "archive", {"limits": SMALL}),
        list(zstd_fields(data)),
        means=means(content_of),
    )


def with_dictionary(folder: Path) -> Subject:
    """What the packer writes: a dictionary in a frame to skip, frames that need it, and a seek table."""
    samples = [text(300, seed) for seed in range(60)]
    trained = zstandard.train_dictionary(400, samples).as_bytes()
    path = folder / "made.tar.zst"
    archivestream.pack([("a", samples[0]), ("b", samples[1])], path, frame_size=4096, dictionary=trained)
    data = path.read_bytes()
    reader = ArchiveReader(folder / "archive", {"limits": SMALL})
    # Without the dictionary, no other program decodes it; but a part that is all frames to skip holds nothing.
    return Subject(data, reader, list(zstd_fields_of_packed(data)), means=means(content_of))


def zstd_fields_of_packed(data: bytes) -> Iterator[Field]:
    """Find the numbers of the frames to skip, at the beginning and at the end; those between need the dictionary."""
    yield from (Field(0, 4), Field(4, 4), Field(8, 4), Field(12, 4))
    at = 8 + int.from_bytes(data[4:8], "little")
    yield from (Field(at, 4), Field(at + 4, 1), Field(at + 5, 4), Field(at + 6, 4), Field(at + 7, 4))
    table = data.rfind(struct.pack("<L", SKIPPABLE + 14))
    yield from (Field(place, 4) for place in range(table, len(data) - 9, 4))
    yield from (Field(len(data) - 9, 4), Field(len(data) - 5, 1), Field(len(data) - 4, 4))


def gzip_of(*contents: bytes, name: bytes = b"") -> bytes:
    """Members of gzip (RFC 1952), with a name and a time."""
    members = []
    for content in contents:
        packed = zlib.compressobj(wbits=-15)
        head = struct.pack("<4BL2B", 0x1F, 0x8B, 8, 8 * bool(name), 1_600_000_000, 0, 3)
        end = struct.pack("<2L", zlib.crc32(content), len(content))
        members.append(head + name + b"\0" * bool(name) + packed.compress(content) + packed.flush() + end)
    return b"".join(members)


def gz(*contents: bytes, name: bytes = b"") -> Callable[[Path], Subject]:
    def make_subject(folder: Path) -> Subject:
        data = gzip_of(*contents, name=name)
        first = len(gzip_of(contents[0], name=name))
        about = frozenset({ABOUT})
        fields = [Field(0, 2), Field(2, 1), Field(3, 1), Field(4, 4, "little", about), Field(8, 2)]
        fields += [Field(at, 4) for end in {first, len(data)} for at in (end - 8, end - 4)]
        loose = [Loose(3, 4, frozenset({NAMES}))]  # whether there is a name
        if name:
            loose.append(Loose(10, 10 + len(name) + 1, frozenset({NAMES})))
        return Subject(
            data,
            ArchiveReader(folder / "archive", {"limits": SMALL}),
            fields,
            loose,
            means=means(gzip.decompress, "data"),
            **GZIP,
        )

    return make_subject


def stream(pack: Callable[[bytes], bytes], unpack: Callable[..., bytearray], wbits: int) -> Callable[[Path], Subject]:
    """A stream of `archivestream.deflate`: what zlib makes of it, or an error.

    A raw stream has no checksum, and zlib refuses some that libdeflate decodes; what both decode must be the same.
    """
    content = text(600)
    may = frozenset({CONTENTS}) if wbits < 0 else frozenset[str]()

    def read(data: bytes) -> Found:
        sizes = [{}] if wbits == 31 and len(data) >= 20 else []
        found = []
        for options in ({"bufsize": 2 * len(content)}, {"bufsize": len(content)}, *sizes):
            try:
                found.append(bytes(unpack(data, **options)))
            except deflate.DeflateError as error:
                found.append(error)
            except ValueError as error:  # where it does not begin as gzip
                assert wbits == 31
                found.append(error)
        good = {one for one in found if isinstance(one, bytes)}
        assert len(good) < 2, "sizes of the buffer change what is decoded"
        if not good:
            return found[0]
        theirs = zlib_means(data)
        assert isinstance(theirs, Exception) or [part.data for part in theirs] == [*good], "zlib decodes other bytes"
        return [Part("", *good)]

    def zlib_means(data: bytes) -> Found:
        decompressor = zlib.decompressobj(wbits)
        try:
            decoded = decompressor.decompress(data)
        except zlib.error as error:
            return error
        return [Part("", decoded)] if decompressor.eof else ValueError("it is cut")

    def make_subject(folder: Path) -> Subject:
        data = bytes(pack(content))
        loose = [Loose(0, len(data), may)]
        return Subject(data, read, [Field(0, 2), Field(2, 2)], loose, cut_front=may, means=zlib_means)

    return make_subject


FRAMES = [TAR[at : at + 900] for at in range(0, len(TAR), 900)]
KINDS: dict[str, Callable[[Path], Subject]] = {
    "tar.zst, one frame": zstd(zst_of(TAR)),
    "tar.zst, no checksum": zstd(zstandard.ZstdCompressor(write_content_size=False).compress(TAR)),
    "tar.zst, frames": zstd(as_frames(TAR, 900)),
    "tar.zst, seek table": zstd(as_seekable(TAR, 900)),
    "tar.zst, frames to skip": zstd(b"".join(skippable(b"skip", 2) + zst_of(part) for part in FRAMES)),
    "tar.zst, dictionary": with_dictionary,
    "zst": zstd(zst_of(text(900))),
    "zst, two frames": zstd(zst_of(text(500)) + zst_of(text(400, 2))),
    "tar.gz": gz(TAR),
    "tar.gz, two members": gz(TAR[:1200], TAR[1200:]),
    "gz": gz(text(600), name=b"text.txt"),
    "gz, two members": gz(text(300), text(300, 2)),
    "deflate, raw": stream(deflate.deflate_compress, deflate.deflate_decompress, -15),
    "deflate, zlib": stream(deflate.zlib_compress, deflate.zlib_decompress, 15),
    "deflate, gzip": stream(deflate.gzip_compress, deflate.gzip_decompress, 31),
}
