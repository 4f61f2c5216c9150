"""A tar writer for tests, in which every field can be set, and so can be set wrong.

What is not given is right. The table of the fields is in `archivestream/_native/tarheader.pyx`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["BLOCK", "END", "GNU", "USTAR", "V7", "base256", "block", "header", "long_name", "member", "pax", "record"]

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)


def header(
    name: bytes = b"a",
    size: int | bytes = 0,
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    magic: bytes = USTAR,
    prefix: bytes = b"",
    mode: bytes = b"0000644\0",
    mtime: int | bytes = 0,
    user: bytes = b"",
    checksum: bytes | None = None,
    signed: bool = False,
    patches: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """One block; `patches` go over what is there: (offset, bytes)."""
    fields = bytearray(BLOCK)
    for offset, value in (
        (0, name),
        (100, mode),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, b"%011o\0" % size if isinstance(size, int) else size),
        (136, b"%011o\0" % mtime if isinstance(mtime, int) else mtime),
        (148, b" " * 8),
        (156, kind),
        (157, link),
        (257, magic),
        (265, user),
        (345, prefix),
        *patches,
    ):
        fields[offset : offset + len(value)] = value
    total = sum(byte - 256 * (signed and byte > 127) for byte in fields)
    fields[148:156] = b"%06o\0 " % total if checksum is None else checksum
    return bytes(fields)


def block(data: bytes) -> bytes:
    """A payload in whole blocks."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes = b"a", data: bytes = b"some text\n", **fields: object) -> bytes:
    """A header and its payload."""
    return header(name, **{"size": len(data), **fields}) + block(data)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """One record of a PAX header, whose length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def pax(*records: tuple[bytes, bytes] | bytes, kind: bytes = b"x") -> bytes:
    """An extension header of PAX: records as (key, value), or as their very bytes."""
    payload = b"".join(item if isinstance(item, bytes) else record(*item) for item in records)
    return member(b"PaxHeaders/x", payload, kind=kind)


def long_name(name: bytes, kind: bytes = b"L", end: bytes = b"\0") -> bytes:
    """An extension header of GNU: a long name (L), or a long name of a link (K)."""
    return member(b"././@LongLink", name + end, kind=kind, magic=GNU)


def base256(value: int, size: int = 12) -> bytes:
    """A number as GNU writes those that octal digits have no room for."""
    if value < 0:
        return value.to_bytes(size, "big", signed=True)
    return (value | 1 << (8 * size - 1)).to_bytes(size, "big")
