"""What stands behind an open archive: its sources, how it was opened, and how it is opened again elsewhere."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from archivestream._native.columns import Layout
from archivestream.cache import Cache
from archivestream.cached_reader import CachedReader, cache_key
from archivestream.errors import ArchiveChangedError, ArchiveError, SourceError
from archivestream.fingerprint import describe
from archivestream.formats import find_table
from archivestream.index import Index
from archivestream.indexing import Indexed, IndexMode, find_index, save
from archivestream.limits import Limits
from archivestream.mapping import Mappings
from archivestream.metadata import Metadata, Part, find_part, shown_rows
from archivestream.paths import expand
from archivestream.reader import MemberReader, source_error
from archivestream.sources import (
    FileObjectSource,
    LocalSource,
    MemorySource,
    OpenFileSource,
    Source,
)

__all__ = [
    "DEFAULT_CACHE",
    "Openable",
    "Options",
    "Progress",
    "Session",
    "check_encoding",
    "find_sources",
]

DEFAULT_CACHE = 64 << 20  # bytes of decoded blocks

Progress: TypeAlias = Callable[[int, int], object]
Openable: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


def find_sources(path: Openable | Sequence[Openable]) -> list[Source]:
    """Open all that a user means by a path, a pattern, bytes, a file object, or several of them."""
    several = isinstance(path, Sequence) and not isinstance(path, str | bytes | bytearray | memoryview)
    if several and not path:
        raise ValueError("an empty list of archives")
    opened: list[Source] = []
    try:
        for one in cast("Sequence[Openable]", path if several else [path]):
            for source in _open_sources(one):
                opened.append(source)  # at once, so that it is closed should the next one fail
    except BaseException:
        for source in opened:
            source.close()
        raise
    return opened


def _open_sources(path: Openable) -> Iterator[Source]:
    if isinstance(path, bytes | bytearray | memoryview):
        yield MemorySource(path)
    elif isinstance(path, str | os.PathLike):
        for one in expand(os.fspath(path)):
            yield LocalSource(find_table(one))
    elif OpenFileSource.fits(path):
        yield OpenFileSource(path)
    else:
        yield FileObjectSource(path)


def check_encoding(name: str | None) -> None:
    """Raise `ValueError` for what is no encoding of text."""
    try:
        bytes(4).decode(name or "utf-8")
    except (LookupError, UnicodeError):
        raise ValueError(f"there is no encoding of text {name!r}") from None


@dataclass(frozen=True)
class Options:
    """How an archive was opened: what a pickle needs to open it again."""

    strict: bool
    threads: int | None
    verify: bool
    limits: Limits
    metadata_encoding: str | None
    cache: int  # bytes of decoded blocks
    index: IndexMode
    members: Cache | None = None

    def open(self, sources: Sequence[Source], progress: Progress | None) -> Session:
        """Index the sources, and make the reader of their members."""
        shares = _shares(sources, progress)
        # What is decoded and what is kept of it are there at the same time, and that of all sources together.
        room = self.cache // (2 * len(sources))
        found = [self.find_index(source, share, room=room) for source, share in zip(sources, shares, strict=True)]
        index = Index.concatenate([one.index for one in found])
        indexed = [source for one in found for source in one.files or (one.source,)]
        reader = self.make_reader(index, indexed, [one.sidecar for one in found])
        parts, place = [], 0
        for source, one in zip(sources, found, strict=True):
            reader.keep(place, one.content)
            parts.append(find_part(source, one.files or (source,), one.index, one.order, one.metadata))
            place += len(parts[-1].holders)
        return Session(reader, self, parts, found[0].crc32)

    def make_reader(self, index: Index, sources: Sequence[Source], sidecars: Sequence[Path | None]) -> MemberReader:
        """Make a reader of the members of some sources."""
        make: Callable[..., MemberReader] = MemberReader
        if self.members is not None:
            saved = "private" if self.index == "private" else "saved"
            trusted = ["" if sidecar is None else saved for sidecar in sidecars]
            key = cache_key(index, sources, trusted, verify=self.verify, strict=self.strict, limits=self.limits)
            make = partial(CachedReader, self.members.members_of(key))
        return make(
            index,
            sources,
            limits=self.limits,
            verify=self.verify,
            strict=self.strict,
            threads=self.threads,
            cache=self.cache,
            sidecars=sidecars,
        )

    def find_index(
        self, source: Source, progress: Progress | None, *, mode: IndexMode | None = None, room: int = 0
    ) -> Indexed:
        """Load or build the index of one source; a failure to read it is a `SourceError`."""
        try:
            return find_index(
                source,
                mode=mode or self.index,
                strict=self.strict,
                limits=self.limits,
                metadata_encoding=self.metadata_encoding,
                threads=self.threads,
                progress=progress,
                room=room,
            )
        except (ArchiveError, FileNotFoundError):
            raise
        except OSError as error:
            raise source_error(error, source.name) from error

    def save_index(self, source: Source, index: Index, crc32: int | None, path: Path | None) -> Path:
        """Save the index of one source."""
        return save(source, index, crc32, strict=self.strict, metadata_encoding=self.metadata_encoding, path=path)


def _shares(sources: Sequence[Source], progress: Progress | None) -> Iterator[Progress | None]:
    """Report the progress of each of several sources as a part of the whole, in bytes of their files."""
    if progress is None or len(sources) == 1:
        yield from itertools.repeat(progress, len(sources))
        return
    total = sum(source.size for source in sources)
    begin = 0
    for source in sources:
        yield _share(progress, begin, source.size, total)
        begin += source.size
        progress(begin, total)  # an empty one reports nothing


def _share(progress: Progress, begin: int, size: int, total: int) -> Progress:
    return lambda done, of: progress(begin + (size * done // of if of else size), total)


class Session:
    """What an archive and its views have in common: they are closed together."""

    def __init__(
        self,
        reader: MemberReader,
        options: Options,
        parts: Sequence[Part],
        crc32: int | None,
    ) -> None:
        self.options = options
        self.crc32 = crc32  # of the first file, where that is known
        self.names = [part.file.name for part in parts]
        self.holders = [source.name for part in parts for source in part.holders]
        self.rows = shown_rows(parts)  # of the members in the index, in order; None for all
        self.metadata: Metadata | None = None
        if any(part.has_metadata for part in parts):
            self.metadata = Metadata(parts, self.rows, reader)
        self._parts: tuple[Part, ...] = tuple(parts)
        self._begin(reader)

    def _begin(self, reader: MemberReader) -> None:
        self._reader: MemberReader | None = reader
        self._mappings: Mappings | None = None
        # One member by its row: asked for so often that it is at hand.
        self.read = reader.lookup if isinstance(reader, CachedReader) else reader.read

    @property
    def reader(self) -> MemberReader:
        """The reader; raises `ValueError` once the archive is closed."""
        if self._reader is None:
            raise ValueError(f"{self.names[0]}: the archive is closed")
        return self._reader

    @property
    def mappings(self) -> Mappings:
        """The files, mapped; raises `ValueError` once the archive is closed."""
        reader = self.reader
        if self._mappings is None:
            self._mappings = Mappings(reader)
        return self._mappings

    @property
    def closed(self) -> bool:
        """Whether the archive was closed."""
        return self._reader is None

    def metered(self, threads: int | None) -> Session:
        """Share all but the reader: see `archivestream.Archive.metered`."""
        shared = Session.__new__(Session)  # no copy(), which would open the files again, as a pickle does
        shared.__dict__.update(self.__dict__)
        shared._begin(self.reader.metered(threads))
        return shared

    def close(self) -> None:
        """Let go of the reader and the files."""
        # The descriptors close when the last call and the last pending batch have let go of them.
        self._reader = self._mappings = None
        self._parts = ()
        self.metadata = None
        self.read = partial(_refuse, self.names[0])

    def save_index(self, path: Path | None, progress: Progress | None) -> list[Path]:
        """Save the index of each source: see `archivestream.Archive.save_index`."""
        index = self.reader.index
        for part in self._parts:
            if part.holders != (part.file,):
                raise ValueError(f"{part.file.name}: it is an index itself; there is nothing to save")
        files = [part.file for part in self._parts]
        if len(files) == 1:
            return [self.options.save_index(files[0], index, self.crc32, path)]
        if path is not None:
            raise ValueError(f"one path for {len(files)} indexes; without it, each goes beside its archive")
        # The index is of all of them together, so that each is indexed once more.
        written = []
        for file, share in zip(files, _shares(files, progress), strict=True):
            indexed = self.options.find_index(file, share, mode="memory")
            written.append(self.options.save_index(file, indexed.index, indexed.crc32, None))
        return written

    def join(self, other: Session) -> Session:
        """Put the sources of another session behind those of this one; both stay as they are."""
        if self.options != other.options:
            raise ValueError(
                f"{self.names[0]} and {other.names[0]} were opened with different options; "
                "open them alike, or together as archivestream.open([...])"
            )
        parts = (self.reader, other.reader)
        reader = self.options.make_reader(
            Index.concatenate([part.index for part in parts]),
            [source for part in parts for source in part.sources],
            [path for part in parts for path in part.sidecars],
        )
        return Session(reader, self.options, (*self._parts, *other._parts), None)

    def fingerprint(self) -> list[str]:
        """Tell the archive from another that has come to stand in its place, though its time of modification differ."""
        index = self.reader.index
        found = [index.fingerprint()]
        holders = (source for part in self._parts for source in part.holders)
        for file, layout in zip(holders, index.layouts, strict=True):
            if layout == Layout.RANGES:  # whose index knows no checksum
                now = describe(file)
                found += [now["archive_size"], now["archive_ends"]]
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        files = [part.file for part in self._parts]
        places = [file.path if type(file) is LocalSource else file for file in files]
        return _reopen, (places, self.options, self.fingerprint())


def _refuse(archive: str, member: int) -> bytes:
    raise ValueError(f"{archive}: the archive is closed")


def _reopen(places: list[str | Source], options: Options, fingerprint: list[str]) -> Session:
    """Open the sources of a pickled archive in another process."""
    sources = [LocalSource(place) if isinstance(place, str) else place for place in places]
    try:
        session = options.open(sources, None)
    except SourceError:
        raise
    except ArchiveError as error:
        message = f"the file is not the one that was pickled: {error.reason}; open it again"
        raise ArchiveChangedError(message, archive=error.archive) from error
    if session.fingerprint() != fingerprint:
        raise ArchiveChangedError("the file is not the one that was pickled; open it again", archive=sources[0].name)
    return session
