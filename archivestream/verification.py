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
        if sizes[begin] <= _BATCH_BYTES:
            errors = reader.check(ids[begin:end])
        else:
            errors = _verify_large(reader, int(ids[begin]))
        report.errors += [error for _, error in sorted(errors.items())]
        begin = end
        if progress is not None:
            progress(int(ends[end - 1]), int(ends[-1]))
    report.members, report.bytes = len(ids), int(ends[-1]) if len(ids) else 0
    report.seconds = time.perf_counter() - started
    return report


def _verify_large(reader: MemberReader, member: int) -> dict[int, Exception]:
    """Verify a member in bounded memory: what it is cut into, on all threads, or piece by piece, on this one."""
    flags = int(reader.index["flags"][member])
    is_segmented = bool(flags & MemberFlag.SEGMENTED_BIT)
    in_blocks = reader.layout(member) == Layout.BLOCKS or bool(flags & MemberFlag.SPARSE_BIT)
    if is_segmented or in_blocks or reader.index["codec"][member] == Codec.LZ4:
        errors = reader.check(np.array([member], np.int64))
        if not errors or not is_segmented:
            return errors
        # It may be only how it is cut that is wrong, and the stream, which all others read, as it should be.
    try:
        with open_member(reader, member, verify=True) as contents:
            while contents.read(1 << 20):
                pass
    except ArchiveError as error:
        return {0: without_frames(error)}
    return {}
