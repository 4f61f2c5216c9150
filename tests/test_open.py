"""Opening: what is no archive, what changes or fails meanwhile, patterns of paths, errors and progress."""

from __future__ import annotations

import array
import bz2
import copy
import gzip
import io
import lzma
import mmap
import os
import pickle
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zstandard
from zipmaker import DEFLATE, METHODS, Entry, Zip, make

import archivestream
from archivestream import (
    Archive,
    ArchiveChangedError,
    ArchiveError,
    CorruptArchiveError,
    CudaUnavailableError,
    EncryptedMemberError,
    LimitExceededError,
    Limits,
    MemberNotFoundError,
    SourceError,
    UnsupportedFeatureError,
)

Check = Callable[..., None]

CONTENTS = [b"first\n", b"second " * 9000, bytes(40_000)]
ENTRIES = [Entry(b"a", CONTENTS[0]), Entry(b"b", CONTENTS[1], DEFLATE), Entry(b"c", CONTENTS[2])]
ARCHIVE = make(*ENTRIES)
LARGE = np.random.default_rng(0).bytes(3_500_000)


def ways_to_read(archive: Archive) -> list[Callable[[int], object]]:
    return [
        archive.read,
        lambda i: archive.read_many([i]),
        lambda i: archive.read_batch([i]),
        lambda i: archive.submit([i]).result(),
        lambda i: archive.open_member(i).read(),
    ]


@pytest.fixture(autouse=True)
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are read piece by piece from a size on that would make these tests slow."""
    monkeypatch.setattr("archivestream.member_io._WHOLE", 1 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "archive.zip"
    file.write_bytes(ARCHIVE)
    return file


# ---- what cannot be opened -------------------------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    for missing in (tmp_path / "no.zip", str(tmp_path / "no" / "no.zip"), "", str(tmp_path / "no-*.zip")):
        with pytest.raises(FileNotFoundError):
            archivestream.open(missing)
    with pytest.raises(FileNotFoundError, match=r"no-2\.zip"):
        archivestream.open(str(tmp_path / "no-{2,1}.zip"))


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        archivestream.open(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs")
def test_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for special in (fifo, "/dev/null", "/dev/zero"):
        with pytest.raises(OSError, match=str(special)):
            archivestream.open(special)


@contextmanager
def without_privileges() -> Iterator[None]:
    """The superuser may read everything; another user may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no users like this")
def test_permission(path: Path) -> None:
    path.chmod(0)
    with without_privileges(), pytest.raises(PermissionError):
        archivestream.open(path)


def tar() -> bytes:
    """A tar that holds a ZIP: the end of that lies near the end of the file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("inner.zip")
        member.size = len(ARCHIVE)
        file.addfile(member, io.BytesIO(ARCHIVE))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "match"),
    [
        (b"", CorruptArchiveError, "empty"),
        (b"P", CorruptArchiveError, "text"),
        (bytes(5000), CorruptArchiveError, "zero bytes"),
        (b"a, b, c\n1, 2, 3\n", CorruptArchiveError, "text"),
        ("Ünïcödé\ntext, über mehrere Zeilen\n".encode(), CorruptArchiveError, "text"),
        ("é".encode() * 300, CorruptArchiveError, "text"),
        ("日本語の文章。\n".encode() * 300, CorruptArchiveError, "text"),
        (b"<!DOCTYPE html>\n<html><title>404</title></html>", CorruptArchiveError, "web page"),
        (b"<!doctype HTML>", CorruptArchiveError, "web page"),
        (b"<HTML>", CorruptArchiveError, "web page"),
        (b"\n\n  <!DOCTYPE html>\n", CorruptArchiveError, "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', CorruptArchiveError, "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", CorruptArchiveError, "LFS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), CorruptArchiveError, "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(99), CorruptArchiveError, "JPEG"),
        (b"%PDF-1.7\n", CorruptArchiveError, "PDF"),
        (pickle.dumps([1]), CorruptArchiveError, "pickle"),
        (b"\x93NUMPY\1\0" + bytes(99), CorruptArchiveError, "NumPy"),
        (b"\xa4" + b"\x81\xfe" * 300, CorruptArchiveError, "the bytes a4 81 fe"),
        (bz2.compress(ARCHIVE), UnsupportedFeatureError, "bzip2"),
        (lzma.compress(ARCHIVE), UnsupportedFeatureError, "xz"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), UnsupportedFeatureError, "7-Zip"),
        (b"Rar!\x1a\x07\1\0" + bytes(99), UnsupportedFeatureError, "RAR"),
        (tar()[:100] + b"?" + tar()[101:512] + bytes(9728), CorruptArchiveError, "tar"),
        (ARCHIVE[:-30], CorruptArchiveError, "truncated"),
        (ARCHIVE[:100], CorruptArchiveError, "truncated"),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_what_is_no_zip(tmp_path: Path, data: bytes, kind: type[ArchiveError], match: str) -> None:
    path = tmp_path / "looks-like.zip"
    path.write_bytes(data)
    before = open_descriptors()
    for source in (path, data, io.BytesIO(data), [ARCHIVE, path]):
        with pytest.raises(kind, match=match) as caught:
            archivestream.open(source)  # type: ignore[arg-type]
        assert type(caught.value) is kind
        assert caught.value.archive
        assert str(caught.value).startswith(caught.value.archive + ": ")
    assert str(path) in str(caught.value)
    del caught
    assert open_descriptors() <= before  # what others left behind may close meanwhile


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bytes])
def test_a_zip_within_is_a_member(compress: Callable[[bytes], bytes]) -> None:
    """What a file begins with says what it is, though it may end like a ZIP."""
    with archivestream.open(compress(tar())) as archive:
        assert [*archive] == [ARCHIVE]
        assert archive.namelist() == ["inner.zip"]
    if compress is not bytes:
        with archivestream.open(compress(ARCHIVE)) as archive:
            assert [*archive] == [ARCHIVE]


def test_zip_with_the_mark_of_a_tar() -> None:
    contents = bytes(257 - 31) + b"ustar\0" + b"00" + bytes(500)
    data = make(Entry(b"a", contents))
    assert data[257:262] == b"ustar"
    assert archivestream.open(data)["a"] == contents


def test_outer_zip_that_is_truncated() -> None:
    """Its stored member is a ZIP, too, which must not be taken for it."""
    outer = make(Entry(b"inner.zip", make(Entry(b"inner", b"inner"))), Entry(b"more", b"more"))
    for length in range(len(outer)):
        with pytest.raises(ArchiveError):
            archivestream.open(outer[:length])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_options_that_are_wrong(path: Path) -> None:
    with pytest.raises(ValueError, match="threads"):
        archivestream.open(path, threads=0)
    with pytest.raises(ValueError, match="empty"):
        archivestream.open([])
    for bad in (3, None, object(), {1}, [3]):
        with pytest.raises(TypeError):
            archivestream.open(bad)  # type: ignore[arg-type]


# ---- bytes and file objects ------------------------------------------------------------------------------------


def test_bytes_like(assert_reads: Check) -> None:
    members = [(entry.name.decode(), entry.data) for entry in ENTRIES]
    padded = Zip(ENTRIES, comment=bytes(-len(ARCHIVE) % 4)).build()
    wide = memoryview(array.array("I", padded))
    for source in (ARCHIVE, bytearray(ARCHIVE), memoryview(b"x" + ARCHIVE)[1:], wide):
        assert_reads(archivestream.open(source), members)
    with tempfile.TemporaryFile() as file:
        file.write(ARCHIVE)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert_reads(archivestream.open(mapped), members)  # type: ignore[arg-type]


class Stingy(io.BytesIO):
    """Gives few bytes at a time, as raw files may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(7 if size is None or size < 0 else size, 7))


def test_file_objects(path: Path, assert_reads: Check) -> None:
    members = [(entry.name.decode(), entry.data) for entry in ENTRIES]
    outer = make(Entry(b"inner.zip", ARCHIVE, DEFLATE))
    with (
        path.open("rb") as buffered,
        path.open("rb", buffering=0) as raw,
        path.open("r+b") as both,
        gzip.open(io.BytesIO(gzip.compress(ARCHIVE))) as zipped,
        zipfile.ZipFile(io.BytesIO(outer)) as outer_file,
        outer_file.open("inner.zip") as inner,
        archivestream.open(outer).open_member(0) as ours,
        tempfile.SpooledTemporaryFile() as spooled,
    ):
        spooled.write(ARCHIVE)
        for file in (buffered, raw, both, zipped, inner, ours, spooled, Stingy(ARCHIVE)):
            file.seek(3)
            with archivestream.open(file) as archive:  # type: ignore[arg-type]
                assert_reads(archive, members)
            assert not file.closed, "it belongs to whoever opened it"
        with archivestream.open(buffered) as archive:
            assert str(path) in repr(archive)
            with pytest.raises(TypeError, match="path"):
                pickle.dumps(archive)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_file_objects_that_will_not_do(path: Path) -> None:
    with path.open(encoding="latin-1") as text, pytest.raises(TypeError, match="text mode"):
        archivestream.open(text)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="text"):
        archivestream.open(io.StringIO("text"))  # type: ignore[arg-type]
    with tempfile.NamedTemporaryFile("w+") as wrapped:
        wrapped.write("text " * 9)
        wrapped.flush()
        with pytest.raises(TypeError, match="text"):
            archivestream.open(wrapped)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seekable"):
        archivestream.open(Unseekable(ARCHIVE))
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"), pytest.raises(TypeError, match="seekable"):
        archivestream.open(pipe)


class Failing(io.BytesIO):
    """Fails at its n-th read, and at all after it."""

    def __init__(self, data: bytes, reads: int, error: Exception) -> None:
        super().__init__(data)
        self.reads, self.error = reads, error

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("strict", [False, True])
def test_reads_that_fail(strict: bool) -> None:
    """At the n-th read, for every n: it is known which archive, and which member where there is one."""
    data = make(*ENTRIES, Entry(b"large", LARGE), Entry(b"larger", LARGE, DEFLATE), Entry(b"lzma", LARGE[:9999], 14))
    for reads in range(200):
        file = Failing(data, reads, OSError(5, "Input/output error"))
        try:
            archive = archivestream.open(file, strict=strict)
        except SourceError as error:
            assert error.archive == "<Failing>"
            assert "Input/output error" in str(error)
            continue
        if all(isinstance(error, SourceError) for error in archive.verify().errors):
            for i, name in enumerate(archive.names):
                for read in ways_to_read(archive):
                    try:
                        read(i)
                    except SourceError as error:
                        assert error.archive == "<Failing>"
                        assert error.member == name
                        assert archive.testzip() is not None
        if file.reads > 0:
            break
    else:
        raise AssertionError("it never came through")


def test_file_object_that_is_closed() -> None:
    file = io.BytesIO(ARCHIVE)
    archive = archivestream.open(file)
    file.close()
    for read in ways_to_read(archive):
        with pytest.raises(SourceError, match="closed"):
            read(0)


def test_file_object_that_shrinks() -> None:
    for length in (0, 10, 40, 100):
        file = io.BytesIO(ARCHIVE)
        archive = archivestream.open(file)
        file.truncate(length)
        for read in ways_to_read(archive):
            with pytest.raises((CorruptArchiveError, ArchiveChangedError)):
                read(2)
        assert archive.verify().errors


def descriptor_of(path: Path) -> int:
    """Find the descriptor by which this process has a file open."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.samefile(f"/proc/self/fd/{name}", path):
                return int(name)
        except OSError:
            continue
    raise AssertionError("it is not open")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_descriptor_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    entries = [*ENTRIES, *(Entry(b"%d" % method, LARGE, method) for method in (0, 8, 12, 93))]
    path.write_bytes(make(*entries))
    with archivestream.open(path) as archive:
        opened = [archive.open_member(i) for i in range(3, 7)]
        folder = os.open(tmp_path, os.O_RDONLY)
        os.dup2(folder, descriptor_of(path))  # a folder can be opened and not be read
        os.close(folder)
        for i, name in enumerate(archive.names):
            for read in ways_to_read(archive):
                with pytest.raises((SourceError, ArchiveChangedError)) as caught:
                    read(i)
                assert caught.value.member == name
        for member in opened:
            with pytest.raises((SourceError, ArchiveChangedError)):
                member.read()
        assert len(archive.verify().errors) == len(entries)


# ---- files that change while they are open ---------------------------------------------------------------------


def test_replaced_file(path: Path) -> None:
    """What is open is the old file, and it is still whole."""
    with archivestream.open(path) as archive:
        other = path.with_name("other.zip")
        other.write_bytes(make(Entry(b"a", b"another")))
        os.replace(other, path)
        assert archive.read_many([2, 1, 0]) == CONTENTS[::-1]
        assert archive.verify().ok
        path.unlink()
        assert list(archive) == CONTENTS
    with pytest.raises(FileNotFoundError):
        archivestream.open(path)


@pytest.mark.parametrize("length", [0, 1, 31, 35, 36, 100, 5000, len(ARCHIVE) - 1])
def test_truncated_file(path: Path, length: int) -> None:
    known, unknown = archivestream.open(path), archivestream.open(path)
    known.read_many([0, 1, 2])  # where the data begin is remembered
    os.truncate(path, length)
    for archive in (known, unknown):
        for read in ways_to_read(archive):
            for i, expected in enumerate(CONTENTS):
                try:
                    read(i)
                except ArchiveChangedError as error:
                    assert error.member == archive.names[i]
                    assert "open it again" in str(error)
                else:
                    assert archive[i] == expected
        assert archive.verify().ok == (length > 40_300)


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("data", [bytes(len(ARCHIVE)), make(Entry(b"a", b"FIRST\n"), *ENTRIES[1:]), ARCHIVE + b"x"])
def test_rewritten_file(path: Path, data: bytes, keep_time: bool) -> None:
    before = path.stat()
    archive = archivestream.open(path)
    with path.open("r+b") as file:
        file.write(data)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    for read in ways_to_read(archive):
        for i, expected in enumerate(CONTENTS):
            try:
                read(i)
            except (ArchiveChangedError, CorruptArchiveError) as error:
                assert error.member == archive.names[i]
                assert keep_time or isinstance(error, ArchiveChangedError)
            else:
                assert archive[i] == expected
    assert archive.verify().ok == data.startswith(ARCHIVE)


@pytest.mark.parametrize("method", METHODS)
def test_truncated_while_a_member_is_read(path: Path, method: int) -> None:
    entry = Entry(b"large", LARGE, method)
    path.write_bytes(make(entry))
    with archivestream.open(path) as archive, archive.open_member(0) as member:
        assert member.read(1000) == LARGE[:1000]
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises((ArchiveChangedError, CorruptArchiveError), match="'large'"):
            member.read()


@pytest.mark.timeout(60)
def test_truncated_while_threads_read(path: Path) -> None:
    errors: list[ArchiveError] = []
    started = threading.Event()

    def read(archive: Archive) -> None:
        for _ in range(300):
            try:
                assert archive.read_many([0, 1, 2] * 20) == CONTENTS * 20
            except (ArchiveChangedError, CorruptArchiveError) as error:
                errors.append(error)
                return
            finally:
                started.set()

    with archivestream.open(path) as archive:
        threads = [threading.Thread(target=read, args=[archive]) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait()
        os.truncate(path, 50)
        for thread in threads:
            thread.join()
    assert len(errors) == 4


@pytest.mark.parametrize(
    "data",
    [
        make(*ENTRIES[:2]),
        make(*ENTRIES, Entry(b"d", b"")),
        make(Entry(b"A", CONTENTS[0]), *ENTRIES[1:]),
        make(Entry(b"a", b"FIRST\n"), *ENTRIES[1:]),
        make(ENTRIES[1], ENTRIES[0], ENTRIES[2]),
        make(),
        b"no archive any more",
        b"",
    ],
    ids=["fewer", "more", "name", "contents", "order", "none", "text", "empty"],
)
def test_pickle_of_a_file_that_changed(path: Path, data: bytes) -> None:
    archive = archivestream.open(path)
    pickled = pickle.dumps(archive), pickle.dumps(archive.select([2, 0]))
    assert list(pickle.loads(pickled[0])) == CONTENTS
    assert list(pickle.loads(pickled[1])) == [CONTENTS[2], CONTENTS[0]]
    path.write_bytes(data)
    for one in pickled:
        with pytest.raises(ArchiveChangedError, match=str(path)):
            pickle.loads(one)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled[0])


def test_pickle_keeps_the_options(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = "é".encode("latin-1")
    path.write_bytes(make(Entry(raw, b"contents", crc=1), Entry(b"b", bytes(100))))
    monkeypatch.chdir(path.parent)
    options = {"metadata_encoding": "latin-1", "verify": False, "threads": 1, "limits": Limits(max_member_bytes=50)}
    pickled = pickle.dumps(archivestream.open("archive.zip", **options))  # type: ignore[arg-type]
    monkeypatch.chdir("/")
    loaded = pickle.loads(pickled)
    assert loaded.namelist() == ["é", "b"]
    assert loaded["é"] == b"contents"
    with pytest.raises(LimitExceededError):
        loaded["b"]
    in_memory = pickle.loads(pickle.dumps(archivestream.open(ARCHIVE)))
    assert list(in_memory) == CONTENTS


# ---- closing ---------------------------------------------------------------------------------------------------


def test_close(path: Path) -> None:
    path.write_bytes(make(*ENTRIES, Entry(b"large", LARGE)))
    before = open_descriptors()
    archive = archivestream.open(path)
    view, pending, member = archive[1:], archive.submit([0, 1, 2]), archive.open_member(3)
    member.read(10)
    archive.close()
    archive.close()
    assert "closed" in repr(archive)
    for one in (archive, view):
        with pytest.raises(ValueError, match="closed"):
            one[0]
        with pytest.raises(ValueError, match="closed"):
            one.read_many([0])
        with pytest.raises(ValueError, match="closed"):
            pickle.dumps(one)
    assert list(map(bytes, pending.result())) == CONTENTS
    assert member.read() == LARGE[10:], "what was open before stays so"
    member.close()
    del archive, view, pending, member, one
    assert open_descriptors() <= before  # what others left behind may close meanwhile


# ---- patterns --------------------------------------------------------------------------------------------------

FILES = [
    *(f"part-{i:03}.zip" for i in range(3)),
    *(f"n{i}.zip" for i in (1, 2, 9, 10, 11)),
    *("ax1.zip", "ax2.zip", "ay1.zip", "ay2.zip", "b1.zip", "b2.zip"),
    *("lit{1,2}.zip", "lit1.zip", "lit2.zip", "[x].zip", "x.zip", "q?.zip", "qq.zip", "single{a}.zip", "{1..}.zip"),
    *("deep/one.zip", "deep/er/two.zip", "deep/er/still/three.zip", "-1.zip", "-0.zip", "0.zip", "1.zip"),
]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("part-{000..002}.zip", FILES[:3]),
        ("part-{002..000}.zip", FILES[2::-1]),
        ("part-{000,002}.zip", [FILES[0], FILES[2]]),
        ("part-*.zip", FILES[:3]),
        ("part-00[02].zip", [FILES[0], FILES[2]]),
        ("part-00?.zip", FILES[:3]),
        ("n{9..11}.zip", ["n9.zip", "n10.zip", "n11.zip"]),
        ("n{1,{9..10},2}.zip", ["n1.zip", "n9.zip", "n10.zip", "n2.zip"]),
        # As the shell has it: what stands first changes last.
        ("{a{x,y},b}{1,2}.zip", FILES[8:14]),
        ("{{a,a}{x,y},b}1.zip", ["ax1.zip", "ay1.zip", "ax1.zip", "ay1.zip", "b1.zip"]),
        ("{b,a?}{1,2}.zip", ["b1.zip", "b2.zip", "ax1.zip", "ay1.zip", "ax2.zip", "ay2.zip"]),
        # A file of exactly that name comes first.
        ("lit{1,2}.zip", ["lit{1,2}.zip"]),
        ("[x].zip", ["[x].zip"]),
        ("q?.zip", ["q?.zip"]),
        ("{q?,[x],x}.zip", ["q?.zip", "[x].zip", "x.zip"]),
        # Braces that stand for nothing.
        ("single{a}.zip", ["single{a}.zip"]),
        ("{1..}.zip", ["{1..}.zip"]),
        ("deep/*.zip", ["deep/one.zip"]),
        ("deep/**/*.zip", ["deep/er/still/three.zip", "deep/er/two.zip", "deep/one.zip"]),
        ("deep/**/{two,one}.zip", ["deep/er/two.zip", "deep/one.zip"]),
        ("{-1..1}.zip", ["-1.zip", "0.zip", "1.zip"]),
        ("part-{000..001}.{zip,zip}", [FILES[0], FILES[0], FILES[1], FILES[1]]),
    ],
)
def test_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[str]) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(make(Entry(b"x", name.encode())))
    monkeypatch.chdir(tmp_path)
    for given, prefix in ((pattern, ""), (tmp_path / pattern, f"{tmp_path}/")):
        with archivestream.open(given) as archive:
            assert [data.decode() for data in archive] == found
            assert [info.archive for info in archive.infolist()] == [prefix + name for name in found]
    with archivestream.open([pattern, "x.zip"]) as archive:
        assert [data.decode() for data in archive] == [*found, "x.zip"]


def test_pattern_that_stands_for_too_much() -> None:
    with pytest.raises(ValueError, match=r"1000000"):
        archivestream.open("{1..9999999999}.zip")


# ---- errors ----------------------------------------------------------------------------------------------------

PROMISES: dict[type[ArchiveError], tuple[type[Exception], ...]] = {
    CorruptArchiveError: (ValueError, zipfile.BadZipFile),
    UnsupportedFeatureError: (NotImplementedError,),
    EncryptedMemberError: (UnsupportedFeatureError, RuntimeError),
    MemberNotFoundError: (KeyError,),
    LimitExceededError: (ValueError,),
    ArchiveChangedError: (OSError,),
    SourceError: (OSError,),
    CudaUnavailableError: (RuntimeError,),
}


@pytest.mark.parametrize("kind", PROMISES)
def test_errors(kind: type[ArchiveError]) -> None:
    for expected in (ArchiveError, *PROMISES[kind]):
        assert issubclass(kind, expected)
    for names, message in (
        ({}, "what is wrong"),
        ({"archive": "a.zip"}, "a.zip: what is wrong"),
        ({"archive": "a.zip", "member": "it's\n"}, 'a.zip: member "it\'s\\n": what is wrong'),
    ):
        error = kind("what is wrong", **names)
        assert str(error) == message
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(twin) is kind
            assert str(twin) == message
            assert (twin.archive, twin.member, twin.reason) == (error.archive, error.member, "what is wrong")


def test_errors_as_they_are_raised(path: Path) -> None:
    path.write_bytes(
        make(*ENTRIES, Entry(b"bad", b"x", crc=1), Entry(b"locked", b"x", flags=1), Entry(b"odd", b"x", 9))
    )
    with archivestream.open(path, limits=Limits(max_member_bytes=50_000)) as archive:
        for key, kind in {
            "missing": MemberNotFoundError,
            b"\xff": MemberNotFoundError,
            "b": LimitExceededError,
            "bad": CorruptArchiveError,
            "locked": EncryptedMemberError,
            "odd": UnsupportedFeatureError,
        }.items():
            for builtin in PROMISES[kind]:
                with pytest.raises(builtin) as caught:
                    archive[key]
                assert type(caught.value) is kind
                assert str(path) in str(caught.value)
                assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        with pytest.raises(IndexError):
            archive[6]


# ---- progress --------------------------------------------------------------------------------------------------


def assert_is_progress(calls: list[tuple[int, int]]) -> None:
    assert calls
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert all(0 <= call[0] <= call[1] for call in calls)
    assert calls[-1][0] == calls[-1][1]
    assert len({call[1] for call in calls}) == 1, "the total does not change"


def test_progress(path: Path) -> None:
    entries = [Entry(b"%d" % i, bytes(i), DEFLATE, comment=bytes(65_535)) for i in range(200)]
    path.write_bytes(make(*entries))
    calls: list[tuple[int, int]] = []
    archive = archivestream.open(path, progress=lambda *call: calls.append(call))
    assert_is_progress(calls)
    assert len(calls) > 2
    calls.clear()
    report = archive.verify(lambda *call: calls.append(call))
    assert_is_progress(calls)
    assert calls[-1][0] == report.bytes == sum(range(200))


def test_progress_over_several_archives(path: Path) -> None:
    calls: list[tuple[int, int]] = []
    archivestream.open([path, make(*ENTRIES[:2]), ARCHIVE, make()], progress=lambda *call: calls.append(call))
    assert_is_progress(calls)


def test_progress_of_verify_with_large_and_bad_members(path: Path) -> None:
    huge = [Entry(b"%d" % i, b"x", DEFLATE, size=2**62, zip64=["size"]) for i in range(3)]
    bad = Entry(b"bad", LARGE, DEFLATE, crc=1)
    archive = archivestream.open(make(*ENTRIES, *huge, bad, *ENTRIES))
    calls: list[tuple[int, int]] = []
    report = archive.verify(lambda *call: calls.append(call))
    assert_is_progress(calls)
    assert len(report.errors) == 4
    assert report.bytes == calls[-1][1] > 0


def test_progress_that_raises(path: Path) -> None:
    before = open_descriptors()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archivestream.open(path, progress=stop)
    with archivestream.open(path) as archive, pytest.raises(KeyboardInterrupt):
        archive.verify(stop)
    del archive
    assert open_descriptors() <= before  # what others left behind may close meanwhile


# ---- keys ------------------------------------------------------------------------------------------------------


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
                archive.read_many("ab" if wrong is None else [wrong])
        assert archive.read_many([]) == []
        assert len(archive.read_batch([])) == 0
        assert archive[b"b"] == archive["b"] == archive[-2] == CONTENTS[1]
        with pytest.raises(IndexError):
            archive.read_many([0, 5])
        with pytest.raises(ValueError, match="out has 4 bytes"):
            archive.read_batch([2], bytearray(4))
        with pytest.raises(ValueError, match="read-only"):
            archive.read_batch([2], bytes(5))
        with pytest.raises(ValueError, match="from 1 to 1024"):
            archivestream.open(path, threads=0)


def test_tensors_as_keys_and_as_memory(path: Path) -> None:
    torch = pytest.importorskip("torch")
    archive = archivestream.open(path)
    assert list(archive.select(torch.tensor([True, False, True]))) == [CONTENTS[0], CONTENTS[2]]
    assert archive.read_many(torch.tensor([2, 0])) == [CONTENTS[2], CONTENTS[0]]
    with pytest.raises(IndexError, match="mask"):
        archive.read_many(torch.tensor([True, False]))
    with pytest.raises(TypeError, match="row"):
        archive.read_many(torch.tensor([[0], [1]]))
    out = torch.zeros(len(CONTENTS[0]) + 5, dtype=torch.uint8)
    batch = archive.read_batch([0], out=out)
    assert bytes(batch[0]) == bytes(out[: len(CONTENTS[0])].numpy()) == CONTENTS[0]
    assert archive.read_many(np.array([b"c", b"a"])) == [CONTENTS[2], CONTENTS[0]]


@pytest.mark.parametrize("kind", ["c16", ">f4", "M8[s]", np.dtype([("One", "u1"), ("b", "f8", 3)])])
def test_memory_of_any_other_type(path: Path, kind: str) -> None:
    archive = archivestream.open(path)
    try:
        out = np.zeros((20, 5), kind)
        archive.read_batch([0], out)
    except ValueError:
        assert kind == "M8[s]"  # NumPy offers no buffer of it
        return
    assert out.tobytes().startswith(CONTENTS[0])


@pytest.mark.parametrize("kind", [object, np.dtype([("a", "u1"), ("b", object)])])
def test_memory_of_objects_is_no_memory(path: Path, kind: type) -> None:
    archive = archivestream.open(path)
    for read in (archive.read_batch, archive.submit):
        with pytest.raises(TypeError, match="objects"):
            read([0], np.zeros(9999, kind))


@pytest.mark.parametrize("name", ["none-such", "hex", "rot13", "undefined"])
def test_encodings_that_are_none(path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        archivestream.open(path, metadata_encoding=name)


def test_errors_keep_what_they_know(path: Path) -> None:
    file = Failing(ARCHIVE, 10**6, OSError(5, "Input/output error"))
    archive = archivestream.open(file)
    file.reads = 0
    with pytest.raises(SourceError) as caught:
        archive["a"]
    assert caught.value.errno == 5
    caught.value.others = [CorruptArchiveError("more", archive="x", member="y")]
    for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert (type(again), str(again), again.errno) == (SourceError, str(caught.value), 5)
        assert [str(other) for other in again.others] == ["x: member 'y': more"]


def test_opening_takes_few_reads_whatever_stands_in_front(path: Path) -> None:
    """Headers of members that are listed nowhere are not all followed."""
    local = Entry(b"", b"").local()
    file = Failing(local * 300_000 + ARCHIVE, 10**6, OSError(5, "Input/output error"))
    assert list(archivestream.open(file)) == CONTENTS
    assert file.reads > 10**6 - 70_000


def test_what_no_file_holds_harms_no_neighbour() -> None:
    """Neither a member of an impossible size nor one on another disk says where another ends."""
    for wrong in ({"size": 2**63, "zip64": ("size",)}, {"disk": 3, "offset": 70}):
        data = Zip([Entry(b"a", bytes(300)), Entry(b"b", **wrong), Entry(b"c")], prefix=bytes(50)).build()  # type: ignore[arg-type]
        archive = archivestream.open(data)
        assert archive["a"] == bytes(300)
        assert archive["c"] == Entry().data
        with pytest.raises(ArchiveError, match="'b'"):
            archive["b"]
