"""What all packers do: members are gathered, compressed in threads, and written in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from archivestream.packing.entries import (
    Entry,
    InFile,
    changed,
    check_name,
    entry_of,
    file_entry,
    metadata_entry,
    open_entry,
    read_entries,
)
from archivestream.packing.metadata import MetadataWriter
from archivestream.packing.output import OutputFile, commit
from archivestream.packing.pipeline import Pipeline
from archivestream.session import Progress
from archivestream.tables import join_tables
from archivestream.threads import check_threads

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Format", "Packer", "Piece", "Stream", "Unit", "Writer", "cut"]

# A member above this size is read, compressed and written piece by piece.
_LARGE = 8 << 20
# What one thread compresses at a time, of smaller ones.
_JOB_BYTES = 1 << 20
_JOB_MEMBERS = 512

# The memory of a piece, and how it is compressed.
Piece = tuple[int, Callable[[], Any]]


class Unit(Protocol):
    """Members, compressed, that are written together."""

    @property
    def cost(self) -> int:
        """Bytes by which the archive grows at the most."""


class Writer(Protocol):
    """Writes one archive, on one thread."""

    file: OutputFile

    @property
    def final_size(self) -> int:
        """Bytes of the archive at the most, if it ended here."""

    def write(self, unit: Any) -> None:
        """Append members."""

    def finish(self) -> None:
        """Append what ends the archive."""


class Stream(Protocol):
    """Writes one large member, piece by piece."""

    cost: int

    def pieces(self) -> Iterable[Piece]:
        """Cut the member."""

    def begin(self, writer: Any) -> None:
        """Prepare to write it to an archive."""

    def add(self, piece: Any) -> None:
        """Append what a piece was compressed to."""

    def end(self) -> None:
        """Append what ends the member."""


class Format(Protocol):
    """A container, with what was chosen for it; used by several threads."""

    unit_bytes: int  # as many as a unit should have; members are never cut for it

    def footprint(self, entry: Entry) -> int:
        """Bytes that a member adds to its unit."""

    def pack(self, entries: Sequence[Entry], contents: Sequence[memoryview]) -> Unit:
        """Compress members to one unit."""

    def stream(self, entry: Entry, contents: BinaryIO) -> Stream:
        """Prepare to write a large member."""

    def writer(self, file: OutputFile) -> Writer:
        """Begin an archive."""


def cut(entry: Entry, contents: BinaryIO, size: int) -> Iterator[memoryview]:
    """Read a large member in pieces of a size; the last may be smaller."""
    left = entry.size
    while left:
        piece = memoryview(bytearray(min(size, left)))
        filled = 0
        while filled < len(piece):
            got = contents.readinto(piece[filled:])  # type: ignore[attr-defined]
            if not got:
                raise _changed(entry)
            filled += got
        left -= len(piece)
        yield piece
    if contents.read(1):
        raise _changed(entry)


def _changed(entry: Entry) -> OSError:
    return changed(entry.content.path if isinstance(entry.content, InFile) else entry.name.encode())


class Packer:
    """Writes members to one archive: what `ZipPacker` and the others have in common.

    A context manager: leaving it by an exception leaves nothing behind, as does `abandon`; `close` gives the archive
    its name. For one thread at a time; compression happens in others.
    """

    def __init__(
        self,
        container: Format,
        target: str | os.PathLike[str] | None,
        *,
        threads: int | None,
        overwrite: bool,
        progress: Progress | None,
    ) -> None:
        check_threads(threads)
        self._format = container
        self._overwrite = overwrite
        self._progress = progress
        self.total = 0
        self._done = 0
        self._names: set[str] = set()
        self._taken: Container[object] = ()  # the names in archives that these are to stand beside
        self._open_units: dict[int, _OpenUnit] = {}
        self._job: list[_OpenUnit] = []
        self._job_size = 0
        self._closed = False
        self._failed = False
        self._schema: Any = None  # columns of the metadata of all archives
        self._writers: list[Writer] = []
        self._metadata: dict[Writer, MetadataWriter] = {}
        self._finished = 0  # how many of them are whole
        self._pipeline = Pipeline(threads)
        if target is not None:
            self._open_writer(target)

    @property
    def paths(self) -> list[Path]:
        """Where the archives are, or will be."""
        return [writer.file.path for writer in self._writers]

    def add(
        self,
        name: str,
        data: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        mode: int | None = None,
        mtime: int | None = None,
    ) -> None:
        """Add a member.

        Parameters
        ----------
        name : str
            Relative, with ``/`` between its parts; one that ends with ``/`` is a folder.
        data : bytes-like or ndarray
            Its bytes; an array becomes a ``.npy`` file, and its name ends so.
        metadata : mapping, optional
            What is known of it besides, by name: a row of `archivestream.Archive.metadata`.
        mode : int, optional
            Unix permissions, with or without the type of the file; default: ``0o644``.
        mtime : int, optional
            Seconds since 1970; default: none, so that the same members make the same archive.

        Raises
        ------
        ValueError
            If the name cannot be used, or was added before.
        TypeError
            If the data are neither bytes-like nor an array.
        OSError
            If the disk is full, and the like.
        """
        self.add_entry(entry_of(name, data, mode, mtime, metadata))

    def add_file(self, name: str, path: str | os.PathLike[str]) -> None:
        """Add a file with its mode and time; a symbolic link is added as such, and a folder without what is in it.

        Parameters
        ----------
        name : str
            As for `add`.
        path : path
            Where it is.

        Raises
        ------
        ValueError, OSError
            As `add`; also from a later call or `close`, as files are read in the background.
        """
        self.add_entry(file_entry(name, path))

    def add_entry(self, entry: Entry, shard: int | None = None) -> None:
        """Add what is described; for `archivestream.pack`, which may say where to: to shards in their order."""
        if self._closed:
            raise ValueError("the packer is closed")
        check_name(entry.name)
        if entry.name in self._names or entry.name in self._taken:
            raise ValueError(f"there are two members with the name {entry.name!r}")
        self._names.add(entry.name)
        try:
            self._gather(entry, shard)
        except BaseException:
            self._failed = True  # members that others waited for are gone
            self.abandon()
            raise

    def _gather(self, entry: Entry, shard: int | None) -> None:
        if shard is None:
            shard = self._choose(entry)
        elif shard not in self._open_units:
            for ended in list(self._open_units):
                self._close_unit(ended)
        if entry.size > _LARGE:
            self._stream(entry, shard)
            return
        size = self._format.footprint(entry)
        unit = self._open_units.get(shard)
        if unit is not None and unit.size + size > self._format.unit_bytes:
            self._close_unit(shard)
            unit = None
        if unit is None:
            unit = self._open_units[shard] = _OpenUnit(shard)
        unit.entries.append(entry)
        unit.size += size
        if unit.size >= self._format.unit_bytes:
            self._close_unit(shard)

    def close(self) -> None:
        """Write what is left, and give the archive its name."""
        if self._failed:
            raise ValueError("the archive was not written: adding a member has failed before")
        if self._closed:
            return
        try:
            for shard in list(self._open_units):
                self._close_unit(shard)
            self._submit_job()
            self._pipeline.drain()
            self._before_finish()
            self._finish_writers()
            commit([writer.file for writer in self._writers], self._replaced())
        except BaseException:
            self.abandon()
            raise
        self._closed = True
        self._pipeline.close()

    def abandon(self) -> None:
        """Stop, and remove what was written."""
        if self._closed:
            return
        self._closed = True
        try:
            self._pipeline.close()
        finally:
            for writer in self._writers:
                writer.file.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    # ---- what packers of several archives do otherwise -----------------------------------------------------------

    def _choose(self, entry: Entry) -> int:
        """Say which of several archives a member belongs to."""
        return 0

    def _replaced(self) -> list[Path]:
        """List files that have to go before the archives get their names."""
        return []

    def _place(self, shard: int, cost: int) -> Writer:
        """Find where something is written that takes so many bytes at the most."""
        return self._writers[shard]

    def _before_finish(self) -> None:
        """Do what is left to do before the archives end."""

    # ---- gathering, on the calling thread ------------------------------------------------------------------------

    def _open_writer(self, target: str | os.PathLike[str]) -> None:
        file = OutputFile(target, overwrite=self._overwrite, behind=self._pipeline.behind)
        try:
            self._writers.append(self._format.writer(file))
        except BaseException:
            file.abandon()
            raise

    def _finish_writers(self) -> None:
        for writer in self._writers[self._finished :]:
            if writer in self._metadata:
                rows = self._metadata.pop(writer)
                data = rows.finish()
                self._agree(rows.schema)
                writer.write(self._format.pack([metadata_entry(data)], [memoryview(data)]))
            writer.finish()
            writer.file.sync()
        self._finished = len(self._writers)

    def _agree(self, schema: Any) -> None:
        """Raise for columns that do not go together with those of the other archives: all of them could not be read."""
        schemas = [one for one in (self._schema, schema) if one is not None]
        self._schema = join_tables([one.empty_table() for one in schemas]).schema

    def _close_unit(self, shard: int) -> None:
        self._job.append(self._open_units.pop(shard))
        self._job_size += self._job[-1].size
        if self._job_size >= _JOB_BYTES or len(self._job) >= _JOB_MEMBERS:
            self._submit_job()

    def _submit_job(self) -> None:
        job, self._job = self._job, []
        size, self._job_size = self._job_size, 0
        if job:
            self._pipeline.submit(size, partial(_pack, self._format, job), self._write)

    def _stream(self, entry: Entry, shard: int) -> None:
        if shard in self._open_units:
            self._close_unit(shard)
        self._submit_job()
        with open_entry(entry) as contents:
            stream = self._format.stream(entry, contents)
            places: list[Writer] = []

            def begin() -> None:
                places.append(self._place(shard, stream.cost))
                stream.begin(places[0])

            def end() -> None:
                stream.end()
                self._keep_metadata(places[0], [entry])
                self._report(entry.size)

            self._pipeline.call(0, begin)
            for size, work in stream.pieces():
                self._pipeline.submit(size, work, stream.add)
            self._pipeline.call(0, end)

    # ---- writing, in order, on the calling thread ----------------------------------------------------------------

    def _write(self, packed: list[tuple[_OpenUnit, int, Unit]]) -> None:
        for unit, size, packed_unit in packed:
            writer = self._place(unit.shard, packed_unit.cost)
            writer.write(packed_unit)
            self._keep_metadata(writer, unit.entries)
            self._report(size)

    def _keep_metadata(self, writer: Writer, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.metadata is not None:
                self._metadata.setdefault(writer, MetadataWriter()).add(entry.name, entry.metadata)

    def _report(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self.total)


class _OpenUnit:
    """Members that will be compressed to one unit."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.entries: list[Entry] = []
        self.size = 0


def _pack(container: Format, job: list[_OpenUnit]) -> list[tuple[_OpenUnit, int, Unit]]:
    """Read and compress units: what a thread does."""
    contents = iter(read_entries([entry for unit in job for entry in unit.entries]))
    packed = []
    for unit in job:
        data = [next(contents) for _ in unit.entries]
        packed.append((unit, sum(map(len, data)), container.pack(unit.entries, data)))
    return packed
