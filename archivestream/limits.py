"""Bounds on what an archive may ask for, checked before memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


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
        Largest directory of one archive, in bytes of the file.
    max_window_bytes : int
        Most memory that a decoder of LZMA or xz may take for its dictionary.
    allow_overlap : bool
        Read members whose data lie over one another. Archives made that way ("overlap bombs") expand without
        bound, so such members are refused.
    """

    max_member_bytes: int = 16 << 30
    max_members: int = 100_000_000
    max_index_bytes: int = 16 << 30
    max_window_bytes: int = 128 << 20
    allow_overlap: bool = False
