"""Names of members: from the encoding that the user gives, and what strict mode minds in them."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from archivestream._native.columns import MemberFlag
from archivestream.errors import CorruptArchiveError

__all__ = ["contains_ascii", "decode_names", "objection"]


def contains_ascii(encoding: str) -> bool:
    """Whether ASCII bytes mean the same in an encoding."""
    # With the sequences that switch to other characters in ISO-2022, HZ and UTF-7.
    text = bytes(range(128)) + b"\x1b$BF|\x1b(B ~{VPND~} +AGE-"
    try:
        return text.decode(encoding) == text.decode("ascii")
    except UnicodeError:
        return False


def decode_names(columns: dict[str, Any], encoding: str, archive: str) -> None:
    """Put the names that are in no declared encoding into UTF-8 anew, from the encoding that the user gives.

    Raises
    ------
    CorruptArchiveError
        If one is not in that encoding.
    """
    if "raw_member" not in columns:
        return
    flags = np.frombuffer(columns["flags"], np.uint16)
    offsets = np.frombuffer(columns["name_offset"], np.uint64)
    members = np.frombuffer(columns["raw_member"], np.uint32)
    raw_offsets = np.frombuffer(columns["raw_offset"], np.uint64).tolist()
    names, raw_names = bytes(columns["names"]), bytes(columns["raw_names"])
    lengths = np.diff(offsets.astype(np.int64))
    pieces: list[bytes] = []
    kept = 0
    for row, member in enumerate(members.tolist()):
        if int(flags[member]) & MemberFlag.UTF8_BIT:
            continue
        raw = raw_names[raw_offsets[row] : raw_offsets[row + 1]].split(b"\0")[0]
        try:
            name = raw.decode(encoding).encode()
        except UnicodeError as error:
            raise CorruptArchiveError(
                f"the name {raw!r} is not in metadata_encoding={encoding!r}: {error}", archive=archive
            ) from error
        pieces += [names[kept : int(offsets[member])], name]
        kept = int(offsets[member + 1])
        lengths[member] = len(name)
    pieces.append(names[kept:])
    columns["names"] = b"".join(pieces)
    columns["name_offset"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)


def objection(name: str) -> str | None:
    """Say what is wrong with a name as one of a file below a folder, or None."""
    parts = name.split("/")
    if any(unicodedata.category(c) in ("Cc", "Cf") for c in name):
        return "its name contains a control character"
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        return "its name is an absolute path, or one of another system"
    if ".." in parts or "" in parts[:-1] or "." in parts[1:]:
        return "its name is not a plain relative path"
    return None
