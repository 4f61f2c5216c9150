"""What an archive holds, in numbers: from the columns of the index, no member is read."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass

import numpy as np

from archivestream._native.columns import MemberFlag
from archivestream.fallback import decodable
from archivestream.members import METHODS, NATIVE_METHODS
from archivestream.selection import Names, Selection

__all__ = ["Summary", "summarise"]

# Plain numbers: where NumPy meets an enumeration, it looks for attributes that are not there, and loses the
# KeyboardInterrupt that may come meanwhile.
_ENCRYPTED = int(MemberFlag.ENCRYPTED_BIT)
_UNSUPPORTED = int(MemberFlag.PATCHED_BIT | MemberFlag.VERSION_BIT | MemberFlag.OTHER_DISK_BIT)


@dataclass(frozen=True)
class Summary:
    """What `Archive.summary` tells.

    Attributes
    ----------
    format : str
        The container: ``"zip"``, ``"tar"``, ``"tar.zst"`` and the like; of several kinds, all of them.
    archives, members, files, directories : int
        How many there are. In a tar, members may be neither file nor directory: symbolic links, devices.
    size, compressed_size : int
        Bytes of all members, decoded and in the archive.
    methods : dict of str to int
        Members of each compression method, by its name.
    encrypted, unsupported : int
        Members that cannot be read: those that need a password, and the others.
    index_bytes : int
        Memory of the index of the whole archive.
    saved_indexes : list of str
        Paths of the sidecars that it is saved in.
    largest : tuple of (str, int), or None
        Name and size of the largest member.
    extensions : dict of str to int
        Files of each extension (in lower case, with its dot), the most frequent first.
    """

    format: str
    archives: int
    members: int
    files: int
    directories: int
    size: int
    compressed_size: int
    methods: dict[str, int]
    encrypted: int
    unsupported: int
    index_bytes: int
    saved_indexes: list[str]
    largest: tuple[str, int] | None
    extensions: dict[str, int]


def summarise(selection: Selection, saved_indexes: list[str]) -> Summary:
    """Sum up some members: see `archivestream.Archive.summary`."""
    index, names = selection.index, Names(selection)
    rows = selection.rows(0, len(selection))
    size, codec, flags = index["size"][rows], index["codec"][rows], index["flags"][rows]
    encrypted = flags & _ENCRYPTED != 0
    handled = [int(one) for one in (*NATIVE_METHODS, *decodable())]
    unsupported = ~np.isin(codec, handled) | (flags & _UNSUPPORTED != 0)
    methods, counts = np.unique(codec, return_counts=True)
    kept = selection.files().tolist()
    extensions = Counter(
        posixpath.splitext(name)[1].lower() for name, is_file in zip(names, kept, strict=True) if is_file
    )
    files = extensions.total()
    largest = int(size.argmax()) if len(size) else None
    return Summary(
        format=", ".join(dict.fromkeys(index.formats)),
        archives=len(index.data_end),
        members=len(selection),
        files=files,
        directories=int(selection.directories().sum()),
        size=int(size.sum()),
        compressed_size=int(index["compressed_size"][rows].sum()),
        methods={
            METHODS.get(method, f"method {method}"): count
            for method, count in zip(methods.tolist(), counts.tolist(), strict=True)
        },
        encrypted=int(encrypted.sum()),
        unsupported=int((unsupported & ~encrypted).sum()),
        index_bytes=index.nbytes,
        saved_indexes=saved_indexes,
        largest=None if largest is None else (names[largest], int(size[largest])),
        extensions=dict(extensions.most_common()),
    )
