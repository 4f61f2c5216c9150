"""The waist: `open`, `Archive`, `Batch`. All that stands above knows only this."""

from __future__ import annotations

import fnmatch
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from archivestream import extraction, npy
from archivestream._native.names import NameTable
from archivestream.errors import (
    ArchiveChangedError,
    ArchiveError,
    CorruptArchiveError,
    MemberNotFoundError,
)
from archivestream.formats import read_index
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.member_io import open_member
from archivestream.members import Member
from archivestream.paths import expand
from archivestream.reader import MemberIds, MemberReader, PendingMembers
from archivestream.sources import FileObjectSource, LocalSource, MemorySource, Source

__all__ = ["Archive", "Batch", "PendingBatch", "VerifyReport", "open"]

Key: TypeAlias = int | str | bytes | np.integer[Any]
Keys: TypeAlias = Iterable[Key] | NDArray[np.integer[Any]]
Progress: TypeAlias = Callable[[int, int], object]
Openable: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_VERIFY_BYTES = 64 << 20
_VERIFY_MEMBERS = 8192


def open(  # noqa: A001  # the name that users type: archivestream.open
    path: Openable | Sequence[Openable],
    *,
    strict: bool = False,
    threads: int | None = None,
    verify: bool = True,
    limits: Limits = Limits(),  # noqa: B008  # immutable
    metadata_encoding: str | None = None,
    progress: Progress | None = None,
) -> Archive:
    """Open an archive, or several as one.

    Parameters
    ----------
    path : path, bytes, binary file object, or a sequence of them
        A path may be a glob (``train-*.zip``) or have braces (``train-{000..127}.zip``); a file of exactly that
        name comes first. Several archives are one, with the members of all in order. Bytes-like objects hold
        an archive themselves; file objects must be seekable, and stay the property of the caller.
    strict : bool
        Refuse what is ambiguous or contradictory in an archive, where the default takes the usual reading.
    threads : int, optional
        Threads that work on one batch; default: as many as there are processors for this process.
    verify : bool
        Check the CRC-32 of every member that is read.
    limits : Limits
        Bounds on what the archive may ask for.
    metadata_encoding : str, optional
        Encoding of names that are not marked as UTF-8; default: code page 437, as `zipfile`.
    progress : callable, optional
        Called with (bytes of the directory read, bytes in all) while the index is read.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no file that fits the pattern.
    CorruptArchiveError
        If it is damaged, or no archive: the message says what it looks like.
    UnsupportedFeatureError
        If it is an archive of a kind that is not handled.
    LimitExceededError
        If it is larger than `limits` allows.

    Examples
    --------
    >>> with archivestream.open("images.zip") as archive:
    ...     first = archive[0]
    ...     batch = archive.read_batch(range(256))
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    options = {
        "strict": strict,
        "threads": threads,
        "verify": verify,
        "limits": limits,
        "metadata_encoding": metadata_encoding,
    }
    sources = _sources(path)
    try:
        parts = [
            read_index(
                source,
                strict=strict,
                limits=limits,
                metadata_encoding=metadata_encoding,
                progress=progress,
            )
            for source in sources
        ]
        index = Index.concatenate(parts)
        reader = MemberReader(
            index, sources, limits=limits, verify=verify, strict=strict, threads=threads
        )
    except BaseException:
        for source in sources:
            source.close()
        raise
    return Archive(_Shared(reader, options))


def _sources(path: Openable | Sequence[Openable]) -> list[Source]:
    if isinstance(path, bytes | bytearray | memoryview):
        return [MemorySource(path)]
    if isinstance(path, str | os.PathLike):
        opened: list[Source] = []
        try:
            for one in expand(os.fspath(path)):
                opened.append(LocalSource(one))
        except BaseException:
            for source in opened:
                source.close()
            raise
        return opened
    if isinstance(path, Sequence):
        if not path:
            raise ValueError("an empty list of archives")
        return [source for one in path for source in _sources(one)]
    return [FileObjectSource(path)]


class _Shared:
    """What an archive and its views have in common."""

    def __init__(self, reader: MemberReader, options: dict[str, Any]) -> None:
        self.index = reader.index
        self.options = options
        self.names = [source.name for source in reader.sources]
        self._reader: MemberReader | None = reader

    @property
    def reader(self) -> MemberReader:
        if self._reader is None:
            raise ValueError(f"{self.names[0]}: the archive is closed")
        return self._reader

    @property
    def closed(self) -> bool:
        return self._reader is None

    def close(self) -> None:
        # The descriptors close when the last call and the last pending batch have let go of the reader.
        self._reader = None

    def __reduce__(self) -> tuple[Any, ...]:
        reader = self.reader
        places = [
            source.path if isinstance(source, LocalSource) else source for source in reader.sources
        ]
        return _reopen, (places, self.options, self.index.fingerprint())


def _reopen(places: list[str | Source], options: dict[str, Any], fingerprint: str) -> _Shared:
    """Open the sources of a pickled archive in another process."""
    sources = [LocalSource(place) if isinstance(place, str) else place for place in places]
    reading = {name: options[name] for name in ("strict", "limits", "metadata_encoding")}
    index = Index.concatenate([read_index(s, progress=None, **reading) for s in sources])
    if index.fingerprint() != fingerprint:
        raise ArchiveChangedError(
            "the file is not the one that was pickled; open it again", archive=sources[0].name
        )
    settings = {name: options[name] for name in ("limits", "verify", "strict", "threads")}
    return _Shared(MemberReader(index, sources, **settings), options)


class Batch(Sequence[memoryview]):
    """Members in one contiguous buffer.

    Attributes
    ----------
    data : ndarray of uint8, shape (total,)
        The bytes of all members, one after the other.
    offsets : ndarray of int64, shape (n + 1,)
        Where each member begins in `data`, and where the last one ends.
    """

    __slots__ = ("data", "offsets")

    def __init__(self, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.data = data
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, key: int) -> memoryview: ...
    @overload
    def __getitem__(self, key: slice) -> list[memoryview]: ...
    def __getitem__(self, key: int | slice) -> memoryview | list[memoryview]:
        """Return the bytes of one member, or of a slice of them, without a copy."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        n = len(self)
        if not -n <= key < n:
            raise IndexError(f"member {key} of a batch of {n}")
        begin, end = self.offsets[key % n : key % n + 2].tolist()
        return memoryview(self.data)[begin:end]

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} members, {self.data.size} bytes>"


class PendingBatch:
    """A batch that is read in the background. Made by `Archive.submit`; safe for any number of threads."""

    def __init__(self, pending: PendingMembers) -> None:
        self._pending = pending

    def done(self) -> bool:
        """Whether `result` would return without waiting for the threads."""
        return self._pending.done()

    def result(self) -> Batch:
        """Wait for the batch and return it.

        Raises
        ------
        ArchiveError
            What `Archive.read_batch` raises, for the first member that is bad.
        """
        self._pending.wait()
        return Batch(self._pending.data, self._pending.offsets)


@dataclass
class VerifyReport:
    """What `Archive.verify` found.

    Attributes
    ----------
    members, bytes : int
        How many members were decoded, and how many bytes they hold.
    seconds : float
        How long it took.
    errors : list of Exception
        One for each bad member, in order; each names the archive and the member.
    """

    members: int = 0
    bytes: int = 0
    seconds: float = 0.0
    errors: list[Exception] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every member was good."""
        return not self.errors


class Names(Sequence[str]):
    """The names of an archive, decoded as they are asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def __len__(self) -> int:
        return len(self._archive)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        """Return one name, or the names of a slice."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        return self._archive._index.name(self._archive._member(key))

    def __contains__(self, name: object) -> bool:
        return name in self._archive

    def __iter__(self) -> Iterator[str]:
        index = self._archive._index
        ids = self._archive._ids
        for begin in range(0, len(self), 65536):
            chosen = np.arange(begin, min(begin + 65536, len(self))) if ids is None else ids[begin : begin + 65536]
            blob, offsets = index.select_names(chosen)
            text, bounds = blob.tobytes(), offsets.tolist()
            for start, stop in zip(bounds, bounds[1:], strict=False):
                yield text[start:stop].decode()

    def startswith(self, prefix: str) -> NDArray[np.bool_]:
        """Say of each name whether it begins with a prefix: a mask for `Archive.select`."""
        begin, end = self._bounds()
        names = self._archive._index["names"]
        wanted = prefix.encode()
        fits = end - begin >= len(wanted)
        for place, byte in enumerate(wanted):
            chosen = np.flatnonzero(fits)
            fits[chosen] = names[begin[chosen] + place] == byte
        return fits

    def endswith(self, suffixes: str | tuple[str, ...], *, ignore_case: bool = False) -> NDArray[np.bool_]:
        """Say of each name whether it ends with one of some suffixes: a mask for `Archive.select`.

        Parameters
        ----------
        suffixes : str or tuple of str
            As for `str.endswith`.
        ignore_case : bool
            Take ASCII letters of either case as the same.
        """
        begin, end = self._bounds()
        names = self._archive._index["names"]
        found = np.zeros(len(end), np.bool_)
        for suffix in (suffixes,) if isinstance(suffixes, str) else suffixes:
            fits = end - begin >= len(suffix.encode())
            for back, byte in enumerate(reversed(suffix.encode()), 1):
                chosen = np.flatnonzero(fits)
                there = names[end[chosen] - back]
                fits[chosen] = there == byte
                if ignore_case and chr(byte).isalpha():
                    fits[chosen] |= there == byte ^ 0x20
            found |= fits
        return found

    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each name begins and ends in the column of names."""
        ids = slice(None) if self._archive._ids is None else self._archive._ids
        offsets = self._archive._index["name_offset"]
        return offsets[:-1][ids].astype(np.int64), offsets[1:][ids].astype(np.int64)

    def __repr__(self) -> str:
        return f"<names of {len(self)} members>"


class Archive(Sequence[bytes]):
    """Members of an archive, by position and by name. Made by `archivestream.open`.

    Safe for any number of threads; may be forked and pickled, also after it was read from. A pickle holds the
    path, and opens the archive again where it is loaded; it refuses another archive that has come to stand
    there.
    """

    def __init__(self, shared: _Shared, ids: MemberIds | None = None) -> None:
        self._shared = shared
        self._index = shared.index
        self._ids = ids
        self._view_table: NameTable | None = None

    def __repr__(self) -> str:
        names = self._shared.names
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        view = "" if self._ids is None else f" of {len(self._index)}"
        state = ", closed" if self._shared.closed else ""
        return f"<Archive {what}: {len(self)}{view} members{state}>"

    def __len__(self) -> int:
        return len(self._index) if self._ids is None else len(self._ids)

    def __contains__(self, key: object) -> bool:
        """Whether there is a member of that name."""
        return isinstance(key, str | bytes) and self._position(key) >= 0

    def __iter__(self) -> Iterator[bytes]:
        return (self.read(i) for i in range(len(self)))

    @overload
    def __getitem__(self, key: Key) -> bytes: ...
    @overload
    def __getitem__(self, key: slice) -> Archive: ...
    def __getitem__(self, key: Key | slice) -> bytes | Archive:
        """Return the bytes of one member; a slice gives a view, as `select` does."""
        if isinstance(key, slice):
            return self.select(key)
        return self._shared.reader.read(self._member(key))

    def read(self, key: Key) -> bytes:
        """Return the bytes of one member, decoded on the calling thread.

        Parameters
        ----------
        key : int, str or bytes
            Its position (negative from the end), its name, or its name as the bytes that stand in the archive.
            Of several members with one name, the last is meant.

        Raises
        ------
        IndexError
            If there is no such position.
        MemberNotFoundError
            If there is no such name.
        CorruptArchiveError, ArchiveChangedError
            If the bytes contradict the directory or their checksum.
        UnsupportedFeatureError, EncryptedMemberError
            If its compression method is not handled, or it is encrypted.
        LimitExceededError
            If it is larger than the limits allow.
        SourceError
            If reading the file failed.
        """
        return self._shared.reader.read(self._member(key))

    def read_many(self, keys: Keys) -> list[bytes]:
        """Return the bytes of some members, in the order of the keys: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read`; a member may come more than once.

        Raises
        ------
        ArchiveError
            As `read`, for the first member that is bad.
        """
        return self._shared.reader.read_many(self._members(keys))

    def read_batch(self, keys: Keys, out: Any = None) -> Batch:
        """Return the bytes of some members in one contiguous buffer: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : writable buffer, optional
            Contiguous memory of enough bytes, which is filled from its start; default: new memory, aligned to 64
            bytes.

        Raises
        ------
        ValueError
            If `out` is too small; nothing was written then.
        ArchiveError
            As `read`, for the first member that is bad; what `out` holds then is undefined.
        """
        return Batch(*self._shared.reader.read_batch(self._members(keys), _as_bytes(out)))

    def submit(self, keys: Keys, out: Any = None) -> PendingBatch:
        """Begin a `read_batch` in the background and return at once.

        The batch keeps what it needs alive: the archive may be closed or dropped meanwhile. Dropping the batch
        waits for the members under way, and abandons the others.
        """
        return PendingBatch(self._shared.reader.submit(self._members(keys), _as_bytes(out)))

    def read_arrays(
        self, keys: Keys, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return ``.npy`` members of one shape and type as one array, decoded to their places in it.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : ndarray of shape (n, *shape), optional
            C-contiguous and writable, of the type of the members.

        Returns
        -------
        ndarray of shape (n, *shape)

        Raises
        ------
        ValueError
            If there are no keys, the members differ in shape or type, or `out` does not fit them.
        CorruptArchiveError
            If a member is no ``.npy`` file, or is bad.
        UnsupportedFeatureError
            If the arrays hold Python objects, which would have to be unpickled.
        """
        return npy.read_arrays(self._shared.reader, self._members(keys), out)

    def open_member(self, key: Key) -> io.BufferedReader:
        """Open a member as a seekable binary file.

        A small member is decoded at once; a large one (above 16 MiB) piece by piece, in memory that does not
        depend on its size: a stored one can be read anywhere, a compressed one from front to back (seeking
        back decodes from the start again). The checksum of a large member is checked when it is read from
        start to end.
        """
        return open_member(self._shared.reader, self._member(key))

    @property
    def names(self) -> Names:
        """The names of all members, as a sequence: ``names[i]`` is the name of ``self[i]``."""
        return Names(self)

    def info(self, key: Key) -> Member:
        """Return what the directory says of a member."""
        member = self._member(key)
        column = self._index.columns
        position = member if self._ids is None else self._locate(key)
        return Member(
            name=self._index.name(member),
            position=position,
            size=int(column["size"][member]),
            compressed_size=int(column["compressed_size"][member]),
            crc32=int(column["crc32"][member]),
            codec=int(column["codec"][member]),
            offset=int(column["offset"][member]),
            timestamp=int(column["timestamp"][member]),
            attributes=int(column["attributes"][member]),
            archive=self._shared.names[self._index.source_of(member)],
        )

    def namelist(self) -> list[str]:
        """Return the names of all members; `zipfile`'s name of ``list(self.names)``."""
        return list(self.names)

    def infolist(self) -> list[Member]:
        """Return `info` of every member."""
        return [self.info(i) for i in range(len(self))]

    def getinfo(self, name: str) -> Member:
        """Return `info` of a name; `zipfile`'s name of it."""
        return self.info(name)

    def testzip(self) -> str | None:
        """Return the name of the first bad member, or None; `verify` says more."""
        for error in self.verify().errors:
            if isinstance(error, ArchiveError):
                return error.member
        return None

    def select(self, keys: Keys | str | slice) -> Archive:
        """Return a view of some members: no copy, and the same methods.

        Parameters
        ----------
        keys : glob pattern, slice, boolean mask, or keys
            A pattern is matched against whole names, and ``*`` matches slashes, too, as in `fnmatch`.

        Raises
        ------
        IndexError
            If a position is not there, or a mask has not one value for each member.
        MemberNotFoundError
            If a name is not there. (A pattern that matches nothing gives an empty view.)
        """
        if isinstance(keys, str):
            matches = re.compile(fnmatch.translate(keys)).match
            places = np.array([i for i, name in enumerate(self.names) if matches(name)], np.int64)
        elif isinstance(keys, slice):
            places = np.arange(*keys.indices(len(self)), dtype=np.int64)
        else:
            places = self._places(keys)
        return Archive(self._shared, places if self._ids is None else self._ids[places])

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Decode every member and check its checksum, keeping none; a bad one does not end it.

        Parameters
        ----------
        progress : callable, optional
            Called with (bytes decoded, bytes in all).
        """
        reader = self._shared.reader
        ids = np.arange(len(self), dtype=np.int64) if self._ids is None else self._ids
        sizes = self._index["size"][ids].astype(np.int64)
        ends = np.cumsum(sizes)
        report = VerifyReport()
        started = time.perf_counter()
        begin = 0
        while begin < len(ids):
            limit = (int(ends[begin - 1]) if begin else 0) + _VERIFY_BYTES
            end = max(begin + 1, int(np.searchsorted(ends, limit, side="right")))
            end = min(end, begin + _VERIFY_MEMBERS)
            if sizes[begin] > _VERIFY_BYTES:
                errors = _verify_large(reader, int(ids[begin]))
            else:
                errors = reader.check(ids[begin:end])
            report.errors += [error for _, error in sorted(errors.items())]
            begin = end
            if progress is not None:
                progress(int(ends[end - 1]), int(ends[-1]))
        report.members, report.bytes = len(ids), int(ends[-1]) if len(ids) else 0
        report.seconds = time.perf_counter() - started
        return report

    def extract(
        self,
        keys: Keys | None = None,
        path: str | os.PathLike[str] = ".",
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> list[Path]:
        """Write members to a folder, each under its name.

        Nothing is written outside the folder or through a symbolic link. A symbolic link in the archive becomes a
        file that holds its target. A file has its own name only once it is whole and verified.

        Parameters
        ----------
        keys : iterable of keys, optional
            Default: all members.
        path : path
            The folder; made if it is not there.
        overwrite : bool
            Replace files that are there.
        progress : callable, optional
            Called with (bytes written, bytes in all).

        Returns
        -------
        list of Path
            What was written, in the order of the keys.

        Raises
        ------
        UnsupportedFeatureError
            If a name is absolute, empty, or leads out of the folder; nothing was written then.
        FileExistsError
            If a file is there already, and `overwrite` is False.
        ArchiveError
            For the first member that is bad, once all good ones are written.
        """
        members = self._members(range(len(self)) if keys is None else keys).tolist()
        return extraction.extract(
            self._shared.reader, members, path, overwrite=overwrite, progress=progress
        )

    def close(self) -> None:
        """Give back the files. Pending batches end as they would have; views are closed, too."""
        self._shared.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- from keys to rows of the index ------------------------------------------------------------------------

    def _position(self, name: str | bytes) -> int:
        """The position of a name in this archive or view, or -1."""
        if self._ids is None:
            return self._index.find(name)
        if isinstance(name, bytes):
            member = self._index.find(name)
            places = np.flatnonzero(self._ids == member) if member >= 0 else ()
            return int(places[-1]) if len(places) else -1
        if self._view_table is None:
            self._view_table = NameTable(*self._index.select_names(self._ids))
        return self._view_table.find(name)

    def _locate(self, key: Key) -> int:
        """The position of a key; raises where there is none."""
        if isinstance(key, str | bytes):
            position = self._position(key)
            if position < 0:
                name = key if isinstance(key, str) else key.decode(errors="backslashreplace")
                raise MemberNotFoundError(
                    "there is no such member", archive=self._shared.names[0], member=name
                )
            return position
        try:
            position = key.__index__()
        except AttributeError:
            raise TypeError(f"a key is an int, a str or bytes, not {type(key).__name__}") from None
        n = len(self)
        if not -n <= position < n:
            raise IndexError(f"member {position} of an archive of {n}")
        return position if position >= 0 else position + n

    def _member(self, key: Key) -> int:
        """The row of a key in the index; raises where there is none."""
        position = self._locate(key)
        return position if self._ids is None else int(self._ids[position])

    def _places(self, keys: Keys) -> MemberIds:
        """The positions of some keys."""
        n = len(self)
        if isinstance(keys, str | bytes):
            raise TypeError("keys are an iterable of keys; for one member use read()")
        if isinstance(keys, range):
            places = np.arange(keys.start, keys.stop, keys.step, dtype=np.int64)
        else:
            if not isinstance(keys, np.ndarray):
                keys = keys if isinstance(keys, list) else list(keys)
                if any(isinstance(key, str | bytes) for key in keys):
                    return np.array([self._locate(key) for key in keys], np.int64)
            array = np.asarray(keys)
            if array.dtype == np.bool_:
                if array.shape != (n,):
                    raise IndexError(f"a mask of shape {array.shape} for an archive of {n}")
                return np.flatnonzero(array)
            if array.size and array.dtype.kind not in "iu":
                raise TypeError(f"positions are integers, not {array.dtype}")
            places = np.ascontiguousarray(array.reshape(-1), np.int64)
        if len(places) and (places.min() < -n or places.max() >= n):
            bad = next(place for place in places.tolist() if not -n <= place < n)
            raise IndexError(f"member {bad} of an archive of {n}")
        return np.where(places < 0, places + n, places) if len(places) and places.min() < 0 else places

    def _members(self, keys: Keys) -> MemberIds:
        """The rows of some keys in the index."""
        places = self._places(keys)
        return places if self._ids is None else np.ascontiguousarray(self._ids[places])


def _as_bytes(out: Any) -> NDArray[np.uint8] | None:
    """View the caller's memory as bytes."""
    if out is None:
        return None
    view = memoryview(out)
    if view.readonly:
        raise ValueError("out is read-only")
    if not view.c_contiguous:
        raise ValueError("out is not contiguous")
    return np.frombuffer(view.cast("B"), np.uint8) if view.nbytes else np.empty(0, np.uint8)


def _verify_large(reader: MemberReader, member: int) -> dict[int, Exception]:
    """Verify a member piece by piece, in bounded memory."""
    try:
        with open_member(reader, member) as contents:
            while contents.read(1 << 20):
                pass
    except (ArchiveError, CorruptArchiveError) as error:
        return {0: error}
    return {}
