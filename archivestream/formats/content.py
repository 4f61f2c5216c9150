"""What a compressed file decodes to, as it comes: a tar, records, or something that is one member."""

from __future__ import annotations

from typing import Any

import numpy as np

from archivestream._native.columns import MemberFlag
from archivestream._native.tarscan import TarScanner
from archivestream._native.tfscan import RecordScanner
from archivestream.columns import DTYPES
from archivestream.formats import tar, tfrecord
from archivestream.formats.scanning import NO_TIME, REGULAR_FILE
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = ["Content", "single_member"]


class Content:
    """Finds the members of a tar, or the records of a TFRecord file, in a stream that comes in pieces.

    Parameters
    ----------
    source : Source
        The file.
    strict, limits, metadata_encoding
        As for `archivestream.formats.read_index`.

    Attributes
    ----------
    size : int
        Bytes that have come.
    kind : {"tar", "tfrecord"} or None
        What the stream is, as far as that is known.
    """

    def __init__(self, source: Source, *, strict: bool, limits: Limits, metadata_encoding: str | None) -> None:
        self.size = 0
        self.kind: str | None = None
        self._source = source
        self._strict = strict
        self._limits = limits
        self._encoding = metadata_encoding
        self._head = b""  # until it is known what the stream is
        self._scanner: TarScanner | RecordScanner | None = None

    def take(self, piece: Any) -> None:
        """Take the next bytes.

        Raises
        ------
        ArchiveError
            If what they belong to is damaged, or more than the limits allow.
        """
        begin = self.size
        self.size += len(piece)
        if self._scanner is not None:
            self._feed(piece, begin)
        elif len(self._head) < tar.HEADER:
            head = self._head + bytes(piece)
            self._head = head[: tar.HEADER]
            if len(head) >= tar.HEADER:
                self._begin(head)

    @property
    def members(self) -> int:
        """How many members have come so far."""
        return 0 if self._scanner is None else self._scanner.count

    def _begin(self, head: bytes) -> None:
        """Tell what the stream is: by its first bytes, and where they do not say, by its name."""
        if len(head) >= tar.HEADER and (tar.is_tar(head) or tar.may_be_empty(head, self._source.name)):
            self.kind = "tar"
            self._scanner = tar.new_scanner(self._source, strict=self._strict, limits=self._limits)
        elif tfrecord.is_tfrecord(head) or tfrecord.is_named_so(self._source.name):
            self.kind = "tfrecord"
            self._scanner = tfrecord.new_scanner(self._source, limits=self._limits)
        else:
            return
        self._feed(head, 0)

    def _feed(self, piece: Any, begin: int) -> None:
        assert self._scanner is not None
        fault = self._scanner.feed(piece, begin)
        if isinstance(self._scanner, TarScanner):
            tar.check(self._scanner, fault, self._source, self._limits)
        else:
            tfrecord.check(self._scanner, fault, self._source, self._limits)

    def finish(self) -> dict[str, Any] | None:
        """Return the columns of the members, or None where the stream is one member."""
        if len(self._head) < tar.HEADER:
            self._begin(self._head)
        if self._scanner is None:
            return None
        if isinstance(self._scanner, RecordScanner):
            return tfrecord.finish(self._scanner, self.size, self._source, limits=self._limits)
        return tar.finish(
            self._scanner,
            self.size,
            self._source,
            strict=self._strict,
            limits=self._limits,
            metadata_encoding=self._encoding,
        )


def single_member(name: str, size: int, *, crc32: int = 0, timestamp: int = NO_TIME) -> dict[str, Any]:
    """Make the columns of a stream that is one member; bytes of its name that are not UTF-8 are lone surrogates."""
    text = name.encode("utf-8", "surrogatepass")
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: the name of a file object may be anything
        raw = text
    values = {
        "size": size,
        "offset": 0,
        "crc32": crc32,
        "flags": MemberFlag.RAW_NAME_BIT if raw != text else 0,
        "timestamp": timestamp,
        "attributes": REGULAR_FILE,
    }
    columns: dict[str, Any] = {column: np.array([value], DTYPES[column]) for column, value in values.items()}
    columns["names"] = np.frombuffer(text, np.uint8)
    columns["name_offset"] = np.array([0, len(text)], np.uint64)
    if raw != text:
        columns["raw_member"] = np.zeros(1, np.uint32)
        columns["raw_offset"] = np.array([0, len(raw)], np.uint64)
        columns["raw_names"] = np.frombuffer(raw, np.uint8)
    return columns
