"""Seekable ``.tar.zst`` files and tars that `archivestream.pack` writes, as other programs read them."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
import zipmaker
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packtools import content, make_tree, run, same_tree, text

import archivestream
from archivestream import ShardPacker, TarZstPacker, UnsupportedFeatureError, pack
from archivestream.packing import tarzst
from archivestream.packing.entries import Entry


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"))


class Frame(NamedTuple):
    offset: int
    compressed_size: int
    size: int
    checksum: int


def seek_table(data: bytes) -> list[Frame]:
    """Read the table as the specification says (zstd, contrib/seekable_format)."""
    count, descriptor, magic = struct.unpack("<LBL", data[-9:])
    assert (descriptor, magic) == (0x80, 0x8F92EAB1)
    start = len(data) - 9 - 12 * count - 8
    assert struct.unpack_from("<2L", data, start) == (0x184D2A5E, 12 * count + 9)
    frames, at = [], 0
    for compressed, size, checksum in struct.iter_unpack("<3L", data[start + 8 : -9]):
        frames.append(Frame(at, compressed, size, checksum))
        at += compressed
    assert at == start
    return frames


def members_of(data: bytes) -> dict[str, bytes]:
    """The members, as the standard library reads them from the decoded stream."""
    stream = io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read())
    with tarfile.open(fileobj=stream) as archive:
        return {
            info.name: archive.extractfile(info).read()
            for info in archive
            if info.isreg()  # type: ignore[union-attr]
        }


# ---- read back by other programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["tar.zst", "tzst", "tar"])
def test_tar(suffix: str, tree: Path, tmp_path: Path) -> None:
    (path,) = pack(tree, tmp_path / f"a.{suffix}")
    options = [] if suffix == "tar" else ["--zstd"]
    listed = run("tar", *options, "-tf", path).stdout.decode("unicode_escape").splitlines()
    assert len(listed) == sum(1 for _ in tree.rglob("*"))
    (tmp_path / "out").mkdir()
    run("tar", *options, "-xpf", path, "-C", tmp_path / "out")
    same_tree(tree, tmp_path / "out")


def test_zstd(tree: Path, tmp_path: Path) -> None:
    (path,) = pack(tree, tmp_path / "a.tar.zst")
    (plain,) = pack(tree, tmp_path / "a.tar")
    run("zstd", "-tq", path)
    assert run("zstd", "-dc", path).stdout == plain.read_bytes()
    with tarfile.open(plain) as archive:
        assert archive.getmember("readme.txt").mode == 0o640
        assert archive.getmember("link").linkname == "cat/1.jpg"
        assert archive.getmember("readme.txt").mtime == 1_700_000_001


# ---- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_size", [4096, 65_536, 262_144, 1 << 20])
def test_each_frame_is_whole_and_in_the_table(frame_size: int, tree: Path, tmp_path: Path) -> None:
    (path,) = pack(tree, tmp_path / "a.tar.zst", frame_size=frame_size)
    data = path.read_bytes()
    decoded = b""
    for frame in seek_table(data):
        compressed = data[frame.offset : frame.offset + frame.compressed_size]
        parameters = zstandard.get_frame_parameters(compressed)
        assert parameters.content_size == frame.size
        assert parameters.has_checksum
        assert parameters.dict_id == 0
        assert frame.size <= 1.5 * frame_size + 512
        piece = zstandard.ZstdDecompressor().decompress(compressed)
        assert int.from_bytes(compressed[-4:], "little") == frame.checksum
        assert len(piece) == frame.size
        decoded += piece
    (plain,) = pack(tree, tmp_path / "a.tar")
    assert decoded == plain.read_bytes()


def test_frames_are_cut_between_members(tmp_path: Path) -> None:
    rng = random.Random(7)
    members = {f"{i}": text(rng.randint(0, 20_000), i) for i in range(100)}
    (path,) = pack(members, tmp_path / "a.tar.zst", frame_size=65_536)
    data = path.read_bytes()
    frames = seek_table(data)
    starts, at = set(), 0
    for frame in frames:
        starts.add(at)
        at += frame.size
    with tarfile.open(
        fileobj=io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read())
    ) as archive:
        headers = {info.offset for info in archive}
        end = archive.offset
    assert starts <= headers | {end}
    assert all(40_000 < frame.size <= 65_536 for frame in frames[:-2])
    assert members_of(data) == members


def test_a_member_larger_than_a_frame_has_frames_of_its_own(tmp_path: Path) -> None:
    members = {"before": b"1", "a": text(300_000), "streamed": text(9 << 20, 1), "after": b"2"}
    (path,) = pack(members, tmp_path / "a.tar.zst", frame_size=65_536)
    data = path.read_bytes()
    sizes = [frame.size for frame in seek_table(data)]
    assert sizes[0] == 1024
    assert sizes[-2:] == [1024, 1024]
    own = sizes[1:-2]
    assert sum(own) == 512 + 300_032 + 512 + (9 << 20)
    assert all(50_000 < size < 90_000 for size in own)
    assert members_of(data) == members


def test_without_members(tmp_path: Path) -> None:
    (path,) = pack({}, tmp_path / "a.tar.zst")
    assert zstandard.ZstdDecompressor().decompress(path.read_bytes()) == bytes(1024)
    assert len(seek_table(path.read_bytes())) == 1
    run("tar", "--zstd", "-tf", path)


def test_a_trained_dictionary(tmp_path: Path) -> None:
    rng = random.Random(3)
    keys = [text(12, i) for i in range(40)]
    members = {f"{i}.json": b",".join(b'"%b": %d' % (key, rng.randint(0, 999)) for key in keys) for i in range(3000)}
    (without,) = pack(members, tmp_path / "a.tar.zst", frame_size=4096)
    for source in (members, iter(members.items())):
        (path,) = pack(source, tmp_path / "b.tar.zst", frame_size=4096, dictionary=True, overwrite=True)
        assert path.stat().st_size < 0.8 * without.stat().st_size
        data = path.read_bytes()
        magic, size = struct.unpack_from("<2L", data)
        dictionary = zstandard.ZstdCompressionDict(data[8 : 8 + size])
        assert magic == 0x184D2A50
        assert data[8:12] == b"\x37\xa4\x30\xec"
        first, *frames = seek_table(data)
        assert first == (0, 8 + size, 0, 0x51D8E999)
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary)
        decoded = b""
        for frame in frames:
            compressed = data[frame.offset : frame.offset + frame.compressed_size]
            assert zstandard.get_frame_parameters(compressed).dict_id == dictionary.dict_id()
            decoded += decoder.decompress(compressed)
        with tarfile.open(fileobj=io.BytesIO(decoded)) as archive:
            assert archive.getnames() == list(members)
        (tmp_path / "dictionary").write_bytes(dictionary.as_bytes())
        run("zstd", "-tq", "-D", tmp_path / "dictionary", path)
    with TarZstPacker(tmp_path / "c.tar.zst", dictionary=dictionary.as_bytes()) as packer:
        packer.add("a", members["0.json"])
    run("zstd", "-tq", "-D", tmp_path / "dictionary", tmp_path / "c.tar.zst")
    with pytest.raises(ValueError, match="no dictionary can be trained"):
        pack({"a": b"1"}, tmp_path / "d.tar.zst", dictionary=True)
    assert not (tmp_path / "d.tar.zst").exists()


# ---- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "a/b.txt", "n" * 99, "n" * 100, "d/" * 90 + "x", "é", "x" * 300, "folder/", "e\udce9"]
)
@pytest.mark.parametrize("size", [0, 1, 8**11 - 1, 8**11])
@pytest.mark.parametrize("seconds", [0, 1_700_000_000, -1, 8**11])
def test_headers_are_those_of_tarfile(name: str, size: int, seconds: int) -> None:
    mode = (stat.S_IFDIR if name.endswith("/") else stat.S_IFREG) | 0o4751
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = 0o4751, seconds
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.size = size
    expected = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    assert tarzst._header(Entry(name, size, mode, b"", seconds), info.type, size=size) == expected


def test_times_of_a_zip(tmp_path: Path) -> None:
    with archivestream.ZipPacker(tmp_path / "a.zip") as packer:
        packer.add("a", b"1", mtime=1_700_000_002)
        packer.add("b", b"2")
    (path,) = archivestream.repack(tmp_path / "a.zip", tmp_path / "a.tar")
    with tarfile.open(path) as archive:
        assert [info.mtime for info in archive] == [1_700_000_002, 0]


def test_links_of_a_zip(tree: Path, tmp_path: Path) -> None:
    (first,) = pack([tree / "link", tree / "cat", tree / "hollow"], tmp_path / "a.zip")
    (path,) = archivestream.repack(first, tmp_path / "a.tar.zst")
    (tmp_path / "out").mkdir()
    run("tar", "--zstd", "-xpf", path, "-C", tmp_path / "out")
    assert os.readlink(tmp_path / "out/link") == "cat/1.jpg"
    assert (tmp_path / "out/link").read_bytes() == (tree / "cat/1.jpg").read_bytes()
    assert (tmp_path / "out/hollow").is_dir()


# A header and a block: what is written behind a header that says 0 bytes is read as members.
_SMUGGLED = tarfile.TarInfo("smuggled").tobuf()


def zip_of(mode: int, data: bytes) -> bytes:
    """A ZIP whose first member says that it is of some type."""
    odd = zipmaker.Entry(b"x", data, zipmaker.DEFLATE, external=mode << 16)
    return zipmaker.make(odd, zipmaker.Entry(b"y", b"after"))


@pytest.mark.parametrize("suffix", ["tar", "tar.zst"])
@pytest.mark.parametrize(
    ("mode", "data"),
    [
        (stat.S_IFDIR | 0o755, _SMUGGLED),
        (stat.S_IFDIR | 0o755, b"no header"),
        (stat.S_IFDIR | 0o755, _SMUGGLED.ljust((8 << 20) + 512, b"\0")),
        (stat.S_IFLNK | 0o777, _SMUGGLED.ljust((8 << 20) + 512, b"\0")),
        (stat.S_IFLNK | 0o777, b"t" * (2 << 20)),
        (stat.S_IFLNK | 0o777, b"t" * 4096),
        (stat.S_IFLNK | 0o777, b"a\0b"),
        (stat.S_IFLNK | 0o777, b"a\0"),
        (stat.S_IFLNK | 0o777, b""),
        (stat.S_IFIFO | 0o644, _SMUGGLED),
        (0o170000, _SMUGGLED),
    ],
)
def test_what_cannot_be_of_its_type_becomes_a_file(mode: int, data: bytes, suffix: str, tmp_path: Path) -> None:
    with archivestream.open(zip_of(mode, data)) as source:
        (path,) = archivestream.repack(source, tmp_path / f"a.{suffix}")
    with archivestream.open(path, index="memory", strict=True) as archive:
        assert list(zip(archive.names, archive, strict=True)) == [("x", data), ("y", b"after")]
        assert stat.S_IFMT(archive.info("x").mode) == stat.S_IFREG
    run("tar", "--zstd" if suffix == "tar.zst" else "--sparse", "-tf", path)


@pytest.mark.parametrize("data", [b"t", b"t" * 4095, "ü/\n=".encode(), b"\xff", b"../../etc/passwd"])
def test_targets_of_links(data: bytes, tmp_path: Path) -> None:
    with archivestream.open(zip_of(stat.S_IFLNK | 0o777, data)) as source:
        (path,) = archivestream.repack(source, tmp_path / "a.tar")
    with archivestream.open(path, index="memory") as archive:
        assert (archive.info("x").is_symlink(), archive["x"], archive["y"]) == (True, data, b"after")


@pytest.mark.parametrize("target", ["a.tar", "a.tar.zst", "a.zip"])
def test_types_that_do_not_fit(target: str, tmp_path: Path) -> None:
    with ShardPacker(tmp_path / f"{{}}{target}", shards=1) as packer:
        for name, data, mode in (
            ("x", _SMUGGLED, stat.S_IFDIR | 0o755),
            ("x", b"", stat.S_IFLNK | 0o777),
            ("x", b"t" * 4096, stat.S_IFLNK | 0o777),
            ("x", b"pipe", stat.S_IFIFO | 0o644),
            ("x/", b"", stat.S_IFREG | 0o644),
            ("x/", _SMUGGLED, None),
        ):
            with pytest.raises(ValueError, match=r"member .x/?.:"):
                packer.add(name, data, mode=mode)
        with pytest.raises(ValueError, match="is that of a folder, and it is none"):
            packer.add_file("x/", __file__)
        packer.add("x", b"", mode=stat.S_IFDIR | 0o755)
        packer.add("y", b"after")
    with archivestream.open(packer.paths[0], index="memory") as archive:
        assert (archive[0], archive["y"]) == (b"", b"after")
    folder = zipmaker.make(zipmaker.Entry(b"x/", _SMUGGLED))
    with pytest.raises(UnsupportedFeatureError, match="'x/': the name is that of a folder"):
        archivestream.repack(folder, tmp_path / target)
    assert not (tmp_path / target).exists()


# ---- one input, one output ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_size", [65_536, None])
def test_threads_do_not_show(frame_size: int | None, tree: Path, tmp_path: Path) -> None:
    made = [
        pack(tree, tmp_path / f"{threads}.tar.zst", frame_size=frame_size, threads=threads)[0].read_bytes()
        for threads in (1, 2, 7)
    ]
    assert made[0] == made[1] == made[2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.dictionaries(
        st.text(
            st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/:"), min_size=1, max_size=150
        ).filter(lambda name: name not in (".", "..")),
        st.binary(max_size=2000) | st.integers(0, 40_000).map(text) | st.integers(0, 40_000).map(content),
        max_size=20,
    ),
    frame_size=st.sampled_from([4096, 10_000, 1 << 20]),
)
def test_round_trips(members: dict[str, bytes], frame_size: int, tmp_path: Path) -> None:
    (path,) = pack(members, tmp_path / "a.tar.zst", frame_size=frame_size, overwrite=True)
    assert members_of(path.read_bytes()) == members
    seek_table(path.read_bytes())


def test_an_iterable_that_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        pack(((str(i), bytes(1 // (300 - i))) for i in range(900)), tmp_path / "a.tar.zst", frame_size=4096)
    assert list(tmp_path.iterdir()) == []
    packer = TarZstPacker(tmp_path / "a.tar.zst")
    packer.add("a", text(1 << 20))
    packer.abandon()
    assert list(tmp_path.iterdir()) == []
    packer = TarZstPacker(tmp_path / "a.tar.zst")
    packer.add("a", b"1")
    del packer  # and never closed
    assert list(tmp_path.iterdir()) == []
