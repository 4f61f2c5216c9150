"""The waist: `open` and `Archive`. All that stands above knows only this."""

from __future__ import annotations

import hashlib
import io
import operator
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from archivestream import extraction, images, npy
from archivestream._native.columns import Layout
from archivestream._native.work import Consumer
from archivestream.batch import Batch, PendingBatch, as_bytes, as_rows
from archivestream.cache import Cache
from archivestream.errors import ArchiveError
from archivestream.file_types import number_types
from archivestream.index import MemberIds
from archivestream.indexing import MODES, IndexMode
from archivestream.limits import Limits
from archivestream.member_io import open_member
from archivestream.members import Member
from archivestream.placement import Placement
from archivestream.queries import evaluate, is_query
from archivestream.reader import Allocate
from archivestream.selection import Key, Keys, Names, Selection, describe_selection
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

__all__ = ["Archive", "Counters", "Openable", "Progress", "open"]


def open(  # the name that users type: archivestream.open
    path: Openable | Sequence[Openable],
    *,
    strict: bool = False,
    index: IndexMode = "auto",
    threads: int | None = None,
    verify: bool = True,
    cache: int | Cache | None = None,
    limits: Limits = Limits(),  # noqa: B008  # immutable
    metadata_encoding: str | None = None,
    progress: Progress | None = None,
) -> Archive:
    """Open an archive, or several as one.

    Parameters
    ----------
    path : path, bytes, binary file object, or a sequence of them
        A path may be a glob (``train-*.zip``), have braces (``train-{000..127}.zip``) or a place for a number, as
        `pack` takes it (``train-{:05d}.zip``: all that are numbered from 0 without a gap); a file of exactly that
        name comes first. Several archives are one, with the members of all in order. A folder, or the table in it, is
        a set of records of splitdataloader (``index.dat``) or of arrays of AcumenIndexer (``index.csv``). Bytes-like
        objects hold an archive themselves; file objects must be seekable, stay the property of the caller, and are
        read from other threads, too: the caller holds no lock that they take.
    strict : bool
        Refuse what is ambiguous or contradictory in an archive, where the default takes the usual reading.
    index : "auto", "private", "require" or "memory"
        Where the index comes from. "auto" uses a saved one (see `Archive.save_index`) that is valid, and saves one
        where building it is work: for all but ZIP, whose directory is one. "require" raises where there is no
        valid one: nothing is built. "memory" neither reads nor writes one. "private" is "auto", but only in the
        user's cache folder: what came along with an archive says where its members lie, and nothing checks that where
        the format has no checksums. Building reads the headers of a tar, and
        decodes all of a ``.tar.zst`` or ``.tar.gz`` once; if that is interrupted, the next one goes on from there.
    threads : int, optional
        Threads that work on one batch, from 1 to 1024; default: as many as there are processors for this process.
    verify : bool
        Check the CRC-32 of every member that is read. `Archive.verify` checks them in any case.
    cache : int or Cache, optional
        Most bytes of decoded blocks to keep in memory, where members share compressed blocks; 0 keeps none. Default:
        64 MiB. A `Cache` keeps decoded members besides; several archives may share one.
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
    members = cache if isinstance(cache, Cache) else None
    size = DEFAULT_CACHE if cache is None or isinstance(cache, Cache) else operator.index(cache)
    if size < 0:
        raise ValueError(f"cache must be 0 or more bytes, not {size}")
    options = Options(strict, threads, verify, limits, metadata_encoding, size, index, members)
    sources = find_sources(path)
    try:
        session = options.open(sources, progress)
    except BaseException:
        for source in sources:
            source.close()
        raise
    return Archive(session)


class Counters(NamedTuple):
    """What reading has cost, summed over all threads.

    Attributes
    ----------
    fetch_seconds : float
        Time spent in reading the sources.
    fetched_bytes : int
        What was read from them.
    decoded_bytes : int
        What was decoded, or copied where nothing is compressed: of blocks that members share, all that was decoded.
    """

    fetch_seconds: float
    fetched_bytes: int
    decoded_bytes: int


class Archive(Sequence[bytes]):
    """Members of an archive, by position and by name. Made by `archivestream.open`.

    Safe for any number of threads; may be forked and pickled, also after it was read from. A pickle holds the
    path, and opens the archive again where it is loaded; it refuses another archive that has come to stand
    there.
    """

    def __init__(
        self, shared: Session, selection: Selection | None = None, ancestry: tuple[str, ...] | None = None
    ) -> None:
        self._shared = shared
        if selection is None:
            selection = Selection(shared.reader.index, shared.names[0], shared.rows)
        self._selection = selection
        self._ancestry = (", ".join(shared.names),) if ancestry is None else ancestry
        self._size = len(selection)
        self._ids = selection.ids

    def __repr__(self) -> str:
        names = self._shared.names
        what = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        shown, rows = self._selection.index, self._shared.rows
        view = "" if self._ids is rows else f" of {len(shown if rows is None else rows)}"
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
        if type(key) is int and 0 <= key < self._size:  # most keys: spare them the questions below
            return self._shared.read(key if self._ids is None else self._ids.item(key))
        if isinstance(key, slice):
            return self.select(key)
        return self._shared.read(self._selection.member(key))

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
        return self._shared.read(self._selection.member(key))

    def read_many(self, keys: Keys, *, errors: dict[int, Exception] | None = None) -> list[bytes]:
        """Return the bytes of some members, in the order of the keys: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read`; a member may come more than once.
        errors : dict, optional
            Where it is given, a bad member does not end the batch: its exception goes there, under its place among the
            keys, and None stands for it in the list.

        Raises
        ------
        ArchiveError
            As `read`, for the first member that is bad, without `errors`.
        """
        return self._shared.reader.read_many(self._selection.members(keys), errors)

    def read_batch(self, keys: Keys, out: Any = None, *, errors: dict[int, Exception] | None = None) -> Batch:
        """Return the bytes of some members in one contiguous buffer: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : writable buffer, optional
            Contiguous memory of enough bytes (of any type: an array, a `bytearray`, a CPU tensor), which is filled
            from its start; default: new memory, aligned to 64 bytes.
        errors : dict, optional
            As for `read_many`; what the batch holds of a bad member is undefined.

        Raises
        ------
        ValueError, TypeError
            If `out` is too small, read-only, not contiguous, or no memory of bytes; nothing was written then.
        ArchiveError
            As `read`, for the first member that is bad, without `errors`; what `out` holds then is undefined.
        """
        return Batch(*self._shared.reader.read_batch(self._selection.members(keys), as_bytes(out), errors))

    def feed(self, keys: Keys, consumer: Consumer) -> None:
        """Hand the bytes of some members to native code as they are read, on the threads that read them.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        consumer : Consumer
            Of this package, such as what `archivestream.tfrecord.ExampleParser.read` fills its arrays with.

        Raises
        ------
        ArchiveError
            As `read`, for the first member that is bad; the consumer does not get it.
        """
        self._shared.reader.feed(self._selection.members(keys), consumer)

    def read_padded(
        self,
        keys: Keys,
        out: NDArray[np.uint8] | Allocate | None = None,
        *,
        errors: dict[int, Exception] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the bytes of each member in a row of its own, with zeros behind them: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : ndarray of uint8, shape (n, width), or callable, optional
            C-contiguous, writable, and as wide as the longest member or wider. A callable is asked once for so many
            bytes as are needed, and returns memory: an array of uint8 with one dimension.
        errors : dict, optional
            As for `read_many`; the row of a bad member is zero.

        Returns
        -------
        rows : ndarray of uint8, shape (n, width)
            Decoded straight to their places.
        lengths : ndarray of int64, shape (n,)
            How many bytes each member has; 0 where it is bad.

        Raises
        ------
        ValueError, TypeError
            If `out` is no such array, or too small; nothing was written then.
        MemoryError
            If there is no memory for so many rows as wide as the longest member.
        ArchiveError
            As `read`, for the first member that is bad, without `errors`.
        """
        return self._shared.reader.read_padded(self._selection.members(keys), as_rows(out), errors)

    def read_packed(
        self,
        keys: Keys,
        out: Allocate | None = None,
        *,
        align: int = 16,
        errors: dict[int, Exception] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Return the bytes of some members one after the other, each aligned: one native call, all threads.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : callable, optional
            As for `read_padded`.
        align : int
            Each member begins at a multiple of so many bytes, with zeros behind the one before. The default is what
            the widest load of a GPU takes.
        errors : dict, optional
            As for `read_many`; the bytes of a bad member are zero.

        Returns
        -------
        data : ndarray of uint8, shape (total,)
            Decoded straight to their places.
        offsets, lengths : ndarray of int64, shape (n,)
            Member i is ``data[offsets[i]:offsets[i] + lengths[i]]``; the length of a bad one is 0.

        Raises
        ------
        ValueError, TypeError, MemoryError, ArchiveError
            As `read_padded`.
        """
        if align < 1:
            raise ValueError(f"align must be 1 or more bytes, not {align}")
        return self._shared.reader.read_packed(self._selection.members(keys), out, align, errors)

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

    def read_arrays(
        self, keys: Keys, out: NDArray[Any] | Allocate | None = None, *, errors: dict[int, Exception] | None = None
    ) -> NDArray[Any]:
        """Return ``.npy`` members of one shape and type as one array, decoded to their places in it.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : ndarray of shape (n, *shape), or callable, optional
            C-contiguous and writable, of the type of the members. A callable as for `read_padded`.
        errors : dict, optional
            As for `read_many`, also for members whose shape or type is not that of the first good one; what the array
            holds at the place of a bad member is undefined.

        Returns
        -------
        ndarray of shape (n, *shape)

        Raises
        ------
        ValueError
            If there are no keys, the members differ in shape or type (without `errors`), or `out` does not fit them.
        CorruptArchiveError
            If a member is no ``.npy`` file, or is bad.
        UnsupportedFeatureError
            If the arrays hold Python objects, which would have to be unpickled.
        """
        return npy.read_arrays(self._shared.reader, self._selection.members(keys), out, errors)

    def read_images(
        self,
        keys: Keys,
        out: NDArray[np.uint8] | Allocate | None = None,
        size: tuple[int, int] | None = None,
        *,
        errors: dict[int, Exception] | None = None,
    ) -> NDArray[np.uint8]:
        """Return images as one array of their pixels in RGB, decoded to their places in it by all threads.

        JPEG is decoded by libjpeg-turbo, without the GIL, to the pixels that Pillow gives; the rest by Pillow. Grey is
        repeated, CMYK converted, transparency dropped. Pixels come as they are stored: the orientation that EXIF may
        speak of is not applied, as by Pillow and torchvision's ImageFolder.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        out : ndarray of uint8, shape (n, height, width, 3), or callable, optional
            C-contiguous and writable. A callable as for `read_padded`.
        size : (int, int), optional
            Height and width that every image is brought to, as by torchvision's ``Resize((h, w))``: proportions are not
            kept. Of a JPEG that is larger, only as much is decoded as is needed (see
            `archivestream.decoding.ImageDecoder`). Default: all images are as large as the first good one, or as `out`.
        errors : dict, optional
            As for `read_many`, also for what is no image, a truncated one, or one of another size; what the array holds
            at the place of a bad image is undefined.

        Returns
        -------
        ndarray of uint8, shape (n, height, width, 3)

        Raises
        ------
        ValueError, TypeError
            If the images differ in size (without `size` and `errors`), there are no keys to tell it by, or `out` does
            not fit.
        CorruptArchiveError
            If a member is no image, or a damaged one.
        LimitExceededError
            If an image has more than 178,956,970 pixels.
        ArchiveError
            As `read`, for the first member that cannot be read, without `errors`.
        ImportError
            If Pillow or simplejpeg is not installed.
        """
        return images.read_images(self._shared.reader, self._selection.members(keys), out, size, errors)

    def map_arrays(self, keys: Keys, *, dtype: DTypeLike | None = None) -> list[NDArray[Any]]:
        """Return arrays that are stored uncompressed as read-only views of the file: nothing is read or copied.

        They are valid only while the file is unchanged: what is written to it shows in them, and if it is cut short,
        reading them ends the process. Checksums are **not** checked; `verify` does that. They may outlive the archive.

        Parameters
        ----------
        keys : iterable of keys, or array of positions
            As for `read_many`.
        dtype : data type, optional
            Of members that are values without a header, in the order of C, as AcumenIndexer stores them; their shape is
            that in the column ``ai:shape`` of the metadata, or else they are rows. Default: they are ``.npy`` files.

        Returns
        -------
        list of ndarray
            Aligned to their type where the archive was written with ``align=64``.

        Raises
        ------
        UnsupportedFeatureError
            If a member is compressed, or holds Python objects.
        CorruptArchiveError
            If a member is no ``.npy`` file, or does not fit the type and shape.
        ArchiveChangedError
            If the file is not the one that was opened.
        """
        rows, metadata = self._selection.members(keys), self._shared.metadata
        shapes = None if dtype is None or metadata is None else metadata.shapes(rows)
        return self._shared.mappings.arrays(rows, None if dtype is None else np.dtype(dtype), shapes)

    def open_member(self, key: Key) -> io.BufferedReader:
        """Open a member as a seekable binary file.

        A small member is decoded at once (one of LZ4, always); a large one (above 16 MiB) piece by piece, in memory
        that does not depend on its size. A large member of a ZIP can be read anywhere where it is stored, and from
        front to back where it is compressed (seeking back decodes from the start again); its checksum is checked when
        it is read from start to end. One of a tar, compressed or not, can be read anywhere; what is checked are the
        blocks that are decoded for it. The file is for one thread at a time, as other files are.

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
    def cache(self) -> Cache | None:
        """The cache of decoded members that it was opened with."""
        return self._shared.options.members

    @property
    def names(self) -> Names:
        """The names of all members, as a sequence: ``names[i]`` is the name of ``self[i]``."""
        return Names(self._selection)

    def origin(self, key: Key) -> str:
        """Return the name of the archive, of several that are one, which holds a member."""
        holders = self._shared.holders
        return holders[0 if len(holders) == 1 else self._selection.index.source_of(self._selection.member(key))]

    def files(self) -> NDArray[np.bool_]:
        """Say of each member whether it is a regular file, and no directory, link or device: a mask for `select`."""
        return self._selection.files()

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The size of each member in bytes, decoded: shape (n,), read-only."""
        ids = self._selection.ids
        size = self._selection.index["size"] if ids is None else self._selection.index["size"][ids]
        sizes = size.view(np.int64)
        if len(sizes) and int(sizes.min()) < 0:  # declared by a hostile archive, and refused when it is read
            sizes = np.where(sizes < 0, np.iinfo(np.int64).max, sizes)
        sizes.flags.writeable = False
        return sizes

    @cached_property
    def fingerprint(self) -> str:
        """What tells these members, in this order, from others: 32 hexadecimal digits.

        The same in every process, after pickling, and wherever the archive lies; another where the contents of the
        archive differ (as far as its index tells: names, sizes, checksums), or the view does.
        """
        found = hashlib.blake2b("\n".join(self._shared.fingerprint()).encode(), digest_size=16)
        if self._selection.ids is not None:
            found.update(self._selection.ids.astype("<i8").tobytes())
        return found.hexdigest()

    @property
    def ancestry(self) -> tuple[str, ...]:
        """Where the members come from: what was opened, and then each step that made a view of it."""
        return self._ancestry

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
            archive=self._shared.holders[index.source_of(member)],
        )

    @property
    def metadata(self) -> Any:
        """What is known of the members besides: a `pyarrow.Table` with a row for each, in their order, or None.

        `pack` writes it from samples that are pairs of an array and a dict. `select` takes queries over its columns,
        labels and splits of an `ArchiveDataset` take columns, views and concatenations have their rows of it, and
        `repack` keeps it. What one of several archives does not have, and the others do, is null. It is read when it
        is first asked for.

        Raises
        ------
        ImportError
            If there is any, and pyarrow is not installed: the extra ``metadata``.
        CorruptArchiveError
            If what holds it is damaged.
        ValueError
            If the same column is of types that do not go together in several archives.
        """
        self._shared.reader  # noqa: B018  # raises once the archive is closed
        return None if self._shared.metadata is None else self._shared.metadata.take(self._ids)

    def to_pandas(self) -> Any:
        """Return the metadata as a `pandas.DataFrame`, by the names of the members.

        Raises
        ------
        ImportError
            If pandas is not installed: the extra ``pandas``.
        ArchiveError, ValueError
            As `metadata`.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("a DataFrame needs pandas: pip install 'archivestream[pandas]'") from error
        names, table = pandas.Index(self.namelist(), name="name"), self.metadata
        return pandas.DataFrame(index=names) if table is None else table.to_pandas().set_index(names)

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

    def is_query(self, text: str) -> bool:
        """Whether `select` takes a text for a query over the metadata, and not for a pattern of names."""
        return self._shared.metadata is not None and is_query(text)

    def positions(self, keys: Keys | str | slice) -> NDArray[np.int64]:
        """Return the positions of some members, from 0; no member is read.

        Parameters
        ----------
        keys : glob pattern, query, slice, boolean mask, or keys
            A pattern is matched against whole names, and ``*`` matches slashes, too, as in `fnmatch`. In an archive
            with `metadata`, a text that is a comparison in the syntax of Python is a query over its columns:
            ``"label == 3 and split in ('train', 'val')"``, with ``and``, ``or``, ``not``, ``in`` and ``is None``;
            nothing in it is run. A missing value fits none but ``is None``. (``names.match`` takes patterns only.)

        Raises
        ------
        ValueError
            If a query names a column that is not there, or compares what cannot be compared.
        IndexError
            If a position is not there, or a mask has not one value for each member.
        MemberNotFoundError
            If a name is not there. (A pattern that matches nothing gives no position.)
        TypeError
            If a key is neither a position nor a name.
        """
        if isinstance(keys, str):
            if self.is_query(keys):
                return np.flatnonzero(evaluate(keys, self.metadata))
            return self.names.match(keys)
        if isinstance(keys, slice):
            return np.arange(*keys.indices(len(self)), dtype=np.int64)
        return self._selection.positions(keys)

    def select(self, keys: Keys | str | slice) -> Archive:
        """Return a view of some members: no copy, and the same methods.

        Parameters
        ----------
        keys : glob pattern, query, slice, boolean mask, or keys
            As for `positions`.

        Raises
        ------
        ValueError, IndexError, MemberNotFoundError, TypeError
            As `positions`.
        """
        places = self.positions(keys)
        step = (*self._ancestry, describe_selection(keys, len(places), len(self)))
        return Archive(self._shared, self._selection.narrow(places), step)

    def by_type(self) -> dict[str, Archive]:
        """Return views of the files of each type: images, audio, tables and so on; the length of a view is its count.

        The type is told by the extension, in either case, and nothing is read: no member, and no extension but those of
        `archivestream.file_types`. Directories, links and devices are left out.

        Returns
        -------
        dict of str to Archive
            The views of ``"image"``, ``"audio"``, ``"video"``, ``"table"``, ``"array"``, ``"json"``, ``"text"``,
            ``"number"`` (labels, as WebDataset has them), ``"pickle"``, and ``"other"`` for what has no extension or
            an unknown one: of those that are there, the most frequent first. Each file is in one of them, in the order
            of the archive.

        Examples
        --------
        >>> {name: len(view) for name, view in archive.by_type().items()}
        {'image': 60000, 'table': 1}
        """
        number, types = number_types(self.names)
        number[~self.files()] = len(types)
        counts = np.bincount(number, minlength=len(types))[: len(types)]
        views = {}
        for one in np.argsort(-counts, kind="stable").tolist():
            if counts[one]:
                chosen = self._selection.narrow(np.flatnonzero(number == one))
                views[types[one]] = Archive(self._shared, chosen, (*self._ancestry, f"type {types[one]!r}"))
        return views

    def __add__(self, other: Archive) -> Archive:
        """Return one archive of the members of both, in order: read by one engine, also within one batch.

        Raises
        ------
        ValueError
            If they are of two archives that were opened with different options, or one of them is closed.
        """
        if not isinstance(other, Archive):
            return NotImplemented
        parts = (self, other)
        ancestry = (" + ".join(" > ".join(part.ancestry) for part in parts),)
        if self._shared is other._shared:
            shared, bases = self._shared, (0, 0)
        else:
            shared, bases = self._shared.join(other._shared), (0, len(self._shared.reader.index))
            if all(part._ids is part._shared.rows for part in parts):
                return Archive(shared, None, ancestry)
        rows = [part._selection.rows(0, len(part)) + base for part, base in zip(parts, bases, strict=True)]
        return Archive(shared, Selection(shared.reader.index, shared.names[0], np.concatenate(rows)), ancestry)

    def metered(self, threads: int | None = None) -> Archive:
        """Return the same members in the same order, read by so many threads, with `counters` of their own.

        Caches are shared; each of the two is closed by itself.

        Parameters
        ----------
        threads : int, optional
            Threads that work on one batch; default: as many as of this archive.
        """
        check_threads(threads)
        return Archive(self._shared.metered(threads), self._selection, self._ancestry)

    @property
    def counters(self) -> Counters:
        """What reading has cost since `metered` made this archive; of others, nothing is counted."""
        meter = self._shared.reader.meter
        return Counters(0.0, 0, 0) if meter is None else Counters(*meter.counts_now())

    def placement(self) -> Placement:
        """Return where the members lie: for those who decide in which order to read them."""
        reader = self._shared.reader
        return Placement(self._shared.names[0], reader.index, self._selection.ids, reader.cache.limit)

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Decode every member and check its checksum, keeping none; a bad one does not end it.

        Of a whole archive, the member that holds its metadata is one of them.

        Parameters
        ----------
        progress : callable, optional
            Called with (bytes decoded, bytes in all).

        Returns
        -------
        VerifyReport
            With an exception for each bad member; none is raised.
        """
        rows = self._selection.rows(0, len(self))
        if self._ids is not None and self._ids is self._shared.rows:
            rows = np.concatenate([rows, np.setdiff1d(np.arange(len(self._selection.index)), rows)])
        return verify(self._shared.reader, rows, progress)

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
        whole = self._ids is self._shared.rows
        return _restore, (self._shared, None if whole else self._ids, self._ancestry)


def _restore(shared: Session, ids: MemberIds | None, ancestry: tuple[str, ...]) -> Archive:
    """Make an archive or a view anew where its pickle is loaded."""
    selection = None if ids is None else Selection(shared.reader.index, shared.names[0], ids)
    return Archive(shared, selection, ancestry)
