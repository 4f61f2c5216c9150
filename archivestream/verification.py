"""Verifying members: every byte decoded and checked, none kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from archivestream._native.codecs import Codec
from archivestream._native.columns import Layout, MemberFlag
from archivestream.errors import ArchiveError
from archivestream.index import MemberIds
from archivestream.member_io import open_member
from archivestream.reader import MemberReader, without_frames

__all__ = ["VerifyReport", "verify"]

_BATCH_BYTES = 64 << 20
_BATCH_MEMBERS = 8192


@dataclass
class VerifyReport:
    """What `Archive.verify` found.

    Attributes
    ----------
    members, bytes : int
        How many members were decoded, and how many bytes they hold.
    seconds : float
        How long it took.
    errors : list of Exception
        One for each bad member, in order; each names the archive and the member.
    """

    members: int = 0
    bytes: int = 0
    seconds: float = 0.0
    errors: list[Exception] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every member was good."""
        return not self.errors


def verify(reader: MemberReader, ids: MemberIds, progress: Callable[[int, int], object] | None) -> VerifyReport:
    """Verify some members, in batches of bounded memory: see `archivestream.Archive.verify`."""
    # Declared sizes can be anything: what may not be read counts for nothing.
    sizes = reader.index["size"][ids]
    sizes = np.where(sizes <= reader.limits.max_member_bytes, sizes, 0).astype(np.int64)
    sizes[reader.refused(ids)] = 0
    ends = np.cumsum(sizes)
    report = VerifyReport()
    started = time.perf_counter()
    begin = 0
    while begin < len(ids):
        limit = (int(ends[begin - 1]) if begin else 0) + _BATCH_BYTES
        end = max(begin + 1, int(np.searchsorted(ends, limit, side="right")))
        end = min(end, begin + _BATCH_MEMBERS)
        member = int(ids[begin])
        if sizes[begin] > _BATCH_BYTES and not _is_cut(reader, member):
            errors = _verify_large(reader, member)
        else:
            errors = reader.check(ids[begin:end])
        report.errors += [error for _, error in sorted(errors.items())]
        begin = end
        if progress is not None:
            progress(int(ends[end - 1]), int(ends[-1]))
    report.members, report.bytes = len(ids), int(ends[-1]) if len(ids) else 0
    report.seconds = time.perf_counter() - started
    return report


def _is_cut(reader: MemberReader, member: int) -> bool:
    """Whether a member is cut into blocks, or sparse: verifying it takes no more memory than pieces do."""
    cut = int(reader.index["flags"][member]) & (MemberFlag.SEGMENTED_BIT | MemberFlag.SPARSE_BIT)
    return bool(cut) or reader.layout(member) == Layout.BLOCKS


def _verify_large(reader: MemberReader, member: int) -> dict[int, Exception]:
    """Verify a member piece by piece, in bounded memory, if its codec goes by pieces."""
    if reader.index["codec"][member] == Codec.LZ4:
        return reader.check(np.array([member], np.int64))
    try:
        with open_member(reader, member, verify=True) as contents:
            while contents.read(1 << 20):
                pass
    except ArchiveError as error:
        return {0: without_frames(error)}
    return {}
