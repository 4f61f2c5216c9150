"""Writing one data set as several archives."""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from archivestream.packing.entries import Entry
from archivestream.packing.packer import Format, Packer, Writer
from archivestream.packing.tarzst import TarFormat, TarZstFormat
from archivestream.packing.zip import ZipFormat
from archivestream.paths import braces
from archivestream.session import Progress

__all__ = ["ShardPacker", "assign", "container_of", "is_pattern"]

_FORMATS = {"zip": ZipFormat, "tar.zst": TarZstFormat, "tar": TarFormat}
_SUFFIXES = {".zip": "zip", ".tar.zst": "tar.zst", ".tzst": "tar.zst", ".tar": "tar"}
_NUMBER = re.compile(r"\{(?::0?(?P<braced>\d*)d?)?\}|%0?(?P<percent>\d*)d")
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
    return bool(_NUMBER.search(os.path.basename(target)) or _RANGE.search(target))


def _shard_names(target: str, shards: int | None) -> Iterator[str]:
    """Name the shards, in order."""
    if _RANGE.search(target):
        names = list(itertools.islice(braces(target), _MOST_SHARDS + 1))
        if shards not in (None, len(names)):
            raise ValueError(f"{target} stands for {len(names)} shards, not {shards}")
        return iter(names)
    folder, name = os.path.split(target)
    numbers = list(_NUMBER.finditer(name))
    if len(numbers) != 1:
        raise ValueError(
            f"{target} must say where the number of a shard stands, once, as in train-{{:05d}}.zip, train-%05d.zip or "
            "train-{00000..00007}.zip"
        )
    (number,) = numbers
    width = int(number["braced"] or number["percent"] or 0)
    return (
        os.path.join(folder, f"{name[: number.start()]}{i:0{width}d}{name[number.end() :]}") for i in itertools.count()
    )


def _balance(entries: Sequence[Entry], shards: int) -> Iterator[tuple[Entry, int]]:
    """Cut a list into so many runs of about equal size: (member, its shard)."""
    total = sum(entry.size + _OVERHEAD for entry in entries)
    before = 0
    for entry in entries:
        size = entry.size + _OVERHEAD
        yield entry, (2 * before + size) * shards // (2 * total)
        before += size


class ShardPacker(Packer):
    """Writes several archives, each with whole members; they get their names together, at the end.

    Parameters
    ----------
    target : path
        A pattern of their names: ``train-{:05d}.zip`` and ``train-%05d.zip`` are numbered from 0, and
        ``train-{00000..00007}.zip`` names eight shards, as `archivestream.open` takes it. `open` also takes the list of
        `paths`, or a glob such as ``train-*.zip``.
    shards : int, optional
        How many there are. Each member goes to the one that holds the fewest bytes.
    max_shard_bytes : int, optional
        How large a file may become; then the next one begins, so the order of the members stays. A member that is
        larger alone gets a larger file.
    format : {"zip", "tar.zst", "tar"}, optional
        Default: what the suffix says.
    threads, overwrite, progress
        As for `ZipPacker`.
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
        format: str | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        path = os.fspath(target)
        if shards is None and max_shard_bytes is None and _RANGE.search(path):
            shards = sum(1 for _ in itertools.islice(braces(path), _MOST_SHARDS + 1))
        if (shards is None) == (max_shard_bytes is None):
            raise ValueError("say either how many shards there are, shards=, or how large one may be, max_shard_bytes=")
        if shards is not None and not 1 <= shards <= _MOST_SHARDS:
            raise ValueError(f"shards is from 1 to {_MOST_SHARDS}, not {shards}")
        if max_shard_bytes is not None and max_shard_bytes < 1:
            raise ValueError(f"max_shard_bytes is at least 1, not {max_shard_bytes}")
        if max_shard_bytes is not None and _RANGE.search(path):
            raise ValueError(f"{path}: how many shards there will be is not known before; number them with {{:05d}}")
        self.shards = shards
        self._limit = max_shard_bytes
        self._next_names = _shard_names(path, shards)
        if shards is not None:
            names = list(itertools.islice(self._next_names, shards))
            for name in names if not overwrite else ():
                if os.path.lexists(name):
                    raise FileExistsError(errno.EEXIST, "the file is there already; overwrite=True replaces it", name)
            self._next_names = iter(names)
        self._loads = [0] * (shards or 0)
        self._in_order = True  # whether shards are written one after the other
        self._used = False  # whether the last one has members
        container = container_of(path, format, options)
        if max_shard_bytes is not None:  # members that are compressed together go to one shard
            container.unit_bytes = min(container.unit_bytes, max_shard_bytes // 4)
        super().__init__(container, None, threads=threads, overwrite=overwrite, progress=progress)

    def _choose(self, entry: Entry) -> int:
        if self._limit is not None:
            return 0
        self._in_order = False
        shard = self._loads.index(min(self._loads))
        self._loads[shard] += entry.size + _OVERHEAD
        return shard

    def _place(self, shard: int, cost: int) -> Writer:
        if self._limit is None:
            while len(self._writers) <= shard:
                self._begin_next()
            return self._writers[shard]
        if not self._writers or (self._used and self._writers[-1].final_size + cost > self._limit):
            self._begin_next()
        self._used = True
        return self._writers[-1]

    def _begin_next(self) -> None:
        if self._in_order:
            self._finish_writers()  # and close them: there may be more than a process may have open
        self._open_writer(next(self._next_names))

    def _before_finish(self) -> None:
        while len(self._writers) < (self.shards or 1):
            self._begin_next()  # empty ones


def assign(entries: Iterable[Entry], packer: Packer) -> Iterator[tuple[Entry, int | None]]:
    """Say for each member of a list which shard it goes to, so that the order stays; else the packer chooses."""
    if isinstance(entries, list) and isinstance(packer, ShardPacker) and packer.shards is not None:
        return _balance(entries, packer.shards)
    return ((entry, None) for entry in entries)
