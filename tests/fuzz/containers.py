"""Targets: ZIP, tar and TFRecord, from the native scanners to the bytes of the members."""

from __future__ import annotations

from typing import Any

from archivestream._native.tarscan import TarScanner
from archivestream._native.tfscan import RecordScanner, begins_with_record
from archivestream._native.zipextra import Fault
from archivestream._native.zipscan import DirectoryScanner

from .reading import arrays, opened, pieces, read_all, strict_agrees
from .target import Data, chance, require

__all__ = ["run_records", "run_tar", "run_zip"]

ENCODINGS = ("utf-8", "cp437", "shift_jis", "utf-16-le", "latin-1")


def run_zip(data: Data) -> None:
    """The scanner of directories, fed at once and in pieces; then the archive."""
    rng = chance(data)
    begin = bytes(data).find(b"PK\1\2")
    if begin >= 0:
        directory = data[begin:]
        keep_raw = rng.random() < 0.2
        whole = DirectoryScanner(len(directory), 0, keep_raw)
        consumed, fault = whole.feed(directory)
        parts = DirectoryScanner(len(directory), 0, keep_raw)
        at = done = 0
        fault_of_parts: int = Fault.MORE
        for offset, piece in pieces(directory, rng):
            at = offset + len(piece)
            taken, fault_of_parts = parts.feed(directory[done:at])
            done += taken
            if fault_of_parts != Fault.MORE:
                break
        require((done, fault_of_parts, parts.count) == (consumed, fault, whole.count), "pieces make a difference")
        if fault == Fault.MORE:
            require(arrays(parts.finish()) == arrays(whole.finish()), "pieces make other columns")
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.1 else None
    with opened(data, metadata_encoding=encoding, threads=rng.choice((1, 1, 1, 2))) as archive:
        if archive is None:
            return
        found = read_all(archive, rng)
    if encoding is None:
        strict_agrees(data, found)


def run_tar(data: Data) -> None:
    """The scanner of headers, fed at once and in pieces; then the archive."""
    rng = chance(data)
    options: dict[str, Any] = {
        "strict": rng.random() < 0.3,
        "max_members": 1000,
        "max_bytes": 1 << 20,
        "ignore_zeros": rng.random() < 0.2,
    }
    _compare_feeding(lambda: TarScanner(**options), data, rng)
    with opened(data) as archive:
        if archive is None:
            return
        found = read_all(archive, rng)
    strict_agrees(data, found)


def run_records(data: Data) -> None:
    """The scanner of records, fed at once and in pieces; then the archive, against what the format says."""
    rng = chance(data)
    begins_with_record(data[:12])
    _compare_feeding(lambda: RecordScanner(max_records=1000), data, rng)
    with opened(data) as archive:
        if archive is None or archive.summary().format != "tfrecord":
            return
        found = read_all(archive, rng)
    at = 0
    for _, member in found:
        length = int.from_bytes(data[at : at + 8], "little")
        require(not isinstance(member, bytes) or member == data[at + 12 : at + 12 + length], "other bytes", at)
        at += 16 + length
    require(at == len(data), "bytes behind the records")


def _compare_feeding(make: Any, data: Data, rng: Any) -> None:
    whole = make()
    fault = whole.feed(data, 0) or whole.end(len(data))
    parts = make()
    fault_of_parts = 0
    for offset, piece in pieces(data, rng):
        fault_of_parts = parts.feed(piece, offset)
        if fault_of_parts:
            break
    fault_of_parts = fault_of_parts or parts.end(len(data))
    where = whole.count, whole.offset
    require((fault_of_parts, parts.count, parts.offset) == (fault, *where), "pieces make a difference", fault, where)
    if not fault:
        require(arrays(parts.finish()) == arrays(whole.finish()), "pieces make other columns")
