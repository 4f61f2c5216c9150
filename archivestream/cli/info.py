"""``archivestream info``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any

import numpy as np
import typer

from archivestream import Archive
from archivestream._native.zipscan import MemberFlag
from archivestream.cli.opening import ArchivePaths, Encoding, Strict, open_archive
from archivestream.cli.text import byte_count, printable
from archivestream.fallback import FALLBACKS
from archivestream.members import METHODS

__all__ = ["info"]

_HANDLED_METHODS = [0, 8, 93, *FALLBACKS]
_UNSUPPORTED_BITS = MemberFlag.PATCHED_BIT | MemberFlag.VERSION_BIT | MemberFlag.OTHER_DISK_BIT
_MOST_EXTENSIONS = 10


def info(
    archives: ArchivePaths,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object.")] = False,
    strict: Strict = False,
    encoding: Encoding = None,
) -> None:
    """Summarise an archive, or several as one."""
    with open_archive(*archives, strict=strict, encoding=encoding) as archive:
        summary = _summarise(archive)
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for label, value in _describe(summary):
        print(f"{label:<17} {value}")


def _summarise(archive: Archive) -> dict[str, Any]:
    index = (
        archive._selection.index
    )  # its columns: one `Member` each, of millions, would take minutes
    size, codec, flags = index["size"], index["codec"], index["flags"]
    encrypted = flags & MemberFlag.ENCRYPTED_BIT != 0
    unsupported = ~np.isin(codec, _HANDLED_METHODS) | (flags & _UNSUPPORTED_BITS != 0)
    methods = zip(
        *(column.tolist() for column in np.unique(codec, return_counts=True)), strict=True
    )
    extensions = Counter(
        PurePosixPath(name).suffix.lower() for name in archive.names if not name.endswith("/")
    )
    files = extensions.total()
    largest = archive.info(int(size.argmax())) if len(archive) else None
    return {
        "format": "zip",
        "archives": len(index.data_end),
        "members": len(archive),
        "files": files,
        "directories": len(archive) - files,
        "size": int(size.sum()),
        "compressed_size": int(index["compressed_size"].sum()),
        "methods": {METHODS.get(method, f"method {method}"): count for method, count in methods},
        "encrypted": int(encrypted.sum()),
        "unsupported": int((unsupported & ~encrypted).sum()),
        "index_bytes": index.nbytes,
        "largest": largest and {"name": largest.name, "size": largest.size},
        "extensions": dict(extensions.most_common(_MOST_EXTENSIONS)),
    }


def _describe(summary: dict[str, Any]) -> list[tuple[str, str]]:
    size, compressed, largest = summary["size"], summary["compressed_size"], summary["largest"]
    return [
        ("format", summary["format"]),
        ("archives", f"{summary['archives']:,}"),
        ("members", f"{summary['members']:,}"),
        ("files", f"{summary['files']:,}"),
        ("directories", f"{summary['directories']:,}"),
        ("size", byte_count(size)),
        ("compressed size", byte_count(compressed)),
        ("ratio", f"{size / compressed:.2f}" if compressed else "-"),
        ("methods", _counts(summary["methods"])),
        ("encrypted", f"{summary['encrypted']:,}"),
        ("unsupported", f"{summary['unsupported']:,}"),
        ("index memory", byte_count(summary["index_bytes"])),
        (
            "largest member",
            f"{byte_count(largest['size'])}  {printable(largest['name'])}" if largest else "-",
        ),
        ("extensions", _counts(summary["extensions"])),
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{printable(key) or '(none)'} {n:,}" for key, n in counts.items()) or "-"
