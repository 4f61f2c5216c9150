"""Which samples go into which part: by shares, or by a splitter of scikit-learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from archivestream.archive import Archive
from archivestream.labels import find_column

__all__ = ["Groups", "Splitter", "find_groups", "find_strata", "split_by_shares", "split_by_splitter"]

Groups: TypeAlias = str | Sequence[Any] | NDArray[Any] | Callable[[str], Any] | None
_Positions: TypeAlias = NDArray[np.int64]


@runtime_checkable
class Splitter(Protocol):
    """What scikit-learn's KFold, StratifiedGroupKFold, ShuffleSplit and the like have in common."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[Any, Any]]:  # noqa: N803
        """Yield the positions of (train, test)."""
        ...


def split_by_splitter(
    splitter: Splitter, n: int, targets: NDArray[Any] | None, groups: NDArray[Any] | None
) -> list[tuple[_Positions, _Positions]]:
    """Return the positions of (train, test) of each fold."""
    samples = np.broadcast_to(np.zeros(1, np.int8), (n, 1))  # which nobody looks at
    return [
        (np.asarray(train, np.int64), np.asarray(test, np.int64))
        for train, test in splitter.split(samples, targets, groups)
    ]


def split_by_shares(
    shares: Mapping[str, float], n: int, seed: int, strata: NDArray[Any] | None
) -> dict[str, _Positions]:
    """Return the positions of each part, ascending: every sample is in one part at most.

    The shuffle is the order of the raw output of PCG64, which NumPy keeps the same for all times and platforms
    (NEP 19).

    Parameters
    ----------
    shares : mapping of str to float or int
        Of all samples, from 0 to 1 and 1 at most together, or all of them numbers of samples.
    n : int
        How many samples there are.
    seed : int
        Of the shuffle.
    strata : ndarray of shape (n,), optional
        The classes whose shares are to be the same in each part, to within one sample.

    Raises
    ------
    ValueError
        If the shares are none.
    """
    if not shares:
        raise ValueError("a split into no parts")
    sizes = _sizes(shares, n)
    shuffled = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    if strata is None:
        counts = np.array([sizes], np.int64)
    else:
        _, stratum = np.unique(strata, return_inverse=True)
        shuffled = shuffled[np.argsort(stratum[shuffled], kind="stable")]  # class by class
        counts = _share_out(np.bincount(stratum), np.array(sizes, np.int64))
    part = np.repeat(np.tile(np.arange(counts.shape[1]), counts.shape[0]), counts.ravel())
    return {name: np.sort(shuffled[part == place]) for place, name in enumerate(shares)}


def _sizes(shares: Mapping[str, float], n: int) -> list[int]:
    """Return the size of each part, and of the rest, by largest remainders."""
    values = list(shares.values())
    if all(isinstance(value, int | np.integer) for value in values):
        sizes = [int(value) for value in values]
        if min(sizes) < 0 or sum(sizes) > n:
            raise ValueError(f"parts of {sizes} samples, and there are {n}")
        return [*sizes, n - sum(sizes)]
    if not all(not isinstance(value, int | np.integer) and 0 <= value <= 1 for value in values):
        raise ValueError(f"shares are all from 0.0 to 1.0, or all whole numbers of samples, not {dict(shares)}")
    total = math.fsum(values)
    if total > 1 + 1e-9:
        raise ValueError(f"the shares are {total} together, and 1 at most")
    quotas = [n * float(value) for value in values]
    sizes = [math.floor(quota) for quota in quotas]
    left = round(n * min(total, 1.0)) - sum(sizes)
    by_remainder = sorted(range(len(sizes)), key=lambda place: (sizes[place] - quotas[place], place))
    for place in by_remainder[: max(left, 0)]:
        sizes[place] += 1
    return [*sizes, n - sum(sizes)]


def _share_out(of_class: _Positions, of_part: _Positions) -> _Positions:
    """Fill a table of classes by parts with these sums, each entry its exact share rounded down or up.

    There always is one (Bacharach, "Matrix rounding problems", 1966). Classes are rounded one by one, in favour of the
    parts that lack most; what is then left over in one part is passed on to another, along a path of entries that
    may still change.
    """
    exact = of_class[:, None] * of_part[None, :]
    n = max(int(of_class.sum()), 1)
    low = exact // n
    high = low + (exact % n > 0)
    table = low.copy()
    lacks = of_part - low.sum(axis=0)
    for row, left in enumerate((of_class - low.sum(axis=1)).tolist()):
        free = np.flatnonzero(high[row] > low[row])
        chosen = free[np.argsort(-lacks[free], kind="stable")[:left]]
        table[row, chosen] += 1
        lacks[chosen] -= 1
    while (lacks != 0).any():
        path = _path(table, low, high, int(np.argmin(lacks)), lacks > 0)
        for source, target in itertools.pairwise(path):
            row = int(np.argmax((table[:, source] > low[:, source]) & (table[:, target] < high[:, target])))
            table[row, source] -= 1
            table[row, target] += 1
        lacks[path[0]] += 1
        lacks[path[-1]] -= 1
    return table


def _path(table: _Positions, low: _Positions, high: _Positions, start: int, ends: NDArray[np.bool_]) -> list[int]:
    """Find the shortest way from a part that has too much to one that lacks, over classes that may pass one on."""
    came_from = {start: start}
    queue = [start]
    for part in queue:  # and what is appended
        if ends[part]:
            break
        can_give = table[:, part] > low[:, part]
        for other in np.flatnonzero((can_give[:, None] & (table < high)).any(axis=0)).tolist():
            if other not in came_from:
                came_from[other] = part
                queue.append(other)
    path = [part]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def find_strata(
    stratify: bool | str | Sequence[Any] | NDArray[Any],
    targets: NDArray[Any] | None,
    archive: Archive,
    bounds: _Positions | None,
    names: Sequence[str],
) -> NDArray[Any] | None:
    """Return the class of each sample to stratify by; raises `ValueError` where there is none."""
    if stratify is False:
        return None
    if isinstance(stratify, str):
        stratify = find_column(stratify, archive, bounds, names)
    if stratify is not True:
        return _one_each("stratify", stratify, len(names))
    if targets is None or targets.dtype.kind == "f":
        raise ValueError("there are no classes to stratify by: give labels=, or stratify= an array of classes")
    return targets


def find_groups(
    groups: Groups, archive: Archive, bounds: _Positions | None, names: Sequence[str]
) -> NDArray[Any] | None:
    """Return the group of each sample, of which there may be none."""
    if groups is None:
        return None
    if isinstance(groups, str):
        if groups != "folder":
            return np.asarray(find_column(groups, archive, bounds, names))
        number, _ = archive.names.folders()
        return number if bounds is None else number[bounds[:-1]]
    return _one_each("groups", [groups(name) for name in names] if callable(groups) else groups, len(names))


def _one_each(what: str, values: Sequence[Any] | NDArray[Any], n: int) -> NDArray[Any]:
    found = np.asarray(values)
    if found.shape != (n,):
        raise ValueError(f"{what} has shape {found.shape}, and there are {n} samples")
    return found
