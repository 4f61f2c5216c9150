"""The waist: `open` and `Archive`. All that stands above knows only this."""

from __future__ import annotations

import fnmatch
import io
import operator
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from archivestream import extraction, npy
from archivestream._native.columns import Layout
from archivestream.batch import Batch, PendingBatch, as_bytes
from archivestream.errors import ArchiveError
from archivestream.index import MemberIds
from archivestream.indexing import MODES, IndexMode
from archivestream.limits import Limits
from archivestream.member_io import open_member
from archivestream.members import Member
from archivestream.selection import Key, Keys, Names, Selection
from archivestream.session import (
    DEFAULT_CACHE,
    Openable,
    Options,
    Progress,
    Session,
    check_encoding,
    find_sources,
)
from archivestream.summary import Summary, summarise
from archivestream.threads import check_threads
from archivestream.verification import VerifyReport, verify

__all__ = ["Archive", "Openable", "Progress", "open"]


def open(  # the name that users type: archivestream.open
    path: Openable | Sequence[Openable],
    *,
    strict: bool = False,
    index: IndexMode = "auto",
    threads: int | None = None,
    verify: bool = True,
    cache: int | None = None,
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
    index : "auto", "require" or "memory"
        Where the index comes from. "auto" uses a saved one (see `Archive.save_index`) that is valid, and saves one
        where building it is work: for all but ZIP, whose directory is one. "require" raises where there is no
        valid one: nothing is built. "memory" neither reads nor writes one. Building reads the headers of a tar, and
        decodes all of a ``.tar.zst`` or ``.tar.gz`` once; if that is interrupted, the next one goes on from there.
    threads : int, optional
        Threads that work on one batch, from 1 to 1024; default: as many as there are processors for this process.
    verify : bool
        Check the CRC-32 of every member that is read. `Archive.verify` checks them in any case.
    cache : int, optional
        Most bytes of decoded blocks to keep in memory, where members share compressed blocks; 0 keeps none. Default:
        64 MiB.
    limits : Limits
        Bounds on what the archive may ask for.
    metadata_encoding : str, optional
        Encoding of names that are not marked as UTF-8; default: code page 437, as `zipfile`.
    progress : callable, optional
        Called with (done, total) while the index is read or built: bytes of the directory of a ZIP, or of the
        files where there are several or others.

    Raises
    ------
    FileNotFoundError
        If there is no such file, no file that fits the pattern, or no saved index though `index` requires one.
    ArchiveChangedError
        If `index` requires a saved index, and the one that is there is of another archive or an earlier state of it.
    CorruptArchiveError
        If it is damaged, or no archive: the message says what it looks like.
    UnsupportedFeatureError
        If it is an archive of a kind that is not handled.
    LimitExceededError
        If it is larger than `limits` allows.
    SourceError
        If reading failed.
    OSError
        As `open` of Python raises: `IsADirectoryError`, `PermissionError` and the like.
    ValueError, TypeError
        If an argument has no such value: an encoding that there is not, a file object in text mode.

    Examples
    --------
    >>> with archivestream.open("images.zip") as archive:
    ...     first = archive[0]
    ...     batch = archive.read_batch(range(256))
    """
    check_threads(threads)
    if isinstance(path, Archive):
        raise TypeError("this is an archive already; select() makes another view of it")
    check_encoding(metadata_encoding)
    if index not in MODES:
        raise ValueError(f"index must be one of {', '.join(map(repr, MODES))}, not {index!r}")
    size = DEFAULT_CACHE if cache is None else operator.index(cache)
    if size < 0:
        raise ValueError(f"cache must be 0 or more bytes, not {size}")
    options = Options(strict, threads, verify, limits, metadata_encoding, size, index)
    sources = find_sources(path)
    try:
        session = options.open(sources, progress)
    except BaseException:
        for source in sources:
            source.close()
        raise
    return Archive(session)


class Archive(Sequence[bytes]):
    """Members of an archive, by position and by name. Made by `archivestream.open`.

    Safe for any number of threads; may be forked and pickled, also after it was read from. A pickle holds the
    path, and opens the archive again where it is loaded; it refuses another archive that has come to stand
    there.
    """

    def __init__(self, shared: Session, selection: Selection | None = None) -> None:
        self._shared = shared
        if selection is None:
            selection = Selection(shared.reader.index, shared.names[0])
        self._selection = selection

    def __repr__(self) -> str:
        names = self._shared.names
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        view = "" if self._selection.ids is None else f" of {len(self._selection.index)}"
        state = ", closed" if self._shared.closed else ""
        return f"<Archive {what}: {len(self)}{view} members{state}>"

    def __len__(self) -> int:
        return len(self._selection)

    def __contains__(self, key: object) -> bool:
        """Whether there is a member of that name."""
        return isinstance(key, str | bytes) and self._selection.find(key) >= 0

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
        return self._shared.reader.read(self._selection.member(key))

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
        return self._shared.reader.read(self._selection.member(key))

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
        return self._shared.reader.read_many(self._selection.members(keys))

    def read_batch(self, keys: Keys, out: Any = None) -> Batch:
        """Return the bytes of some members in one contiguous buffer: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : writable buffer, optional
            Contiguous memory of enough bytes (of any type: an array, a `bytearray`, a CPU tensor), which is filled
            from its start; default: new memory, aligned to 64 bytes.

        Raises
        ------
        ValueError, TypeError
            If `out` is too small, read-only, not contiguous, or no memory of bytes; nothing was written then.
        ArchiveError
            As `read`, for the first member that is bad; what `out` holds then is undefined.
        """
        return Batch(*self._shared.reader.read_batch(self._selection.members(keys), as_bytes(out)))

    def submit(self, keys: Keys, out: Any = None) -> PendingBatch:
        """Begin a `read_batch` in the background and return at once.

        The batch keeps what it needs alive: the archive may be closed or dropped meanwhile. Dropping the batch
        waits for the members under way, and abandons the others.

        Parameters
        ----------
        keys, out
            As for `read_batch`; `out` is the batch's until `PendingBatch.result` has returned.

        Raises
        ------
        IndexError, MemberNotFoundError, ValueError
            At once: for a key that is not there, or an `out` that does not fit.
        ArchiveError
            At once for the first member that the directory alone shows to be unreadable, and from
            `PendingBatch.result` for what reading shows.
        """
        return PendingBatch(self._shared.reader.submit(self._selection.members(keys), as_bytes(out)))

    def read_arrays(self, keys: Keys, out: NDArray[Any] | None = None) -> NDArray[Any]:
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
        return npy.read_arrays(self._shared.reader, self._selection.members(keys), out)

    def open_member(self, key: Key) -> io.BufferedReader:
        """Open a member as a seekable binary file.

        A small member is decoded at once; a large one (above 16 MiB) piece by piece, in memory that does not
        depend on its size. A large member of a ZIP can be read anywhere where it is stored, and from front to back
        where it is compressed (seeking back decodes from the start again); its checksum is checked when it is read
        from start to end. One of a tar, compressed or not, can be read anywhere; what is checked are the blocks that
        are decoded for it. The file is for one thread at a time, as other files are.

        Parameters
        ----------
        key : int, str or bytes
            As for `read`.

        Raises
        ------
        IndexError, MemberNotFoundError, ArchiveError
            As `read`: at once, or, for a large member, from the file where reading shows it. A member that has
            proved bad is not read any further.
        """
        return open_member(self._shared.reader, self._selection.member(key))

    @property
    def names(self) -> Names:
        """The names of all members, as a sequence: ``names[i]`` is the name of ``self[i]``."""
        return Names(self._selection)

    def files(self) -> NDArray[np.bool_]:
        """Say of each member whether it is a regular file, and no directory, link or device: a mask for `select`."""
        return self._selection.files()

    def info(self, key: Key) -> Member:
        """Return what the directory says of a member, which is not read.

        Parameters
        ----------
        key : int, str or bytes
            As for `read`.

        Raises
        ------
        IndexError, MemberNotFoundError
            As `read`.
        """
        position = self._selection.position(key)
        member = self._selection.member(position)
        index = self._selection.index
        column = index.columns
        has_checksum = index.layouts[index.source_of(member)] == Layout.ENTRIES
        return Member(
            name=index.name(member),
            position=position,
            size=int(column["size"][member]),
            compressed_size=int(column["compressed_size"][member]),
            crc32=int(column["crc32"][member]) if has_checksum else None,
            codec=int(column["codec"][member]),
            offset=int(column["offset"][member]),
            timestamp=int(column["timestamp"][member]),
            attributes=int(column["attributes"][member]),
            directory=index.is_dir(member),
            archive=self._shared.names[index.source_of(member)],
        )

    def summary(self) -> Summary:
        """Return what the archive holds, in numbers; no member is read."""
        return summarise(self._selection, [str(path) for path in self._shared.reader.sidecars if path is not None])

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
        TypeError
            If a key is neither a position nor a name.
        """
        if isinstance(keys, str):
            matches = re.compile(fnmatch.translate(keys)).match
            places = np.array([i for i, name in enumerate(self.names) if matches(name)], np.int64)
        elif isinstance(keys, slice):
            places = np.arange(*keys.indices(len(self)), dtype=np.int64)
        else:
            places = self._selection.positions(keys)
        return Archive(self._shared, self._selection.narrow(places))

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Decode every member and check its checksum, keeping none; a bad one does not end it.

        Parameters
        ----------
        progress : callable, optional
            Called with (bytes decoded, bytes in all).

        Returns
        -------
        VerifyReport
            With an exception for each bad member; none is raised.
        """
        return verify(self._shared.reader, self._selection.rows(0, len(self)), progress)

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
        OSError
            If a file or a link stands where a folder must be, the disk is full, and the like: that ends it.
        ArchiveError
            For the first member that is bad, once all good ones are written.
        """
        if isinstance(keys, str | os.PathLike):
            raise TypeError("keys are an iterable of keys; the folder is the second argument: extract(path=...)")
        members = self._selection.members(range(len(self)) if keys is None else keys).tolist()
        return extraction.extract(self._shared.reader, members, path, overwrite=overwrite, progress=progress)

    def save_index(self, path: str | os.PathLike[str] | None = None, *, progress: Progress | None = None) -> list[Path]:
        """Save the index, so that opening the archive again takes milliseconds, in all processes together.

        Parameters
        ----------
        path : path, optional
            Of the sidecar. `archivestream.open` looks for ``<archive>.asidx`` beside the archive, and then in the cache
            folder of the user; default: the first of these that can be written to.
        progress : callable, optional
            Called with (done, total), as by `archivestream.open`, where there are several files: each is indexed anew.

        Returns
        -------
        list of Path
            What was written, for each file of the archive.

        Raises
        ------
        ArchiveChangedError
            If the archive is not the one that was opened.
        ValueError
            If there are several files and one path.
        OSError
            If it cannot be written; what was there before is untouched.
        """
        return self._shared.save_index(None if path is None else Path(path), progress)

    def close(self) -> None:
        """Give back the files. Pending batches end as they would have; views are closed, too."""
        self._shared.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._shared, self._selection.ids)


def _restore(shared: Session, ids: MemberIds | None) -> Archive:
    """Make an archive or a view anew where its pickle is loaded."""
    return Archive(shared, Selection(shared.reader.index, shared.names[0], ids))
