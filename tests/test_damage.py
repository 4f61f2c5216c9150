"""Damage of every kind of file that is read: a share of what ``python -m tests.damage`` tries, the same each time.

ARCHIVESTREAM_DAMAGE is the number of cases of each kind; 0 tries all.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import pytest
from damage.damages import choose, damages
from damage.kinds import KINDS
from damage.runner import Crash, try_kind

import archivestream

MOST = int(os.environ.get("ARCHIVESTREAM_DAMAGE", "500"))


@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind: str) -> None:
    report = try_kind(kind, MOST or None)
    assert report["failures"] == []
    assert sum(report["counts"].values()) == report["inputs"] == min(MOST or report["all"], report["all"])


# ---- what tries them sees what is wrong -------------------------------------------------------------------------

FAULTY = """
import os, time
from archivestream import CorruptArchiveError
from damage.subjects import Part, Subject

def kind(fault):
    def read(data):
        if data == b"whole":
            return [Part("a", data)]
        if data == b"who":
            fault()
        return CorruptArchiveError("damaged", archive="a")
    def read_as(data):
        found = read(data)
        return [Part("a", b"other")] if data == b"who" and fault is other else found
    return lambda folder: Subject(b"whole", read_as, limit=1 << 20)

def other():
    pass

def fail():
    raise IndexError("out of range")

KINDS = {
    "none": kind(lambda: None),
    "crash": kind(os.abort),
    "hang": kind(lambda: time.sleep(100)),
    "exception": kind(fail),
    "bytes": kind(other),
    "memory": kind(lambda: bytes(range(256)) * (1 << 17)),
    "too much memory": kind(lambda: bytes(1 << 40)),
}
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("none", None),
        ("crash", "ended with -6 at case 3"),
        ("hang", "did not go on for 5 s at case 3"),
        ("exception", "case 3, cut: .*IndexError: out of range"),
        ("bytes", "case 3, cut: .*contents changed"),
        ("memory", "bytes of memory were taken, more than 1048576"),
        ("too much memory", "case 3, cut: .*MemoryError"),
    ],
)
def test_faults_are_found(kind: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_kinds.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if kind in ("crash", "hang"):
        with pytest.raises(Crash, match=str(message)):
            try_kind(kind, kinds="faulty_kinds", patience=5)
        return
    report = try_kind(kind, kinds="faulty_kinds")
    if message is None:
        assert report["failures"] == []
        assert report["inputs"] == report["all"] == report["counts"]["refused"] > 100
    else:
        [failure] = report["failures"]
        assert re.search(message, failure)


# ---- beside zipfile ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip, deflate", "zip, bzip2", "zip, zip64", "zip, prefix and gap"])
def test_what_zipfile_reads_is_read_alike(kind: str, tmp_path: Path) -> None:
    subject = KINDS[kind](tmp_path)
    everything = damages(subject)
    compared = 0
    for number in choose(everything, 1000):
        data = everything[number].apply(subject)
        try:
            theirs = zipfile.ZipFile(io.BytesIO(data))
            expected = [theirs.read(info) for info in theirs.infolist()]
            ours = archivestream.open(data, threads=1)
            found = list(ours)
        except Exception:  # of zipfile, of any class; what is an error of ours is tried above
            continue
        assert found == expected, everything[number]
        compared += 1
    assert compared > 100
