"""Reads members: joins an index, its sources and the native engine, and turns what fails into exceptions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from archivestream._native.buffers import Buffer, clear_tails
from archivestream._native.cache import BlockCache
from archivestream._native.checkpoints import Dictionary
from archivestream._native.codecs import Status
from archivestream._native.columns import Layout, MemberFlag
from archivestream._native.engine import Reader
from archivestream._native.meter import Meter
from archivestream._native.view import IndexView
from archivestream._native.watch import Watch
from archivestream._native.work import Consumer, PendingRead
from archivestream.errors import (
    ArchiveChangedError,
    ArchiveError,
    CorruptArchiveError,
    SourceError,
)
from archivestream.fallback import decode
from archivestream.index import Extent, Index, MemberIds
from archivestream.limits import Limits
from archivestream.members import METHODS
from archivestream.reasons import REASONS, REASONS_IN_BLOCKS, REASONS_OF_RECORDS
from archivestream.sources import Source
from archivestream.threads import processors

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Allocate",
    "MemberReader",
    "PendingMembers",
    "empty_bytes",
    "placer",
    "source_error",
    "take_bytes",
    "without_frames",
]

_Bytes: TypeAlias = NDArray[np.uint8]
# Returns memory of so many bytes, not initialised.
Allocate: TypeAlias = Callable[[int], _Bytes]
_FetchBlock: TypeAlias = Callable[[int, int, int], bytearray | int]
_Failure: TypeAlias = tuple[int, int, int, int]

_PIECE = 64 << 20  # most bytes of a sparse member that are read beside it


def empty_bytes(size: int) -> _Bytes:
    """Allocate an aligned array of bytes, not initialised, that is recycled when it is dropped."""
    return np.frombuffer(memoryview(Buffer(size)), np.uint8) if size else np.empty(0, np.uint8)


def take_bytes(allocate: Allocate | None, size: int) -> _Bytes:
    """Take so many bytes from whoever has memory for them: `empty_bytes`, unless the caller has some.

    Raises
    ------
    ValueError, TypeError
        If what the caller has is no writable memory of so many bytes.
    """
    if allocate is None:
        return empty_bytes(size)
    memory = np.asarray(allocate(size))
    if memory.dtype != np.uint8 or memory.ndim != 1:
        raise TypeError("out() must return an array of uint8 with one dimension")
    if memory.size < size or not (memory.flags.c_contiguous and memory.flags.writeable):
        raise ValueError(f"out() must return contiguous, writable memory of {size} bytes")
    return memory[:size]


_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """Forget where an exception, and what caused it, came from: frames keep the archive open while it is kept."""
    chain: list[BaseException] = [error]
    for link in chain:  # and what is appended; it may lead back to where it began
        link.__traceback__ = None
        chain += [more for more in (link.__cause__, link.__context__) if more is not None and more not in chain]
    return error


def source_error(error: OSError, archive: str, member: str | None = None) -> SourceError:
    """Say which archive and which member could not be read; `errno` stays."""
    found = SourceError(f"reading failed: {error.strerror or error}", archive=archive, member=member)
    found.errno = error.errno
    return found


_APPENDED = ("splitdata",)  # formats whose files are open while others are added at their end


class MemberReader:
    """Reads members by their position in the index.

    Parameters
    ----------
    index : Index
        Of all sources.
    sources : sequence of Source
        In the order of the index.
    limits : Limits
        What may be read.
    verify : bool
        Whether checksums are checked; `check` always does.
    strict : bool
        Whether bytes after the end of a compressed stream are an error.
    threads : int or None
        Threads that work on one batch; None for as many as there are processors.
    cache : int
        Most bytes of decoded blocks to keep.
    sidecars : sequence of Path or None
        Where the index of each source is saved.

    Safe for any number of threads, and in forked processes.
    """

    def __init__(
        self,
        index: Index,
        sources: Sequence[Source],
        *,
        limits: Limits,
        verify: bool,
        strict: bool,
        threads: int | None,
        cache: int,
        sidecars: Sequence[Path | None] = (),
    ) -> None:
        self.index = index
        self.sidecars = tuple(sidecars)
        self.sources = tuple(sources)
        self.limits = limits
        self.verify = verify
        self.strict = strict
        self.cache = BlockCache(cache)
        self._view = IndexView(
            index.columns,
            index.first_member,
            index.first_block,
            [
                (source.descriptor, source.memory, source.size, end, layout, index.stream_size(i))
                for i, (source, end, layout) in enumerate(zip(self.sources, index.data_end, index.layouts, strict=True))
            ],
            tuple(source.held for source in self.sources),
            largest=limits.max_member_bytes,
            max_window=limits.max_window_bytes,
            strict=strict,
            allow_overlap=limits.allow_overlap,
        )
        self._dictionaries = [(i, Dictionary(data)) for i, data in index.dictionaries]
        self._begin(threads or processors(), None)
        self.npy_headers: dict[int, bytes] = {}  # seen by `archivestream.npy`, by the size of their member
        self._has_foreign = not all(source.is_native for source in self.sources)
        self._watch = self._begin_watch()

    def _begin_watch(self) -> Watch | None:
        """Watch the files that hold members without checksums: nothing else tells that they have changed."""
        watched = []
        for i, source in enumerate(self.sources):
            first, last = self.index.first_member[i : i + 2].tolist()
            unchecked = self.index.layouts[i] == Layout.RANGES and not (
                self.verify and np.all(self.index["flags"][first:last] & np.uint16(MemberFlag.CRC32C_BIT))
            )
            size, modified = source.state or (0, 0)
            descriptor = source.descriptor if unchecked and source.state else -1
            watched.append((descriptor, size, modified, self.index.formats[i] in _APPENDED))
        if all(descriptor < 0 for descriptor, *_ in watched):
            return None
        return Watch(watched, self.index.first_member, tuple(source.held for source in self.sources))

    def _begin(self, threads: int, meter: Meter | None) -> None:
        self.threads = threads
        self.meter = meter
        self._native = Reader(
            self._view,
            self.cache,
            threads=threads,
            verify=self.verify,
            dictionaries=self._dictionaries,
            meter=meter,
        )
        self._read = self._native.read

    def metered(self, threads: int | None) -> Self:
        """Make a reader of the same members, with the same caches, that counts what reading costs."""
        other = copy(self)
        other._begin(threads or self.threads, Meter())
        return other

    def keep(self, source: int, content: Sequence[Buffer]) -> None:
        """Put what the blocks of a source decode to into the cache, if it was decoded to index it."""
        first, last = self.index.first_block[source : source + 2].tolist()
        pieces = [memoryview(piece) for piece in content]
        if not pieces:
            return
        for row, size in enumerate(self.index["block_size"][first:last].tolist(), first):
            self.cache.put(row, size, _take(pieces, size))

    def read(self, member: int) -> bytes:
        """Return the bytes of one member."""
        if self._has_foreign:
            return self.read_many(np.array([member], np.int64))[0]
        data = self._read(member)
        if type(data) is bytes:
            if self._watch is not None and self._watch.changed_one(member) >= 0:
                raise self._changed(member)
            return data
        status, error = data
        if status == Status.NOT_NATIVE:
            return self._fall_back(member, None, self.verify)
        raise self.error(member, status, error)

    def read_many(self, members: MemberIds, errors: dict[int, Exception] | None = None) -> list[bytes]:
        """Return the bytes of some members, read in one native call by all threads.

        The first member that is bad raises; with `errors`, the exception of each goes there, under its place.
        """
        fetched, fetch = self._fetch(members)
        result, failures = self._native.read_many(members, fetched, fetch)
        self._finish(members, failures, fetched, result.__setitem__, errors)
        for place in errors or ():
            result[place] = None  # type: ignore[call-overload]  # as native code leaves it
        return result

    def read_batch(
        self, members: MemberIds, out: _Bytes | None, errors: dict[int, Exception] | None = None
    ) -> tuple[_Bytes, MemberIds]:
        """Return the bytes of some members, one after the other, and their n + 1 offsets.

        As for `read_many`; what lies at the place of a bad member is undefined.
        """
        data, offsets = self._room(members, out, may_refuse=errors is not None)
        self._read_to(members, data, offsets[:-1], errors)
        return data, offsets

    def read_padded(
        self, members: MemberIds, out: _Bytes | Allocate | None, errors: dict[int, Exception] | None = None
    ) -> tuple[_Bytes, MemberIds]:
        """Return the bytes of each member in a row of its own, with zeros behind them, and their sizes.

        As for `read_many`; the row of a bad member is zero, and so is its size.
        """
        lengths = self._sizes(members, may_refuse=errors is not None)
        n, width = len(members), int(lengths.max(initial=0))
        if out is None or callable(out):
            rows = take_bytes(out, n * width).reshape(n, width)
        elif out.shape[0] != n or out.shape[1] < width:
            raise ValueError(f"out has shape {out.shape}, and the batch needs {(n, width)}")
        else:
            rows = out
        bad: dict[int, Exception] = {}
        self._read_to(members, rows.reshape(-1), np.arange(n) * rows.shape[1], None if errors is None else bad)
        if errors is not None:
            errors.update(bad)
            lengths[list(bad)] = 0
        clear_tails(rows, lengths)
        return rows, lengths

    def read_packed(
        self, members: MemberIds, out: Allocate | None, align: int, errors: dict[int, Exception] | None = None
    ) -> tuple[_Bytes, MemberIds, MemberIds]:
        """Return the bytes of some members, each at a multiple of `align` and with zeros behind it, offsets and sizes.

        As for `read_many`; the bytes of a bad member are zero, and so is its size.
        """
        lengths = self._sizes(members, may_refuse=errors is not None)
        room = -(-lengths // align) * align
        data = take_bytes(out, sum(room.tolist()))  # which is refused where it is more than 64 bits can count
        ends = np.cumsum(room)
        offsets = ends - room
        data.reshape(-1, align)[ends[room > 0] // align - 1] = 0  # before they are read: the end of each is in there
        bad: dict[int, Exception] = {}
        self._read_to(members, data, offsets, None if errors is None else bad)
        if errors is not None:
            errors.update(bad)
            for place in bad:
                data[offsets[place] : ends[place]] = 0
            lengths[list(bad)] = 0
        return data, offsets, lengths

    def _read_to(
        self, members: MemberIds, data: _Bytes, starts: MemberIds, errors: dict[int, Exception] | None
    ) -> None:
        """Read each member to its place in the memory of a batch."""
        fetched, fetch = self._fetch(members)
        failures = self._native.read_into(members, data, starts, fetched, fetch)
        self._finish(members, failures, fetched, placer(data, starts), errors)

    def submit(self, members: MemberIds, out: _Bytes | None) -> PendingMembers:
        """Begin a `read_batch` in the background."""
        data, offsets = self._room(members, out)
        fetched, fetch = self._fetch(members)
        pending = self._native.submit(members, data, offsets, fetched, fetch)

        def settle(failures: Sequence[_Failure]) -> None:
            self._finish(members, failures, fetched, placer(data, offsets))

        return PendingMembers(pending, data, offsets, settle)

    def feed(self, members: MemberIds, consumer: Consumer) -> None:
        """Hand members to native code as they are read, on the threads that read them; raises as `read_many`."""
        fetched, fetch = self._fetch(members)
        failures = self._native.feed(members, consumer, fetched, fetch)
        self._finish(members, failures, fetched, consumer.take)

    def read_slots(
        self, members: MemberIds, out: _Bytes, prefix: bytes, errors: dict[int, Exception] | None = None
    ) -> list[int]:
        """Read members of one size and beginning to equal slots of `out`, without that beginning.

        Returns the places of those that begin otherwise. As for `read_many`, where one cannot be read.
        """
        fetched, fetch = self._fetch(members)
        failures = self._native.read_slots(members, out, prefix, fetched, fetch)
        odd = (Status.PREFIX_DIFFERS, Status.NOT_NATIVE)
        self._finish(members, [f for f in failures if f[2] not in odd], fetched, lambda i, data: None, errors)
        return [f[0] for f in failures if f[2] in odd]

    def check(self, members: MemberIds) -> dict[int, Exception]:
        """Decode and verify some members, whatever `verify` says, and keep none; return what is wrong, by place."""
        fetched, fetch = self._fetch(members)
        errors: dict[int, Exception] = {}
        failures = self._native.check(members, fetched, fetch)
        self._finish(members, failures, fetched, lambda i, data: None, errors, verify=True)
        return errors

    def refused(self, members: MemberIds) -> NDArray[np.bool_]:
        """Say of each member whether its declared size is known to be false, or it may not be read."""
        found = np.zeros(len(members), np.bool_)
        for place, status in self._native.refusals(members):
            found[place] = status != Status.NOT_NATIVE
        return found

    def read_source(self, member: int, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from the source of a member; raises where that fails or ends early."""
        try:
            got = self.sources[self.index.source_of(member)].readinto_at(offset, buffer)
        except (OSError, CorruptArchiveError) as error:
            raise self._source_error(member, error) from error
        if got < len(buffer):
            raise self.error(member, Status.TRUNCATED, 0)
        if self._watch is not None and self._watch.changed_one(member) >= 0:
            raise self._changed(member)

    def layout(self, member: int) -> Layout:
        """Return how a member lies in its source."""
        return self.index.layouts[self.index.source_of(member)]

    def read_range(self, member: int, place: int, buffer: memoryview) -> None:
        """Fill a buffer from a place in a member that is a range of a stream, or, if it is sparse, several."""
        begin = int(self.index["offset"][member])
        if not int(self.index["flags"][member]) & MemberFlag.SPARSE_BIT:
            self._read_stream(member, begin + place, buffer)
            return
        np.frombuffer(buffer, np.uint8)[:] = 0
        for run in _runs(self.index.extents(member, place, place + len(buffer))):
            low = run[0].place - place
            if len(run) == 1:
                self._read_stream(member, run[0].offset, buffer[low : low + run[0].size])
                continue
            packed = memoryview(bytearray(sum(extent.size for extent in run)))
            self._read_stream(member, run[0].offset, packed)
            for extent in run:
                low, begin = extent.place - place, extent.offset - run[0].offset
                buffer[low : low + extent.size] = packed[begin : begin + extent.size]

    def _check_extents(self, member: int) -> None:
        """Verify what is stored of a sparse member, piece by piece."""
        extents = self.index.extents(member, 0, int(self.index["size"][member]))
        buffer = empty_bytes(min(_PIECE, sum(extent.size for extent in extents))).data
        for run in _runs(extents):
            end = run[-1].offset + run[-1].size
            for begin in range(run[0].offset, end, _PIECE):
                self._read_stream(member, begin, buffer[: end - begin], check=True)

    def _read_stream(self, member: int, begin: int, buffer: memoryview, *, check: bool = False) -> None:
        source = self.index.source_of(member)
        in_blocks = self.layout(member) == Layout.BLOCKS
        # Where extents lie in the stream has not been compared with it yet.
        if begin + len(buffer) > (self.index.stream_size(source) if in_blocks else self.sources[source].size):
            raise self.error(member, Status.TRUNCATED, 0)
        if not in_blocks:
            self.read_source(member, begin, buffer)
            return
        fetched, fetch = self._fetch(np.empty(0, np.int64))
        status, error = self._native.read_stream(source, begin, buffer, fetch, check=check)
        if status == Status.NOT_FETCHED and fetched is not None:
            raise self._source_error(member, fetched.block_errors[error])
        if status != Status.OK:
            raise self.error(member, status, error)

    def _source_error(self, member: int, error: OSError | CorruptArchiveError) -> ArchiveError:
        if isinstance(error, CorruptArchiveError):  # of a source that decodes
            return self._corrupt(member, error.reason)
        return source_error(error, self.archive_name(member), self.index.name(member))

    def _corrupt(self, member: int, reason: str) -> ArchiveError:
        """Make the exception for bytes that are wrong: maybe those of a file that was replaced."""
        source, name = self.sources[self.index.source_of(member)], self.index.name(member)
        change = source.change()
        if change is None:
            return CorruptArchiveError(reason, archive=source.name, member=name)
        return self._changed(member)

    def _changed(self, member: int) -> ArchiveChangedError:
        source = self.sources[self.index.source_of(member)]
        change = source.change() or "it was written to"
        return ArchiveChangedError(
            f"the file is not the one that was indexed: {change}; open it again",
            archive=source.name,
            member=self.index.name(member),
        )

    def data_offset(self, member: int, header: _Bytes | bytearray | None = None) -> int:
        """Return where the data of a member begin in its source, after a check of its local header.

        That is read, unless the bytes at its place are given.
        """
        if header is None:
            source = self.sources[self.index.source_of(member)]
            size = 30 + len(self.index.raw_name(member))
            try:
                header = source.read_at(int(self.index["offset"][member]), size)
            except (OSError, CorruptArchiveError) as error:
                raise self._source_error(member, error) from error
        offset = self._native.data_offset(member, header)
        if isinstance(offset, int):
            return offset
        raise self.error(member, *offset)

    def archive_name(self, member: int) -> str:
        """Return the name of the source that holds a member."""
        return self.sources[self.index.source_of(member)].name

    def error(self, member: int, status: int, error: int) -> Exception:
        """Make the exception for a member that could not be read."""
        source = self.sources[self.index.source_of(member)]
        name = self.index.name(member)
        if status == Status.NO_MEMORY:
            return MemoryError(f"{source.name}: member {name!r}: no memory to decode it")
        if status == Status.READ_FAILED:
            return source_error(OSError(error, os.strerror(error)), source.name, name)
        kind, reason = REASONS[Status(status)]
        codec = int(self.index["codec"][member])
        if self.layout(member) == Layout.BLOCKS:
            reason = REASONS_IN_BLOCKS.get(Status(status), reason)
        if int(self.index["flags"][member]) & MemberFlag.CRC32C_BIT:
            reason = REASONS_OF_RECORDS.get(Status(status), reason)
        text = reason.format(
            size=self.index["size"][member],
            compressed_size=self.index["compressed_size"][member],
            offset=self.index["offset"][member],
            crc32=self.index["crc32"][member],
            codec=codec,
            method=METHODS.get(codec, "not assigned"),
            limits=self.limits,
        )
        if kind is CorruptArchiveError:
            return self._corrupt(member, text)
        return kind(text, archive=source.name, member=name)

    def _room(self, members: MemberIds, out: _Bytes | None, *, may_refuse: bool = False) -> tuple[_Bytes, MemberIds]:
        """Allocate or check the memory of a batch, once it is known which of its members may be read."""
        if may_refuse:
            offsets = np.zeros(len(members) + 1, np.int64)
            np.cumsum(self._sizes(members, may_refuse=True), out=offsets[1:])
        else:
            offsets = np.empty(len(members) + 1, np.int64)
            refused = self._native.offsets(members, offsets)
            if refused is not None:
                raise self.error(refused[1], refused[2], refused[3])
        total = int(offsets[-1])
        if out is None:
            return empty_bytes(total), offsets
        if out.size < total:
            raise ValueError(f"out has {out.size} bytes, and the batch needs {total}")
        return out[:total], offsets

    def _sizes(self, members: MemberIds, *, may_refuse: bool) -> MemberIds:
        """Return the sizes of members; that of one which may not be read is 0, or it raises."""
        refused = [(i, status) for i, status in self._native.refusals(members) if status != Status.NOT_NATIVE]
        if refused and not may_refuse:
            place, status = refused[0]
            raise self.error(int(members[place]), status, 0)
        sizes = self.index["size"][members]
        sizes[[i for i, _ in refused]] = 0  # what it declares may be anything
        return sizes.astype(np.int64)

    def _fetch(self, members: MemberIds) -> tuple[_Fetched | None, _FetchBlock | None]:
        """Read what native code cannot read by itself: members now, and blocks when it asks for them."""
        if not self._has_foreign:
            return None, None
        fetched = _Fetched()

        def fetch_block(source: int, begin: int, end: int) -> bytearray | int:
            try:
                return self._read_at(source, begin, end)
            except (OSError, CorruptArchiveError) as error:
                fetched.block_errors.append(without_frames(error))  # one of which holds this very list
                return len(fetched.block_errors) - 1

        for position, place in enumerate(self._native.ranges(members)):
            fetched.append(None)
            if place is None or self.sources[place[0]].is_native:
                continue
            source, begin, end = place
            try:
                fetched[-1] = memoryview(self._read_at(source, begin, end))
            except (OSError, CorruptArchiveError) as error:
                fetched.errors[position] = self._source_error(int(members[position]), error)
        return fetched, fetch_block

    def _read_at(self, source: int, begin: int, end: int) -> bytearray:
        if self.meter is None:
            return self.sources[source].read_at(begin, end - begin)
        started = time.perf_counter()
        data = self.sources[source].read_at(begin, end - begin)
        self.meter.add_fetch(time.perf_counter() - started, len(data))
        return data

    def _finish(
        self,
        members: MemberIds,
        failures: Sequence[_Failure],
        fetched: _Fetched | None,
        place: Callable[[int, bytes], object],
        errors: dict[int, Exception] | None = None,
        *,
        verify: bool = False,
    ) -> None:
        """Decode what native code leaves to Python, and see whether the files are still those that were indexed.

        Raises for the first bad member, or collects them all.
        """
        for position, member, status, error in failures:
            try:
                if fetched is not None and position in fetched.errors:
                    raise fetched.errors.pop(position)  # or its traceback leads back to it
                if fetched is not None and status == Status.NOT_FETCHED:
                    raise self._source_error(member, fetched.block_errors[error])
                if status != Status.NOT_NATIVE:
                    raise self.error(member, status, error)
                if verify and self.layout(member) != Layout.ENTRIES:
                    self._check_extents(member)
                    continue
                place(position, self._fall_back(member, fetched[position] if fetched else None, verify or self.verify))
            except (ArchiveError, MemoryError) as bad:
                if errors is None:
                    raise
                errors[position] = without_frames(bad)
        if self._watch is None or self._watch.changed(members) < 0:
            return
        for position, member in enumerate(members.tolist()):
            if self._watch.changed_one(member) >= 0:
                changed = self._changed(member)
                if errors is None:
                    raise changed
                errors.setdefault(position, changed)

    def _fall_back(self, member: int, fetched: memoryview | None, verify: bool) -> bytes:
        if self.layout(member) != Layout.ENTRIES:  # a sparse member
            expanded = np.empty(int(self.index["size"][member]), np.uint8)
            self.read_range(member, 0, expanded.data)
            return expanded.tobytes()
        payload = self._native.payload(member, fetched)
        if not isinstance(payload, bytes):
            raise self.error(member, *payload)
        data = decode(
            int(self.index["codec"][member]),
            payload,
            int(self.index["size"][member]),
            int(self.index["crc32"][member]) if verify else None,
            strict=self.strict,
            max_window=self.limits.max_window_bytes,
        )
        if len(payload) < int(self.index["compressed_size"][member]):  # only the beginning was read
            if data is Status.BAD_DATA:
                data = Status.IMPOSSIBLE_SIZE
            elif self.strict and isinstance(data, bytes):
                data = Status.TRAILING_BYTES
        if isinstance(data, Status):
            raise self.error(member, data, 0)
        return data


def _runs(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Group the extents of a member that follow one another in the stream: they are read at once, if not too large."""
    run: list[Extent] = []
    size = 0
    for extent in extents:
        if run and (extent.offset != run[-1].offset + run[-1].size or size + extent.size > _PIECE):
            yield run
            run, size = [], 0
        run.append(extent)
        size += extent.size
    if run:
        yield run


def _take(pieces: list[memoryview], size: int) -> Iterator[memoryview]:
    """Take so many bytes off the front of some pieces."""
    while size:
        piece = pieces.pop(0)
        if len(piece) > size:
            pieces.insert(0, piece[size:])
        yield piece[:size]
        size -= min(size, len(piece))


class _Fetched(list[memoryview | None]):
    """The bytes of some members, from sources that Python reads, and what went wrong by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[int, ArchiveError] = {}
        self.block_errors: list[OSError | CorruptArchiveError] = []  # the errno of a failure says which


class PendingMembers:
    """A batch under way: its memory, and how to finish it."""

    def __init__(
        self,
        pending: PendingRead,
        data: _Bytes,
        offsets: MemberIds,
        settle: Callable[[Sequence[_Failure]], None],
    ) -> None:
        self._pending = pending
        self._settle = settle
        self._settled = False
        self._locks: dict[int, threading.RLock] = {}  # by process: a fork may come while a thread holds it
        self.data = data
        self.offsets = offsets

    def done(self) -> bool:
        """Whether `wait` returns without waiting for threads."""
        return self._pending.done()

    def wait(self) -> None:
        """Wait for the batch; raises for the first member that is bad."""
        failures = self._pending.wait()
        with self._locks.setdefault(os.getpid(), threading.RLock()):
            if not self._settled:  # once it is, the memory is the caller's
                self._settle(failures)
                self._settled = True


def placer(data: _Bytes, starts: MemberIds) -> Callable[[int, bytes], None]:
    """Make what puts decoded members to their places in the memory of a batch."""

    def place(position: int, decoded: bytes) -> None:
        begin = int(starts[position])
        data[begin : begin + len(decoded)] = np.frombuffer(decoded, np.uint8)

    return place
