"""Writing members to a folder: nothing outside it, through no link, over no file unless asked.

Folders are entered by descriptors, each from the one above it: whoever can rename in the folder meanwhile, and puts a
link where there was a folder, leads nothing astray.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from archivestream._native.files import Descriptor, enter_folder
from archivestream.atomic import PendingFile, is_there, there_already
from archivestream.errors import ArchiveError, UnsupportedFeatureError
from archivestream.member_io import open_member
from archivestream.reader import MemberReader, without_frames

__all__ = ["extract"]

_BATCH_BYTES = 32 << 20
_BATCH_MEMBERS = 1024


def extract(
    reader: MemberReader,
    members: Sequence[int],
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> list[Path]:
    """Write members below a folder: see `archivestream.Archive.extract`."""
    names = [_safe_parts(reader, member) for member in members]  # before anything is written
    # Of several members with one name, the last is meant, as everywhere. A file and a folder have two names.
    last = {(parts, reader.index.is_dir(members[i])): i for i, parts in enumerate(names)}
    members = [members[i] for i in last.values()]
    names = [parts for parts, _ in last]
    root = Path(path)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root)) from None
    target = _Target(root)
    try:
        written, errors = _write_all(reader, members, names, target, overwrite, progress)
    finally:
        target.close()
    if errors:
        if isinstance(errors[0], ArchiveError):
            errors[0].others = errors[1:]
        raise errors.pop(0)  # no variable of this frame refers to it, or they would keep each other
    return written


def _write_all(
    reader: MemberReader,
    members: Sequence[int],
    names: Sequence[tuple[str, ...]],
    target: _Target,
    overwrite: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[list[Path], list[Exception]]:
    """Write the good members, and return what was written and what is wrong with the others."""
    sizes = reader.index["size"]
    total = sum(int(sizes[member]) for member in members)
    written: list[Path] = []
    errors: list[Exception] = []
    done = 0
    for batch in _batches(members, sizes):
        small = [i for i in batch if not reader.index.is_dir(members[i]) and sizes[members[i]] <= _BATCH_BYTES]
        found: dict[int, Exception] = {}
        chosen = np.array([members[i] for i in small], np.int64)
        contents = dict(zip(small, reader.read_many(chosen, found), strict=True))
        bad = {small[place]: error for place, error in found.items()}
        for i in batch:
            try:
                if i in bad:
                    raise bad[i]
                if reader.index.is_dir(members[i]):
                    target.enter(names[i])
                else:
                    _write(reader, members[i], target, names[i], contents.pop(i, None), overwrite)
                written.append(target.root.joinpath(*names[i]))
            except (ArchiveError, MemoryError) as error:
                errors.append(without_frames(error))
            done += int(sizes[members[i]])
            if progress is not None:
                progress(done, total)
    return written, errors


def _batches(members: Sequence[int], sizes: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> list[list[int]]:
    """Cut the members into batches of bounded memory, in order."""
    batches: list[list[int]] = [[]]
    room = _BATCH_BYTES
    for i, member in enumerate(members):
        if batches[-1] and (sizes[member] > room or len(batches[-1]) == _BATCH_MEMBERS):
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(i)
        room -= int(sizes[member])
        room = max(room, 0)
    return batches if batches[0] else []


def _safe_parts(reader: MemberReader, member: int) -> tuple[str, ...]:
    """Split a name into the parts of a path below a folder, or refuse it."""
    name = reader.index.name(member)
    raw = reader.index.raw_name(member)
    parts = name.removesuffix("/").split("/")
    reason = None
    if not name or "\0" in name or b"\0" in raw:
        reason = "the name is empty or contains a NUL"
    elif name.startswith("/") or (name[1:2] == ":" and name[:1].isalpha()):
        reason = "the name is an absolute path"
    elif ".." in parts:
        reason = "the name leads out of the folder"
    elif "" in parts or (set(parts) == {"."} and not reader.index.is_dir(member)):  # a tar of "." begins with that
        reason = "a part of the name is empty"
    elif "\\" in name and (os.sep == "\\" or ".." in name.split("\\") or name.startswith("\\")):
        reason = "the name has backslashes"
    elif not _fits_file_system(name):
        reason = f"the file system's encoding ({sys.getfilesystemencoding()}) lacks a character of the name"
    if reason is not None:
        raise UnsupportedFeatureError(
            f"refusing to extract: {reason}; read it by its key instead",
            archive=reader.archive_name(member),
            member=name,
        )
    return tuple(part for part in parts if part != ".")


def _fits_file_system(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


class _Target:
    """The folder that members are written below."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = _opened(enter_folder(os.fsencode(root)), root)  # which may be a link
        self._parts: tuple[str, ...] = ()  # of the folder that was entered last: the next member is mostly there, too
        self._folder = self._root

    def close(self) -> None:
        """Close the folders: whoever keeps an exception keeps its frames, and with them this object."""
        del self._root, self._folder

    def enter(self, parts: tuple[str, ...]) -> int:
        """Return the descriptor of a folder, made with those above it where it is new: good until the next call.

        A link among them could lead anywhere, so it is an error.
        """
        if parts != self._parts:
            self._parts, self._folder = (), self._root
            for i, part in enumerate(parts, 1):
                self._go_down(part, self.root.joinpath(*parts[:i]))
            self._parts = parts
        return self._folder.number

    def _go_down(self, name: str, path: Path) -> None:
        above = self._folder.number
        try:
            os.mkdir(name, dir_fd=above)
        except FileExistsError:
            pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        found = enter_folder(os.fsencode(name), above)
        if found in (errno.ELOOP, errno.ENOTDIR) and _is_link(name, above):
            raise OSError(errno.ELOOP, "refusing to extract through a symbolic link", str(path))
        self._folder = _opened(found, path)


def _is_link(name: str, folder: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def _opened(found: Descriptor | int, path: Path) -> Descriptor:
    if isinstance(found, int):
        raise OSError(found, os.strerror(found), str(path))
    return found


def _write(
    reader: MemberReader, member: int, target: _Target, parts: tuple[str, ...], data: bytes | None, overwrite: bool
) -> None:
    """Write a file, and give it its name only when it is whole."""
    folder, name, path = target.enter(parts[:-1]), parts[-1], target.root.joinpath(*parts)
    if not overwrite and is_there(name, folder):
        raise there_already(path)
    pending = PendingFile(name, folder)
    try:
        pending.begin()
        _copy(reader, member, data, pending.file)
        pending.finish(sync=False)
        pending.place(overwrite=overwrite)
    except BaseException as error:
        pending.discard()
        unhelpful = (None, name)
        if isinstance(error, OSError) and not isinstance(error, ArchiveError) and error.filename in unhelpful:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say for which file
        raise


def _copy(reader: MemberReader, member: int, data: bytes | None, file: BinaryIO) -> None:
    if data is not None:
        file.write(data)
        return
    with open_member(reader, member) as contents:
        shutil.copyfileobj(contents, file, 1 << 20)
