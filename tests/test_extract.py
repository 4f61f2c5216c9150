"""`Archive.extract`: nothing outside the target, through no link, over no file unless asked, no file by halves."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from zipmaker import DEFLATE, METHODS, STORED, ZSTD, Entry, make, unicode_path

import archivestream
from archivestream import (
    Archive,
    ArchiveError,
    CorruptArchiveError,
    EncryptedMemberError,
    UnsupportedFeatureError,
    sidecar,
)
from archivestream._native.columns import MemberFlag
from archivestream.sources import LocalSource

OpenAs = Callable[..., Archive]


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: the bytes of files, the targets of links, None for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def archive_of(*names: str, data: bytes = b"extracted") -> Archive:
    return archivestream.open(make(*(Entry(name.encode(), data, flags=0x0800) for name in names)))


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Path]:
    """A folder with a target in it, and things outside that must stay as they are."""
    folder = tmp_path / "around"
    (folder / "outside").mkdir(parents=True)
    (folder / "outside" / "file").write_bytes(b"precious")
    (folder / "target").mkdir()
    before = outside_of_target(folder)
    yield folder
    assert outside_of_target(folder) == before, "something outside the target was touched"


def outside_of_target(folder: Path) -> dict[str, bytes | str | None]:
    return {name: value for name, value in tree(folder).items() if not name.startswith("target")}


# ---- what is written -------------------------------------------------------------------------------------------


def test_extract(open_as: OpenAs, around: Path) -> None:
    contents = random.Random(0).randbytes(50_000)
    entries = [Entry(b"%d/%d.bin" % (i % 3, i), contents[: i * 1000], METHODS[i % 6]) for i in range(40)]
    entries += [Entry(b"empty/", b""), Entry(b"deep/er/", b""), Entry("ünï/名".encode(), b"x", flags=0x0800)]
    entries += [Entry(b"link", b"/etc/passwd", external=0o120777 << 16), Entry(b"0/empty", b"")]
    archive = open_as(make(*entries))
    calls: list[tuple[int, int]] = []
    written = archive.extract(path=around / "target" / "made" / "anew", progress=lambda *call: calls.append(call))
    target = around / "target" / "made" / "anew"
    assert written == [target / name.rstrip("/") for name in archive.names]
    for info in archive.infolist():
        path = target / info.name
        assert path.is_dir() if info.is_dir() else path.read_bytes() == archive[info.position]
        assert not path.is_symlink(), "a link in the archive becomes a file that holds its target"
    assert len([path for path in target.rglob("*") if path.is_file()]) == len(archive) - 2
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (sum(map(len, archive)),) * 2


def test_keys(around: Path) -> None:
    archive = archive_of("a", "b/c", "b/d", "e")
    target = around / "target"
    assert archive.extract(["b/d", 0, b"e"], target) == [target / "b" / "d", target / "a", target / "e"]
    assert set(tree(target)) == {"a", "b", "b/d", "e"}
    assert archive.select("b/*").extract(path=str(target / "view")) == [target / "view/b/c", target / "view/b/d"]
    assert archive.extract([], target / "nothing") == []
    with pytest.raises(KeyError):
        archive.extract(["a", "missing"], target / "not made")
    assert not (target / "not made").exists()


def test_default_is_the_working_folder(around: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(around / "target")
    assert archive_of("a").extract() == [Path("a")]
    assert tree(around / "target") == {"a": b"extracted"}


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_modes(around: Path) -> None:
    before = os.umask(0o027)
    try:
        bits = Entry(b"program", b"x", external=(stat.S_IFREG | 0o6777) << 16)
        archivestream.open(make(bits)).extract(path=around / "target")
        assert stat.S_IMODE((around / "target" / "program").stat().st_mode) & ~0o750 == 0, "no more than umask leaves"
    finally:
        os.umask(before)


# ---- hostile names ---------------------------------------------------------------------------------------------

LEADING_OUT = [
    "../outside/file",
    "../../x",
    "a/../../outside/file",
    "a/..",
    "..",
    ".",
    "/",
    "//",
    "/etc/x",
    "//server/share",
    "",
    "a//b",
    "a\\..\\..\\x",
    "..\\x",
    "\\x",
    "\\\\server\\share\\x",
    "C:x",
    "C:/x",
    "c:\\x",
]


@pytest.mark.parametrize("name", LEADING_OUT)
@pytest.mark.parametrize("overwrite", [False, True])
def test_name_that_leads_out(around: Path, name: str, overwrite: bool) -> None:
    """It is refused before anything is written, the good members in front of it among that."""
    archive = archive_of("good", name, "also good")
    for path in (around / "target", around / "target" / "new"):
        with pytest.raises(UnsupportedFeatureError, match="extract") as caught:
            archive.extract(path=path, overwrite=overwrite)
        assert caught.value.member == name
    assert tree(around / "target") == {}
    assert archive[1] == b"extracted", "it can be read all the same"


@pytest.mark.parametrize("name", ["./.", "././.", "./x", "x/.", "a/./b", "./", "././"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_names_with_dots(around: Path, name: str, overwrite: bool, linked: bool) -> None:
    """They stay inside, or are refused; the target itself, which may be a link of the user's, stays what it is."""
    target = around / "target"
    if linked:
        (around / "target link").symlink_to("target")
        target = around / "target link"
    try:
        archive_of(name).extract(path=target, overwrite=overwrite)
    except (ArchiveError, OSError):
        assert not any(path.is_file() for path in (around / "target").rglob("*"))
    assert target.is_symlink() == linked
    assert (around / "target").is_dir()
    if linked:
        (around / "target link").unlink()


def test_names_cut_at_a_nul(around: Path) -> None:
    archive = archivestream.open(make(Entry(b"../x\0", b"1"), Entry(b"x\0../y", b"2"), Entry(b"\0", b"3")))
    for i in range(3):
        with pytest.raises(UnsupportedFeatureError):
            archive.extract([i], around / "target")
    assert tree(around / "target") == {}


def test_a_nul_in_a_name_of_a_saved_index(around: Path, tmp_path: Path) -> None:
    """In a ZIP and a tar, names end there; a saved index has them as they are, and their bytes beside them."""
    path = tmp_path / "two.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("aa", "bbb"):
            tar.addfile(tarfile.TarInfo(name))
    source = LocalSource(path)
    archivestream.open(path).close()
    saved = sidecar.load_any(source)
    assert saved is not None
    columns = {name: column.copy() for name, column in saved.columns.items()}
    columns["names"][3] = 0
    columns["flags"][1] |= int(MemberFlag.RAW_NAME_BIT)
    columns |= {"raw_member": np.array([1], np.uint32), "raw_offset": np.array([0, 1], np.uint64)}
    columns["raw_names"] = np.frombuffer(b"b", np.uint8)
    sidecar.save(columns, saved.metadata, source)
    archive = archivestream.open(path, index="require")
    assert list(archive.names) == ["aa", "b\0b"]
    with pytest.raises(UnsupportedFeatureError, match="NUL"):
        archive.extract(path=around / "target")
    assert tree(around / "target") == {}


def test_name_in_a_unicode_path_field(around: Path) -> None:
    bad = Entry(b"good", b"x", extra=unicode_path(b"../outside/file", b"good"))
    with pytest.raises(UnsupportedFeatureError, match="outside"):
        archivestream.open(make(bad)).extract(path=around / "target", overwrite=True)
    fine = Entry(b"../outside/file", b"x", extra=unicode_path(b"fine", b"../outside/file"))
    archivestream.open(make(fine)).extract(path=around / "target", overwrite=True)
    assert tree(around / "target") == {"fine": b"x"}


def test_strange_names_stay_inside(around: Path) -> None:
    names = [
        "~",
        "~root/x",
        "$HOME",
        "-rf",
        "*",
        "a\nb",
        "\x1b[31m",
        "\u202egpj.exe",
        "...",
        "a.",
        " ",
        "con",
        "x" * 255,
    ]
    archive_of(*names).extract(path=around / "target")
    assert set(tree(around / "target")) == {*names, "~root"}


# ---- links in the target ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["link/file", "link/new/file", "link/", "a/link/file", "a/link/new/"])
def test_links_among_the_folders(around: Path, name: str, overwrite: bool) -> None:
    target = around / "target"
    (target / "a").mkdir()
    for place in (target / "link", target / "a" / "link"):
        place.symlink_to(around / "outside")
    with pytest.raises(OSError, match="symbolic link"):
        archive_of("good", name).extract(path=target, overwrite=overwrite)
    assert (target / "link").is_symlink()


@pytest.mark.parametrize("to", ["../outside/file", "../outside/new", "../outside", "missing", "link", "good"])
def test_link_in_place_of_the_file(around: Path, to: str) -> None:
    target = around / "target"
    (target / "good").write_bytes(b"as it was")
    (target / "link").symlink_to(to)
    with pytest.raises(FileExistsError):
        archive_of("link").extract(path=target)
    assert os.readlink(target / "link") == to
    archive_of("link").extract(path=target, overwrite=True)
    assert tree(target) == {"good": b"as it was", "link": b"extracted"}


def test_link_that_the_archive_brings(around: Path) -> None:
    """A member that is a link, and then one that goes through it."""
    entries = [Entry(b"link", str(around / "outside").encode(), external=0o120777 << 16), Entry(b"link/file", b"evil")]
    with pytest.raises((OSError, ArchiveError)):
        archivestream.open(make(*entries)).extract(path=around / "target", overwrite=True)
    assert not (around / "target" / "link").is_symlink()


def test_hard_link_in_place_of_the_file(around: Path) -> None:
    os.link(around / "outside" / "file", around / "target" / "file")
    archive_of("file").extract(path=around / "target", overwrite=True)
    assert (around / "target" / "file").read_bytes() == b"extracted"


# ---- what is there already -------------------------------------------------------------------------------------


def test_no_overwriting(around: Path) -> None:
    target = around / "target"
    (target / "b").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        archive_of("a", "b", "c").extract(path=target)
    assert (target / "b").read_bytes() == b"mine"
    assert not [name for name in tree(target) if name not in ("a", "b", "c")], "no temporary file is left"
    written = archive_of("a", "b", "c").extract(path=target, overwrite=True)
    assert tree(target) == {path.name: b"extracted" for path in written}
    archive_of("folder/").extract(path=target)
    archive_of("folder/", "folder/x").extract(path=target)
    assert (target / "folder" / "x").read_bytes() == b"extracted"


def test_duplicates(around: Path) -> None:
    """The last one wins, as in look-up by name."""
    entries = [Entry(b"x", b"first"), Entry(b"y", b"y"), Entry(b"x", b"last")]
    for overwrite in (False, True):
        archivestream.open(make(*entries)).extract(path=around / "target", overwrite=overwrite)
        assert tree(around / "target") == {"x": b"last", "y": b"y"}


@pytest.mark.parametrize("names", [["x", "x/y"], ["x/y", "x"]])
@pytest.mark.parametrize("overwrite", [False, True])
def test_file_and_folder_of_one_name(around: Path, names: list[str], overwrite: bool) -> None:
    with pytest.raises(OSError, match="x"):
        archive_of(*names).extract(path=around / "target", overwrite=overwrite)
    assert not [name for name in tree(around / "target") if name.endswith(".part")]


def test_a_file_is_not_lost_to_a_folder(around: Path) -> None:
    archive = archivestream.open(make(Entry(b"b", b"precious"), Entry(b"b/", b"")))
    with pytest.raises(NotADirectoryError):
        archive.extract(path=around / "target")
    assert (around / "target" / "b").read_bytes() == b"precious"


def test_folder_in_place_of_keys(around: Path) -> None:
    for wrong in (str(around / "target"), around / "target"):
        with pytest.raises(TypeError, match="path="):
            archive_of("a").extract(wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold names of UTF-8 alone")
@pytest.mark.parametrize(("suffix", "compress"), [(b".zst", zstandard.compress), (b".gz", gzip.compress)])
def test_a_compressed_file_whose_name_is_not_utf8(around: Path, suffix: bytes, compress: Callable[..., bytes]) -> None:
    raw = b"\xe9t\xe9 \xff"
    path = os.fsencode(around / "target") + b"/" + raw
    with open(path + suffix, "wb") as file:
        file.write(compress(b"contents"))
    archive = archivestream.open(os.fsdecode(path + suffix), index="memory")
    assert list(archive.names) == [os.fsdecode(raw)]
    assert archive[raw] == archive[os.fsdecode(raw)] == b"contents"
    assert archive.extract([raw], around / "target") == [Path(os.fsdecode(path))]
    with open(path, "rb") as file:
        assert file.read() == b"contents"


def test_names_that_the_file_system_cannot_have(around: Path) -> None:
    root = str(Path(archivestream.__file__).parents[1])
    (around / "target" / "x.zip").write_bytes(make(Entry(b"a"), Entry("é.txt".encode(), flags=0x0800)))
    program = "import archivestream; archivestream.open('x.zip').extract()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=around / "target",
        env={"PYTHONPATH": root, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )
    assert "UnsupportedFeatureError" in done.stderr
    assert os.listdir(around / "target") == ["x.zip"]


# A file that was just opened is closed by its last reference, and Python says so.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_interrupts_leave_nothing(around: Path) -> None:
    """Ctrl-C at any moment, many times over: no file by halves, no descriptor, and none of them is lost."""
    archive = archive_of(*(f"{i:03}" for i in range(300)))

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        raise KeyboardInterrupt

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    lost = 0
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for attempt in range(60):
            interrupts = 0
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.002 + attempt / 4000)
                archive.extract(path=around / "target", overwrite=True)
                signal.setitimer(signal.ITIMER_REAL, 0)
                lost += interrupts
            except KeyboardInterrupt:
                pass
            assert not [name for name in os.listdir(around / "target") if name.endswith(".part")]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert lost <= 2  # one may come in a callback of the collector, where Python drops it
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_target_that_is_a_file(around: Path) -> None:
    with pytest.raises(OSError, match="file"):
        archive_of("x").extract(path=around / "outside" / "file", overwrite=True)
    with pytest.raises(OSError, match="file"):
        archive_of("x").extract(path=around / "outside" / "file" / "below", overwrite=True)


# ---- members that are bad, disks that are full -----------------------------------------------------------------

BIG = bytes(1 << 20) * 33 + b"the end"  # above the size that is decoded at once


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_bad_member(open_as: OpenAs, around: Path, method: int, overwrite: bool) -> None:
    """The others are written, then its error is raised; under its name there is what was there before."""
    target = around / "target"
    entries = [Entry(b"%d" % i, b"contents %d" % i, method, crc=1 if i in (3, 5) else None) for i in range(8)]
    if overwrite:
        (target / "3").write_bytes(b"mine")
    with pytest.raises(CorruptArchiveError, match=r"'3'.*CRC"):
        open_as(make(*entries)).extract(path=target, overwrite=overwrite)
    expected = {str(i): b"contents %d" % i for i in range(8) if i not in (3, 5)}
    assert tree(target) == expected | ({"3": b"mine"} if overwrite else {})


def test_members_that_are_not_handled(around: Path) -> None:
    entries = [Entry(b"a", b"a"), Entry(b"b", b"b", flags=1), Entry(b"c", b"c", 9), Entry(b"d", b"d")]
    with pytest.raises(EncryptedMemberError):
        archivestream.open(make(*entries)).extract(path=around / "target")
    assert tree(around / "target") == {"a": b"a", "d": b"d"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [False, True])
def test_big_members(around: Path, method: int, bad: bool) -> None:
    """Written piece by piece; what fails at the very end leaves nothing."""
    entries = [Entry(b"small", b"x"), Entry(b"big", BIG, method, crc=1 if bad else None), Entry(b"last", b"y", DEFLATE)]
    calls: list[tuple[int, int]] = []
    archive = archivestream.open(make(*entries))
    expected: dict[str, bytes] = {"small": b"x", "last": b"y"}
    if bad:
        with pytest.raises(CorruptArchiveError, match=r"'big'.*CRC"):
            archive.extract(path=around / "target")
    else:
        archive.extract(path=around / "target", progress=lambda *call: calls.append(call))
        assert calls[-1] == (len(BIG) + 2,) * 2
        expected["big"] = BIG
    assert tree(around / "target") == expected


def test_big_member_with_damaged_data(around: Path) -> None:
    for method in METHODS[1:]:
        payload = bytearray(Entry(b"", BIG, method).payload or b"")
        payload[len(payload) // 2 :] = b"\xa5" * (len(payload) - len(payload) // 2)
        archive = archivestream.open(make(Entry(b"big", BIG, method, bytes(payload)), Entry(b"good", b"good")))
        with pytest.raises(CorruptArchiveError, match="'big'"):
            archive.extract(path=around / "target", overwrite=True)
        assert tree(around / "target") == {"good": b"good"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("size", [3 << 20, len(BIG)])
@pytest.mark.parametrize("method", [STORED, ZSTD])
def test_full_disk(small_disk: Path, size: int, method: int) -> None:
    archive = archivestream.open(make(Entry(b"small", b"x"), Entry(b"large", BIG[:size], method)))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        archive.extract(path=small_disk)
    assert caught.value.errno == errno.ENOSPC
    assert tree(small_disk) == {"small": b"x"}, "no half a file is left"


def test_folders_that_become_links_meanwhile(around: Path) -> None:
    """Somebody renames a folder in the target, and puts a link there, again and again: nothing is written outside."""
    archive = archive_of(*(f"d/{i:04d}" for i in range(2000)))
    swap = (
        "import os, sys\n"
        "target, outside = sys.argv[1:]\n"
        "os.makedirs(f'{target}/d', exist_ok=True)\n"
        "print(flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        os.rename(f'{target}/d', f'{target}/e')\n"
        "        os.symlink(outside, f'{target}/d')\n"
        "        os.unlink(f'{target}/d')\n"
        "        os.rename(f'{target}/e', f'{target}/d')\n"
        "    except OSError:\n"
        "        os.makedirs(f'{target}/d', exist_ok=True)\n"
    )
    command = [sys.executable, "-c", swap, str(around / "target"), str(around / "outside")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                archive.extract(path=around / "target", overwrite=True)
        other.kill()
