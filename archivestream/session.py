"""What stands behind an open archive: its sources, how it was opened, and how it is opened again elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias, cast

from archivestream.errors import ArchiveChangedError, ArchiveError, SourceError
from archivestream.formats import read_index
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.paths import expand
from archivestream.reader import MemberReader, source_error
from archivestream.sources import (
    FileObjectSource,
    LocalSource,
    MemorySource,
    OpenFileSource,
    Source,
)

__all__ = ["MOST_THREADS", "Openable", "Options", "Progress", "Session", "check_encoding", "find_sources"]

MOST_THREADS = 1024  # that may work on one batch

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
        yield from map(LocalSource, expand(os.fspath(path)))
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

    def reader(self, sources: Sequence[Source], progress: Progress | None) -> MemberReader:
        """Index the sources, and make the reader of their members."""
        parts = []
        total = sum(source.size for source in sources)
        begin = 0
        for source in sources:
            share = _share(progress, begin, source.size, total) if len(sources) > 1 else progress
            try:
                index = read_index(
                    source,
                    strict=self.strict,
                    limits=self.limits,
                    metadata_encoding=self.metadata_encoding,
                    progress=share,
                )
            except ArchiveError:
                raise
            except OSError as error:
                raise source_error(error, source.name) from error
            parts.append(index)
            begin += source.size
            if share is not None and share is not progress:
                share(0, 0)  # an empty one reports nothing
        return MemberReader(
            Index.concatenate(parts),
            sources,
            limits=self.limits,
            verify=self.verify,
            strict=self.strict,
            threads=self.threads,
        )


def _share(progress: Progress | None, begin: int, size: int, total: int) -> Progress | None:
    """Report the progress of one of several sources as a part of the whole, in bytes of their files."""
    if progress is None:
        return None
    report = progress
    return lambda done, of: report(begin + (size * done // of if of else size), total)


class Session:
    """What an archive and its views have in common: they are closed together."""

    def __init__(self, reader: MemberReader, options: Options) -> None:
        self.options = options
        self.names = [source.name for source in reader.sources]
        self._reader: MemberReader | None = reader

    @property
    def reader(self) -> MemberReader:
        """The reader; raises `ValueError` once the archive is closed."""
        if self._reader is None:
            raise ValueError(f"{self.names[0]}: the archive is closed")
        return self._reader

    @property
    def closed(self) -> bool:
        """Whether the archive was closed."""
        return self._reader is None

    def close(self) -> None:
        """Let go of the reader."""
        # The descriptors close when the last call and the last pending batch have let go of the reader.
        self._reader = None

    def __reduce__(self) -> tuple[Any, ...]:
        places = [source.path if type(source) is LocalSource else source for source in self.reader.sources]
        return _reopen, (places, self.options, self.reader.index.fingerprint())


def _reopen(places: list[str | Source], options: Options, fingerprint: str) -> Session:
    """Open the sources of a pickled archive in another process."""
    sources = [LocalSource(place) if isinstance(place, str) else place for place in places]
    try:
        reader = options.reader(sources, None)
    except SourceError:
        raise
    except ArchiveError as error:
        message = f"the file is not the one that was pickled: {error.reason}; open it again"
        raise ArchiveChangedError(message, archive=error.archive) from error
    if reader.index.fingerprint() != fingerprint:
        raise ArchiveChangedError("the file is not the one that was pickled; open it again", archive=sources[0].name)
    return Session(reader, options)
