"""What is to be packed: members from folders, from pairs of name and data, from archives."""

from __future__ import annotations

import calendar
import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

import numpy as np

from archivestream._native.files import open_file, read_files
from archivestream.archive import Archive
from archivestream.errors import ArchiveWarning, SourceError, UnsupportedFeatureError
from archivestream.members import Member
from archivestream.reader import empty_bytes
from archivestream.tables import KEY, MEMBER

__all__ = [
    "FILE_MODE",
    "Entry",
    "Row",
    "Source",
    "check_name",
    "entry_of",
    "file_entry",
    "find_outside",
    "metadata_entry",
    "open_entry",
    "read_entries",
]

FILE_MODE = stat.S_IFREG | 0o644
_FOLDER_MODE = stat.S_IFDIR | 0o755
_NO_TIME = (1 << 5 | 1) << 16  # MS-DOS: 1980-01-01, the first that there is
_LONGEST_NAME = 0xFFFF  # of ZIP, 4.4.10
_LONGEST_TARGET = 4095  # of a symbolic link, PATH_MAX
_FOLDER_WITH_DATA = "the name is that of a folder, and there are data"

Source: TypeAlias = str | os.PathLike[str] | Archive | Mapping[str, Any] | Iterable[Any]


# What most names are: of these characters, no part of them beginning with a dot.
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*/?", re.ASCII).fullmatch

# Immutable, or nobody else's.
Buffer: TypeAlias = bytes | memoryview


class InFile(NamedTuple):
    """The contents of a file."""

    path: bytes


class InArchive(NamedTuple):
    """The contents of a member."""

    archive: Archive
    position: int


class Row(NamedTuple):
    """A row of a table of metadata (`pyarrow.Table`)."""

    table: Any
    position: int


class Entry(NamedTuple):
    """A member that is to be written.

    Attributes
    ----------
    name : str
        With ``/`` between its parts, and at the end of a folder's; bytes of a file name that are not UTF-8 are
        surrogates, as in `os.fsdecode`.
    size : int
        Bytes of its contents; of a symbolic link, of its target.
    mode : int
        Type and permissions, as in ``st_mode``: of a file, of a folder, which has no contents, or of a symbolic link,
        whose contents are a possible length for a target. See `_settle`.
    content : bytes, InFile or InArchive
        Where its bytes are.
    mtime : int, optional
        Seconds since 1970, where they are known.
    timestamp : int
        MS-DOS date and time, in a time zone that nobody knows.
    metadata : mapping or Row, optional
        What is known of it besides.
    """

    name: str
    size: int
    mode: int
    content: Buffer | InFile | InArchive
    mtime: int | None = None
    timestamp: int = _NO_TIME
    metadata: Mapping[str, Any] | Row | None = None

    @property
    def seconds(self) -> int:
        """The time as seconds since 1970; 0 where none is known."""
        if self.mtime is not None:
            return self.mtime
        if self.timestamp == _NO_TIME:
            return 0
        date, time = self.timestamp >> 16, self.timestamp & 0xFFFF
        month, day = max(1, min(date >> 5 & 15, 12)), max(1, date & 31)
        return calendar.timegm(((date >> 9) + 1980, month, day, time >> 11, time >> 5 & 63, (time & 31) * 2))


def find_outside(source: Source) -> Iterator[Entry] | None:
    """List what lies in archives and files, or return None where the source is samples."""
    if isinstance(source, Archive):
        return _all_of(source)
    if isinstance(source, str | os.PathLike):
        return _walk(os.fsencode(source), b"") if os.path.isdir(source) else _named(source)
    if isinstance(source, bytes | bytearray | memoryview | np.ndarray) or not isinstance(source, Iterable):
        raise TypeError(
            "what is packed is a path, paths, an Archive, or an iterable of samples: bytes, arrays, pairs of a name "
            f"and data, pairs of data and metadata; not {type(source).__name__}"
        )
    if isinstance(source, Sequence) and source and all(isinstance(one, str | os.PathLike) for one in source):
        paths = cast("Sequence[str | os.PathLike[str]]", source)
        return (entry for path in paths for entry in _named(path))
    return None


def entry_of(
    name: str,
    data: Any,
    mode: int | None = None,
    mtime: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Entry:
    """Make a member of bytes or of an array."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a member is a str, not {type(name).__name__}")
    if isinstance(data, np.ndarray | np.generic):
        if not name.endswith(".npy"):
            name += ".npy"
        if isinstance(data, np.ma.MaskedArray):
            raise ValueError(f"member {name!r}: a .npy file has no mask: fill the array in first, with array.filled()")
        stream = io.BytesIO()
        try:
            np.lib.format.write_array(stream, np.asanyarray(data), allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"member {name!r}: the array cannot be written: {error}") from error
        data = stream.getbuffer()
    elif isinstance(data, str):
        raise TypeError(f"member {name!r}: the data are a str; encode them to bytes first")
    elif not isinstance(data, bytes):
        data = bytes(memoryview(data))  # the caller may change them before they are written
    if metadata is not None:
        _check_row(metadata)
        metadata = dict(metadata)  # the caller may use it for the next one
    if name.endswith("/") and len(data):
        raise ValueError(f"member {name!r}: {_FOLDER_WITH_DATA}")
    if mode is None:
        mode = _FOLDER_MODE if name.endswith("/") else FILE_MODE
    settled = _settle(name, mode, len(data))
    if stat.S_IFMT(mode) not in (0, stat.S_IFMT(settled)):
        raise ValueError(f"member {name!r}: with that name and {len(data)} bytes its mode cannot be {mode:#o}")
    return Entry(name, len(data), settled, data, mtime, metadata=metadata)


def _settle(name: str, mode: int, size: int) -> int:
    """Make the type in a mode that which name and size allow: writers go by it, and an archive may say anything.

    A folder has no contents, and a link a target of a possible length; whatever is none of both is a file.
    """
    kind = stat.S_IFMT(mode)
    if name.endswith("/") or (kind == stat.S_IFDIR and size == 0):
        kind = stat.S_IFDIR
    elif kind != stat.S_IFLNK or not 1 <= size <= _LONGEST_TARGET:
        kind = stat.S_IFREG
    return kind | stat.S_IMODE(mode)


def metadata_entry(data: bytes) -> Entry:
    """Make the member that holds the metadata of an archive."""
    return Entry(MEMBER, len(data), FILE_MODE, data)


def _check_row(row: Mapping[str, Any]) -> None:
    """Raise for metadata whose names are not those of columns."""
    for name in row:
        if not isinstance(name, str):
            raise TypeError(f"the names of metadata are str, not {type(name).__name__}")
        if name == KEY:
            raise ValueError(f"the name {KEY!r} of metadata is that of the column that names the members")


def file_entry(name: str, path: str | os.PathLike[str]) -> Entry:
    """Make a member of a file, a folder (without what is in it) or a symbolic link (which is not followed)."""
    where = os.fsencode(path)
    return _entry_at(name, where, os.lstat(where))


def _named(path: str | os.PathLike[str]) -> Iterator[Entry]:
    """One of several things to pack, under the last part of its path."""
    where = os.fsencode(path)
    name = os.path.basename(os.path.abspath(where))
    if not name:
        raise ValueError(f"{os.fspath(path)}: it has no name to be packed under; give its path alone")
    entry = _entry_at(_text(name), where, os.lstat(where))
    yield entry
    if stat.S_ISDIR(entry.mode):
        yield from _walk(where, name + b"/")


def _walk(root: bytes, prefix: bytes) -> Iterator[Entry]:
    """List all that is in a folder, each level sorted by the bytes of the names; links are not followed."""
    levels = [(prefix, iter(_sorted(root)))]
    while levels:
        above, entries = levels[-1]
        found = next(entries, None)
        if found is None:
            levels.pop()
            continue
        name = above + found.name
        yield _entry_at(_text(name), found.path, found.stat(follow_symlinks=False))
        if found.is_dir(follow_symlinks=False):
            levels.append((name + b"/", iter(_sorted(found.path))))


def _sorted(folder: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _entry_at(name: str, path: bytes, status: os.stat_result) -> Entry:
    mode, mtime = status.st_mode, status.st_mtime_ns // 1_000_000_000
    if name.endswith("/") and not stat.S_ISDIR(mode):
        raise ValueError(f"{os.fsdecode(path)}: the name {name!r} is that of a folder, and it is none")
    if stat.S_ISREG(mode):
        return Entry(name, status.st_size, mode, InFile(path), mtime)
    if stat.S_ISDIR(mode):
        return Entry(name if name.endswith("/") else name + "/", 0, mode, b"", mtime)
    if stat.S_ISLNK(mode):
        target = os.readlink(path)
        return Entry(name, len(target), mode, target, mtime)
    raise UnsupportedFeatureError(
        "it is no file, no folder and no symbolic link, and cannot be packed", archive=os.fsdecode(path)
    )


def _all_of(archive: Archive) -> Iterator[Entry]:
    table = archive.metadata
    for i in range(len(archive)):
        member = archive.info(i)
        if member.name != MEMBER:
            yield _archived(archive, member, table)
            continue
        warnings.warn(
            f"{member.archive}: {MEMBER!r} is left out: its metadata are of fewer members than there are, and not used",
            ArchiveWarning,
            stacklevel=2,
        )


def _archived(archive: Archive, member: Member, table: Any) -> Entry:
    if member.name.endswith("/") and member.size:
        raise UnsupportedFeatureError(
            f"{_FOLDER_WITH_DATA}: it cannot be packed", archive=member.archive, member=member.name
        )
    mode = member.mode
    if not stat.S_IFMT(mode):
        mode = _FOLDER_MODE if member.is_dir() else FILE_MODE
    mode = _settle(member.name, mode, member.size)
    timestamp = member.timestamp or _NO_TIME
    row = None if table is None else Row(table, member.position)
    return Entry(member.name, member.size, mode, InArchive(archive, member.position), None, timestamp, row)


def check_name(name: str) -> None:
    """Refuse names that no reader could extract."""
    if (name.isdecimal() or _PLAIN_NAME(name)) and len(name) <= _LONGEST_NAME // 4 and name != MEMBER:
        return
    parts = name.removesuffix("/").split("/")
    reason = None
    if name == MEMBER:
        raise ValueError(f"the name {name!r} is that of the member that holds the metadata; give it another one")
    if not name or "\0" in name:
        reason = "is empty or contains a NUL"
    elif name.startswith("/") or (name[1:3] == ":/" and name[0].isalpha()):
        reason = "is an absolute path"
    elif ".." in parts:
        reason = "leads out of a folder with '..'"
    elif "" in parts:
        reason = "has an empty part"
    elif len(name) > _LONGEST_NAME or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        name = name[:40] + "…"
        reason = f"is longer than {_LONGEST_NAME} bytes"
    if reason is not None:
        raise ValueError(f"the name {name!r} {reason}; members have relative names")


def read_entries(entries: Sequence[Entry]) -> list[memoryview]:
    """Read the contents of some members: of all files with one native call, of an archive's members, too."""
    contents: dict[int, memoryview] = {}
    files: list[int] = []
    members: dict[int, list[int]] = {}
    for i, entry in enumerate(entries):
        if isinstance(entry.content, InFile):
            files.append(i)
        elif isinstance(entry.content, InArchive):
            members.setdefault(id(entry.content.archive), []).append(i)
        else:
            contents[i] = memoryview(entry.content)
    if files:
        contents.update(zip(files, _read_files([entries[i] for i in files]), strict=True))
    for places in members.values():
        found = [entries[i].content for i in places]
        archive = found[0].archive  # type: ignore[union-attr]
        data = archive.read_many([content.position for content in found])  # type: ignore[union-attr]
        contents.update((place, memoryview(one)) for place, one in zip(places, data, strict=True))
    return [contents[i] for i in range(len(entries))]


def _read_files(entries: Sequence[Entry]) -> Iterator[memoryview]:
    sizes = [entry.size for entry in entries]
    paths = [entry.content.path for entry in entries]  # type: ignore[union-attr]
    memory = empty_bytes(sum(sizes)).data
    count, status = read_files(paths, sizes, memory)
    if status:
        raise _unreadable(paths[count], status)
    at = 0
    for size in sizes:
        yield memory[at : at + size]
        at += size


def _unreadable(path: bytes, status: int) -> OSError:
    if status == errno.EAGAIN:
        return changed(path)
    return OSError(status, os.strerror(status), os.fsdecode(path))


def changed(path: bytes) -> SourceError:
    """Say that a file is not as long as it was when it was listed."""
    error = SourceError("it was changed while it was packed; pack it again", archive=os.fsdecode(path))
    error.errno = errno.EAGAIN
    return error


def open_entry(entry: Entry) -> BinaryIO:
    """Open the contents of one member, for those that are too large to be read at once."""
    content = entry.content
    if isinstance(content, InFile):
        descriptor, status = open_file(content.path, entry.size)
        if status:
            raise _unreadable(content.path, status)
        return open(descriptor, "rb", buffering=0)
    if isinstance(content, InArchive):
        return content.archive.open_member(content.position)
    return io.BytesIO(content)
