"""Extracting: nothing outside the folder, through no link, over nothing, and no half file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

import archivestream
from archivestream import CorruptArchiveError, UnsupportedFeatureError

BIG = os.urandom(1 << 20) * 33  # above what is written in one batch


def make(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as writer:
        for name, data in members.items():
            writer.writestr(name, data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_all_members(tmp_path: Path, method: int) -> None:
    members = {"a.txt": b"a", "d/": b"", "d/b.txt": b"b" * 9999, "e/f/g.bin": BIG, "./h": b"h", "empty/": b""}
    path = make(tmp_path / "a.zip", members, method)
    calls: list[tuple[int, int]] = []
    with archivestream.open(path) as archive:
        written = archive.extract(path=tmp_path / "out", progress=lambda *call: calls.append(call))
    assert tree(tmp_path / "out") == {
        os.path.normpath(name): data for name, data in members.items() if not name.endswith("/")
    }
    assert (tmp_path / "out" / "empty").is_dir()
    assert [path.name for path in written] == ["a.txt", "d", "b.txt", "g.bin", "h", "empty"]
    total = sum(map(len, members.values()))
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)


def test_some_members(tmp_path: Path) -> None:
    with archivestream.open(make(tmp_path / "a.zip", {"a": b"1", "b": b"2", "c": b"3"})) as archive:
        assert archive.extract(["c", 0], tmp_path / "out") == [tmp_path / "out" / "c", tmp_path / "out" / "a"]
    assert tree(tmp_path / "out") == {"a": b"1", "c": b"3"}


@pytest.mark.parametrize(
    "name",
    ["../x", "/abs", "a/../../x", "C:\\x", "C:/x", "..\\x", "\\x", "a//b", "", ".", "..", "/", "//", "a/..", "../"],
)
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("good", b"good")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        writer.writestr(info, b"" if name.endswith("/") else b"evil")
    with archivestream.open(path) as archive:
        with pytest.raises(UnsupportedFeatureError, match="refusing to extract"):
            archive.extract(path=tmp_path / "out")
        assert not (tmp_path / "out").exists()  # nothing was written
        assert archive.read(1) in (b"evil", b"")
        archive.extract(["good"], tmp_path / "out")
    assert tree(tmp_path) == {"in/a.zip": path.read_bytes(), "out/good": b"good"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "out"
    target.mkdir()
    (target / "link").symlink_to(outside)
    (target / "file").symlink_to(outside / "victim")
    with archivestream.open(make(tmp_path / "a.zip", {"link/x": b"evil"})) as archive:
        for overwrite in (False, True):
            with pytest.raises(OSError, match="symbolic link"):
                archive.extract(path=target, overwrite=overwrite)
    with archivestream.open(make(tmp_path / "b.zip", {"file": b"new"})) as archive:
        with pytest.raises(FileExistsError):
            archive.extract(path=target)
        archive.extract(path=target, overwrite=True)  # replaces the link itself
    assert not list(outside.iterdir())
    assert not (target / "file").is_symlink()
    assert (target / "file").read_bytes() == b"new"


def test_a_link_in_the_archive_becomes_a_file(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        writer.writestr(info, "/etc/passwd")
        writer.writestr("link2", "x")
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.info("link").is_symlink()
        archive.extract(path=tmp_path / "out")
    assert not (tmp_path / "out" / "link").is_symlink()
    assert (tmp_path / "out" / "link").read_bytes() == b"/etc/passwd"


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_bytes(b"old")
    with archivestream.open(make(tmp_path / "a.zip", {"a": b"new", "big": BIG})) as archive:
        with pytest.raises(FileExistsError, match="overwrite=True"):
            archive.extract(path=target)
        assert (target / "a").read_bytes() == b"old"
        archive.extract(path=target, overwrite=True)
    assert tree(target) == {"a": b"new", "big": BIG}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_equal_names_the_last_is_written(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        writer.writestr("a", b"first")
        writer.writestr("a", b"last")
    with archivestream.open(tmp_path / "a.zip") as archive:
        archive.extract(path=tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"last"}


@pytest.mark.parametrize("size", [10, len(BIG)])
def test_a_bad_member_spoils_no_other(tmp_path: Path, size: int) -> None:
    members = {"a": b"a" * 99, "bad": BIG[:size], "worse": BIG[:size], "z": b"z" * 99}
    path = make(tmp_path / "a.zip", members, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    with archivestream.open(path) as archive:
        for name in ("bad", "worse"):
            data[archive.info(name).offset + 30 + len(name) + size // 2] ^= 1
    path.write_bytes(data)
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match="'bad'") as caught:
        archive.extract(path=tmp_path / "out")
    assert ["'worse'" in str(error) for error in caught.value.others] == [True]
    assert tree(tmp_path / "out") == {"a": b"a" * 99, "z": b"z" * 99}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a file system")
def test_a_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "small"
    target.mkdir()
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {target} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    try:
        with archivestream.open(make(tmp_path / "a.zip", {"a": b"a", "b": os.urandom(3 << 20), "c": b"c"})) as archive:
            with pytest.raises(OSError, match="No space left"):
                archive.extract(path=target)
            assert "b" not in tree(target)
            assert not [name for name in tree(target) if name.endswith(".part")]
    finally:
        os.system(f"umount {target}")
