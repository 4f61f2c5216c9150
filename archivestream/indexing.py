"""The index of one source: loaded from a sidecar, or built and saved."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from archivestream import sidecar
from archivestream._native.columns import Layout
from archivestream.errors import (
    ArchiveChangedError,
    ArchiveError,
    ArchiveWarning,
    CorruptArchiveError,
    LimitExceededError,
)
from archivestream.formats import Found, open_decoded, read_index
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.reader import MemberReader
from archivestream.sources import Source

__all__ = ["MODES", "IndexMode", "Indexed", "find_index", "save"]

IndexMode: TypeAlias = Literal["auto", "private", "require", "memory"]
MODES: tuple[IndexMode, ...] = ("auto", "private", "require", "memory")

_SAVING = ("auto", "private")  # the modes in which what was built is saved


@dataclass(frozen=True)
class Indexed(Found):
    """What a format has found, or a sidecar holds.

    Attributes
    ----------
    sidecar : Path or None
        Where the index is saved.
    """

    sidecar: Path | None = None


def find_index(
    source: Source,
    *,
    mode: IndexMode,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
    room: int = 0,
) -> Indexed:
    """Load the index of a source, or build it; see ``index`` of `archivestream.open`.

    Where building it decodes the source, and to no more bytes than there is `room` for, they are returned, too.

    Raises
    ------
    FileNotFoundError
        If there is no saved index, and `mode` requires one.
    StaleSidecar, CorruptArchiveError
        If `mode` requires a saved index, and the one that is there cannot be trusted.
    ArchiveError
        As `archivestream.formats.read_index` raises them.
    """
    if mode != "memory":
        saved = _load(source, mode, strict, limits, metadata_encoding, progress)
        if saved is not None:
            return saved
    resume, keep = None, None
    private = mode == "private"
    if mode in _SAVING:
        resume = _load_partial(source, strict, limits, metadata_encoding, private)
        keep = _keeper(source, strict, metadata_encoding, private)

    def build(resume: Mapping[str, Any] | None) -> Found:
        return read_index(
            source,
            strict=strict,
            limits=limits,
            metadata_encoding=metadata_encoding,
            threads=threads,
            progress=progress,
            resume=resume,
            keep=keep,
            room=room,
        )

    try:
        found = build(resume)
        if resume is not None and not _can_be_read(found, limits, threads):
            found = build(None)
    except (ArchiveError, ValueError, MemoryError):
        if resume is not None:
            sidecar.drop_partial(source)  # nothing comes of it
        raise
    path = None
    # The directory of a ZIP is an index already, and so is a file that lists what lies in others.
    is_saved = found.index.layouts[0] != Layout.ENTRIES and not found.files
    if mode in _SAVING and is_saved and sidecar.places(source, private=private):
        try:
            path = save(
                source,
                found.index,
                found.crc32,
                strict=strict,
                metadata_encoding=metadata_encoding,
                private=private,
            )
        except ArchiveChangedError:
            raise
        except OSError as error:
            warnings.warn(
                f"{source.name}: the index could not be saved, and is built anew each time: {error.strerror or error}; "
                "index='memory' does without",
                ArchiveWarning,
                stacklevel=2,
            )
    return Indexed(**vars(found), sidecar=path)


def save(
    source: Source,
    index: Index,
    crc32: int | None,
    *,
    strict: bool,
    metadata_encoding: str | None,
    path: Path | None = None,
    private: bool = False,
) -> Path:
    """Save the index of a source, and return where.

    Raises
    ------
    ArchiveChangedError
        If the source has changed since it was opened.
    OSError
        If it cannot be written; what was there before is untouched.
    """
    metadata = sidecar.Metadata(index.formats[0], index.layouts[0], index.data_end[0], strict, metadata_encoding, crc32)
    return sidecar.save(index.columns, metadata, source, path, private=private)


def _load(
    source: Source,
    mode: IndexMode,
    strict: bool,
    limits: Limits,
    metadata_encoding: str | None,
    progress: Callable[[int, int], object] | None,
) -> Indexed | None:
    try:
        saved = sidecar.load_any(
            source,
            strict=strict,
            metadata_encoding=metadata_encoding,
            progress=progress,
            limits=limits,
            private=mode == "private",
        )
    except (ArchiveChangedError, CorruptArchiveError, OSError):
        if mode == "require":
            raise
        return None  # and is replaced where building it anew is work
    if saved is None:
        if mode == "require":
            name = getattr(source, "path", source.name)
            raise FileNotFoundError(
                errno.ENOENT, "there is no saved index of the archive; `archivestream index` makes one", name
            )
        return None
    metadata = saved.metadata
    index = Index(saved.columns, data_end=[metadata.data_end], layouts=[metadata.layout], formats=[metadata.format])
    try:
        decoded = open_decoded(source, index)
    except CorruptArchiveError:
        if mode == "require":
            raise
        return None
    if saved.touched and mode in _SAVING:
        try:
            sidecar.save(saved.columns, metadata, source, saved.path, private=mode == "private")
        except ArchiveChangedError:  # since it was read to see that it is the same
            raise
        except OSError:  # what is saved is valid as it is
            pass
    return Indexed(index, decoded, metadata.crc32, sidecar=saved.path)


def _load_partial(
    source: Source, strict: bool, limits: Limits, metadata_encoding: str | None, private: bool
) -> Mapping[str, Any] | None:
    """Load what an interrupted build has left, unless it is of another archive."""
    try:
        saved = sidecar.load_partial(
            source, strict=strict, metadata_encoding=metadata_encoding, limits=limits, private=private
        )
    except (ArchiveChangedError, CorruptArchiveError, LimitExceededError, OSError):
        return None
    if saved is None or "block_start" not in saved.columns:
        return None
    sizes = saved.columns["block_compressed_size"]
    if (sizes > source.size).any() or (saved.columns["block_offset"] > source.size - sizes).any():
        return None  # blocks that were done are not looked at again
    return saved.columns


def _can_be_read(found: Found, limits: Limits, threads: int | None) -> bool:
    """Whether all members decode: what an interrupted build has kept says where, and was not made again."""
    reader = MemberReader(
        found.index, [found.source], limits=limits, verify=True, strict=False, threads=threads, cache=0
    )
    errors = reader.check(np.arange(len(found.index)))
    return not any(isinstance(error, CorruptArchiveError) for error in errors.values())


def _keeper(
    source: Source, strict: bool, metadata_encoding: str | None, private: bool
) -> Callable[[Mapping[str, Any]], object]:
    metadata = sidecar.Metadata("tar.zst", Layout.BLOCKS, source.size, strict, metadata_encoding)

    def keep(columns: Mapping[str, Any]) -> None:
        if len(columns["block_start"]):
            with contextlib.suppress(OSError):  # all that is lost is time, should the build be interrupted
                sidecar.save_partial(columns, metadata, source, private=private)

    return keep
