"""Which members an archive or a view shows, and how keys find them."""

from __future__ import annotations

import itertools
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from archivestream._native.columns import Layout
from archivestream._native.names import NameTable
from archivestream.errors import MemberNotFoundError
from archivestream.index import Index, MemberIds

__all__ = ["Key", "Keys", "Names", "Selection"]

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
        return self._where(~Names(self).endswith("/"), stat.S_IFREG)

    def directories(self) -> NDArray[np.bool_]:
        """Say of each position whether it is a directory."""
        return self._where(Names(self).endswith("/"), stat.S_IFDIR)

    def _where(self, by_name: NDArray[np.bool_], file_type: int) -> NDArray[np.bool_]:
        """Go by the name in a ZIP, which has no other mark, and else by the mode."""
        rows = self.rows(0, len(self))
        layouts = np.asarray(self.index.layouts, np.int64)[np.searchsorted(self.index.first_member, rows, "right") - 1]
        return np.where(layouts == _ENTRIES, by_name, self.index["attributes"][rows] >> 16 & _FILE_TYPE == file_type)

    def members(self, keys: Keys) -> MemberIds:
        """Return the rows of some keys in the index."""
        places = self.positions(keys)
        return places if self.ids is None else np.ascontiguousarray(self.ids[places])


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
            rows = self._selection.rows(begin, min(begin + _PIECE, len(self)))
            blob, offsets = self._selection.index.select_names(rows)
            text, bounds = blob.tobytes(), offsets.tolist()
            for start, stop in itertools.pairwise(bounds):
                yield text[start:stop].decode("utf-8", "surrogatepass")

    def startswith(self, prefix: str) -> NDArray[np.bool_]:
        """Say of each name whether it begins with a prefix: a mask for `Archive.select`."""
        begin, end = self._bounds()
        names = self._selection.index["names"]
        wanted = prefix.encode("utf-8", "surrogatepass")
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
        names = self._selection.index["names"]
        found = np.zeros(len(end), np.bool_)
        for suffix in (suffixes,) if isinstance(suffixes, str) else suffixes:
            wanted = suffix.encode("utf-8", "surrogatepass")
            fits = end - begin >= len(wanted)
            for back, byte in enumerate(reversed(wanted), 1):
                chosen = np.flatnonzero(fits)
                there = names[end[chosen] - back]
                fits[chosen] = there == byte
                if ignore_case and byte < 0x80 and chr(byte).isalpha():
                    fits[chosen] |= there == byte ^ 0x20
            found |= fits
        return found

    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each name begins and ends in the column of names."""
        ids = slice(None) if self._selection.ids is None else self._selection.ids
        offsets = self._selection.index["name_offset"]
        return offsets[:-1][ids].astype(np.int64), offsets[1:][ids].astype(np.int64)

    def __repr__(self) -> str:
        return f"<names of {len(self)} members>"
