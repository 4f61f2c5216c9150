"""The archives that other projects test their readers with: what each one owes, and whether it is kept.

`judge` compares a row of the manifest with what is read. Where a row's verdict is not ours, `EXCEPTIONS` has ours and
says why; an exception that is not needed any more is a difference itself, so that the table stays short.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import tarfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import zstandard

import archivestream
from archivestream import ArchiveError, ArchiveWarning, Limits

from .exceptions import EXCEPTIONS

__all__ = ["CORPUS", "MODES", "ROWS", "Finding", "Mode", "judge", "source_of"]

Mode: TypeAlias = Literal["default", "strict"]
Row: TypeAlias = dict[str, Any]

MODES: tuple[Mode, ...] = ("default", "strict")
CORPUS = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.json"
ROWS: list[Row] = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else []

AT_ONCE = 64 << 20  # of larger members, only the beginning is read
BEGINNING = 1 << 20


@dataclass
class Reading:
    """What an archive gave: the error of opening it, or of each member its name and its bytes or error.

    None stands for the bytes of a member that is too large to be read at once.
    """

    error: ArchiveError | None = None
    members: list[tuple[str, bytes | ArchiveError | None]] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @property
    def bad(self) -> list[tuple[str, ArchiveError]]:
        return [(name, data) for name, data in self.members if isinstance(data, ArchiveError)]


@dataclass(frozen=True)
class Finding:
    """A row in a mode: what is not as the manifest says, and the reason that excuses it."""

    row: Row
    mode: Mode
    difference: str = ""
    reason: str = ""

    @property
    def is_pass(self) -> bool:
        return not self.difference

    @property
    def is_excused(self) -> bool:
        return bool(self.difference and self.reason)


def source_of(row: Row) -> str:
    """Return the folder of the corpus that a row is in: a project, or what was made for this one."""
    first, second, *_ = Path(row["file"]).parts
    return f"{first}/{second}" if first == "gen" else first


def judge(row: Row, mode: Mode) -> Finding:
    """Read the archive of a row in a mode, and compare."""
    reading = read(CORPUS / row["file"], strict=mode == "strict")
    difference = compare(row, reading, mode)
    changes, reason = exception_for(row, mode)
    if not reason:
        return Finding(row, mode, difference)
    if not difference:
        return Finding(row, mode, f"there is an exception that is not needed: {reason}")
    rest = compare({**row, **changes}, reading, mode)
    return Finding(row, mode, rest or difference, "" if rest else reason)


def exception_for(row: Row, mode: Mode) -> tuple[dict[str, Any], str]:
    """Return the fields that are others for us, and why."""
    for exception in EXCEPTIONS:
        if exception.mode in (mode, "both") and any(fnmatch.fnmatch(row["file"], one) for one in exception.files):
            return {**exception.changes(mode)}, exception.reason
    return {}, ""


def read(path: Path, *, strict: bool = False) -> Reading:
    """Read every member. Anything that is raised but an error that names archive and member is a fault of ours."""
    reading = Reading()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*seek table", ArchiveWarning)
            archive = archivestream.open(path, strict=strict, index="memory")
    except ArchiveError as error:
        assert str(path) in str(error), f"{error!r} does not name the archive"
        reading.error = error
        return reading
    with archive:
        reading.folders = {info.name for info in archive.infolist() if info.is_dir()}
        for i, name in enumerate(archive.names):
            try:
                if AT_ONCE < archive.info(i).size <= Limits().max_member_bytes:
                    with archive.open_member(i) as member:
                        assert len(member.read(BEGINNING)) == BEGINNING
                    reading.members.append((name, None))
                else:
                    reading.members.append((name, archive[i]))
            except ArchiveError as error:
                assert str(path) in str(error), f"{error!r} does not name the archive"
                assert repr(name) in str(error), f"{error!r} does not name the member {name!r}"
                reading.members.append((name, error))
    return reading


def compare(row: Row, reading: Reading, mode: Mode) -> str:
    """Say what is not as a row wants it; nothing where all is."""
    verdict = row["expect"] if mode == "default" else row["strict"]
    if reading.error is not None:
        if verdict == "ok":
            return f"opening raised {reading.error.reason!r}"
        if mode == "default" and verdict == "error" and row.get("error_at") == "member":
            return f"opening raised {reading.error.reason!r}, not reading a member"
        return ""
    if verdict == "error":
        if not reading.bad:
            return f"it was read: {len(reading.members)} members"
        if mode == "default" and row.get("error_at") == "open":
            return f"it was opened; then a member raised {reading.bad[0][1].reason!r}"
    elif verdict == "ok" and reading.bad and not any("error" in member for member in row["members"] or ()):
        name, error = reading.bad[0]
        return f"reading {name!r} raised {error.reason!r}"
    return next(differing_members(row, reading, verdict, mode), "")


def differing_members(row: Row, reading: Reading, verdict: str, mode: Mode) -> Iterator[str]:
    """Compare names and contents."""
    found, expected = reading.members, row["members"] or []
    if row["format"] == "zst" and [wanted["name"] for wanted in expected] == [""]:
        path = CORPUS / row["file"]
        if [name for name, _ in found] != [path.stem]:  # the row speaks of the tar as one member
            if [member for member in found if member[0] not in reading.folders] != files_of_tar(path):
                yield "its files are not those of tarfile"
            return
        expected = [{**expected[0], "name": path.stem}]
    if expected and len(found) != row.get("members_count", len(found)):
        yield f"it has {len(found)} members, not {row['members_count']}"
    if "members_digest" in row and digest(found) != row["members_digest"]:
        yield "names or contents have another digest"
    if verdict == "either":
        return
    for (name, data), wanted in zip(found, expected, strict=False):
        # Where bytes are no UTF-8, some rows give the name as Python writes bytes.
        if wanted.get("name", name) not in (name, repr(name.encode("cp437", "replace"))):
            yield f"a member is named {name!r}, not {wanted['name']!r}"
        if "error" in wanted and not isinstance(data, ArchiveError):
            yield f"{name!r} was read"
        if "crc32" not in wanted or data is None:  # links have none: their bytes are what they lead to
            continue
        if isinstance(data, ArchiveError):
            if mode == "default":  # the listing is that of this mode
                yield f"reading {name!r} raised {data.reason!r}"
        elif (len(data), f"{zlib.crc32(data):08x}", hashlib.sha256(data).hexdigest()) != (
            wanted["size"],
            wanted["crc32"],
            wanted["sha256"],
        ):
            yield f"{name!r} has other contents"


def files_of_tar(path: Path) -> list[tuple[str, bytes]]:
    """Read the files of a compressed tar as the standard library finds them."""
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        with tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
            return [(member.name, tar.extractfile(member).read()) for member in tar if member.isreg()]  # type: ignore[union-attr]


def digest(members: list[tuple[str, bytes | ArchiveError | None]]) -> str:
    """Hash names and contents as the manifest does where there are many."""
    lines = [
        f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}"
        for name, data in members[:4000]
        if isinstance(data, bytes)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
