"""The cache of decoded members: for the threads of one process, or for all processes of a machine."""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from archivestream._native.memberstore import MemberStore
from archivestream._native.memberview import MemberClaim, MemberView
from archivestream._native.sharedstore import ROBUST, SharedStore
from archivestream._native.sharedview import SharedClaim, SharedView
from archivestream.errors import UnsupportedFeatureError
from archivestream.shared_files import leave, make_anonymous, name_space, path_of, use_named

__all__ = ["Cache", "CacheStats", "Claim", "MembersOfArchive"]

Claim: TypeAlias = MemberClaim | SharedClaim
MembersOfArchive: TypeAlias = MemberView | SharedView
Policy: TypeAlias = Literal["keep", "lru"]


@dataclass(frozen=True)
class CacheStats:
    """What a cache has done, and what it holds.

    Attributes
    ----------
    hits, misses : int
        How many members were asked for and were there, and were not. One that another thread was just reading, and that
        was waited for, is a hit.
    bytes : int
        Memory in use: members, their entries, and tables. Never more than `limit`.
    evictions : int
        Members that were dropped to make room for others.
    members : int
        Members that are there.
    limit : int
        Most bytes to use.
    """

    hits: int
    misses: int
    bytes: int
    evictions: int
    members: int
    limit: int

    @property
    def hit_rate(self) -> float:
        """The share of hits; 0 where nothing was asked for."""
        return self.hits / max(1, self.hits + self.misses)


class Cache:
    """Keeps decoded members, within a number of bytes, for all archives that are opened with it.

    Parameters
    ----------
    limit : int
        Most bytes to use, whatever happens: members, their entries, and tables.
    policy : "keep" or "lru"
        What to do when it is full. "keep" goes on with what it holds: where each member is read once an epoch, its
        share of hits is the share of the data that it holds (the MinIO cache of CoorDL: Mohan et al., Analyzing and
        Mitigating Data Stalls in DNN Training, VLDB 2021). "lru" drops what was least recently used: for access that
        has favourites, or a working set that fits.

    shared : bool
        One cache for all processes of the machine, in shared memory that it takes as it fills, up to `limit` for all
        together. It goes to child processes with fork, and where `multiprocessing` pickles it for them (spawn,
        forkserver). When they all are gone, so is the memory, however they ended. Linux only. A hit is a copy, and so
        costs more.
    name : str, optional
        Of a shared cache, for processes that are started separately, as the ranks of ``torchrun``: those of one user
        that ask for the same name have one cache. It lies in ``/dev/shm`` (else in the folder for temporary files) and
        is removed by the last one that closes it; where that one was killed, by the next one that makes any named
        cache.

    Safe for any number of threads and processes; several that want the same member read it once. A forked process goes
    on with what its parent held, and a pickle of a cache that is not shared makes an empty one of the same kind.

    Raises
    ------
    ValueError
        If an argument has no such value; or if others have made the cache of that name with another limit or policy.
    PermissionError
        If what lies at that name does not belong to this user alone.
    OSError
        If there is no room for a shared one.
    UnsupportedFeatureError
        If it is to be shared on a system that has no robust locks (macOS).

    Examples
    --------
    >>> with archivestream.open("images.zip", cache=archivestream.Cache(8 << 30)) as archive:
    ...     archive.read_batch(range(256))
    ...     print(archive.cache.stats.hit_rate)
    """

    def __init__(self, limit: int, *, policy: Policy = "keep", shared: bool = False, name: str | None = None) -> None:
        self.limit = operator.index(limit)
        if self.limit < 0:
            raise ValueError(f"a cache has a limit of 0 or more bytes, not {limit}")
        if policy not in ("keep", "lru"):
            raise ValueError(f"the policy of a cache is 'keep' or 'lru', not {policy!r}")
        if name is not None and not shared:
            raise ValueError("a name is for a shared cache: Cache(..., shared=True, name=...)")
        if shared and not ROBUST:
            raise UnsupportedFeatureError(
                "a cache for all processes needs locks that outlive whoever holds them, and this system has none; "
                "have one in each process: Cache(..., shared=False)"
            )
        self.policy = policy
        self.name = name
        self.shared = shared
        if not shared:
            self._store: MemberStore | SharedStore = MemberStore(self.limit, policy == "lru")
            self._finish: Callable[[], object] = self._store.close
        elif name is None:
            self._adopt(_make_store(make_anonymous(self.limit), self.limit, policy, create=True), None)
        else:
            path = path_of(name)
            try:
                store = use_named(
                    path, self.limit, lambda file, create: _make_store(file, self.limit, policy, create=create)
                )
            except ValueError as error:
                raise ValueError(f"the shared cache {name!r}: {error}") from error
            self._adopt(store, path)

    def _adopt(self, store: SharedStore, path: Path | None) -> None:
        from multiprocessing.reduction import register

        register(Cache, _reduce_for_child)
        self._store = store
        # Also when the process ends without closing it.
        self._finish = weakref.finalize(self, _close, store, path)

    def members_of(self, archive: bytes) -> MembersOfArchive:
        """Return the members of one archive in this cache, by 16 bytes that tell it from all others."""
        store = self._store
        return MemberView(store, archive) if isinstance(store, MemberStore) else SharedView(store, archive)

    @property
    def stats(self) -> CacheStats:
        """What it has done, and what it holds now; of a shared one, for all processes together."""
        hits, misses, size, evictions, members = self._store.statistics()
        return CacheStats(hits, misses, size, evictions, members, self.limit)

    def clear(self) -> None:
        """Drop all members, of a shared cache for all processes; counts of hits, misses and evictions go on."""
        self._store.clear()

    def close(self) -> None:
        """Give back the memory, and keep nothing from here on: archives that use it read on without it.

        Other processes that share it go on with it.
        """
        self._finish()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        kind = f", shared as {self.name!r}" if self.name else ", shared" if self.shared else ""
        return f"<Cache of {self.limit} bytes, policy {self.policy!r}{kind}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self.shared and self.name is None:
            raise TypeError(
                "a shared cache without a name goes to processes that multiprocessing starts, and nowhere else; "
                "give it a name: Cache(..., shared=True, name=...)"
            )
        return _make, (self.limit, self.policy, self.shared, self.name)


def _make(limit: int, policy: Policy, shared: bool, name: str | None) -> Cache:
    return Cache(limit, policy=policy, shared=shared, name=name)


def _make_store(file: int, limit: int, policy: Policy, *, create: bool) -> SharedStore:
    """Make a store of an open file, which is closed: the store has a descriptor of its own."""
    try:
        return SharedStore(file, limit, policy == "lru", name_space=name_space(), create=create)
    finally:
        os.close(file)


def _close(store: SharedStore, path: Path | None) -> None:
    store.close()
    if path is not None:
        leave(path)


def _reduce_for_child(cache: Cache) -> tuple[Any, ...]:
    """Pickle a cache for a process that `multiprocessing` starts."""
    if not cache.shared or cache.name is not None:
        return cache.__reduce__()
    from multiprocessing.reduction import DupFd

    file = cache._store.descriptor if isinstance(cache._store, SharedStore) else -1
    if file < 0:
        raise ValueError("the shared cache is closed")
    return _attach, (DupFd(file), cache.limit, cache.policy)


def _attach(file: Any, limit: int, policy: Policy) -> Cache:
    """Take up a cache that has come from another process."""
    cache = Cache.__new__(Cache)
    cache.limit, cache.policy, cache.name, cache.shared = limit, policy, None, True
    cache._adopt(_make_store(file.detach(), limit, policy, create=False), None)
    return cache
