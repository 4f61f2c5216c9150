"""The same members in every kind of archive that programs write, read in every way there is."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from samples import as_frames, as_seekable, tar_of, text, zst_of
from typer.testing import CliRunner

import archivestream
from archivestream import Archive, CorruptArchiveError
from archivestream._native.zstdscan import make_seek_table
from archivestream.cli import app

Members = list[tuple[str, bytes]]

SIZES = [0, 1, 511, 512, 513, (1 << 16) - 1, 1 << 16, (1 << 16) + 1]
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0hello" + b"\x5f\x2a\x4d\x18\0\0\0\0"


def tool(*command: object, data: bytes | None = None) -> bytes:
    """Run a program, if it is installed."""
    name = str(command[0])
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return subprocess.run([name, *map(str, command[1:])], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all that makes a difference."""
    root = tmp_path_factory.mktemp("tree") / "files"
    chance = random.Random(4)
    (root / "small").mkdir(parents=True)
    (root / "empty folder").mkdir()
    for size in SIZES:
        (root / f"text-{size}").write_bytes(text(size, size))
        (root / f"noise-{size}").write_bytes(chance.randbytes(size))
    (root / "large.txt").write_bytes(text(3 << 20))
    (root / "large.bin").write_bytes(chance.randbytes(2 << 20))
    for i in range(300):
        (root / "small" / f"{i:03}").write_bytes(text(chance.randrange(3000), i))
    (root / "größe €𝄞").write_bytes(b"not ASCII")
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"not UTF-8")
    (root / "link").symlink_to("large.txt")
    os.link(root / "text-65537", root / "zz-hard-link")
    for i in range(5):
        np.save(root / f"array-{i}.npy", np.full((17, 31), i, np.float32))
    return root


@pytest.fixture(scope="module")
def long_names(tree: Path) -> Iterator[None]:
    """Names that v7 and ustar have no room for."""
    deep = tree / "/".join(["folder of a long name"] * 14)
    deep.mkdir(parents=True)
    (deep / ("n" * 200)).write_bytes(b"far down")
    (tree / "far link").symlink_to("far/" * 50)
    yield
    shutil.rmtree(tree / "folder of a long name")
    (tree / "far link").unlink()


def members_of(tar: bytes) -> Members:
    """As tarfile sees them: a symbolic link holds its target."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as archive:
        for info in archive:
            data = os.fsencode(info.linkname) if info.issym() else b""
            if not (info.issym() or info.isdir()):
                file = archive.extractfile(info)
                assert file is not None
                data = file.read()
            found.append((info.name, data))
    return found


@pytest.fixture(scope="module")
def tar(tree: Path, long_names: None) -> bytes:
    """What GNU tar makes of the folder."""
    return tool("tar", "-cf", "-", "--sort=name", "-C", tree.parent, "files")


@pytest.fixture(scope="module")
def members(tar: bytes) -> Members:
    found = members_of(tar)
    assert len(found) > 320
    return found


def check_all(archive: Archive, members: Members, assert_reads: Callable[..., None], folder: Path) -> None:
    """Whichever way the archive is asked."""
    assert_reads(archive, members)
    assert archive.verify().ok
    arrays = [f"files/array-{i}.npy" for i in range(5)]
    assert archive.read_arrays(arrays)[:, 3, 7].tolist() == [0, 1, 2, 3, 4]
    view = archive.select("files/small/*")
    assert view.read_many(range(len(view))) == [data for name, data in members if name.startswith("files/small/")]
    summary = archive.summary()
    assert (summary.members, summary.size) == (len(members), sum(len(data) for _, data in members))
    assert (summary.encrypted, summary.unsupported) == (0, 0)
    assert summary.directories == sum(info.is_dir() for info in archive.infolist())
    pending = [archive.submit(range(i, len(members), 7)) for i in range(7)]
    for i, batch in enumerate(pending):
        assert [bytes(data) for data in batch.result()] == [data for _, data in members[i::7]]
    archive.extract(None, folder)
    for name, data in members:
        path = folder / name
        if path.is_file():
            assert path.read_bytes() == data
        else:
            assert path.is_dir()
            assert archive.info(name).is_dir()


def check_some(archive: Archive, members: Members) -> None:
    """All at once, and some by themselves."""
    contents = [data for _, data in members]
    assert archive.read_many(range(len(members))[::-1]) == contents[::-1]
    assert archive.read_batch(range(len(members))).data.tobytes() == b"".join(contents)
    for i in random.Random(3).sample(range(len(members)), 40):
        assert archive[i] == contents[i]


# ---- tar --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_gnu_tar(tree, form, open_as, assert_reads, tmp_path, request):
    if form not in ("v7", "ustar"):
        request.getfixturevalue("long_names")
    names = sorted(path.name for path in tree.iterdir())
    if form in ("v7", "ustar"):
        names = [name for name in names if "f" not in name[:1]]
    data = tool("tar", "-cf", "-", f"--format={form}", "--sort=name", "-C", tree.parent, *(f"files/{n}" for n in names))
    check_all(open_as(data), members_of(data), assert_reads, tmp_path / "out")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tarfile(tree, form, open_as, assert_reads, tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as writer:
        for path in sorted(tree.iterdir()):
            if not path.name.startswith("f"):
                writer.add(path, f"files/{path.name}")
    data = file.getvalue()
    check_all(open_as(data), members_of(data), assert_reads, tmp_path / "out")


def test_a_tar_of_the_folder_itself(tree, tmp_path):
    """Whose names begin with "./", and the first of which is that."""
    path = tmp_path / "dot.tar"
    tool("tar", "-cf", path, "-C", tree, ".")
    with archivestream.open(path) as archive:
        assert archive.namelist() == [name for name, _ in members_of(path.read_bytes())]
        archive.extract(None, tmp_path / "out")
    assert (tmp_path / "out" / "large.txt").read_bytes() == (tree / "large.txt").read_bytes()
    assert not (tmp_path / "out" / "link").is_symlink()


# ---- compressed -------------------------------------------------------------------------------------------------


def zstd(*options: str) -> Callable[[bytes], bytes]:
    """What the program writes, of a file, whose size it knows."""

    def compress(data: bytes) -> bytes:
        path = Path(os.environ["ARCHIVE_FOLDER"]) / "a.tar"
        path.write_bytes(data)
        return tool("zstd", "-q", "-c", *options, path)

    return compress


def streamed(data: bytes) -> bytes:
    """In pieces of odd sizes, some of which end a block, one a frame."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    out = []
    for i, at in enumerate(range(0, len(data), 77_777)):
        out.append(compressor.compress(data[at : at + 77_777]))
        if i % 5 == 4:
            out.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    return b"".join([*out, compressor.flush()])


def table_with_checksums(data: bytes) -> bytes:
    """Those at the ends of the frames are the same."""
    pieces = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]
    frames = [zst_of(piece) for piece in pieces]
    sizes = [(len(frame), len(piece)) for frame, piece in zip(frames, pieces, strict=True)]
    return b"".join(frames) + make_seek_table(sizes, [int.from_bytes(frame[-4:], "little") for frame in frames])


def with_dictionary(data: bytes) -> bytes:
    """The dictionary in front, in a skippable frame."""
    samples = [data[at : at + 2000] for at in range(0, 1 << 20, 2000)]
    trained = zstandard.train_dictionary(20_000, samples)
    compressor = zstandard.ZstdCompressor(level=3, dict_data=trained, write_checksum=True)
    frames = [compressor.compress(data[at : at + 50_000]) for at in range(0, len(data), 50_000)]
    raw = trained.as_bytes()
    return b"\x50\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw + b"".join(frames)


ZSTD: dict[str, Callable[[bytes], bytes]] = {
    "default": zstd(),
    "threads": zstd("-T2"),
    "jobs": zstd("-T2", "-1", "--rsyncable"),
    "long": zstd("--long=27"),
    "19": zstd("-19"),
    "fast": zstd("--fast=5"),
    "no check": zstd("--no-check"),
    "huffman only": zstd("--fast=100"),
    "small blocks": zstd("-3", "--target-compressed-block-size=1500"),
    "piped": lambda data: tool("zstd", "-q", "-c", data=data),
    "pzstd": lambda data: tool("pzstd", "-q", "-c", "-p", "2", data=data),
    "concatenated": lambda data: b"".join(
        zst_of(piece) for piece in (data[:1000], b"", data[1000:300_001], data[300_001:])
    ),
    "stream": streamed,
    "frames": as_frames,
    "tiny frames": lambda data: as_frames(data, 3000),
    "seekable": as_seekable,
    "checksums in the table": table_with_checksums,
    "skippable": lambda data: SKIPPABLE + zst_of(data[:99_999]) + SKIPPABLE * 3 + zst_of(data[99_999:]) + SKIPPABLE,
    "raw blocks": lambda data: zst_of(data, level=-100),
    "dictionary": with_dictionary,
}


@pytest.mark.parametrize("how", ZSTD)
def test_zstd(tar, members, how, assert_reads, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHIVE_FOLDER", str(tmp_path))
    data = ZSTD[how](tar)
    path = tmp_path / "a.tar.zst"
    path.write_bytes(data)
    with archivestream.open(path) as archive:
        assert archive.summary().format == "tar.zst"
        check_all(archive, members, assert_reads, tmp_path / "out")
    for cache, threads in ((0, 1), (1000, 4), (300_000, 2)):
        with archivestream.open(path, cache=cache, threads=threads, index="require") as archive:
            check_some(archive, members)
    assert Path(f"{path}.asidx").stat().st_size < 0.08 * len(data) + 40_000


@pytest.mark.parametrize("how", ["default", "seekable", "skippable"])
def test_sources_of_zstd(tar, members, how, open_as, assert_reads, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHIVE_FOLDER", str(tmp_path))
    check_all(open_as(ZSTD[how](tar)), members, assert_reads, tmp_path / "out")


def test_tar_zstd(tree, tar, members, assert_reads, tmp_path):
    path = tmp_path / "a.tar.zst"
    tool("tar", "--zstd", "-cf", path, "--sort=name", "-C", tree.parent, "files")
    with archivestream.open(path) as archive:
        check_all(archive, members, assert_reads, tmp_path / "out")


def test_gzip(tree, tar, members, open_as, assert_reads, tmp_path):
    pytest.importorskip("rapidgzip")
    cuts = [0, 100, 300_000, 300_000, len(tar)]
    several = b"".join(tool("gzip", "-c", data=tar[a:b]) for a, b in itertools.pairwise(cuts))
    for i, data in enumerate((tool("gzip", "-c", data=tar), several)):
        archive = open_as(data)
        assert archive.summary().format == "tar.gz"
        check_all(archive, members, assert_reads, tmp_path / f"out-{i}")
    for cache, threads in ((0, 1), (1000, 4), (600_000, 2)):
        check_some(open_as(several, cache=cache, threads=threads), members)


@pytest.mark.parametrize("suffix", ["zst", "gz"])
def test_files_that_are_no_tar(tmp_path, suffix):
    """Are one member, named like the file."""
    if suffix == "gz":
        pytest.importorskip("rapidgzip")
    for size in (0, 1, 511, 5_000_000):
        data = text(size)
        path = tmp_path / f"numbers-{size}.txt.{suffix}"
        path.write_bytes(tool("zstd" if suffix == "zst" else "gzip", "-c", data=data))
        for _ in range(2):
            with archivestream.open(path) as archive:
                assert archive.namelist() == [f"numbers-{size}.txt"]
                assert archive.summary().format == suffix
                assert archive[0] == data
                assert archive.read_batch([0, 0]).data.tobytes() == data * 2
                assert archive.verify().ok
                archive.extract(None, tmp_path / f"{suffix}-{size}", overwrite=True)
        assert (tmp_path / f"{suffix}-{size}" / f"numbers-{size}.txt").read_bytes() == data


def test_an_empty_tar(tmp_path):
    pytest.importorskip("rapidgzip")
    packers = {"tar": bytes, "zst": zst_of, "gz": lambda data: tool("gzip", data=data)}
    packers |= {"tzst": packers["zst"], "tgz": packers["gz"]}
    for count in (1, 2, 20):
        for suffix, compress in packers.items():
            name = f"empty-{count}.{suffix}" if suffix[0] == "t" else f"empty-{count}.tar.{suffix}"
            path = tmp_path / name
            path.write_bytes(compress(bytes(512 * count)))
            for _ in range(2):
                with archivestream.open(path) as archive:
                    assert len(archive) == 0
                    assert archive.verify().ok
                    assert archive.read_many([]) == []


@pytest.mark.parametrize("suffix", ["tzst", "tgz"])
def test_short_suffixes(tmp_path, suffix):
    """Are those of a tar, also in the name of the one member where it is none."""
    if suffix == "tgz":
        pytest.importorskip("rapidgzip")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(tool("zstd" if suffix == "tzst" else "gzip", "-c", data=b"no tar"))
    with archivestream.open(path) as archive:
        assert archive.namelist() == ["a.tar"]


# ---- a large member ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> dict[str, bytes]:
    noise = random.Random(7).randbytes(8 << 20)
    return {"before": text(1_000_000), "large": (text(12 << 20, 3) + noise) * 2, "after": text(1000)}


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.zst, frames", "tar.gz"])
@pytest.mark.parametrize("cache", [0, 1 << 20, None])
def test_a_large_member_as_a_file(large, kind, cache, tmp_path):
    """Read anywhere, piece by piece."""
    plain = large["large"]
    data = tar_of(large)
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
        data = tool("gzip", "-1", data=data)
    elif kind != "tar":
        data = as_frames(data, 3 << 20) if "frames" in kind else zst_of(data)
    path = tmp_path / "a"
    path.write_bytes(data)
    chance = random.Random(2)
    with archivestream.open(path, cache=cache) as archive, archive.open_member("large") as member:
        for _ in range(40):
            at, size = chance.randrange(len(plain) + 5), chance.choice([1, 100, 70_000, 1 << 20])
            assert member.seek(at) == at
            assert member.read(size) == plain[at : at + size]
        assert member.seek(-10, io.SEEK_END) == len(plain) - 10
        assert member.read() == plain[-10:]
        member.seek(0)
        assert member.read() == plain
        assert archive["after"] == large["after"]
        assert archive["large"] == plain


# ---- damage after it was indexed --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar.zst", "tar.zst, frames", "tar.gz"])
@pytest.mark.parametrize("cache", [0, None])
def test_a_bad_block_spoils_its_members_only(kind, cache, tmp_path):
    members = {f"{i:03}": text(100_000, i) for i in range(160)}
    data = tar_of(members)
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
        data = tool("gzip", "-1", data=data)
    else:
        data = as_frames(data, 1_000_000) if "frames" in kind else zst_of(data)
    path = tmp_path / "a"
    path.write_bytes(data)
    with archivestream.open(path) as archive:
        assert archive.verify().ok
    status = path.stat()
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0x10
    path.write_bytes(damaged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with archivestream.open(path, index="require", cache=cache, threads=2) as archive:
        errors = archive.verify().errors
        assert all(type(error) is CorruptArchiveError and error.archive == str(path) for error in errors)
        bad = {error.member for error in errors}
        assert 0 < len(bad) < 60
        good = [name for name in members if name not in bad]
        assert archive.read_many(good) == [members[name] for name in good]
        raised = set()
        for name, plain in members.items():
            try:  # one by one: in front of the damage, a segment can be read
                assert archive[name] == plain
            except CorruptArchiveError as error:
                assert (error.archive, error.member) == (str(path), name)
                raised.add(name)
        assert raised
        assert raised <= bad
        with pytest.raises(CorruptArchiveError) as caught:
            archive.read_many(list(members))
        assert caught.value.member in bad
        with pytest.raises(CorruptArchiveError) as caught:
            archive.extract(None, tmp_path / "out")
        assert {caught.value.member, *(error.member for error in caught.value.others)} <= bad
        assert {path.name for path in (tmp_path / "out").iterdir()} >= set(good)


# ---- the command line -------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.gz", "zst", "gz"])
def test_the_command_line(kind, tmp_path):
    members = {"a/one": text(5000), "a/two": b"two\n"}
    suffix = kind.rpartition(".")[2]
    data = tar_of(members) if "tar" in kind else members["a/one"]
    path = tmp_path / f"one.{kind}"
    if suffix == "gz":
        pytest.importorskip("rapidgzip")
    path.write_bytes({"tar": bytes, "zst": zst_of, "gz": lambda data: tool("gzip", data=data)}[suffix](data))
    names = list(members) if "tar" in kind else ["one"]
    assert invoke("ls", path).split() == names
    assert [row["name"] for row in json.loads(invoke("ls", "--json", path))] == names
    assert kind in invoke("info", path)
    done = subprocess.run(
        [sys.executable, "-m", "archivestream", "cat", path, names[0]],
        env={**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])},
        capture_output=True,
        check=True,
    )
    assert done.stdout == members["a/one"]
    invoke("extract", path, "-C", tmp_path / "out")
    assert (tmp_path / "out" / names[0]).read_bytes() == members["a/one"]
    assert names[0] in invoke("ls", "--long", path)
    invoke("verify", path)
