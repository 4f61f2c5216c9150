"""ZIPs that `archivestream.pack` writes, as other programs and this one read them."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zipmaker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packtools import SEVEN_ZIP, content, leftovers, make_tree, run, same_tree, text

import archivestream
from archivestream import ZipPacker, pack, repack
from archivestream._native.codecs import Codec
from archivestream._native.columns import MemberFlag
from archivestream._native.deflating import deflate
from archivestream.formats import zip as zip_format
from archivestream.formats import zip_segments
from archivestream.limits import Limits
from archivestream.packing import packer as packer_module
from archivestream.packing import zip as packing_zip
from archivestream.packing.entries import Entry
from archivestream.sources import MemorySource


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(params=["auto", "stored", "deflate"])
def packed(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Path:
    (path,) = pack(tree, tmp_path / "packed.zip", method=request.param)
    return path


def columns_of(data: bytes) -> dict[str, np.ndarray]:
    """The columns that the format makes of an archive."""
    source = MemorySource(data)
    end = zip_format._find_end(source)
    assert end is not None
    columns = zip_format._scan(source, zip_format._find_directory(source, *end), Limits(), False, None)
    if "segment_fields" in columns:
        zip_segments.add_segments(columns)
    types = {"flags": np.uint16, "size": np.uint64, "compressed_size": np.uint64}
    return {
        name: column if isinstance(column, np.ndarray) else np.frombuffer(column, types[name])
        for name, column in columns.items()
        if name in types or isinstance(column, np.ndarray)
    }


# ---- read back by other programs ------------------------------------------------------------------------------------


def test_unzip(tree: Path, packed: Path, tmp_path: Path) -> None:
    run("unzip", "-tq", packed)
    assert run("unzip", "-p", packed, "larger.bin").stdout == (tree / "larger.bin").read_bytes()
    run("unzip", "-q", packed, "-d", tmp_path / "out")
    same_tree(tree, tmp_path / "out")


def test_7z(tree: Path, packed: Path, tmp_path: Path) -> None:
    run(SEVEN_ZIP, "t", packed)
    run(SEVEN_ZIP, "x", "-snld", packed, f"-o{tmp_path / 'out'}", "-x!outside")
    assert (tmp_path / "out/dog/deep/er/note.txt").read_bytes() == (tree / "dog/deep/er/note.txt").read_bytes()
    assert (tmp_path / "out/naïve/日本語.txt").read_bytes() == (tree / "naïve/日本語.txt").read_bytes()


def test_7z_reads_zstd(tree: Path, tmp_path: Path) -> None:
    pack(tree, tmp_path / "packed.zip", method="zstd", level=5)
    run(SEVEN_ZIP, "t", tmp_path / "packed.zip")


def test_zipfile(tree: Path, packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[:4] == ["cat/", "cat/1.jpg", "cat/2.jpg", "dog/"]
        assert sorted(names) == sorted(
            str(path.relative_to(tree)) + ("/" if path.is_dir() and not path.is_symlink() else "")
            for path in tree.rglob("*")
        )
        assert archive.read("link") == b"cat/1.jpg"
        assert stat.S_ISLNK(archive.getinfo("link").external_attr >> 16)
        assert archive.getinfo("readme.txt").external_attr >> 16 == 0o100640
        assert archive.getinfo("hollow/").is_dir()
        assert archive.getinfo("readme.txt").date_time == (2023, 11, 14, 22, 13, 20)


def test_this_package_in_strict_mode(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name in ("readme.txt", "empty", "link"):
        os.symlink(tree / name, tmp_path / "part" / name)
    (path,) = pack([tree / "cat", tree / "naïve", tree / "readme.txt", tmp_path / "part"], tmp_path / "packed.zip")
    with archivestream.open(path, strict=True) as archive:
        assert archive.verify().errors == []
        assert archive["cat/1.jpg"] == (tree / "cat/1.jpg").read_bytes()
        assert archive.info("part/readme.txt").is_symlink()


# ---- what each member gets ------------------------------------------------------------------------------------------


def test_auto_compresses_what_pays(tmp_path: Path) -> None:
    members = {"noise": content(10_000), "text": text(10_000), "tiny": b"ab", "empty": b""}
    members["barely"] = content(98_000) + bytes(2000)  # 2 % smaller
    (path,) = pack(members, tmp_path / "a.zip")
    with archivestream.open(path) as archive:
        codecs = {name: archive.info(name).compression for name in archive.names}
    assert codecs == {"noise": "stored", "text": "deflate", "tiny": "stored", "empty": "stored", "barely": "stored"}
    (path,) = pack(members, tmp_path / "b.zip", method="deflate")
    with archivestream.open(path) as archive:
        assert archive.info("barely").compression == "deflate"
        assert archive.info("noise").compression == "stored"  # deflated, it would be larger


@pytest.mark.parametrize(("method", "levels"), [("deflate", (1, 6, 12)), ("zstd", (1, 19))])
def test_levels(method: packing_zip.Method, levels: tuple[int, ...], tmp_path: Path) -> None:
    data = text(200_000)
    sizes = []
    for level in levels:
        (path,) = pack({"a": data}, tmp_path / f"{level}.zip", method=method, level=level)
        with archivestream.open(path) as archive:
            assert archive.info(0).compression == method
            assert archive[0] == data
            sizes.append(archive.info(0).compressed_size)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("align", [2, 64, 4096])
def test_alignment(align: int, tmp_path: Path) -> None:
    rng = random.Random(align)
    members = {f"{'x' * rng.randint(1, 40)}{i}": content(rng.randint(1, 9000), i) for i in range(60)}
    members["large"] = content(9 << 20)  # streamed
    (path,) = pack(members, tmp_path / "a.zip", align=align)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % align == 0
    run("unzip", "-tq", path)


def test_names(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.txt")  # Latin-1 on the disk
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / odd).write_bytes(b"1")
    (tmp_path / "in" / "übung").write_bytes(b"2")
    (tmp_path / "in" / "plain").write_bytes(b"3")
    (path,) = pack(tmp_path / "in", tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        flags = {info.orig_filename: info.flag_bits & 0x800 for info in archive.infolist()}
    assert flags == {"cafΘ.txt": 0, "plain": 0, "übung": 0x800}  # 0xE9 in code page 437
    with archivestream.open(path) as archive:
        assert archive[b"caf\xe9.txt"] == b"1"
        assert archive["übung"] == b"2"
    (tmp_path / "out").mkdir()
    run("tar", "--zstd", "-xf", pack(tmp_path / "in", tmp_path / "a.tar.zst")[0], "-C", tmp_path / "out")
    same_tree(tmp_path / "in", tmp_path / "out")


# ---- segments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 2, 6, 10, 12])
@pytest.mark.parametrize("make", [text, content, lambda size: bytes(size)])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 65_535, 65_536, 700_000])
def test_a_segment_is_a_stream_that_goes_on(size: int, make: object, level: int) -> None:
    data = make(size)  # type: ignore[operator]
    segment, last = deflate(data, level, False), deflate(b"the end", level)
    assert segment.endswith(b"\0\0\xff\xff")
    assert zlib.decompress(bytes(segment) + b"\3\0", -15) == data
    assert zlib.decompress(bytes(segment * 3 + last), -15) == data * 3 + b"the end"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 12), st.integers(1, 256), st.integers(0, 30_000), st.integers(0, 2**32))
def test_segments_of_anything(level: int, symbols: int, size: int, seed: int) -> None:
    data = bytes(random.Random(seed).choices(range(symbols), k=size))
    assert zlib.decompress(bytes(deflate(data, level, False)) + b"\3\0", -15) == data


@pytest.mark.parametrize(
    ("size", "segment"), [(300_000, 65_536), (262_144, 65_536), (9 << 20, 262_144), (9 << 20, 3000_000)]
)
def test_segments_are_in_the_directory(size: int, segment: int, tmp_path: Path) -> None:
    data = text(size)
    (path,) = pack({"small": b"x" * 1000, "a": data}, tmp_path / "a.zip", segment_size=segment)
    run("unzip", "-tq", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("a") == data
        at = archive.getinfo("a").header_offset
    raw = path.read_bytes()
    begin = at + 30 + sum(struct.unpack_from("<2H", raw, at + 26))
    columns = columns_of(raw)
    assert columns["segment_member"].tolist() == [1]
    assert columns["segment_first"].tolist() == [0, -(-size // segment)]
    assert columns["flags"].tolist() == [0, MemberFlag.SEGMENTED_BIT]
    codecs = columns["block_codec"].tolist()
    assert set(codecs[:-1]) == {Codec.DEFLATE_SEGMENT}
    assert codecs[-1] == Codec.DEFLATE
    blocks = zip(*(columns[f"block_{c}"].tolist() for c in ("start", "size", "offset", "compressed_size")), strict=True)
    end = 0
    for (start, decoded, offset, compressed), codec in zip(blocks, codecs, strict=True):
        assert start == end
        end += decoded
        piece = raw[begin + offset : begin + offset + compressed] + (b"\3\0" if codec != Codec.DEFLATE else b"")
        assert zlib.decompress(piece, -15) == data[start:end]
    assert end == size


def test_large_members_have_segments_by_default_at_less_than_one_percent(tmp_path: Path) -> None:
    data = text(6 << 20)
    (path,) = pack({"a": data}, tmp_path / "a.zip")
    assert len(columns_of(path.read_bytes())["block_size"]) == 6
    assert path.stat().st_size < 1.01 * len(deflate(data, 6))


@pytest.mark.parametrize("segment_size", [None, 4096, 65_536])
def test_the_sizes_of_the_segments_fit_an_extra_field(segment_size: int | None) -> None:
    container = packing_zip.ZipFormat(segment_size=segment_size)
    for size in (5 << 20, 1 << 32, (1 << 44) + 1):
        segment = container.segment_size(Entry("a", size, 0o100644, b""))
        assert len(zip_segments.field_of(segment, [1] * -(-size // segment))) < 65_000


def segmented(field: bytes, data: bytes, payload: bytes) -> dict[str, np.ndarray]:
    entry = zipmaker.Entry(b"a", data, zipmaker.DEFLATE, payload, extra=field)
    return columns_of(zipmaker.make(zipmaker.Entry(b"first"), entry))


def test_segments_that_cannot_be_are_passed_over() -> None:
    """Their sums are right, and no stream of so many bytes decodes to so many; the member is read as the one it is."""
    data = text(10_000)
    payload = deflate(data, 6)
    field = zip_segments.field_of(5000, [1, len(payload) - 1])
    assert "block_size" not in segmented(field, data, payload)
    archive = zipmaker.make(zipmaker.Entry(b"a", data, zipmaker.DEFLATE, payload, extra=field))
    with archivestream.open(archive) as opened:
        assert opened[0] == data


@pytest.mark.parametrize(("segment_size", "fits"), [(1 << 30, True), ((1 << 30) + 1, False)])
def test_segments_too_large_to_be_decoded_alone_are_passed_over(segment_size: int, fits: bool) -> None:
    sizes = [1_200_000, 1_200_000, 600_000]
    field = zip_segments.field_of(segment_size, sizes)
    found = zip_segments._parse(memoryview(field)[4:], 2_200_000_000, sum(sizes))
    assert (found is not None) is fits


@pytest.mark.parametrize(
    "cut",
    [
        (4096, [10, -10, 0]),
        (4096, [0, -1, 1]),
        (4096, [0, 1, -1]),
        (4000, [0, 0, 0]),  # as many segments as of 4096
        (3400, [0, 0, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 3])
def test_segments_cut_elsewhere_than_is_said(cut: tuple[int, list[int]], threads: int, tmp_path: Path) -> None:
    """Nothing that other readers look at is wrong, so that the member is the stream that it is for them."""
    data = text(10_000)
    segments = [deflate(data[:4096], 6, False), deflate(data[4096:8192], 6, False), deflate(data[8192:], 6)]
    sizes = [len(segment) + more for segment, more in zip(segments, cut[1], strict=True)]
    field = zip_segments.field_of(cut[0], sizes)
    damaged = b"".join(segments[:2]) + segments[2][::-1]
    entries = [
        zipmaker.Entry(b"a", data, zipmaker.DEFLATE, b"".join(segments), extra=field),
        zipmaker.Entry(b"as it was", data, zipmaker.DEFLATE, extra=b""),
        zipmaker.Entry(b"damaged", data, zipmaker.DEFLATE, damaged, extra=field),
        zipmaker.Entry(b"b", data, zipmaker.DEFLATE, b"".join(segments), extra=field),
    ]
    (tmp_path / "a.zip").write_bytes(zipmaker.make(*entries))
    with archivestream.open(tmp_path / "a.zip", threads=threads) as archive:
        assert archive._shared.reader.index["flags"].tolist() == [0x800, 0, 0x800, 0x800]
        assert archive["a"] == archive["b"] == archive.read("a") == data
        assert archive.read_many(["b", "as it was", "a"]) == [data] * 3
        out = np.empty(3 * 10_000, np.uint8)
        assert archive.read_batch([3, 0, 1], out=out).data.tobytes() == data * 3
        assert archive.submit(["a", "b"]).result().data.tobytes() == data * 2
        assert [error.member for error in archive.verify().errors] == ["damaged"]
        errors: dict[int, Exception] = {}
        assert archive.read_many([0, 2, 3, 2], errors=errors) == [data, None, data, None]
        assert sorted(errors) == [1, 3]
        with pytest.raises(archivestream.CorruptArchiveError, match="damaged"):
            archive["damaged"]


@pytest.mark.parametrize("threads", [1, 3])
def test_arrays_whose_segments_are_cut_elsewhere(threads: int) -> None:
    """Their headers are left out; the place for them is that of the array before."""
    arrays = [np.arange(i, i + 1000, dtype=np.float32) for i in range(8)]
    entries = []
    for i, array in enumerate(arrays):
        file = io.BytesIO()
        np.save(file, array)
        data = file.getvalue()
        parts = [
            deflate(data[begin : begin + 1024], 6, begin + 1024 >= len(data)) for begin in range(0, len(data), 1024)
        ]
        wrong = i % 3 - 1  # every third is right
        sizes = [len(parts[0]) + wrong, len(parts[1]) - wrong, *map(len, parts[2:])]
        field = zip_segments.field_of(1024, sizes)
        entries.append(zipmaker.Entry(b"%d.npy" % i, data, zipmaker.DEFLATE, b"".join(parts), extra=field))
    with archivestream.open(zipmaker.make(*entries), threads=threads) as archive:
        for order in (range(8), [7, 0, 3, 3, 5, 1]):
            assert np.array_equal(archive.read_arrays(list(order)), np.stack([arrays[i] for i in order]))


def test_memory_is_bounded_where_a_large_member_is_cut_elsewhere(tmp_path: Path) -> None:
    """It is verified segment by segment, and then as a stream, of which only a part is in memory."""
    size = 100 << 20
    (path,) = pack({"a": bytes(size)}, tmp_path / "a.zip", method="deflate", segment_size=8 << 20)
    data = bytearray(path.read_bytes())
    sizes = data.rindex(b"AS") + 13
    first, second = struct.unpack_from("<2L", data, sizes)
    struct.pack_into("<2L", data, sizes, first + 1, second - 1)
    path.write_bytes(data)
    program = (
        "import archivestream, sys\n"
        "peak = lambda: [int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')][0]\n"
        "with archivestream.open(sys.argv[1], threads=1) as archive:\n"
        "    before = peak()\n"
        "    assert archive.verify().ok\n"
        "    print(peak() - before)\n"
        f"    assert archive['a'] == bytes({size})\n"
    )
    taken = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout
    assert int(taken) < 40 << 10  # KiB


def test_fields_that_do_not_fit_are_passed_over() -> None:
    data = text(10_000)
    segments = [deflate(data[:4096], 6, False), deflate(data[4096:8192], 6, False), deflate(data[8192:], 6)]
    payload, sizes = b"".join(segments), [len(segment) for segment in segments]

    def field(size: int, sizes: list[int], version: int = 1, count: int | None = None, more: bytes = b"") -> bytes:
        head = struct.pack("<BLL", version, size, len(sizes) if count is None else count)
        return zipmaker.extra(0x5341, head + struct.pack(f"<{len(sizes)}L", *sizes) + more)

    good = field(4096, sizes)
    assert good == zip_segments.field_of(4096, sizes)
    assert segmented(good, data, payload)["block_compressed_size"].tolist() == sizes
    bad = [
        field(4096, sizes, version=2),
        field(0, sizes),
        field(4000, [*sizes]) + b"",
        field(5000, sizes),
        field(10_000, [len(payload)]),
        field(4096, sizes, count=2),
        field(4096, sizes, count=2**32 - 1),
        field(4096, sizes, more=b"\0"),
        field(4096, [sizes[0] + 1, *sizes[1:]]),
        field(4096, [0, sizes[0] + sizes[1], sizes[2]]),
        field(4096, sizes[:2]),
        *(zipmaker.extra(0x5341, good[4 : 4 + n]) for n in range(len(good) - 4)),
    ]
    bad.remove(field(4000, [*sizes]))  # as many segments as of 4096: which is right shows when they are decoded
    for one in bad:
        columns = segmented(one, data, payload)
        assert "block_size" not in columns
        assert columns["flags"].tolist() == [0, 0]
        # An ordinary member: it is read as ever.
    entry = zipmaker.Entry(b"a", data, zipmaker.DEFLATE, payload, extra=bad[0])
    with archivestream.open(zipmaker.make(entry), strict=True) as archive:
        assert archive[0] == data
    # Of a member that is not deflated.
    columns = columns_of(zipmaker.make(zipmaker.Entry(b"a", data, extra=field(4096, [4096, 4096, 1808]))))
    assert "block_size" not in columns


# ---- ZIP64 ----------------------------------------------------------------------------------------------------------


def test_more_members_than_16_bits_count(tmp_path: Path) -> None:
    names = [f"{i:05d}" for i in range(70_000)]
    (path,) = pack(((name, name.encode()) for name in names), tmp_path / "a.zip")
    run("unzip", "-tq", path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == names
    with archivestream.open(path, strict=True) as archive:
        assert archive.namelist() == names
        assert archive.verify().errors == []


@pytest.mark.parametrize("count", [65_534, 65_535])
def test_as_many_members_as_16_bits_count(count: int, tmp_path: Path) -> None:
    (path,) = pack(((f"{i}", b"") for i in range(count)), tmp_path / "a.zip")
    assert (b"PK\6\7" in path.read_bytes()[-100:]) == (count == 65_535)
    with archivestream.open(path, strict=True) as archive:
        assert len(archive) == count


def test_a_member_beyond_4_gib_and_what_follows_it(tmp_path: Path) -> None:
    size = (4 << 30) + 12_345
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in/a", "wb") as sparse:
        sparse.truncate(size)
    (tmp_path / "in/b").write_bytes(b"behind it")
    (path,) = pack(tmp_path / "in", tmp_path / "a.zip", method="zstd", level=1)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("a").file_size == size
        assert archive.read("b") == b"behind it"
    listing = run("unzip", "-v", path).stdout.decode()
    assert str(size) in listing
    with archivestream.open(path, strict=True) as archive:
        assert archive.info("a").size == size
        assert archive.verify().errors == []


def test_fields_of_4_gib_without_writing_so_much(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Offsets and sizes from 1 KiB on do not fit their fields.
    from archivestream.packing import zip_writer

    monkeypatch.setattr(zip_writer, "_LARGEST32", 1023)
    monkeypatch.setattr(zip_writer, "_WIDE_FROM", 1024)
    members = {"a": content(1000), "b": content(5000), "c": text(100), "d": content(9 << 20)}
    (path,) = pack(members, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == members
        assert archive.getinfo("b").extract_version == 45
    run("unzip", "-tq", path)
    run(SEVEN_ZIP, "t", path)
    with archivestream.open(path, strict=True) as archive:
        assert dict(zip(archive.names, archive, strict=True)) == members


# ---- one input, one output ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "deflate", "zstd"])
def test_threads_do_not_show(method: packing_zip.Method, tree: Path, tmp_path: Path) -> None:
    made = [
        pack(tree, tmp_path / f"{threads}.zip", method=method, threads=threads)[0].read_bytes() for threads in (1, 2, 7)
    ]
    assert made[0] == made[1] == made[2]


def test_nothing_of_the_moment_shows(tmp_path: Path) -> None:
    members = {"a": text(100), "b": b"", "c/": b""}
    (path,) = pack(members, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert pack(list(members.items()), tmp_path / "b.zip")[0].read_bytes() == path.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.dictionaries(
        st.text(
            st.characters(blacklist_categories=["Cs", "Cc", "Cf"], blacklist_characters="/:\\"), min_size=1, max_size=20
        ).filter(lambda name: name not in (".", "..")),
        st.binary(max_size=3000) | st.integers(0, 60_000).map(text),
        max_size=20,
    ),
    method=st.sampled_from(["auto", "stored", "deflate", "zstd"]),
    align=st.sampled_from([None, 4, 4096]),
)
def test_round_trips(members: dict[str, bytes], method: packing_zip.Method, align: int | None, tmp_path: Path) -> None:
    (path,) = pack(members, tmp_path / "a.zip", method=method, align=align, overwrite=True)
    with archivestream.open(path, strict=True) as archive:
        assert dict(zip(archive.names, archive.read_many(range(len(archive))), strict=True)) == members
    if method != "zstd":
        with zipfile.ZipFile(path) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == members


# ---- what can be packed ---------------------------------------------------------------------------------------------


def test_arrays(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).random((3, 4)) for i in range(5)]
    (path,) = pack(((f"{i}", array) for i, array in enumerate(arrays)), tmp_path / "a.zip", align=64)
    with archivestream.open(path) as archive:
        assert archive.namelist() == [f"{i}.npy" for i in range(5)]
        assert (archive.read_arrays(range(5)) == np.stack(arrays)).all()
    (path,) = pack(
        {"a.npy": np.asfortranarray(arrays[0]), "b": np.float32(2), "c": np.zeros(0)}, tmp_path / "b.npz", format="zip"
    )
    with np.load(path) as loaded:
        assert (loaded["a"] == arrays[0]).all()
        assert loaded["b"] == 2
    with pytest.raises(ValueError, match=r"member 'o\.npy'.*allow_pickle"):
        pack({"o": np.array([object()])}, tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8).data])
def test_bytes_of_any_kind(kind: object, tmp_path: Path) -> None:
    (path,) = pack([("a", kind(b"some data"))], tmp_path / "a.zip")  # type: ignore[operator]
    with archivestream.open(path) as archive:
        assert archive["a"] == b"some data"


def test_memory_may_change_once_it_was_added(tmp_path: Path) -> None:
    memory = bytearray(b"one")
    with ZipPacker(tmp_path / "a.zip") as packer:
        packer.add("1", memory)
        memory[:] = b"two"
        packer.add("2", memory)
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert list(archive) == [b"one", b"two"]


def test_packer(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    with ZipPacker(target, method="stored") as packer:
        packer.add("a", b"1", mode=0o600, mtime=1_700_000_000)
        packer.add_file("pictures/cat.jpg", tree / "cat/1.jpg")
        packer.add_file("pictures/link", tree / "link")
        packer.add_file("pictures", tree / "cat")
        assert not target.exists()
    assert packer.paths == [target]
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["a", "pictures/cat.jpg", "pictures/link", "pictures/"]
        assert archive.getinfo("a").external_attr >> 16 == 0o100600
        assert archive.getinfo("a").date_time == (2023, 11, 14, 22, 13, 20)
        assert archive.read("pictures/link") == b"cat/1.jpg"
    with pytest.raises(ValueError, match="closed"):
        packer.add("b", b"2")


def test_an_archive_and_a_view_of_one(tree: Path, tmp_path: Path) -> None:
    (first,) = pack([tree / "cat", tree / "dog", tree / "link"], tmp_path / "a.zip")
    (second,) = repack(first, tmp_path / "b.zip", method="stored")
    with archivestream.open(first) as a, archivestream.open(second) as b:
        assert a.namelist() == b.namelist()
        assert list(a) == list(b)
        for one, other in zip(a.infolist(), b.infolist(), strict=True):
            assert (one.mode, one.timestamp) == (other.mode, other.timestamp)
        (third,) = pack(a.select("cat/*.jpg"), tmp_path / "c.zip")
    with archivestream.open(third) as c:
        assert c.namelist() == ["cat/1.jpg", "cat/2.jpg"]
    assert repack(second, second, overwrite=True) == [second]  # onto itself


def test_progress(tree: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pack(tree, tmp_path / "a.zip", progress=lambda done, total: seen.append((done, total)))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        size = sum(info.file_size for info in archive.infolist())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    seen.clear()
    pack(
        ((f"{i}", b"abc") for i in range(10)),
        tmp_path / "b.zip",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (30, 0)


# ---- what cannot ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../../b", "a/..", "a\0b", "a//b", "C:/x", "/", "x" * 70_000, "é" * 40_000]
)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    for suffix in ("zip", "tar.zst"):
        with pytest.raises(ValueError, match="the name"):
            pack([("fine", b"1"), (name, b"2")], tmp_path / f"a.{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([("a", b"1"), ("a", b"2")], ValueError, "two members with the name 'a'"),
        ([("a", "text")], TypeError, "member 'a'.*encode"),
        ([("a", 5)], TypeError, "bytes-like"),
        ([("a",)], TypeError, "pairs"),
        ([(b"a", b"1")], TypeError, "metadata of sample 0 are a dict"),
        ([(3, {})], TypeError, "sample 0: .*bytes-like"),
        ([b"a", None], TypeError, "sample 1: .*bytes-like"),
        (b"bytes", TypeError, "what is packed"),
        (5, TypeError, "what is packed"),
        ([("a/", b"1")], ValueError, "folder"),
        ("/nowhere/at/all", FileNotFoundError, "nowhere"),
    ],
)
def test_sources_that_are_refused(source: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pack(source, tmp_path / "a.zip")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a.rar", {}, r"the suffix is none of \.zip"),
        ("a.zip", {"format": "rar"}, "format is one of"),
        ("a.zip", {"method": "lzma"}, "method is"),
        ("a.zip", {"level": 13}, "1 to 12"),
        ("a.zip", {"method": "stored", "level": 3}, "not given"),
        ("a.zip", {"method": "zstd", "level": 23}, "1 to 22"),
        ("a.zip", {"align": 3}, "power of two"),
        ("a.zip", {"segment_size": 10}, "segment_size"),
        ("a.zip", {"segment_size": 65536, "method": "zstd"}, "segment_size"),
        ("a.zip", {"frame_size": 65536}, "frame_size is no option of zip"),
        ("a.zip", {"dictionary": True}, "dictionary"),
        ("a.zip", {"threads": 0}, "threads"),
        ("a.tar.zst", {"method": "deflate"}, "method is no option of tar.zst"),
        ("a.tar.zst", {"level": 40}, "level"),
        ("a.tar.zst", {"frame_size": 1}, "frame_size"),
        ("a.tar.zst", {"dictionary": b"none"}, "37 A4 30 EC"),
        ("a.tar", {"level": 3}, "level is no option of tar"),
    ],
)
def test_options_that_do_not_fit(target: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        pack({"a": b"1"}, tmp_path / target, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        pack({"a": b"1"}, target)
    assert target.read_bytes() == b"precious"
    with pytest.raises(ZeroDivisionError):
        pack(((str(i), bytes(1 // (3 - i))) for i in range(9)), target, overwrite=True)
    assert target.read_bytes() == b"precious"
    pack({"a": b"1"}, target, overwrite=True)
    assert zipfile.is_zipfile(target)
    assert leftovers(tmp_path) == []
    with pytest.raises(IsADirectoryError):
        pack({"a": b"1"}, tmp_path / "..", format="zip", overwrite=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pack({"a": b"1"}, tmp_path / "nowhere/a.zip")


def test_a_target_that_comes_to_stand_there_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "a.zip"

    def members() -> Iterator[tuple[str, bytes]]:
        yield "a", b"1"
        target.write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        pack(members(), target)
    assert target.read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("place", ["a.zip", "cat/a.zip", "link-to-here/a.zip"])
def test_a_target_in_the_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "link-to-here").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="lies in"):
        pack(tmp_path, tmp_path / place)
    with pytest.raises(ValueError, match="lies in"):
        pack([tmp_path / "cat", tmp_path], tmp_path / place)


def test_a_bad_member_of_the_source(tmp_path: Path) -> None:
    (path,) = pack({"good": text(1000), "bad": content(1000), "last": b"1"}, tmp_path / "a.zip")
    path.write_bytes(path.read_bytes().replace(content(1000)[:50], bytes(50)))
    for target in ("b.zip", "b.tar.zst"):
        with pytest.raises(archivestream.CorruptArchiveError, match=r"a\.zip: member 'bad'"):
            repack(path, tmp_path / target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_a_file_that_changes_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for size, large in ((1000, 8 << 20), (1000, 500)):
        monkeypatch.setattr(packer_module, "_LARGE", large)
        for now in (size - 1, size + 1):
            path = tmp_path / "growing"
            path.write_bytes(bytes(size))
            packer = ZipPacker(tmp_path / "a.zip")
            entry = packer_module.file_entry("growing", path)
            path.write_bytes(bytes(now))
            with pytest.raises(archivestream.SourceError, match="growing: it was changed while it was packed"), packer:
                packer.add_entry(entry)
            assert leftovers(tmp_path) == []


@pytest.mark.parametrize("size", [1000, 9 << 20])
@pytest.mark.parametrize("other", ["pipe", "link", "folder"])
def test_something_else_in_the_place_of_a_file(size: int, other: str, tmp_path: Path) -> None:
    # In a process of its own: one that waits for a pipe would wait for ever.
    file = tmp_path / "file"
    file.write_bytes(bytes(size))
    code = (
        "import os, sys, archivestream\n"
        "from archivestream.packing.entries import file_entry\n"
        "path = sys.argv[1]\n"
        "entry = file_entry('file', path)\n"
        "os.unlink(path)\n"
        "make = {'pipe': os.mkfifo, 'folder': os.mkdir, 'link': lambda path: os.symlink('/dev/zero', path)}\n"
        "make[sys.argv[2]](path)\n"
        "try:\n"
        "    with archivestream.ZipPacker(path + '.zip') as packer:\n"
        "        packer.add_entry(entry)\n"
        "except OSError as error:\n"
        "    assert path in str(error), error\n"
        "    sys.exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code, file, other], env=environment, timeout=60, check=False)
    assert done.returncode == 9
    assert leftovers(tmp_path) == []


def test_a_pipe_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/pipe")
    with pytest.raises(archivestream.UnsupportedFeatureError, match="pipe: it is no file"):
        pack(tmp_path / "in", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_an_archive_without_members(tmp_path: Path) -> None:
    (path,) = pack([], tmp_path / "a.zip")
    assert len(path.read_bytes()) == 22
    with archivestream.open(io.BytesIO(path.read_bytes())) as archive:
        assert len(archive) == 0
