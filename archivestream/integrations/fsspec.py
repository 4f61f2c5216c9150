"""Archives as a file system of fsspec, which pandas, pyarrow, datasets, dask and others read files through.

The entry point ``archivestream`` of the group ``fsspec.specs`` tells fsspec of it where this package is installed:

>>> import fsspec
>>> with fsspec.open("archivestream://train/cat/001.jpg::data/train.tar.zst") as file:
...     file.read()
"""

from __future__ import annotations

import errno
import functools
import io
import operator
import os
import sys
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from archivestream.archive import Archive, Openable, open
from archivestream.errors import ArchiveWarning
from archivestream.sources import OpenFileSource

try:
    import fsspec
    from fsspec import AbstractFileSystem
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.utils import tokenize
except ImportError as error:
    raise ImportError("a file system of fsspec needs fsspec: pip install 'archivestream[fsspec]'") from error

__all__ = ["ArchiveFileSystem"]

# Folders within folders: each takes its whole path in memory, so the slashes of a hostile name must not count.
_MOST_FOLDERS = 100
_FOLDER_BYTES = 400  # of memory that a folder takes besides its path
# Memory that folders may take: some, and so many times that of the names. No archive that people made comes near.
_ROOM = 64 << 20
_SHARE = 4


class ArchiveFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The members of an archive as read-only files: ``archivestream://member::path/to/archive``.

    Parameters
    ----------
    fo : str, path, Archive, what else `archivestream.open` takes, or a mapping
        The archive. A string is a local path or pattern, or a URL of fsspec (``memory://a.zip``), whose files must be
        seekable. A mapping mounts archives under folders: ``{"train": "train-*.zip", "val": "val.tar"}``; where two
        have the same path, the last one counts.
    target_protocol : str, optional
        The file system that holds the archive; default: as its URL says.
    target_options : dict, optional
        What that file system is made with.
    **options
        Of `archivestream.open`.

    Attributes
    ----------
    archive : Archive
        All members. ``info(path)["position"]`` is the place of a file among them.

    Raises
    ------
    OSError
        `FileNotFoundError`, `IsADirectoryError` where there is no such file; with ``EROFS`` for all that would write.
    ArchiveError, ValueError, TypeError
        As `archivestream.open` and `archivestream.Archive.read`.

    Warns
    -----
    ArchiveWarning
        Where members have no path here, as ``..`` is a part of their names, or they lie more than 100 folders deep,
        or the folders take far more memory than the names. They are not listed, so that `get` writes nothing outside
        its folder; read them by position from `archive`.

    Notes
    -----
    Folders are all that names imply, with those that the archive lists. Empty parts of names and ``.`` do not count:
    ``/a``, ``./a`` and ``.//a`` are at the path ``a``, where the plain name goes before the others, and of several
    members with one name the last is meant. A file may have the path of a folder, as in object stores: both are listed.
    Symbolic links are not followed, and hold their target.

    A file is found by its name as soon as the archive is open; listing takes a pass over all names, once. `cat` of
    several paths is one native call. Safe for any number of threads; a pickle opens the archive again.
    """

    protocol = "archivestream"
    root_marker = ""
    cachable = False  # an archive would be held open for good

    def __init__(
        self,
        fo: Archive | Openable | Sequence[Openable] | Mapping[str, Any],
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        parts = fo if isinstance(fo, Mapping) else {"": fo}
        if not parts:
            raise ValueError("there is no archive to mount: an empty mapping")
        self._mounts: list[_Mount] = []
        for prefix, one in parts.items():
            begin = sum(len(mount.archive) for mount in self._mounts)
            folder = self._strip_protocol(prefix)
            if ".." in folder.split("/"):
                raise ValueError(f"an archive cannot be mounted at {prefix!r}: '..' is no folder")
            self._mounts.append(_Mount(folder, _open_target(one, target_protocol, target_options, options), begin))
        self.archive: Archive = functools.reduce(operator.add, (mount.archive for mount in self._mounts))
        self._regular = self.archive.files()
        self._tree: _Tree | None = None

    @property
    def _fs_token(self) -> str:
        """What tells file systems apart (``==``, `hash`, dask): by the contents, not by how they were opened."""
        mounts = [(mount.prefix, mount.begin) for mount in self._mounts]
        return str(tokenize(self.protocol, self.archive.fingerprint, mounts))

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return "/".join(_parts(super()._strip_protocol(path)))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List what lies right in a folder, or the file at a path, sorted.

        Returns
        -------
        list of dict
            As `info` returns them.
        list of str
            Their paths, without `detail`.
        """
        path = self._strip_protocol(path)
        folder = self._folders().get(path)
        if folder is None:
            found = [self.info(path)]
        else:
            found = [*map(_describe_folder, folder.folders), *self._files_in(path, folder)]
        found.sort(key=operator.itemgetter("name"))
        return found if detail else list(dict.fromkeys(one["name"] for one in found))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return what is at a path: a dict of ``name``, ``size`` in bytes, ``type``, and of a file ``position``.

        The type is "file" or "directory", or in a tar "link" or "other" (a device and the like).
        """
        path = self._strip_protocol(path)
        position = self._find(path)
        if position is not None:
            return self._describe({path: position})[0]
        if path not in self._folders():
            raise self._missing(path)
        return _describe_folder(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return the bytes of a file, or of a range of it, as in a slice."""
        position = self._position(path)
        if start is None and end is None:
            return self.archive.read(position)
        begin, stop, _ = slice(start, end).indices(int(self.archive.sizes[position]))
        with self.archive.open_member(position) as file:
            file.seek(begin)
            return file.read(max(0, stop - begin))

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """Return the bytes of a file, or a dict of those of several: these are read with one native call.

        Parameters
        ----------
        path : str or list of str
            Globs, too.
        recursive : bool
            Read all files below a folder.
        on_error : "raise", "omit" or "return"
            What becomes of a file that cannot be read: with "return", its exception stands in its place.
        """
        if kwargs:  # ranges
            return super().cat(path, recursive=recursive, on_error=on_error, **kwargs)
        paths = self.expand_path(path, recursive=recursive)
        if recursive:
            paths = [one for one in paths if self._find(one) is not None]
        if not isinstance(path, list) and paths == [self._strip_protocol(path)]:
            return self.cat_file(paths[0])
        found: dict[str, Any] = dict.fromkeys(paths)
        positions: dict[str, int] = {}
        for one in paths:
            try:
                positions[one] = self._position(one)
            except OSError as error:
                if on_error == "raise":
                    raise
                found[one] = error
        errors: dict[int, Exception] = {}
        contents = self.archive.read_many([*positions.values()], errors=None if on_error == "raise" else errors)
        for place, (one, data) in enumerate(zip(positions, contents, strict=True)):
            found[one] = errors.get(place, data)
        if on_error == "omit":
            return {one: data for one, data in found.items() if not isinstance(data, Exception)}
        return found

    def ukey(self, path: str) -> str:
        """Return what tells this file from others, and from other contents of it, in all processes."""
        return str(tokenize(self._fs_token, self.info(path)))

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(self.ukey(path), 16)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BufferedReader:
        if mode != "rb":
            self._refuse(path)
        position = self._position(path)
        file = self.archive.open_member(position)
        file.size = int(self.archive.sizes[position])  # type: ignore[attr-defined]  # fsspec shows progress by it
        return file

    def _refuse(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(errno.EROFS, "archives are read-only here; archivestream.pack and repack write new ones", path)

    mkdir = makedirs = rmdir = rm = rm_file = cp_file = copy = mv = touch = pipe_file = put_file = _refuse

    def _position(self, path: str) -> int:
        """Return the position of the file at a path; raises where there is none."""
        path = self._strip_protocol(path)
        position = self._find(path)
        if position is not None:
            return position
        if path in self._folders():
            raise IsADirectoryError(errno.EISDIR, f"{self.archive.ancestry[0]}: this is a folder", path)
        raise self._missing(path)

    def _missing(self, path: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, f"{self.archive.ancestry[0]}: there is no such member", path)

    def _find(self, path: str) -> int | None:
        """Return the position of the file at a path without a pass over all names, where it can be."""
        parts = path.split("/")
        if not path or ".." in parts or len(parts) > _MOST_FOLDERS + 1:
            return None
        for mount in reversed(self._mounts):
            for name in mount.names_of(path):
                if name in mount.archive.names:
                    position = mount.begin + int(mount.archive.positions([name])[0])
                    if self._regular[position] or not self.archive.info(position).directory:
                        return position
        self._folders()
        assert self._tree is not None
        return self._tree.aliases.get(path)

    def _folders(self) -> dict[str, _Folder]:
        """Return all folders, by path."""
        if self._tree is None:  # two threads may make the same: a lock could be held while a process forks
            self._tree = _Tree(self._mounts, self.archive, self._regular.tolist())
        return self._tree.folders

    def _files_in(self, path: str, folder: _Folder) -> list[dict[str, Any]]:
        """Describe the files that lie right in a folder, each path once."""
        found: dict[str, int] = {}
        folders, prefix = self._folders(), path and f"{path}/"
        for position, name in zip(folder.files, self.archive.names.at(np.array(folder.files, np.int64)), strict=True):
            one = prefix + name.rpartition("/")[2]
            last = self._find(one) if one in found or one in folders else position
            if last is not None:  # else a directory of the same name has come after it
                found[one] = last
        return self._describe(found)

    def _describe(self, found: Mapping[str, int]) -> list[dict[str, Any]]:
        """Describe some files."""
        positions = np.array([*found.values()], np.int64)
        details = zip(
            found.items(), self.archive.sizes[positions].tolist(), self._regular[positions].tolist(), strict=True
        )
        return [
            {"name": path, "size": size, "type": "file" if regular else self._type_of(position), "position": position}
            for (path, position), size, regular in details
        ]

    def _type_of(self, position: int) -> str:
        return "link" if self.archive.info(position).is_symlink() else "other"


def _open_target(
    fo: Any, protocol: str | None, target_options: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> Archive:
    """Open an archive: one of the local file system by its path, so that threads and processes share no position."""
    if isinstance(fo, Archive) and not options:
        return fo
    if not isinstance(fo, str | os.PathLike):
        return open(fo, **options)
    target = fsspec.open(fo, protocol=protocol, **(target_options or {}))
    if isinstance(target.fs, LocalFileSystem):
        return open(target.path, **options)
    file = target.open()
    try:
        return open(file, **options)
    finally:
        if OpenFileSource.fits(file):  # a local copy, of which the archive holds a descriptor of its own
            file.close()


def _parts(path: str) -> list[str]:
    """Cut a path or a name into what counts."""
    return [part for part in path.split("/") if part not in ("", ".")]


def _describe_folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


class _Mount(NamedTuple):
    """An archive, the folder that it stands under, and the position of its first member among all."""

    prefix: str
    archive: Archive
    begin: int

    def names_of(self, path: str) -> Iterator[str]:
        """List the usual names that a member at a path can have; the first one goes before the others."""
        prefix = self.prefix and f"{self.prefix}/"
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            yield from (rest, f"./{rest}", f"/{rest}")


class _Folder(NamedTuple):
    """The paths of the folders right in one, and the positions of the files."""

    folders: list[str]
    files: array[int]


class _Tree:
    """All folders, of one pass over the names: no object for each member.

    Attributes
    ----------
    folders : dict of str to _Folder
        By path; the root is the empty one.
    aliases : dict of str to int
        The positions of files whose paths are none of their usual names (`_Mount.names_of`).
    """

    def __init__(self, mounts: Sequence[_Mount], archive: Archive, regular: Sequence[bool]) -> None:
        self.folders = {"": _Folder([], array("q"))}
        self.aliases: dict[str, int] = {}
        self._room = _ROOM
        left_out: list[str] = []
        for mount in mounts:
            self._add(_parts(mount.prefix))
            places: dict[str, tuple[str, array[int], bool] | None] = {}
            for position, name in enumerate(mount.archive.names, mount.begin):
                self._room += _SHARE * sys.getsizeof(name)
                above, _, last = name.rpartition("/")
                if above not in places:
                    places[above] = self._place(mount.prefix, above)
                place = places[above]
                if place is None or last in ("", ".", ".."):
                    if regular[position]:
                        left_out.append(name)
                    continue
                folder, files, usual = place
                if not regular[position] and archive.info(position).directory:
                    if self._add([*_parts(folder), last]) is None:
                        left_out.append(name)
                    continue
                files.append(position)
                if not usual:
                    self.aliases["/".join([*_parts(folder), last])] = position
        if left_out:
            warnings.warn(
                f"{archive.ancestry[0]}: {len(left_out)} of the members have no path in a file system, and are not "
                f"listed, as {left_out[0]!r}: read them by position from the attribute `archive`",
                ArchiveWarning,
                stacklevel=3,
            )

    def _place(self, prefix: str, above: str) -> tuple[str, array[int], bool] | None:
        """Return the folder that names stand for, its files, and whether its paths are usual names; or None."""
        parts = _parts(above)
        plain = "/".join(parts)
        whole = _parts(prefix) + parts
        if ".." in parts or len(whole) > _MOST_FOLDERS:
            return None
        usual = above in (plain, f"./{plain}", f"/{plain}") if plain else above in ("", ".")
        folder = self._add(whole)
        return None if folder is None else ("/".join(whole), folder.files, usual)

    def _add(self, parts: list[str]) -> _Folder | None:
        """Return a folder, made with those above it where it is new; or None, if there is no room for it."""
        path = "/".join(parts)
        if path not in self.folders:
            above = self._add(parts[:-1])
            self._room -= sys.getsizeof(path) + _FOLDER_BYTES
            if above is None or self._room < 0:
                return None
            above.folders.append(path)
            self.folders[path] = _Folder([], array("q"))
        return self.folders[path]
