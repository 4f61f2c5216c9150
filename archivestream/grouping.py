"""Which members are samples: files, each by itself, or those of one stem together, as in WebDataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from archivestream.archive import Archive
from archivestream.errors import MemberNotFoundError
from archivestream.selection import Keys, Names, match_names, split_name

__all__ = ["SampleKeys", "find_files", "group_members", "members_of_samples"]


def find_files(
    archive: Archive, extensions: str | Sequence[str] | None, pattern: str | None, left_out: str | None
) -> Archive:
    """View the members that are samples."""
    if pattern is not None:
        archive = archive.select(pattern)
    keep = archive.files()
    if extensions is not None:
        suffixes = (extensions,) if isinstance(extensions, str) else tuple(extensions)
        keep &= archive.names.endswith(suffixes, ignore_case=True)
    keep &= ~archive.names.startswith("__MACOSX/")
    if left_out is not None:
        keep[archive.names.find_all(left_out)] = False
    return archive if keep.all() else archive.select(keep)


def group_members(archive: Archive) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the members of each sample: those of one archive with one stem, wherever they lie in it.

    The stem is the name up to the first dot of its last component, as in WebDataset; what follows, in lower case, is
    the extension. Members without a stem or an extension belong to no sample.

    Returns
    -------
    positions : ndarray of int64, shape (m,)
        In `archive`, of the members of all samples, sample by sample.
    bounds : ndarray of int64, shape (n + 1,)
        Which of them are a sample's: ``positions[bounds[i]:bounds[i + 1]]``. Samples come in the order in which their
        first members do.

    Raises
    ------
    ValueError
        If a sample has two members of one extension.
    """
    extension, extensions = archive.names.extensions()
    if "" in extensions:
        kept = np.flatnonzero(extension != extensions.index(""))
        positions, bounds = group_members(archive.select(kept))
        return kept[positions], bounds
    stem = archive.names.stems()
    order = np.argsort(stem, kind="stable")
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(stem))])
    part = np.sort(stem * len(extensions) + extension)
    twice = np.flatnonzero(part[1:] == part[:-1])
    if len(twice):
        both = np.flatnonzero(stem * len(extensions) + extension == part[twice[0]])
        first, second = (archive.info(int(i)) for i in both[:2])
        raise ValueError(
            f"{first.archive}: members {first.name!r} and {second.name!r} are the same part "
            f"{extensions[extension[both[0]]]!r} of one sample; {len(twice)} such members in all, which pattern= or "
            "extensions= may keep out"
        )
    return order, bounds


def members_of_samples(
    samples: NDArray[np.int64], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the members of some samples, and the n + 1 offsets that cut them into samples."""
    begin, count = bounds[samples], bounds[samples + 1] - bounds[samples]
    offsets = np.zeros(len(samples) + 1, np.int64)
    np.cumsum(count, out=offsets[1:])
    return np.repeat(begin - offsets[:-1], count) + np.arange(offsets[-1]), offsets


class SampleKeys(Sequence[str]):
    """The keys of grouped samples: their stems, decoded as they are asked for.

    Parameters
    ----------
    names : Names
        Of the members, sample by sample.
    bounds : ndarray of int64, shape (n + 1,)
        Where each sample begins, and where the last one ends.
    """

    def __init__(self, names: Names, bounds: NDArray[np.int64]) -> None:
        self._names = names
        self._bounds = bounds

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        """Return one key, or the keys of a slice."""
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        return split_name(self._names[int(self._bounds[:-1][key])])[0]

    def __iter__(self) -> Iterator[str]:
        firsts = self._names.at(self._bounds[:-1])
        return (split_name(name)[0] for name in firsts)

    def places(self, keys: Keys | str) -> Keys:
        """Return where a glob or some keys are; positions and masks stay as they are.

        Raises
        ------
        MemberNotFoundError
            If there is no such key.
        """
        if isinstance(keys, str):
            return match_names(keys, self)
        found = keys if hasattr(keys, "__array__") else list(keys)
        if isinstance(found, np.ndarray):
            if found.dtype.kind not in "UO":
                return found
            found = found.tolist()
        if not isinstance(found, list) or not any(isinstance(key, str) for key in found):
            return found
        place = {name: i for i, name in enumerate(self)}
        missing = next((key for key in found if isinstance(key, str) and key not in place), None)
        if missing is not None:
            raise MemberNotFoundError(f"there is no sample {missing!r}")
        return [place[key] if isinstance(key, str) else key for key in found]
