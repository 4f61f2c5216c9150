"""Targets: what is read is packed and read again; what zipfile and tarfile read is compared."""

from __future__ import annotations

import functools
import io
import lzma
import os
import random
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import archivestream
from archivestream import Archive, ArchiveError
from archivestream.formats.names import objection

from .reading import LIMITS, opened
from .target import Data, chance, require

__all__ = ["run_differential", "run_roundtrip"]

# What zipfile and tarfile raise of damage; tarfile's list has no end, as damage gets as far as its arithmetic.
ZIPFILE = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError, KeyError),
    *(zlib.error, lzma.LZMAError),
)
TARFILE = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, UnicodeError, RecursionError, IndexError)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    shared = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if os.access(shared, os.W_OK) else None)


def _members(archive: Archive) -> dict[str, bytes]:
    """Read what can be read; of equal names, the last.

    A folder has a slash at its end in ZIP, and none in tar; bytes that are not UTF-8 are other characters in ZIP.
    """
    found = {}
    for i, given in enumerate(archive.names):
        name = given.encode(errors="replace").decode().removesuffix("/")
        try:
            found[name] = archive[i]
        except ArchiveError:
            found.pop(name, None)
    return found


def run_roundtrip(data: Data) -> None:
    """Read an archive, pack what could be read, read that, repack it to another kind, and read that."""
    rng = chance(data)
    folder = Path(_folder().name)
    with opened(data) as archive:
        if archive is None:
            return
        members = _members(archive)
        packed = folder / f"a.{rng.choice(('zip', 'tar', 'tar.zst'))}"
        options: dict[str, Any] = {"overwrite": True, "threads": rng.choice((1, 2))}
        if packed.suffix == ".zip":
            options |= {"method": rng.choice(("deflate", "stored", "zstd")), "align": rng.choice((None, 64))}
            options |= {"segment_size": rng.choice((None, 4096))} if options["method"] == "deflate" else {}
        elif packed.suffix == ".zst":
            options |= {"frame_size": rng.choice((None, 4096))}
        try:
            archivestream.pack(list(members.items()), packed, **options)
        except ValueError as error:
            require(any(map(_is_odd, members)) or _collide(members), "plain names are refused", error)
            return
    with archivestream.open(packed, index="memory", threads=1) as archive:
        require(_members(archive) == members, "packing made something else of it", members, _members(archive))
        require(archive.verify().ok, "what was packed is damaged")
    again = folder / f"b.{rng.choice(('zip', 'tar', 'tar.zst'))}"
    archivestream.repack(packed, again, overwrite=True, threads=1)
    strict = not any(map(_is_odd, members))
    with archivestream.open(again, index="memory", threads=1, strict=strict) as archive:
        require(_members(archive) == members, "repacking made something else of it")
    if again.suffix == ".zip":
        with zipfile.ZipFile(again) as reader:
            found = {info.filename.removesuffix("/"): reader.read(info) for info in reader.infolist()}
            require(found == members, "zipfile reads something else")


def _is_odd(name: str) -> bool:
    """Whether a packer may refuse a name: an absolute one, one that leads out, and the like."""
    return bool(objection(name)) or name in ("", ".") or "" in name.split("/") or len(name.encode()) > 4096


def _collide(members: dict[str, bytes]) -> bool:
    """Whether a member is also a folder of others."""
    return any(other.startswith(f"{name.rstrip('/')}/") for name in members for other in members if other != name)


def run_differential(data: Data) -> None:
    """Compare with zipfile and tarfile: where both read a member, it has the same bytes."""
    rng = chance(data)
    with opened(data) as archive:
        if archive is None:
            return
        kind = archive.summary().format
        if kind == "zip":
            _against_zipfile(bytes(data), archive)
        elif kind == "tar":
            _against_tarfile(bytes(data), archive, rng)


def _against_zipfile(data: bytes, archive: Archive) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader = zipfile.ZipFile(io.BytesIO(data))
        except ZIPFILE:
            return
        infos = reader.infolist()
        require(len(infos) == len(archive), "another number of members than zipfile's")
        for i, info in enumerate(infos):
            if info.file_size > LIMITS.max_member_bytes:
                continue
            try:
                member = archive[i]
                expected = reader.read(info)
            except (ArchiveError, *ZIPFILE):
                continue
            require(member == expected, "other bytes than zipfile's", i)


def _against_tarfile(data: bytes, archive: Archive, rng: random.Random) -> None:
    ours = {}
    for i in range(len(archive)):
        info = archive.info(i)
        if not info.is_dir() and not info.is_symlink():
            ours.setdefault(info.header_offset, i)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as reader:
            theirs = reader.getmembers()
    except TARFILE:
        return
    for member in theirs:
        if member.isreg() and not member.issparse() and member.offset_data in ours and member.size:
            i = ours[member.offset_data]
            expected = data[member.offset_data : member.offset_data + member.size]
            try:
                found = archive[i]
            except ArchiveError:
                continue
            require(found == expected, "other bytes than tarfile's", i, member.name)
