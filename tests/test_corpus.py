"""The archives that other projects test their readers with, and the verdict owed on each."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard
from corpus_exceptions import EXCEPTIONS

import archivestream
from archivestream import ArchiveError, Limits

CORPUS = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.json"


def with_exceptions(row: dict[str, Any]) -> dict[str, Any]:
    for pattern, field, verdict, _ in EXCEPTIONS:
        if fnmatch.fnmatch(row["file"], pattern):
            row = {**row, field: verdict}
            if field == "expect":  # these verdicts hold for the archive, not for single members
                row = {**row, "error_at": None, "members": []}
    return row


MEMORY = 64 << 20  # larger members are not read at once

ROWS: list[dict[str, Any]] = (
    [with_exceptions(row) for row in json.loads(MANIFEST.read_text()) if row["format"] != "tfrecord"]
    if MANIFEST.is_file()
    else []
)

pytestmark = pytest.mark.skipif(not ROWS, reason=f"there is no corpus at {CORPUS}")


def names_of(members: list[tuple[str, bytes | ArchiveError]]) -> list[str]:
    return [name for name, _ in members]


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["file"] for row in rows]


def read_all(path: Path, *, strict: bool = False) -> list[tuple[str, bytes | ArchiveError]]:
    """Every member, or the error that reading it gave."""
    result: list[tuple[str, bytes | ArchiveError]] = []
    with archivestream.open(path, strict=strict, index="memory") as archive:
        for i, name in enumerate(archive.names):
            try:
                if MEMORY < archive.info(i).size <= Limits().max_member_bytes:
                    with archive.open_member(i) as member:
                        assert len(member.read(1 << 20)) == 1 << 20
                    continue
                result.append((name, archive[i]))
            except ArchiveError as error:
                assert str(path) in str(error)
                assert repr(name) in str(error)
                result.append((name, error))
    return result


def tar_within(path: Path) -> list[tuple[str, bytes | ArchiveError]]:
    """The files of a compressed tar, as the standard library finds them."""
    with path.open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        with tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
            return [(member.name, tar.extractfile(member).read()) for member in tar if member.isreg()]  # type: ignore[union-attr]


def digest(members: list[tuple[str, bytes | ArchiveError]]) -> str:
    lines = [
        f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}"
        for name, data in members[:4000]
        if isinstance(data, bytes)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.filterwarnings("ignore:.*seek table:archivestream.errors.ArchiveWarning")
@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_default(row: dict[str, Any]) -> None:
    path = CORPUS / row["file"]
    try:
        members = read_all(path)
    except ArchiveError as error:
        assert str(path) in str(error)
        assert row["expect"] in ("error", "either"), f"opening raised {error!r}"
        if row["expect"] == "error":
            assert row.get("error_at") in (None, "open"), f"opening raised {error!r}"
        return
    bad = [(name, error) for name, error in members if isinstance(error, ArchiveError)]
    if row["expect"] == "error":
        assert row.get("error_at") in (None, "member"), f"it opened, with {members}"
        assert bad, f"it was read: {members}"
    elif row["expect"] == "ok":
        assert not bad
    expected = row.get("members") or []
    if row["format"] == "zst" and [wanted["name"] for wanted in expected] == [""] and names_of(members) != [path.stem]:
        with archivestream.open(path, index="memory") as archive:  # the row speaks of the tar as one
            files = [(name, archive[name]) for name in archive.names if not archive.info(name).is_dir()]
        assert files == tar_within(path)
        return
    assert not expected or len(members) == row.get("members_count", len(members))
    if "members_digest" in row:
        assert digest(members) == row["members_digest"]
    for (name, data), wanted in zip(members, expected, strict=False):
        if "name" not in wanted or row["expect"] == "either":
            continue
        # Where bytes are no UTF-8, some rows give the name as Python writes bytes.
        if wanted["name"] or row["format"] != "zst":  # that of a single file is taken from the archive's
            assert wanted["name"] in (name, repr(name.encode("cp437", "replace")))
        if "error" in wanted:
            assert isinstance(data, ArchiveError), f"{name} was read"
        elif "crc32" in wanted:  # not so for links, whose bytes are what they lead to
            assert isinstance(data, bytes), f"{name}: {data}"
            assert len(data) == wanted["size"]
            assert f"{zlib.crc32(data):08x}" == wanted["crc32"]
            assert hashlib.sha256(data).hexdigest() == wanted["sha256"]


@pytest.mark.parametrize("row", ROWS, ids=names(ROWS))
def test_strict(row: dict[str, Any]) -> None:
    path = CORPUS / row["file"]
    try:
        bad = [data for _, data in read_all(path, strict=True) if isinstance(data, ArchiveError)]
    except ArchiveError as error:
        assert str(path) in str(error)
        bad = [error]
    if row["strict"] == "ok":
        assert not bad
    elif row["strict"] == "error":
        assert bad, "strict mode read it without an error"
