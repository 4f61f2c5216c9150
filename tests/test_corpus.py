"""The archives that other projects test their readers with, and the verdict owed on each."""

from __future__ import annotations

import re

import pytest
from conformance import CORPUS, MODES, ROWS, Finding, Mode, judge, source_of
from conformance.exceptions import EXCEPTIONS

pytestmark = pytest.mark.skipif(not ROWS, reason=f"there is no corpus at {CORPUS}")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_row(row: dict[str, object], mode: Mode) -> None:
    finding = judge(row, mode)
    assert finding.is_pass or finding.is_excused, finding.difference


def test_every_file_of_the_corpus_has_a_row() -> None:
    files = {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*") if path.is_file()}
    assert files - {row["file"] for row in ROWS} <= {"README.md", "manifest.json"}
    assert len(ROWS) == len({row["file"] for row in ROWS}) == 985


def test_every_exception_has_a_reason_of_its_own() -> None:
    reasons = [exception.reason for exception in EXCEPTIONS]
    assert all(reasons)
    assert len(reasons) == len(set(reasons))
    files = [row["file"] for row in ROWS]
    for reason in reasons:
        for name in re.findall(r"[\w./-]+\.(?:zip|tar|zst)\b", reason):
            assert any(file.endswith(f"/{name}") or file == name for file in files), f"there is no {name}"


def test_what_the_judge_minds() -> None:
    """Other names, other bytes, an error that is not owed, and none that is."""
    good = next(row for row in ROWS if row["file"] == "gen/tfr-ok/three.tfrecord")
    bad = next(row for row in ROWS if row["file"] == "gen/tfr-bad/data_crc.tfrecord")
    assert judge(good, "default") == Finding(good, "default")
    members = good["members"]
    for change in (
        {"members": [{**members[0], "name": "zero"}]},
        {"members": [{**members[0], "sha256": "0" * 64}]},
        {"members": [{**members[0], "size": 6}]},
        {"members": [{"name": "0", "error": "damaged"}]},
        {"members": members, "members_count": 4},
        {"expect": "error"},
    ):
        assert judge({**good, **change}, "default").difference
    assert judge({**bad, "expect": "ok"}, "default").difference
    assert judge({**bad, "error_at": "open"}, "default").difference
    assert judge({**bad, "strict": "ok"}, "strict").difference
    assert source_of(good) == "gen/tfr-ok"
