"""The ZIP archives that other projects test their readers with, and the verdict owed on each."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

import archivestream
from archivestream import ArchiveError

CORPUS = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
MANIFEST = CORPUS / "manifest.json"

# Rows whose verdict is not ours: file, field, our verdict, and why.
EXCEPTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("libzip/testfile-xz.zip", "expect", "ok", "method 95 (xz) is read here, though not by zipfile"),
    ("libzip/testfile-xz.zip", "strict", "ok", "the same"),
    # What concerns one member is an error of that member, so that the others can be read.
    ("*/diff-092-sample.zip", "error_at", "member", "version > 6.3 is an error of the member"),
    ("*/test_unsupported_version.zip", "error_at", "member", "the same"),
    ("gen/zip-bad/version_99.zip", "error_at", "member", "the same"),
    # Rows that contradict other rows of the corpus; the stricter reading is kept.
    (
        "*/cd-entry-disknum-mismatch.zip",
        "expect",
        "error",
        "a member on another disk is an error, as in gen/zip-bad/multidisk_entry.zip",
    ),
    (
        "*/cd-zip64-extra-duplicate.zip",
        "expect",
        "error",
        "two ZIP64 fields are an error, as in gen/zip-bad/zip64_extra_dup.zip",
    ),
    (
        "cpython-inline/test_full_overlap_same_name.zip",
        "expect",
        "error",
        "entries that share a local header are an error, as in gen/zip-bad/overlap_full_samename_200.zip",
    ),
    ("cpython-inline/test_full_overlap_same_name.zip", "strict", "error", "the same"),
    ("libzip/filename_duplicate*.zip", "strict", "error", "as in gen/zip-ok/dup_names_last_wins.zip"),
    ("libzip/filename_empty.zip", "strict", "error", "as in gen/zip-names/14.zip"),
    ("libzip/incons-trailing-garbage.zip", "strict", "error", "as in gen/zip-bad/deflate_trailing_in_csize.zip"),
    ("libzip/incons-ef-local-dupe-zip64-v2.zip", "strict", "error", "as in lean-zip's lh-zip64-extra-duplicate.zip"),
    ("libzip/test-cp437.zip", "strict", "error", "control characters, as in gen/zip-names/19.zip"),
    ("libzip/test-cp437-comment-utf-8.zip", "strict", "error", "the same"),
    ("libzip/testfile-ef.zip", "strict", "error", "as in lean-zip's cd-entry-internal-attrs-reserved.zip"),
    ("libzip/zip*-in-archive-comment.zip", "strict", "error", "as in gen/zip-ok/zip_in_comment.zip"),
    ("*/zip64-eocd64-v2-record.zip", "strict", "ok", "extensible data, as in cpython-inline's ok_extensible_data.zip"),
    ("cpython-inline/zip64/ok_*size*.zip", "strict", "error", "end records disagree, as in lean-zip's eocd-zip64-*"),
    ("cpython-inline/zip64/ok_offset.zip", "strict", "error", "the same"),
    # Notes of the rows themselves: "trailing bytes after EOCD: lenient ok, strict error".
    ("libzip/junk-at-end.zip", "strict", "error", "bytes after the end, as its note says"),
    ("libzip/testextrabytes.zip", "strict", "error", "the same"),
    ("go-zip/readme.zip", "strict", "error", "the same"),
    ("go-zip/test-prefix.zip", "strict", "error", "the same"),
    ("go-zip/test-trailing-junk.zip", "strict", "error", "the same"),
    # Names that lead out of a folder, as in gen/zip-names and lean-zip's cd-path-unsafe.zip.
    ("cpython/zipdir_backslash.zip", "strict", "error", "an unsafe name"),
    ("lean-zip/zip/security/*.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestCVE202127919.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestCVE202141772.zip", "strict", "error", "an unsafe name"),
    ("go-inline/TestOpenReaderInsecurePath.zip", "strict", "error", "an unsafe name"),
)


def with_exceptions(row: dict[str, Any]) -> dict[str, Any]:
    for pattern, field, verdict, _ in EXCEPTIONS:
        if fnmatch.fnmatch(row["file"], pattern):
            row = {**row, field: verdict}
            if field == "expect":  # these verdicts hold for the archive, not for single members
                row = {**row, "error_at": None, "members": []}
    return row


ROWS: list[dict[str, Any]] = (
    [with_exceptions(row) for row in json.loads(MANIFEST.read_text()) if row["format"] == "zip"]
    if MANIFEST.is_file()
    else []
)

pytestmark = pytest.mark.skipif(not ROWS, reason=f"there is no corpus at {CORPUS}")


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["file"] for row in rows]


def read_all(path: Path, *, strict: bool = False) -> list[tuple[str, bytes | ArchiveError]]:
    """Every member, or the error that reading it gave."""
    result: list[tuple[str, bytes | ArchiveError]] = []
    with archivestream.open(path, strict=strict) as archive:
        for i, name in enumerate(archive.names):
            try:
                result.append((name, archive[i]))
            except ArchiveError as error:
                assert str(path) in str(error)
                assert repr(name) in str(error)
                result.append((name, error))
    return result


def digest(members: list[tuple[str, bytes | ArchiveError]]) -> str:
    lines = [
        f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}"
        for name, data in members[:4000]
        if isinstance(data, bytes)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
    assert not expected or len(members) == row.get("members_count", len(members))
    if "members_digest" in row:
        assert digest(members) == row["members_digest"]
    for (name, data), wanted in zip(members, expected, strict=False):
        if "name" not in wanted or row["expect"] == "either":
            continue
        # Where bytes are no UTF-8, some rows give the name as Python writes bytes.
        assert wanted["name"] in (name, repr(name.encode("cp437", "replace")))
        if "error" in wanted:
            assert isinstance(data, ArchiveError), f"{name} was read"
        else:
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
