"""Bounds on what an archive may ask for, checked before memory is taken."""

from __future__ import annotations

import operator
from dataclasses import dataclass, fields

__all__ = ["Limits"]

_FREE_INDEX_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may ask of its reader.

    The defaults let every archive through that was not made to do harm; raise one where an error names it.

    Attributes
    ----------
    max_member_bytes : int
        Largest size of one member, decoded.
    max_members : int
        Most members of one archive.
    max_index_bytes : int
        Largest index of one archive: of a ZIP the directory, as it stands in the file, and of any other format what is
        made of its headers.
    max_index_ratio : int
        Most bytes of an index for each byte of the file, beyond 64 MiB that any file may take. Headers that are all
        the same compress a thousandfold and more, so that a few kilobytes could fill the memory. Those of real files
        differ: of a million empty ones, with names of 200 bytes, ``zstd -19 --long`` leaves 1.5 bytes each, of which
        the index is 132 times as large. What has contents is far from that.
    max_window_bytes : int
        Most memory that a decoder of LZMA or xz may take for its dictionary, and one of zstd for its window where it
        decodes piece by piece. No decoder needs more than the member has bytes, so that smaller members are read
        whatever they ask for.
    allow_overlap : bool
        Read members whose data lie over one another. Archives made that way ("overlap bombs") expand without
        bound, so such members are refused.
    """

    max_member_bytes: int = 16 << 30
    max_members: int = 100_000_000
    max_index_bytes: int = 16 << 30
    max_index_ratio: int = 256
    max_window_bytes: int = 128 << 20
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = operator.index(getattr(self, field.name))
            if not 0 <= value < 1 << 64:
                raise ValueError(f"Limits.{field.name} must be from 0 to 2**64 - 1, not {value}")

    def index_room(self, size: int) -> tuple[int, str]:
        """Return how many bytes the index of a file of `size` bytes may take, and which limit says so."""
        room = _FREE_INDEX_BYTES + self.max_index_ratio * size
        if room < self.max_index_bytes:
            return room, f"Limits.max_index_ratio = {self.max_index_ratio}"
        return self.max_index_bytes, f"Limits.max_index_bytes = {self.max_index_bytes}"
