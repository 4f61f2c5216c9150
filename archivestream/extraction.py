"""Writing members to a folder: nothing outside it, through no link, over no file unless asked."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from archivestream.atomic import rename_new, there_already
from archivestream.errors import ArchiveError, UnsupportedFeatureError
from archivestream.member_io import open_member
from archivestream.reader import MemberReader, without_frames

__all__ = ["extract"]

_BATCH_BYTES = 32 << 20
_BATCH_MEMBERS = 1024


def extract(
    reader: MemberReader,
    members: Sequence[int],
    target: str | os.PathLike[str],
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
    root = Path(target)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root)) from None
    written, errors = _write_all(reader, members, names, root, overwrite, progress)
    if errors:
        if isinstance(errors[0], ArchiveError):
            errors[0].others = errors[1:]
        raise errors.pop(0)  # no variable of this frame refers to it, or they would keep each other
    return written


def _write_all(
    reader: MemberReader,
    members: Sequence[int],
    names: Sequence[tuple[str, ...]],
    root: Path,
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
                path = root.joinpath(*names[i])
                if reader.index.is_dir(members[i]):
                    _make_folders(root, names[i])
                else:
                    _make_folders(root, names[i][:-1])
                    _write(reader, members[i], path, contents.pop(i, None), overwrite)
                written.append(path)
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
    if not name or b"\0" in raw:
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


def _make_folders(root: Path, parts: Sequence[str]) -> None:
    """Make the folders of a member; a link among them could lead anywhere, so it is an error."""
    folder = root
    for part in parts:
        folder = folder / part
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        mode = folder.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, "refusing to extract through a symbolic link", str(folder))
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _write(reader: MemberReader, member: int, path: Path, data: bytes | None, overwrite: bool) -> None:
    """Write a file under a temporary name, and give it its own only when it is whole."""
    if not overwrite and os.path.lexists(path):
        raise there_already(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:  # x: through no link
            _copy(reader, member, data, file)
        if overwrite:
            os.replace(temporary, path)  # replaces a link, does not write through it
        else:
            rename_new(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        unhelpful = (None, temporary, str(temporary))
        if isinstance(error, OSError) and not isinstance(error, ArchiveError) and error.filename in unhelpful:
            raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say for which file
        raise


def _copy(reader: MemberReader, member: int, data: bytes | None, file: BinaryIO) -> None:
    if data is not None:
        file.write(data)
        return
    with open_member(reader, member) as contents:
        shutil.copyfileobj(contents, file, 1 << 20)
