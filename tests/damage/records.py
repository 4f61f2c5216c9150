"""TFRecord and the messages in it; the records of splitdataloader and AcumenIndexer; sets of shards."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import recordmaker as make
import zstandard

import archivestream
from archivestream import ArchiveError, Limits
from archivestream.tfrecord import ExampleParser, VarLenFeature

from .compressed import GZIP, means
from .subjects import (
    ABOUT,
    CONTENTS,
    FIRST,
    LAST,
    NONE,
    OTHERS,
    ArchiveReader,
    Field,
    Found,
    Loose,
    Part,
    Raw,
    Subject,
    archive,
    named,
)
from .zips import fields_of

__all__ = ["KINDS"]

RECORDS = [b"the first record", b"", bytes(range(40))]
HEAD, TAIL = 12, 4  # bytes around a record
SMALL = Limits(max_member_bytes=1 << 20)


def starts(data: bytes) -> Iterator[tuple[int, int]]:
    """Find the records: where each begins, and how long it is."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield at, size
        at += HEAD + size + TAIL


def tfrecord(folder: Path) -> Subject:
    data = make.records(RECORDS)
    places = list(starts(data))

    def mend(damaged: bytes) -> bytes:
        """Set the checksums right: of each length, and of as many bytes as there were."""
        result = bytearray(damaged)
        for at, size in places:
            result[at + 8 : at + HEAD] = make.masked(make.crc32c(bytes(result[at : at + 8])))
            body = at + HEAD + size
            result[body : body + TAIL] = make.masked(make.crc32c(bytes(result[at + HEAD : body])))
        return bytes(result)

    return Subject(
        data,
        ArchiveReader(folder / "archive"),
        [Field(at + offset, size) for at, _ in places for offset, size in ((0, 8), (0, 4), (8, 4))],
        cut=frozenset({FIRST, NONE}),
        cut_front=frozenset({LAST, NONE}),
        mend=mend,
        mendable=[(0, len(data))],
        numbered=True,
    )


def wrapped(wrap: Callable[[bytes], bytes], unwrap: Callable[[bytes], bytes]) -> Callable[[Path], Subject]:
    """Records in a stream with a checksum of its own."""
    data = wrap(make.records(RECORDS * 3))
    read = means(unwrap)
    return lambda folder: Subject(
        data,
        ArchiveReader(folder / "archive", {"limits": SMALL}),
        [Field(0, 4)],
        means=read,
        **GZIP,
    )


def example(folder: Path) -> Subject:
    """A message has no checksum: an error, or what the official runtime makes of it."""
    message = make.example_class()()
    features = message.features.feature
    features["label"].int64_list.value.extend([7, -1, 1 << 40])
    features["weights"].float_list.value.extend([0.5, 1e30])
    features["text"].bytes_list.value.extend([b"some bytes", b""])
    kinds = {"label": "int64", "weights": "float32", "text": "bytes"}
    parser = ExampleParser({name: VarLenFeature(kind) for name, kind in kinds.items()})

    def read(data: bytes) -> Found:
        try:
            parsed = parser.parse([data])
        except ArchiveError as error:
            return error
        return [Part(name, [_plain(value) for value in parsed[name].values]) for name in kinds]

    def official(data: bytes) -> Found:
        try:
            values = make.contents(data)
        except Exception as error:  # of protobuf, which has a class of its own for each runtime
            return error
        return [Part(name, [_plain(value) for value in values.get(name, (None, []))[1]]) for name in kinds]

    data = message.SerializeToString(deterministic=True)
    return Subject(data, read, [Field(at, 1) for at in range(len(data))], means=official)


def _plain(value: object) -> object:
    """Compare floats by their bits: some damage makes them no numbers."""
    if hasattr(value, "item"):
        value = value.item()
    return struct.pack("<d", value) if isinstance(value, float) else value


def split_bins(target: str) -> Callable[[Path], Subject]:
    """What splitdataloader writes: an index, and records in bins; nothing has a checksum."""

    def make_subject(folder: Path) -> Subject:
        bins = folder / "bins"
        bins.mkdir()
        entries, contents = [], {0: b"", 1: b""}
        for number, record in enumerate(RECORDS):
            entries.append((number % 2, len(contents[number % 2]), len(record)))
            contents[number % 2] += struct.pack("<L", len(record)) + record
        (bins / "index.dat").write_bytes(b"".join(struct.pack("<3L", *entry) for entry in entries))
        for number, content in contents.items():
            (bins / f"bin{number:08d}.dat").write_bytes(content)
        data = (bins / target).read_bytes()
        if target == "index.dat":
            # Two entries for one record lie over one another; but records that are empty take no place.
            fields = [Field(at, 4) for at in range(0, len(data), 4)]
            # A byte that is lost leaves a part of the last entry, which is passed over as that of an interrupted write.
            loose = [Loose(12, 24), Loose(24, 36, frozenset({FIRST}))]
            return Subject(
                data,
                _read_in(bins, target),
                fields,
                loose,
                cut=frozenset({FIRST, NONE}),
                cut_front=frozenset({LAST, NONE}),
                numbered=True,
            )
        fields = [Field(at, 4) for at, (number, _, _) in zip((0, 20), entries, strict=False) if not number]
        raw = [Raw(position + 4, position + 4 + size, i) for i, (bin, position, size) in enumerate(entries) if not bin]
        return Subject(data, _read_in(bins, target), fields, raw=raw)

    return make_subject


TABLE = """ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape,label
chunks/chunk_0.chnk,0,12,"(2, 3)",7
chunks/chunk_0.chnk,12,4,"(2,)",8
"""


def acumen(target: str) -> Callable[[Path], Subject]:
    """What AcumenIndexer writes: a table, and arrays in chunks; nothing has a checksum."""

    def make_subject(folder: Path) -> Subject:
        arrays = folder / "arrays"
        (arrays / "chunks").mkdir(parents=True)
        (arrays / "index.csv").write_text(TABLE)
        (arrays / "chunks/chunk_0.chnk").write_bytes(bytes(range(16)))
        data = (arrays / target).read_bytes()
        if target == "index.csv":
            any_row = frozenset({FIRST, LAST, NONE, OTHERS, CONTENTS})
            loose = [Loose(0, len(data), any_row)]
            return Subject(data, _read_in(arrays, target), loose=loose, cut=any_row, cut_front=any_row, numbered=True)
        return Subject(data, _read_in(arrays, target), raw=[Raw(0, 12, 0), Raw(12, 16, 1)])

    return make_subject


def _read_in(folder: Path, target: str) -> Callable[[bytes], Found]:
    """Read a folder in which one file is damaged."""

    def read(data: bytes) -> Found:
        (folder / target).write_bytes(data)
        found = archive(folder, str(folder))
        strictly = archive(folder, str(folder), every_way=False, strict=True)
        assert isinstance(strictly, Exception) or strictly == found, "strict mode gives other members"
        return found

    return read


def shards(folder: Path) -> Subject:
    """A set of ZIPs, opened as one: one is damaged."""
    pattern = folder / "part-{:05d}.zip"
    archivestream.pack(RECORDS * 2, pattern, shards=2, method="stored")
    target = folder / "part-00000.zip"

    def read(data: bytes) -> Found:
        target.write_bytes(data)
        found = archive(folder / "part-*.zip", str(folder))
        if isinstance(found, ArchiveError):
            named(found, str(target))
        return found

    data = target.read_bytes()
    # A shard that says that it is empty takes its own from the others.
    may = frozenset({FIRST, LAST, OTHERS, ABOUT})
    fields = [Field(one.begin, one.size, one.form, one.may and may) for one in fields_of(data)]
    return Subject(data, read, fields)


KINDS: dict[str, Callable[[Path], Subject]] = {
    "tfrecord": tfrecord,
    "tfrecord, gzip": wrapped(gzip.compress, gzip.decompress),
    "tfrecord, zlib": wrapped(zlib.compress, zlib.decompress),
    "tfrecord, zstd": wrapped(
        zstandard.ZstdCompressor(write_checksum=True).compress, zstandard.ZstdDecompressor().decompress
    ),
    "example": example,
    "splitdataloader, index": split_bins("index.dat"),
    "splitdataloader, bin": split_bins("bin00000000.dat"),
    "acumenindexer, table": acumen("index.csv"),
    "acumenindexer, chunk": acumen("chunks/chunk_0.chnk"),
    "shards": shards,
}
