"""What a compressed file decodes to, as it comes: a tar, or something that is one member."""

from __future__ import annotations

from typing import Any

import numpy as np

from archivestream._native.tarscan import TarScanner
from archivestream.columns import DTYPES
from archivestream.formats import tar
from archivestream.limits import Limits

__all__ = ["NO_TIME", "Content", "single_member"]

NO_TIME = (1 << 5 | 1) << 16  # MS-DOS: 1980-01-01, the first that there is
_REGULAR_FILE = 0o100644 << 16


class Content:
    """Finds the members of a tar in a stream that comes in pieces.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    strict, limits, metadata_encoding
        As for `archivestream.formats.read_index`.

    Attributes
    ----------
    size : int
        Bytes that have come.
    """

    def __init__(self, name: str, *, strict: bool, limits: Limits, metadata_encoding: str | None) -> None:
        self.size = 0
        self._name = name
        self._strict = strict
        self._limits = limits
        self._encoding = metadata_encoding
        self._head = b""  # until it is known what the stream is
        self._scanner: TarScanner | None = None

    def take(self, piece: Any) -> None:
        """Take the next bytes.

        Raises
        ------
        ArchiveError
            If they are those of a tar that is damaged, or more than the limits allow.
        """
        begin = self.size
        self.size += len(piece)
        if self._scanner is not None:
            self._feed(piece, begin)
        elif len(self._head) < tar.HEADER:
            head = self._head + bytes(piece)
            self._head = head[: tar.HEADER]
            if len(head) >= tar.HEADER and (tar.is_tar(head) or tar.may_be_empty(head, self._name)):
                self._scanner = tar.new_scanner(strict=self._strict, limits=self._limits)
                self._feed(head, 0)

    @property
    def members(self) -> int:
        """How many members have come so far."""
        return 0 if self._scanner is None else self._scanner.count

    def _feed(self, piece: Any, begin: int) -> None:
        assert self._scanner is not None
        tar.check(self._scanner, self._scanner.feed(piece, begin), self._name, self._limits)

    def finish(self) -> dict[str, Any] | None:
        """Return the columns of the members, or None where the stream is no tar."""
        if self._scanner is None:
            return None
        return tar.finish(
            self._scanner,
            self.size,
            self._name,
            strict=self._strict,
            limits=self._limits,
            metadata_encoding=self._encoding,
        )


def single_member(name: str, size: int, *, crc32: int = 0, timestamp: int = NO_TIME) -> dict[str, Any]:
    """Make the columns of a stream that is one member."""
    text = name.encode("utf-8", "surrogatepass")
    values = {
        "size": size,
        "offset": 0,
        "crc32": crc32,
        "flags": 0,
        "timestamp": timestamp,
        "attributes": _REGULAR_FILE,
    }
    columns: dict[str, Any] = {column: np.array([value], DTYPES[column]) for column, value in values.items()}
    columns["names"] = np.frombuffer(text, np.uint8)
    columns["name_offset"] = np.array([0, len(text)], np.uint64)
    return columns
