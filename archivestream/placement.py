"""Where the members of an archive lie: for those who decide in which order to read them."""

from __future__ import annotations

from dataclasses import dataclass

from archivestream.index import Index, MemberIds

__all__ = ["Placement"]


@dataclass(frozen=True)
class Placement:
    """Where the members of an archive or a view lie.

    Attributes
    ----------
    archive : str
        Its name, for messages.
    index : Index
        Of the whole archive.
    rows : ndarray of int64, or None
        The row of each member in the index; None for all in order.
    cache : int
        Bytes of decoded blocks that are kept.
    """

    archive: str
    index: Index
    rows: MemberIds | None
    cache: int
