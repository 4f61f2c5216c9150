"""Formats: from a source to an `Index`, and nothing else. Told by content, not by name."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream._native.buffers import Buffer
from archivestream.columns import Columns
from archivestream.errors import CorruptArchiveError, UnsupportedFeatureError
from archivestream.formats import acumen, gzip, splitdata, tar, tfrecord, zstd
from archivestream.formats import zip as zip_format
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sources import LocalSource, Source
from archivestream.tables import MakeTable

__all__ = ["Found", "find_table", "list_files", "open_decoded", "read_index"]

_HEAD = 512

# What a file begins with, what it then is, and whether that is an archive that one could expect to be read.
_SIGNATURES: tuple[tuple[int, bytes, str, bool], ...] = (
    (0, b"\xfd7zXZ\x00", "xz data", True),
    (0, b"BZh", "bzip2 data", True),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", True),
    (0, b"Rar!\x1a\x07", "a RAR archive", True),
    (257, b"ustar", "a tar archive whose first header does not have its checksum", False),
    (0, b"\x89PNG\r\n", "a PNG image", False),
    (0, b"\xff\xd8\xff", "a JPEG image", False),
    (0, b"%PDF-", "a PDF document", False),
    (0, b"\x93NUMPY", "a NumPy array", False),
    (0, b"\x89HDF\r\n", "an HDF5 file", False),
    (0, b"PAR1", "a Parquet file", False),
    (0, b"SQLite format 3", "an SQLite database", False),
    (0, b"\x80\x02", "a pickle", False),
    (0, b"\x80\x03", "a pickle", False),
    (0, b"\x80\x04", "a pickle", False),
    (0, b"\x80\x05", "a pickle", False),
    (0, b"version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded", False),
    (0, b"<?xml", "an XML document", False),
    (0, b"<!DOCTYPE", "a web page: the download went wrong", False),
    (0, b"<html", "a web page: the download went wrong", False),
)


@dataclass(frozen=True)
class Found:
    """What a format has found.

    Attributes
    ----------
    index : Index
        Where the members are.
    source : Source
        What the index speaks of: the file, or what it decodes to.
    crc32 : int or None
        Of the whole file, where all of it was read.
    content : list of Buffer
        What its blocks decode to, where that is known and small.
    files : list of Source
        Where the file only says where members lie in others: those, as the sources of the index.
    order : ndarray of int64, shape (n,), or None
        The rows of the index in the order of the members, where that is another one.
    metadata : callable or None
        Makes a table of what the file says of its members besides: a row for each, in their order.
    """

    index: Index
    source: Source
    crc32: int | None = None
    content: Sequence[Buffer] = ()
    files: Sequence[Source] = ()
    order: NDArray[np.int64] | None = None
    metadata: MakeTable | None = None


def read_index(
    source: Source,
    *,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
    resume: Columns | None = None,
    keep: Callable[[Mapping[str, Any]], object] | None = None,
    room: int = 0,
) -> Found:
    """Tell the format of a source and read its index.

    Parameters
    ----------
    threads : int or None
        That may decode, where the whole file has to be.
    resume, keep, room
        As for `archivestream.formats.zstd.read_index`.

    Raises
    ------
    CorruptArchiveError
        If it is damaged, or no archive: the message says what it looks like instead.
    UnsupportedFeatureError
        If it is an archive of a kind that is not handled.
    LimitExceededError
        If its directory is larger than the limits allow.
    """
    head = bytes(source.read_at(0, _HEAD))
    if tfrecord.is_tfrecord(head):  # before all whose signatures a length can look like
        return Found(tfrecord.read_index(source, limits=limits, progress=progress), source)
    if zstd.is_zstd(head):
        index, crc, content = zstd.read_index(
            source,
            strict=strict,
            limits=limits,
            metadata_encoding=metadata_encoding,
            progress=progress,
            resume=resume,
            keep=keep,
            room=room,
        )
        return Found(index, source, crc, content)
    if head.startswith(gzip.SIGNATURE) or tfrecord.is_in_zlib(head, source.name):
        index, decoded, crc = gzip.read_index(
            source,
            strict=strict,
            limits=limits,
            metadata_encoding=metadata_encoding,
            threads=threads,
            progress=progress,
        )
        return Found(index, decoded, crc)
    if not tar.is_tar(head):  # whose last file may be a ZIP
        found = zip_format.read_index(
            source, strict=strict, limits=limits, metadata_encoding=metadata_encoding, progress=progress
        )
        if found is not None:
            return Found(found, source)
    if tar.is_tar(head) or (len(head) == _HEAD and tar.may_be_empty(head, source.name)):
        return Found(
            tar.read_index(
                source, strict=strict, limits=limits, metadata_encoding=metadata_encoding, progress=progress
            ),
            source,
        )
    if tfrecord.is_named_so(source.name):
        return Found(tfrecord.read_index(source, limits=limits, progress=progress), source)
    if splitdata.is_table(source):
        index, files, order = splitdata.read_index(source, strict=strict, limits=limits, progress=progress)
        return Found(index, source, files=files, order=order)
    if acumen.is_table(head, source):
        index, files, order, metadata = acumen.read_index(source, limits=limits)
        return Found(index, source, files=files, order=order, metadata=metadata)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for offset, signature, what, is_archive in _SIGNATURES:
        begin = text if signature.startswith(b"<") else head
        if begin[offset : offset + len(signature)].lower() == signature.lower():
            if is_archive:
                raise UnsupportedFeatureError(
                    f"this is {what}, which is not read; ZIP, tar, .tar.zst, .tar.gz and TFRecord are",
                    archive=source.name,
                )
            raise CorruptArchiveError(f"not an archive: it looks like {what}", archive=source.name)
    raise CorruptArchiveError(f"not an archive that is read: {_describe(head)}", archive=source.name)


def find_table(path: str) -> str:
    """Return the file of a folder that says where its members lie in others; a path of anything else stays."""
    if os.path.isdir(path):
        for name in (splitdata.TABLE, acumen.TABLE):
            if os.path.isfile(os.path.join(path, name)):
                return os.path.join(path, name)
    return path


def list_files(path: str) -> list[str]:
    """List the files in which the members lie, where a file says where they lie in others; none for any other file.

    Raises
    ------
    CorruptArchiveError, LimitExceededError
        If it cannot be read, or one of them is not there or too short.
    """
    source = LocalSource(path)
    try:
        head = bytes(source.read_at(0, _HEAD))
        if splitdata.is_table(source):
            _, files, _ = splitdata.read_index(source, strict=False, limits=Limits(), progress=None)
        elif acumen.is_table(head, source):
            _, files, _, _ = acumen.read_index(source, limits=Limits())
        else:
            return []
        for file in files:
            file.close()
        return [file.name for file in files if file is not source]
    finally:
        source.close()


def open_decoded(source: Source, index: Index) -> Source:
    """Return what a saved index of a source speaks of: the source itself, or what it decodes to."""
    return gzip.open_decoded(source, index) if "gzip_index" in index.columns else source


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith((b"PK\x03\x04", b"PK\x07\x08", b"PK00PK")):
        return (
            "it begins like a ZIP, but there is no end of central directory record; it was truncated, "
            "or is still being written"
        )
    if not head.strip(b"\0"):
        return "it begins with zero bytes"
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        text = "\0"
    if all(character.isprintable() or character in "\t\r\n" for character in text):
        return f"it looks like text: {text[:40]!r}"
    return f"it begins with the bytes {head[:8].hex(' ')}"
