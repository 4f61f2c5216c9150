"""Reads members through a cache of decoded ones: hits are copied to their places, misses read with one native call.

Whoever reads a member that is not there claims it; others wait for him instead of reading it, too. A caller first
claims, reads and keeps all that he can, and only then waits for what others have claimed, so that no two ever wait for
each other. Errors are not kept: those who waited try for themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from archivestream._native.memberview import MemberLookup, MemberView
from archivestream._native.work import Consumer
from archivestream.cache import Claim, MembersOfArchive
from archivestream.fingerprint import identify
from archivestream.index import Index, MemberIds
from archivestream.limits import Limits
from archivestream.reader import MemberReader, PendingMembers, empty_bytes, placer
from archivestream.sources import Source

__all__ = ["CachedReader", "cache_key"]

_Bytes: TypeAlias = NDArray[np.uint8]
_Errors: TypeAlias = dict[int, Exception]
# (members, their places in the batch, where to say which are absent) -> how many are absent
_Look: TypeAlias = Callable[[MemberIds, MemberIds, MemberIds], int]
# (members, their places in the batch, the claim on them, where errors go)
_Load: TypeAlias = Callable[[MemberIds, MemberIds, Claim, _Errors | None], None]
_FAILED = -1  # where nothing is that could be kept


def cache_key(
    index: Index,
    sources: Sequence[Source],
    trusted: Sequence[str],
    *,
    verify: bool,
    strict: bool,
    limits: Limits,
) -> bytes:
    """Tell the members of an archive from those of all others, and of an earlier state of it.

    Names, sizes and CRC-32 do not: who makes an archive can have them be those of another. How it is read is a part of
    it: what one archive hands out unchecked, or within wide limits, is not for another. And so is whose word is
    `trusted` for where the members of each source lie: what a saved index says, which others may have written, is not
    for those who use none.
    """
    found = hashlib.blake2b(repr((verify, strict, limits, list(trusted))).encode(), digest_size=16)
    found.update(index.fingerprint().encode())
    for source in sources:
        found.update(identify(source) or os.urandom(16))
    return found.digest()


class CachedReader(MemberReader):
    """Reads members by their position in the index, through a cache.

    Parameters
    ----------
    cached : MembersOfArchive
        The members of this archive in a cache.
    arguments, options
        As for `MemberReader`.

    Safe for any number of threads, and in forked processes.
    """

    def __init__(self, cached: MembersOfArchive, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cached = cached

    @property
    def lookup(self) -> Callable[[int], bytes]:
        """What does what `read` does, and comes to it with fewer steps."""
        return MemberLookup(self.cached, self._load).read if isinstance(self.cached, MemberView) else self.read

    def read(self, member: int) -> bytes:
        """Return the bytes of one member: of one that is there, the object that is kept (in this process)."""
        data = self.cached.get(member)
        return self._load(member) if data is None else data

    def _load(self, member: int) -> bytes:
        data = None
        while data is None:
            claim = self.cached.claim_one(member, int(self.index["size"][member]))
            if claim is None:
                break  # it would not be kept
            with claim:
                if claim.own:
                    data = self._read_one(member)
                    claim.keep([data])
                    return data
            if not claim.wait():
                break
            data = self.cached.get(member)
        return self._read_one(member) if data is None else data

    def _read_one(self, member: int) -> bytes:
        if self._has_foreign:
            return super().read_many(np.array([member], np.int64))[0]
        return super().read(member)

    def read_many(self, members: MemberIds, errors: _Errors | None = None) -> list[bytes]:
        """Return the bytes of some members: as `MemberReader.read_many`."""
        result: list[Any] = [None] * len(members)
        read = super().read_many

        def look(chosen: MemberIds, places: MemberIds, absent: MemberIds) -> int:
            if len(places) == len(result):
                return self.cached.get_many(chosen, result, absent)
            found: list[Any] = [None] * len(places)
            missing = self.cached.get_many(chosen, found, absent)
            for place, data in zip(places.tolist(), found, strict=True):
                result[place] = data
            return missing

        def load(chosen: MemberIds, places: MemberIds, claim: Claim, bad: _Errors | None) -> None:
            loaded = read(chosen, bad)
            claim.keep(loaded)
            for place, data in zip(places.tolist(), loaded, strict=True):
                result[place] = data

        self._serve(members, look, load, errors)
        return result

    def feed(self, members: MemberIds, consumer: Consumer) -> None:
        """Hand members to native code: as `MemberReader.feed`."""
        data, offsets = self.read_batch(members, None)
        for position, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
            consumer.take(position, data.data[begin:end])

    def _read_to(self, members: MemberIds, data: _Bytes, starts: MemberIds, errors: _Errors | None) -> None:
        """Read each member to its place in the memory of a batch: as `MemberReader._read_to`."""
        read = super()._read_to

        def look(chosen: MemberIds, places: MemberIds, absent: MemberIds) -> int:
            return self.cached.copy(chosen, data, starts[places], absent)

        def load(chosen: MemberIds, places: MemberIds, claim: Claim, bad: _Errors | None) -> None:
            read(chosen, data, starts[places], bad)
            kept = starts[places]
            kept[list(bad or ())] = _FAILED
            claim.store_from(data, kept, self.index["size"][chosen])

        self._serve(members, look, load, errors)

    def read_slots(self, members: MemberIds, out: _Bytes, prefix: bytes, errors: _Errors | None = None) -> list[int]:
        """Read members of one size and beginning to equal slots of `out`: as `MemberReader.read_slots`."""
        slot = len(out) // max(1, len(members))
        if (self.index["size"][members] != len(prefix) + slot).any():
            raise ValueError("members of a batch of arrays have one size")
        odd: list[int] = []
        read = super().read_slots

        def look(chosen: MemberIds, places: MemberIds, absent: MemberIds) -> int:
            differ: list[int] = []
            missing = self.cached.copy(chosen, out, places * slot, absent, prefix=prefix, odd=differ)
            odd.extend(places[differ].tolist())
            return missing

        def load(chosen: MemberIds, places: MemberIds, claim: Claim, bad: _Errors | None) -> None:
            memory = out if len(places) == len(members) else empty_bytes(len(places) * slot)
            differ = read(chosen, memory, prefix, bad)
            if memory is not out:
                out.reshape(-1, slot)[places] = memory.reshape(-1, slot)
            odd.extend(places[differ].tolist())
            starts = np.arange(len(places)) * slot
            starts[[*differ, *(bad or ())]] = _FAILED
            claim.store_from(memory, starts, np.full(len(places), slot, np.uint64), prefix)

        self._serve(members, look, load, errors)
        return sorted(odd)

    def submit(self, members: MemberIds, out: _Bytes | None) -> PendingMembers:
        """Begin a `read_batch` in the background: what is there is copied at once, the rest kept when it is settled.

        It claims nothing: it may never be asked for its result.
        """
        data, offsets = self._room(members, out)
        absent = np.empty(len(members), np.int64)
        places = absent[: self.cached.copy(members, data, offsets[:-1], absent)]
        chosen, starts = members[places], offsets[places]
        sizes = self.index["size"][chosen]
        fetched, fetch = self._fetch(chosen)
        pending = self._native.submit(chosen, data, starts, fetched, fetch)

        def settle(failures: Sequence[tuple[int, int, int, int]]) -> None:
            self._finish(chosen, failures, fetched, placer(data, starts))
            with self.cached.claim(chosen, sizes) as claim:
                claim.store_from(data, starts[claim.own], sizes[claim.own])

        return PendingMembers(pending, data, offsets, settle)

    def _serve(self, members: MemberIds, look: _Look, load: _Load, errors: _Errors | None) -> None:
        """Serve a batch: look what is there, load what nobody else is loading, wait for the rest, and look again."""
        places = np.arange(len(members))
        wait = True
        while len(places):
            absent = np.empty(len(places), np.int64)
            places = places[absent[: look(members[places], places, absent)]]
            if not len(places):
                return
            chosen = members[places]
            with self.cached.claim(chosen, self.index["size"][chosen], wait=wait) as claim:
                mine = places[claim.own]
                if len(mine):
                    bad: _Errors | None = None if errors is None else {}
                    load(members[mine], mine, claim, bad)
                    for place, error in (bad or {}).items():
                        cast("_Errors", errors)[int(mine[place])] = error
            places = places[claim.others]
            wait = claim.wait()
