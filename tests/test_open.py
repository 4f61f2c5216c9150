"""Opening: what is no archive, what changed, what may be opened, and how errors speak."""

from __future__ import annotations

import io
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import archivestream
from archivestream import ArchiveChangedError, ArchiveError, CorruptArchiveError, Limits, UnsupportedFeatureError
from archivestream.paths import expand

PARTS = [os.urandom(50_000), b"text " * 20_000, b"small"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        for i, (data, method) in enumerate(zip(PARTS, (0, 8, 8), strict=True)):
            writer.writestr(str(i), data, method)
    return tmp_path / "a.zip"


def test_what_is_not_there(tmp_path: Path) -> None:
    for missing in ("x.zip", "x-*.zip", "x{0..3}.zip", ["x.zip"]):
        with pytest.raises(FileNotFoundError, match="x"):
            archivestream.open(missing if isinstance(missing, list) else str(tmp_path / missing))
    with pytest.raises(IsADirectoryError):
        archivestream.open(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="fifo"):
        archivestream.open(tmp_path / "fifo")  # and it does not wait for a writer
    with pytest.raises(ValueError, match="empty list"):
        archivestream.open([])


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"", CorruptArchiveError, "empty"),
        (b"\x1f\x8b\x08" + bytes(99), UnsupportedFeatureError, "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), UnsupportedFeatureError, "zstd"),
        (bytes(257) + b"ustar\x0000" + bytes(999), UnsupportedFeatureError, "tar"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), CorruptArchiveError, "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(99), CorruptArchiveError, "JPEG"),
        (b"<!doctype html><html>404</html>", CorruptArchiveError, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", CorruptArchiveError, "Git LFS"),
        (b"just some text\n", CorruptArchiveError, "text: 'just some text"),
        (b"PK\3\4" + bytes(500), CorruptArchiveError, "truncated"),
        (bytes(5000), CorruptArchiveError, "zero bytes"),
        (b"\xde\xad\xbe\xef" * 9, CorruptArchiveError, "de ad be ef"),
    ],
)
def test_what_is_no_zip(tmp_path: Path, data: bytes, kind: type[ArchiveError], says: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    for opened in (tmp_path / "x.zip", data, io.BytesIO(data)):
        with pytest.raises(kind, match=says):
            archivestream.open(opened)


def test_file_objects(path: Path, tmp_path: Path) -> None:
    with path.open("rb") as file, archivestream.open(file) as archive:
        file.seek(7)
        assert list(archive) == PARTS
        assert file.tell() == 7  # its position is the caller's
    with pytest.raises(TypeError, match="text mode"), path.open(encoding="latin-1") as text:
        archivestream.open(text)  # type: ignore[call-overload]
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(TypeError, match="not seekable"), os.fdopen(reading, "rb") as pipe:
        archivestream.open(pipe)
    with pytest.raises(TypeError, match="neither"):
        archivestream.open(3)  # type: ignore[arg-type]
    with path.open("rb") as file, pytest.raises(TypeError, match="another process"):
        pickle.dumps(archivestream.open(file))
    with (
        zipfile.ZipFile(tmp_path / "outer.zip", "w") as writer,
        writer.open("inner.zip", "w") as inner,
    ):
        inner.write(path.read_bytes())
    outer = archivestream.open(tmp_path / "outer.zip")
    assert list(archivestream.open(outer.open_member("inner.zip"))) == PARTS


def rewrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


@pytest.mark.parametrize("size", [0, 10, 40_000, 50_200])
def test_truncated_while_open(path: Path, size: int) -> None:
    archive = archivestream.open(path, threads=2)
    assert archive[0] == PARTS[0]
    os.truncate(path, size)
    for read in (
        lambda: archive[1],
        lambda: archive[0] if size < 50_000 else archive[1],
        lambda: archive.read_many([1, 2]),
        lambda: archive.read_batch([2]),
        lambda: archive.submit([1]).result(),
    ):
        with pytest.raises((ArchiveChangedError, CorruptArchiveError), match=r"a\.zip: member"):
            read()


def test_rewritten_while_open(path: Path) -> None:
    archive = archivestream.open(path)
    rewrite(path, bytes(len(path.read_bytes())))
    with pytest.raises(ArchiveChangedError, match="written to; open it again"):
        archive[1]


def test_replaced_while_open(path: Path) -> None:
    archive = archivestream.open(path)
    before = path.read_bytes()
    other = path.with_suffix(".new")
    with zipfile.ZipFile(other, "w") as writer:
        writer.writestr("another", b"x")
    os.replace(other, path)
    assert list(archive) == PARTS  # what was opened is still whole
    pickled = pickle.dumps(archive)
    with pytest.raises(ArchiveChangedError, match="pickled"):
        pickle.loads(pickled)
    path.write_bytes(before)
    assert list(pickle.loads(pickled)) == PARTS
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def test_pickles(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = archivestream.open("a.zip", threads=3, limits=Limits(max_members=5))
    monkeypatch.chdir("/")
    for view, expected in ((archive, PARTS), (archive[1:], PARTS[1:]), (archive.select(["2"]), PARTS[2:])):
        again = pickle.loads(pickle.dumps(view))
        assert list(again) == expected
        assert again.namelist() == view.namelist()
    assert list(pickle.loads(pickle.dumps(archivestream.open(path.read_bytes())))) == PARTS


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(max_members=2), "max_members"),
        (Limits(max_index_bytes=50), "max_index_bytes"),
    ],
)
def test_limits_of_an_archive(path: Path, limits: Limits, says: str) -> None:
    with pytest.raises(archivestream.LimitExceededError, match=says):
        archivestream.open(path, limits=limits)


def test_limits_of_a_member(path: Path) -> None:
    with archivestream.open(path, limits=Limits(max_member_bytes=60_000)) as archive:
        assert archive[0] == PARTS[0]
        for read in (lambda: archive[1], lambda: archive.read_batch([0, 1]), lambda: archive.submit([1])):
            with pytest.raises(archivestream.LimitExceededError, match="'1'"):
                read()


HUGE = """
import resource, struct, sys, zlib
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import archivestream
packed = zlib.compress(bytes(99))[2:-4]
def member(method, size):
    local = struct.pack("<4s5H3L2H", b"PK\\3\\4", 45, 0, method, 0, 33, 0, len(packed), 0, 1, 0) + b"a" + packed
    extra = struct.pack("<HHQ", 1, 8, size)
    central = struct.pack("<4s6H3L5H2L", b"PK\\1\\2", 45, 45, 0, method, 0, 33, 0, len(packed), 0xFFFFFFFF, 1,
                          len(extra), 0, 0, 0, 0, 0) + b"a" + extra
    return local + central + struct.pack("<4s4H2LH", b"PK\\5\\6", 0, 0, 1, 1, len(central), len(local), 0)
for method in (0, 8, 12, 14, 93, 95):
    for size in (1 << 34, (1 << 34) + 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        archive = archivestream.open(member(method, size))
        for read in (archive.read, lambda i: archive.read_many([i]), lambda i: archive.read_batch([i] * 9),
                     lambda i: archive.submit([i]).result(), archive.open_member):
            try:
                read(0)
            except archivestream.ArchiveError as error:
                assert "'a'" in str(error)
            else:
                sys.exit(f"{method} {size} was read")
print("refused")
"""


def test_huge_sizes_take_no_memory() -> None:
    root = str(Path(archivestream.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", HUGE], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 << 20  # KiB


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a{b,c}d", ["abd", "acd"]),
        ("{0..3}", ["0", "1", "2", "3"]),
        ("{008..011}", ["008", "009", "010", "011"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{a,b{1..2}}-{x,y}", ["a-x", "a-y", "b1-x", "b1-y", "b2-x", "b2-y"]),
        ("{,x}", ["", "x"]),
        ("{single}", ["{single}"]),
        ("{unclosed,", ["{unclosed,"]),
        ("plain", ["plain"]),
    ],
)
def test_braces(pattern: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand(pattern) == expected


def test_globs(tmp_path: Path) -> None:
    for name in ("b.zip", "a.zip", "a[1].zip", "d/e/c.zip", "{x,y}.zip"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(pattern: str) -> list[str]:
        return [os.path.relpath(found, tmp_path) for found in expand(str(tmp_path / pattern))]

    assert names("*.zip") == ["a.zip", "a[1].zip", "b.zip", "{x,y}.zip"]
    assert names("**/c.zip") == ["d/e/c.zip"]
    assert names("a[1].zip") == ["a[1].zip"]  # a file of just that name comes first
    assert names("{x,y}.zip") == ["{x,y}.zip"]
    assert names("{b,d/e/*}.zip") == ["b.zip", "d/e/c.zip"]
    with pytest.raises(FileNotFoundError):
        expand(str(tmp_path / "z*.zip"))
    with pytest.raises(ValueError, match="more than"):
        expand("{0..99999999}")


ALSO = {
    "CorruptArchiveError": (ValueError, zipfile.BadZipFile),
    "UnsupportedFeatureError": (NotImplementedError,),
    "EncryptedMemberError": (UnsupportedFeatureError, RuntimeError),
    "MemberNotFoundError": (KeyError,),
    "LimitExceededError": (ValueError,),
    "ArchiveChangedError": (OSError,),
    "SourceError": (OSError,),
    "CudaUnavailableError": (RuntimeError,),
}


@pytest.mark.parametrize(("name", "bases"), ALSO.items())
def test_errors(name: str, bases: tuple[type[Exception], ...]) -> None:
    error = getattr(archivestream, name)("what is wrong", archive="a.zip", member="m\n")
    assert isinstance(error, (ArchiveError, *bases))
    assert all(isinstance(error, base) for base in bases)
    assert str(error) == "a.zip: member 'm\\n': what is wrong"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.archive, again.member, again.reason) == (
        *(type(error), str(error), "a.zip", "m\n", "what is wrong"),
    )


def test_progress(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as writer:
        for i in range(60_000):
            writer.writestr(zipfile.ZipInfo(f"{i:090}"), b"")
    calls: list[tuple[int, int]] = []
    with archivestream.open(tmp_path / "a.zip", progress=lambda *call: calls.append(call)) as archive:
        assert len(calls) > 1
        assert calls == sorted(calls)
        assert calls[-1][0] == calls[-1][1]
        calls.clear()
        archive.verify(progress=lambda *call: calls.append(call))
        assert calls[-1] == (0, 0)


def test_closed(path: Path) -> None:
    with archivestream.open(path) as archive:
        view = archive[:1]
        pending = archive.submit([0, 1])
    for read in (lambda: archive[0], lambda: view[0], lambda: archive.read_many([0]), archive.verify):
        with pytest.raises(ValueError, match="closed"):
            read()
    archive.close()
    assert [bytes(part) for part in pending.result()] == PARTS[:2]
    assert "closed" in repr(archive)
    assert archive.namelist() == ["0", "1", "2"]  # the index is still there


def test_keys(path: Path) -> None:
    with archivestream.open(path) as archive:
        for key in (3, -4, 10**30):
            with pytest.raises(IndexError):
                archive[key]
        with pytest.raises(archivestream.MemberNotFoundError, match="'x'"):
            archive["x"]
        for wrong in (None, 1.5, [0]):
            with pytest.raises(TypeError):
                archive[wrong]  # type: ignore[call-overload]
            with pytest.raises(TypeError):
                archive.read_many("01" if wrong is None else [wrong])
        assert archive.read_many([]) == []
        assert len(archive.read_batch([])) == 0
        assert archive[b"1"] == archive["1"] == archive[-2] == PARTS[1]
        with pytest.raises(IndexError):
            archive.read_many([0, 5])
        with pytest.raises(ValueError, match="out has 4 bytes"):
            archive.read_batch([2], bytearray(4))
        with pytest.raises(ValueError, match="read-only"):
            archive.read_batch([2], bytes(5))
        with pytest.raises(ValueError, match="from 1 to 1024"):
            archivestream.open(path, threads=0)
