"""Files that are others from some read on while they are opened: an error of the package, and no other."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile

import pytest
import tarmaker as make
import zipmaker
import zstandard
from zipmaker import Entry

import archivestream
from archivestream import ArchiveError

MEMBERS = [(b"m%d" % i, b"data %d " % i * 50) for i in range(9)]
TAR = b"".join(make.member(*member) for member in MEMBERS) + make.END


def zip64(data: bytes) -> bytes:
    """Put the numbers of an end record into a ZIP64 one."""
    end = data.rindex(b"PK\5\6")
    count, size, offset = struct.unpack_from("<HLL", data, end + 10)
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    return data[:end] + record + locator + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[2**32 - 1] * 2, 0)


ZIP = zipmaker.make(*(Entry(*member, zipfile.ZIP_DEFLATED) for member in MEMBERS))
# As long as each other: the comment of an entry is two more entries in the other one.
COMMENT = zipmaker.make(Entry(b"a", b"", comment=bytes(94)))
ENTRIES = zipmaker.make(*[Entry(b"a", b"")] * 3)

KINDS = {
    "zip": ZIP,
    "zip64": zip64(ZIP),
    "tar": TAR,
    "tar.zst": zstandard.compress(TAR),
    "tar.gz": gzip.compress(TAR),
    "gz": gzip.compress(b"hello" * 1000),
}


class Changing(io.BytesIO):
    """A file that is another one once it was read so many times."""

    def __init__(self, data: bytes, other: bytes, after: int) -> None:
        super().__init__(data)
        self.other, self.left = other, after

    def read(self, size: int | None = -1) -> bytes:
        if self.left == 0:
            place = self.tell()
            self.seek(0)
            self.truncate()
            self.write(self.other)
            self.seek(place)
        self.left -= 1
        return super().read(size)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_between_two_reads(kind: str, strict: bool) -> None:
    data = KINDS[kind]
    others = [data[: len(data) * k // 9] for k in range(9)] + [data[:-k] for k in (1, 5, 15, 21, 45, 60, 75, 90)]
    good = list(archivestream.open(io.BytesIO(data), strict=strict, index="memory"))
    for other in [*others, bytes(len(data)), bytes(9) + data[:-9]]:
        after, unchanged = 0, False
        while not unchanged:
            file = Changing(data, other, after)
            try:
                archive = archivestream.open(file, strict=strict, index="memory")
                # A tar has no checksums of its contents, and one of zeros is empty.
                assert archive.read_many(range(len(archive))) == good or kind == "tar"
            except ArchiveError:
                pass
            unchanged = file.left >= 0
            after += 1
    assert after > 3


def test_a_directory_that_is_another_one_in_strict_mode() -> None:
    places = [[data.index(b"PK\1\2"), data.index(b"PK\5\6")] for data in (COMMENT, ENTRIES)]
    directories = [data[begin:end] for data, (begin, end) in zip((COMMENT, ENTRIES), places, strict=True)]
    assert len(directories[0]) == len(directories[1])
    for one, other in (directories, directories[::-1]):
        data = COMMENT if one is directories[0] else ENTRIES
        found = set()
        for after in range(12):
            file = Changing(data, data.replace(one, other), after)
            try:
                found.add(len(archivestream.open(file, strict=True, index="memory")))
            except ArchiveError as error:
                found.add(str(error))
        assert any("the central directory changed" in str(text) for text in found)
