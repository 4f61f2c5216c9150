"""Writing one data set as several archives."""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from archivestream.archive import Archive, open
from archivestream.packing.entries import Entry
from archivestream.packing.packer import Format, Packer, Writer
from archivestream.packing.samples import Listing, shuffled
from archivestream.packing.tarzst import TarFormat, TarZstFormat
from archivestream.packing.zip import ZipFormat
from archivestream.paths import Numbered, braces, has_number, numbered
from archivestream.session import Progress

__all__ = ["ShardPacker", "assign", "container_of", "is_pattern", "open_present"]

_FORMATS = {"zip": ZipFormat, "tar.zst": TarZstFormat, "tar": TarFormat}
_SUFFIXES = {".zip": "zip", ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar": "tar"}
_RANGE = re.compile(r"\{\d+\.\.\d+\}")
_MOST_SHARDS = 1_000_000
_OVERHEAD = 512  # what a member counts beside its bytes


def container_of(target: str | os.PathLike[str], kind: str | None, options: dict[str, Any]) -> Format:
    """Choose the format by its name or by the suffix of the target, and give it the options that are set."""
    path = os.fsdecode(target)
    if kind is None:
        kind = next((kind for suffix, kind in _SUFFIXES.items() if path.lower().endswith(suffix)), None)
        if kind is None:
            raise ValueError(
                f"{path}: the suffix is none of {', '.join(_SUFFIXES)}; say which format is meant: format='zip'"
            )
    if kind not in _FORMATS:
        raise ValueError(f"format is one of {', '.join(map(repr, _FORMATS))}, not {kind!r}")
    given = {name: value for name, value in options.items() if value is not None}
    fitting = {
        "zip": {"method", "level", "align", "segment_size"},
        "tar.zst": {"level", "frame_size", "dictionary"},
        "tar": set[str](),
    }[kind]
    if odd := sorted(given.keys() - fitting):
        raise ValueError(f"{odd[0]} is no option of {kind}, which has {', '.join(sorted(fitting)) or 'none'}")
    container: Format = _FORMATS[kind](**given)
    return container


def is_pattern(target: str) -> bool:
    """Whether a target stands for several files."""
    return bool(_RANGE.search(target) or has_number(target))


def _balance(sizes: Sequence[int], shards: int) -> Iterator[int]:
    """Cut members of some sizes into so many runs of about equal size: yield the shard of each."""
    total = sum(sizes) + _OVERHEAD * len(sizes)
    before = 0
    for size in sizes:
        size += _OVERHEAD
        yield (2 * before + size) * shards // (2 * total)
        before += size


class ShardPacker(Packer):
    """Writes several archives, each with whole members; they get their names together, at the end.

    Parameters
    ----------
    target : path
        A pattern of their names: ``train-{:05d}.zip`` and ``train-%05d.zip`` are numbered from 0, and
        ``train-{00000..00007}.zip`` names eight shards, as `archivestream.open` takes it. `open` also takes the list of
        `paths`, or a glob such as ``train-*.zip``; given the pattern of numbers itself, it opens what is numbered
        without a gap.
    shards : int, optional
        How many there are. Each member goes to the one that holds the fewest bytes.
    max_shard_bytes : int, optional
        How large a file may become; then the next one begins, so the order of the members stays. A member that is
        larger alone gets a larger file.
    format : {"zip", "tar.zst", "tar"}, optional
        Default: what the suffix says.
    append : bool
        Add to the archives of that pattern that are there: the new ones are numbered on, and all of them belong to the
        set at once, by the last rename. No name may be in it already. If this is interrupted at any time, the pattern
        opens the set as it was; what may lie behind the gap in its numbers is not a part of it.
    shuffle : int, optional
        A seed: with `shards`, each so many members are dealt out to the shards in another random order.
    threads, progress
        As for `ZipPacker`.
    overwrite : bool
        Replace the archives of that pattern that are there, or, with `append`, those behind a gap.
    **options
        Those of the format: see `ZipPacker` and `TarZstPacker`.

    Raises
    ------
    ValueError
        If it is not clear how many shards there are or how they are named.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        *,
        shards: int | None = None,
        max_shard_bytes: int | None = None,
        append: bool = False,
        shuffle: int | None = None,
        format: str | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        path = os.fspath(target)
        if shuffle is not None and shards is None:
            raise ValueError("shuffle= deals members out to a number of shards: say how many, shards=")
        if shards is None and max_shard_bytes is None and _RANGE.search(path):
            shards = len(braces(path))
        if (shards is None) == (max_shard_bytes is None):
            raise ValueError("say either how many shards there are, shards=, or how large one may be, max_shard_bytes=")
        if shards is not None and not 1 <= shards <= _MOST_SHARDS:
            raise ValueError(f"shards is from 1 to {_MOST_SHARDS}, not {shards}")
        if max_shard_bytes is not None and max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes is at least 1, not {max_shard_bytes}")
        if max_shard_bytes is not None and _RANGE.search(path):
            raise ValueError(f"{path}: how many shards there will be is not known before; number them with {{:05d}}")
        container = container_of(path, format, options)
        self.shards = shards
        self._limit = max_shard_bytes
        self._shuffle = shuffle
        self._deal: list[int] = []
        self._dealt = 0
        self._numbered = None if _RANGE.search(path) else _numbered(path)
        self._first = self._numbered.present() if append and self._numbered else 0
        self._present = open_present(path) if append else None
        self._next_names = self._list_names(path, shards)
        if not overwrite:
            self._check_free(shards)
        self._loads = [(0, shard) for shard in range(shards or 0)]  # a heap
        self._in_order = True  # whether shards are written one after the other
        self._used = False  # whether the last one has members
        if max_shard_bytes is not None:  # members that are compressed together go to one shard
            container.unit_bytes = min(container.unit_bytes, max_shard_bytes // 4)
        super().__init__(container, None, threads=threads, overwrite=overwrite, progress=progress)
        if self._present is not None:
            self._taken = self._present.names
            metadata = self._present.metadata
            self._schema = None if metadata is None else metadata.schema

    def _list_names(self, target: str, shards: int | None) -> Iterator[str]:
        """Name the shards, in order."""
        numbers = self._numbered
        if numbers is not None:
            every = itertools.count(self._first) if shards is None else range(self._first, self._first + shards)
            return map(numbers.name, every)
        names = braces(target)
        if shards not in (None, len(names)):
            raise ValueError(f"{target} stands for {len(names)} shards, not {shards}")
        return iter(names)

    def _check_free(self, shards: int | None) -> None:
        """Raise for a file that stands where a shard is to stand, or behind the set that is to go on."""
        if self._present is not None and self._numbered is not None:
            beyond = [number for number in self._numbered.there() if number > self._first]
            if beyond:
                raise FileExistsError(
                    errno.EEXIST,
                    f"the file is there, and number {self._first} is not: it was left by an interrupted write "
                    "(overwrite=True removes such files), or the one in the gap was lost",
                    self._numbered.name(beyond[0]),
                )
        elif self._numbered is not None:
            there = self._numbered.there()
            if there:  # also behind the last one: it would belong to the new set
                raise FileExistsError(
                    errno.EEXIST,
                    "the file is there already, and would be a part of the set; overwrite=True replaces the whole set",
                    self._numbered.name(there[0]),
                )
        elif shards is not None:
            names = list(self._next_names)
            for name in names:
                if os.path.lexists(name):
                    raise FileExistsError(errno.EEXIST, "the file is there already; overwrite=True replaces it", name)
            self._next_names = iter(names)

    def _replaced(self) -> list[Path]:
        """List the first shard of what is overwritten, without which there is no set, and those beyond the last one."""
        if not self._overwrite:
            return []
        if self._numbered is None:
            return [self.paths[0]]
        last = self._first + len(self._writers)
        numbers = [number for number in self._numbered.there() if number == self._first or number >= last]
        return [Path(self._numbered.name(number)) for number in numbers]

    def close(self) -> None:
        """Write what is left, and give the archives their names."""
        super().close()
        self._let_go()

    def abandon(self) -> None:
        """Stop, and remove what was written."""
        super().abandon()
        self._let_go()

    def _let_go(self) -> None:
        if self._present is not None:
            self._present.close()

    def _choose(self, entry: Entry) -> int:
        if self._limit is not None:
            return 0
        self._in_order = False
        if self._shuffle is not None:
            return self._deal_out(self._shuffle)
        load, shard = self._loads[0]
        heapq.heapreplace(self._loads, (load + entry.size + _OVERHEAD, shard))
        return shard

    def _deal_out(self, seed: int) -> int:
        if not self._deal:
            self._deal = shuffled(len(self._loads), seed, self._dealt)
            self._dealt += 1
        return self._deal.pop()

    def _place(self, shard: int, cost: int) -> Writer:
        if self._limit is None:
            while len(self._writers) <= shard:
                self._begin_next()
            return self._writers[shard]
        if not self._writers or (self._used and self._size_of_last() + cost > self._limit):
            self._begin_next()
        self._used = True
        return self._writers[-1]

    def _size_of_last(self) -> int:
        last = self._writers[-1]
        return last.final_size + (self._metadata[last].size if last in self._metadata else 0)

    def _begin_next(self) -> None:
        if self._in_order:
            self._finish_writers()  # and close them: there may be more than a process may have open
        self._open_writer(next(self._next_names))

    def _before_finish(self) -> None:
        while len(self._writers) < (self.shards or 1):
            self._begin_next()  # empty ones


def assign(listing: Listing, packer: Packer) -> Iterator[tuple[Entry, int | None]]:
    """Say for each member of known size which shard it goes to, so that the order stays; else the packer chooses."""
    shards: Iterable[int | None] = itertools.repeat(None)
    if listing.sizes is not None and isinstance(packer, ShardPacker) and packer.shards is not None:
        shards = _balance(listing.sizes, packer.shards)
    return zip(listing.entries, shards, strict=False)


def open_present(pattern: str) -> Archive | None:
    """Open the archives that others are to be appended to; None where there are none yet.

    Raises
    ------
    ValueError
        If the pattern has no place for more numbers.
    """
    numbers = None if _RANGE.search(pattern) else _numbered(pattern)
    if numbers is None:
        raise ValueError(f"{pattern}: how many shards there are is fixed; number them with {{:05d}} to append others")
    count = numbers.present()
    return open([numbers.name(number) for number in range(count)]) if count else None


def _numbered(pattern: str) -> Numbered:
    found = numbered(pattern)
    if found is None:
        raise ValueError(
            f"{pattern} must say where the number of a shard stands, once, as in train-{{:05d}}.zip, train-%05d.zip or "
            "train-{00000..00007}.zip"
        )
    return found
