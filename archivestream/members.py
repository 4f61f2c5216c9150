"""What is known of a member without reading it."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from archivestream._native.codecs import Codec

__all__ = ["METHODS", "NATIVE_METHODS", "Member"]

# The compression methods of ZIP (APPNOTE 4.4.5): the names that messages and listings show.
METHODS = {
    0: "stored",
    1: "shrink",
    2: "reduce1",
    3: "reduce2",
    4: "reduce3",
    5: "reduce4",
    6: "implode",
    7: "tokenize",
    8: "deflate",
    9: "deflate64",
    10: "dcl-implode",
    12: "bzip2",
    14: "lzma",
    16: "cmpsc",
    18: "terse",
    19: "lz77",
    20: "zstd-old",
    30: "lz4",  # not of APPNOTE, but of DareBlopy
    93: "zstd",
    94: "mp3",
    95: "xz",
    96: "jpeg",
    97: "wavpack",
    98: "ppmd",
    99: "aes",
}
# Those that native code decodes.
NATIVE_METHODS = (Codec.STORED, Codec.DEFLATE, Codec.ZSTD)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, as its directory describes it.

    The properties in the second group are those of `zipfile.ZipInfo`.

    Attributes
    ----------
    name : str
        The name, with ``/`` between its parts.
    position : int
        Its place in the archive (or view) that it was asked from.
    size : int
        Bytes, decoded.
    compressed_size : int
        Bytes in the archive; where members share compressed blocks, its share of them.
    crc32 : int or None
        CRC-32 of the decoded bytes; None where the format has none for each member (tar).
    codec : int
        Number of the compression method (APPNOTE 4.4.5).
    offset : int
        Where its local header (ZIP) or its data (tar) lie: in the file, or in what a compressed tar decodes to.
    timestamp : int
        MS-DOS date and time; of a tar, in UTC.
    attributes : int
        External file attributes; the upper half is the Unix mode, where a Unix system wrote them.
    directory : bool
        What `is_dir` says.
    archive : str
        Path or name of the archive that holds it.
    """

    name: str
    position: int
    size: int
    compressed_size: int
    crc32: int | None
    codec: int
    offset: int
    timestamp: int
    attributes: int
    directory: bool
    archive: str

    @property
    def compression(self) -> str:
        """Name of the compression method."""
        return METHODS.get(self.codec, f"method {self.codec}")

    @property
    def mode(self) -> int:
        """Unix file mode, 0 where none was stored."""
        return self.attributes >> 16

    def is_dir(self) -> bool:
        """Whether it stands for a directory: in a ZIP, where its name ends with a slash."""
        return self.directory

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link; its bytes are the target. Links are never followed."""
        return stat.S_ISLNK(self.mode)

    @property
    def date_time(self) -> tuple[int, int, int, int, int, int]:
        """Year, month, day, hour, minute, second (APPNOTE 4.4.6: in steps of two seconds, local time)."""
        date, time = self.timestamp >> 16, self.timestamp & 0xFFFF
        return (
            (date >> 9) + 1980,
            (date >> 5) & 0xF,
            date & 0x1F,
            time >> 11,
            (time >> 5) & 0x3F,
            (time & 0x1F) * 2,
        )

    @property
    def filename(self) -> str:
        """`zipfile`'s name of `name`."""
        return self.name

    @property
    def file_size(self) -> int:
        """`zipfile`'s name of `size`."""
        return self.size

    @property
    def compress_size(self) -> int:
        """`zipfile`'s name of `compressed_size`."""
        return self.compressed_size

    @property
    def compress_type(self) -> int:
        """`zipfile`'s name of `codec`."""
        return self.codec

    @property
    def CRC(self) -> int | None:  # noqa: N802
        """`zipfile`'s name of `crc32`."""
        return self.crc32

    @property
    def header_offset(self) -> int:
        """`zipfile`'s name of `offset`."""
        return self.offset

    @property
    def external_attr(self) -> int:
        """`zipfile`'s name of `attributes`."""
        return self.attributes
