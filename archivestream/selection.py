"""Which members an archive or a view shows, and how keys find them."""

from __future__ import annotations

import fnmatch
import re
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from archivestream._native.columns import Layout
from archivestream._native.nameparts import cut_folders, cut_stems, mark_prefixes, mark_suffixes, number_parts
from archivestream._native.names import NameTable
from archivestream.errors import MemberNotFoundError
from archivestream.index import Index, MemberIds

__all__ = ["Key", "Keys", "Names", "Selection", "describe_selection", "match_names", "split_name"]

Key: TypeAlias = SupportsIndex | str | bytes
Keys: TypeAlias = Iterable[Key] | NDArray[Any]

_PIECE = 65536
_FILE_TYPE = 0o170000  # of a Unix mode
_ENTRIES = int(Layout.ENTRIES)


class Selection:
    """Some members of an index, in an order of their own.

    Parameters
    ----------
    index : Index
        Of the whole archive.
    archive : str
        Its name, for messages.
    ids : ndarray of int64, optional
        The rows of the index that are shown; default: all.

    Immutable, so safe for any number of threads.
    """

    def __init__(self, index: Index, archive: str, ids: MemberIds | None = None) -> None:
        self.index = index
        self.archive = archive
        self.ids = ids
        self._size = len(index) if ids is None else len(ids)
        self._tables: dict[bool, NameTable] = {}

    def __len__(self) -> int:
        return self._size

    def narrow(self, places: MemberIds) -> Selection:
        """Select some positions of this selection."""
        ids = places if self.ids is None else self.ids[places]
        return Selection(self.index, self.archive, ids)

    def rows(self, begin: int, end: int) -> MemberIds:
        """Return the rows of a range of positions."""
        return np.arange(begin, end) if self.ids is None else self.ids[begin:end]

    def find(self, name: str | bytes) -> int:
        """Return the position of a name, the last one of several, or -1; bytes are a name as the archive has it."""
        raw = isinstance(name, bytes)
        # Built on first use, with no lock that a fork could leave held: two threads may build the same.
        if raw not in self._tables:
            self._tables[raw] = self.index.table_of(self.ids, raw=raw)
        return self._tables[raw].find(name)

    def position(self, key: Key) -> int:
        """Return the position of a key; raises `IndexError` or `MemberNotFoundError` where there is none."""
        if isinstance(key, str | bytes):
            position = self.find(key)
            if position < 0:
                name = key if isinstance(key, str) else key.decode(errors="backslashreplace")
                raise MemberNotFoundError("there is no such member", archive=self.archive, member=name)
            return position
        try:
            position = key.__index__()
        except AttributeError:
            raise TypeError(f"a key is an int, a str or bytes, not {type(key).__name__}") from None
        n = len(self)
        if not -n <= position < n:
            raise IndexError(f"member {position} of an archive of {n}")
        return position if position >= 0 else position + n

    def member(self, key: Key) -> int:
        """Return the row of a key in the index; raises where there is none."""
        if type(key) is int and 0 <= key < self._size:  # most keys: spare them the questions below
            return key if self.ids is None else int(self.ids[key])
        position = self.position(key)
        return position if self.ids is None else int(self.ids[position])

    def positions(self, keys: Keys) -> MemberIds:
        """Return the positions of some keys, or of a boolean mask."""
        n = len(self)
        if isinstance(keys, str | bytes):
            raise TypeError("keys are an iterable of keys; for one member use read()")
        if isinstance(keys, range):
            for key in (keys[0], keys[-1]) if keys else ():
                self.position(key)  # before memory is taken for them all
            places = np.arange(keys.start, keys.stop, keys.step, dtype=np.int64)
        else:
            if hasattr(keys, "__array__"):  # tensors, too
                keys = np.asarray(keys)
            if not isinstance(keys, np.ndarray) or keys.dtype.kind in "USO":
                keys = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
                if keys and isinstance(keys[0], bool | np.bool_):
                    keys = np.asarray(keys)
                else:
                    try:
                        keys = np.array(array("q", keys))
                    except (TypeError, OverflowError):  # names, or what is no key
                        return np.array([self.position(key) for key in keys], np.int64)
            if keys.dtype == np.bool_:
                if keys.shape != (n,):
                    raise IndexError(f"a mask of shape {keys.shape} for an archive of {n}")
                return np.flatnonzero(keys)
            if keys.ndim != 1 or (keys.size and keys.dtype.kind not in "iu"):
                raise TypeError(f"positions are a row of integers, not {keys.dtype} of shape {keys.shape}")
            if keys.dtype == np.uint64 and keys.size and int(keys.max()) >= n:
                raise IndexError(f"member {int(keys.max())} of an archive of {n}")
            places = np.ascontiguousarray(keys, np.int64)
        if not len(places):
            return places
        low, high = int(places.min()), int(places.max())
        if low < -n or high >= n:
            raise IndexError(f"member {low if low < -n else high} of an archive of {n}")
        return np.where(places < 0, places + n, places) if low < 0 else places

    def files(self) -> NDArray[np.bool_]:
        """Say of each position whether it is a regular file, and no directory, link or device."""
        return self._where(lambda names: ~names.endswith("/"), stat.S_IFREG)

    def directories(self) -> NDArray[np.bool_]:
        """Say of each position whether it is a directory."""
        return self._where(lambda names: names.endswith("/"), stat.S_IFDIR)

    def _where(self, by_name: Callable[[Names], NDArray[np.bool_]], file_type: int) -> NDArray[np.bool_]:
        """Go by the name in a ZIP, which has no other mark, and else by the mode."""
        in_zip = np.asarray(self.index.layouts, np.int64) == _ENTRIES
        if in_zip.all():
            return by_name(Names(self))
        attributes = self.index["attributes"]
        found = (attributes if self.ids is None else attributes[self.ids]) >> 16 & _FILE_TYPE == file_type
        return np.where(in_zip[self.sources()], by_name(Names(self)), found) if in_zip.any() else found

    def sources(self) -> NDArray[np.int64]:
        """Say of each position which source it comes from."""
        rows = np.arange(len(self)) if self.ids is None else self.ids
        return np.searchsorted(self.index.first_member.astype(np.int64), rows, "right") - 1

    def members(self, keys: Keys) -> MemberIds:
        """Return the rows of some keys in the index."""
        places = self.positions(keys)
        return places if self.ids is None else np.ascontiguousarray(self.ids[places])


def match_names(pattern: str, names: Iterable[str]) -> NDArray[np.int64]:
    """Return the positions of the names that a glob matches."""
    matches = re.compile(fnmatch.translate(pattern)).match
    return np.array([i for i, name in enumerate(names) if matches(name)], np.int64)


def split_name(name: str) -> tuple[str, str]:
    """Cut a name into its stem and its extension, at the first dot of its last component.

    As WebDataset does, but for names that have nothing before that dot (``a/.hidden``): these are all stem.
    """
    dot = name.find(".", name.rfind("/") + 1)
    if dot < 0 or dot == name.rfind("/") + 1:
        return name, ""
    return name[:dot], name[dot + 1 :].lower()


def describe_selection(keys: object, chosen: int, of: int) -> str:
    """Name the step from an archive to a view of it."""
    if isinstance(keys, str):
        return f"select {keys!r}"
    if isinstance(keys, slice):
        bounds = (keys.start, keys.stop) if keys.step is None else (keys.start, keys.stop, keys.step)
        return f"select [{':'.join('' if bound is None else str(bound) for bound in bounds)}]"
    return f"select {chosen} of {of}"


class Names(Sequence[str]):
    """The names of an archive, decoded as they are asked for."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection

    def __len__(self) -> int:
        return len(self._selection)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        """Return one name, or the names of a slice."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        return self._selection.index.name(self._selection.member(key))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._selection.find(name) >= 0

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), _PIECE):
            yield from self._decode(self._selection.rows(begin, min(begin + _PIECE, len(self))))

    def at(self, positions: NDArray[np.int64]) -> Iterator[str]:
        """Yield the names at some positions."""
        for begin in range(0, len(positions), _PIECE):
            yield from self._decode(self._selection.members(positions[begin : begin + _PIECE]))

    def _decode(self, rows: MemberIds) -> Iterator[str]:
        names, begin, end = self._selection.index.name_parts(rows)
        text = names.data
        for start, stop in zip(begin.tolist(), end.tolist(), strict=True):
            yield text[start:stop].tobytes().decode("utf-8", "surrogatepass")

    def startswith(self, prefix: str) -> NDArray[np.bool_]:
        """Say of each name whether it begins with a prefix: a mask for `Archive.select`."""
        found = np.empty(len(self), np.bool_)
        mark_prefixes(*self._parts(), prefix.encode("utf-8", "surrogatepass"), found.view(np.uint8))
        return found

    def endswith(self, suffixes: str | tuple[str, ...], *, ignore_case: bool = False) -> NDArray[np.bool_]:
        """Say of each name whether it ends with one of some suffixes: a mask for `Archive.select`.

        Parameters
        ----------
        suffixes : str or tuple of str
            As for `str.endswith`.
        ignore_case : bool
            Take ASCII letters of either case as the same.
        """
        found = np.zeros(len(self), np.bool_)
        for suffix in (suffixes,) if isinstance(suffixes, str) else suffixes:
            mark_suffixes(*self._parts(), suffix.encode("utf-8", "surrogatepass"), ignore_case, found.view(np.uint8))
        return found

    def folders(self) -> tuple[NDArray[np.int64], list[str]]:
        """Return the folders that the names lie in: the innermost one of each, numbered.

        Returns
        -------
        number : ndarray of int64, shape (n,)
            Of the folder of each name.
        folders : list of str
            Their names, in the order in which they appear first; empty for a name that lies in none.
        """
        names, begin, end = self._parts()
        folder, folder_end = np.empty(len(self), np.uint64), np.empty(len(self), np.uint64)
        cut_folders(names, begin, end, folder, folder_end)
        number, rows = self._number(folder, folder_end)
        return number, self._texts(folder[rows], folder_end[rows])

    def extensions(self) -> tuple[NDArray[np.int64], list[str]]:
        """Return the extensions of the names: all behind the first dot of the last component (see `split_name`).

        Returns
        -------
        number : ndarray of int64, shape (n,)
            Of the extension of each name.
        extensions : list of str
            In lower case, without the dot in front, in the order in which they appear first; empty for a name that
            has none.
        """
        _, begin, end = self._parts()
        stem = self._stems()
        extension = np.where(stem > begin, np.minimum(stem + np.uint64(1), end), end)
        number, rows = self._number(extension, end)
        written = [text.lower() for text in self._texts(extension[rows], end[rows])]
        place = {text: i for i, text in enumerate(dict.fromkeys(written))}
        return np.array([place[text] for text in written], np.int64)[number], list(place)

    def stems(self) -> NDArray[np.int64]:
        """Return the stems of the names (see `split_name`), numbered as they appear first, by source."""
        several = len(self._selection.index.layouts) > 1
        return self._number(self._parts()[1], self._stems(), self._selection.sources() if several else None)[0]

    def match(self, pattern: str) -> NDArray[np.int64]:
        """Return the positions of the names that a glob matches; ``*`` matches slashes, too, as in `fnmatch`."""
        return match_names(pattern, self)

    def find_all(self, name: str) -> NDArray[np.int64]:
        """Return the positions of a name, of which an archive may have several."""
        near = np.flatnonzero(self.startswith(name) & self.endswith(name))
        return near[[found == name for found in self.at(near)]] if len(near) else near

    def _parts(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the column of names, and where each of these begins and ends in it."""
        return self._selection.index.name_parts(self._selection.ids)

    def _stems(self) -> NDArray[np.uint64]:
        stem = np.empty(len(self), np.uint64)
        cut_stems(*self._parts(), stem)
        return stem

    def _number(
        self, begin: NDArray[np.uint64], end: NDArray[np.uint64], among: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of some parts of names, and the row in which each appears first."""
        number, first = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        count = number_parts(self._selection.index["names"], begin, end, among, number, first)
        return number, first[:count]

    def _texts(self, begin: NDArray[np.uint64], end: NDArray[np.uint64]) -> list[str]:
        names = self._selection.index["names"]
        spans = zip(begin.tolist(), end.tolist(), strict=True)
        return [names[start:stop].tobytes().decode("utf-8", "surrogatepass") for start, stop in spans]

    def __repr__(self) -> str:
        return f"<names of {len(self)} members>"
