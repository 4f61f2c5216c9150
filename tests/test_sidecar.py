"""The sidecar: what is saved comes back, and what is not exactly that is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from archivestream import fingerprint, sidecar
from archivestream._native.codecs import crc32
from archivestream._native.columns import Layout
from archivestream._native.names import NameTable
from archivestream.columns import DTYPES
from archivestream.errors import ArchiveChangedError, ArchiveError, CorruptArchiveError, LimitExceededError
from archivestream.formats import tar, zip
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.sidecar import Metadata, StaleSidecar
from archivestream.sources import FileObjectSource, LocalSource, MemorySource, OpenFileSource, Source

ZIP = Metadata("zip", Layout.ENTRIES, 1000)
TAR = Metadata("tar", Layout.RANGES, 1000)
ZST = Metadata("tar.zst", Layout.BLOCKS, 1000)
DICTIONARY = zstandard.train_dictionary(1000, [str(i).encode() * 50 for i in range(1000)]).as_bytes()


def find(source: Source) -> Path | None:
    """Where there is a sidecar of a source."""
    return next((place for place in sidecar.places(source) if place.exists()), None)


def typed(**columns: object) -> dict[str, np.ndarray]:
    """Columns of their types."""
    return {name: np.array(values, DTYPES[name]) for name, values in columns.items()}


def blob(*parts: bytes) -> tuple[list[int], list[int]]:
    """Bytes, and where each part begins."""
    return list(b"".join(parts)), np.cumsum([0, *map(len, parts)]).tolist()


def members(*names: str, **others: object) -> dict[str, np.ndarray]:
    """The columns of members."""
    n = len(names)
    text, offsets = blob(*(name.encode("utf-8", "surrogatepass") for name in names))
    numbers = {name: range(10, 10 + n) for name in ("size", "compressed_size", "offset", "crc32")}
    zeros = dict.fromkeys(("codec", "flags", "timestamp", "attributes"), [0] * n)
    return typed(**{**numbers, **zeros, "names": text, "name_offset": offsets, **others})


def blocks(m: int, **others: object) -> dict[str, np.ndarray]:
    """The columns of blocks of 10 bytes."""
    starts = range(0, 10 * m, 10)
    sizes = {"block_start": starts, "block_size": [10] * m, "block_offset": starts, "block_compressed_size": [10] * m}
    rest = {"block_codec": [93] * m, "block_flags": [1] * m, "block_crc32": range(m)}
    return typed(**{**sizes, **rest, "aux": [7] * m, "aux_offset": range(m + 1), **others})


def everything() -> dict[str, np.ndarray]:
    """Columns of all kinds: of five members, the first two sparse, the third with a name that is no text."""
    raw, raw_offset = blob(b"\xff")
    return {
        **members("a", "b/ä", "\udcff", "", "€𝄞", flags=[0x200, 0x200, 8, 0, 0], size=[30, 30, 5, 5, 5]),
        **blocks(4),
        **typed(raw_member=[2], raw_names=raw, raw_offset=raw_offset),
        **typed(sparse_member=[0, 1], sparse_offset=[0, 2, 3]),
        **typed(extent_place=[0, 20, 29], extent_offset=[0, 10, 20], extent_size=[10, 10, 1]),
        **typed(dictionary=list(DICTIONARY), gzip_index=range(9)),
    }


def segmented() -> dict[str, np.ndarray]:
    """Columns of a ZIP whose last member has two segments, out of order."""
    return {
        **members("a", "b", flags=[0, 0x800], size=[10, 20], successor=[0xFFFFFFFF, 0]),
        **blocks(2),
        **typed(segment_member=[1], segment_first=[0, 2]),
    }


@pytest.fixture
def source(tmp_path: Path) -> LocalSource:
    """An archive of 200,000 bytes."""
    path = tmp_path / "archive.tar"
    path.write_bytes(random.Random(1).randbytes(200_000))
    return LocalSource(path)


def same(found: sidecar.Sidecar, columns: dict[str, np.ndarray]) -> None:
    assert found.columns.keys() == columns.keys()
    for name, column in columns.items():
        assert found.columns[name].dtype == column.dtype
        assert found.columns[name].tolist() == column.tolist()


# ---- what is saved comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "metadata"),
    [
        (everything(), Metadata("tar.zst", Layout.BLOCKS, 1 << 62, True, "cp932", 0xDEADBEEF)),
        (segmented(), ZIP),
        (members("x"), TAR),
        (members(), ZIP),
        ({**members(), **blocks(0)}, ZST),
    ],
)
def test_round_trip(source, columns, metadata):
    options = {"strict": metadata.strict, "metadata_encoding": metadata.metadata_encoding}
    assert find(source) is None
    assert sidecar.load_any(source, **options) is None
    path = sidecar.save(columns, metadata, source)
    assert path == Path(f"{source.path}.asidx") == find(source)
    found = sidecar.load_any(source, **options)
    same(found, columns)
    assert found.metadata == metadata
    assert (found.path, found.touched) == (path, False)
    assert os.listdir(path.parent) == unordered("archive.tar", "archive.tar.asidx")


def unordered(*names: str) -> object:
    class Unordered(list):
        def __eq__(self, other: object) -> bool:
            return sorted(self) == sorted(other)  # type: ignore[call-overload]

        __hash__ = None  # type: ignore[assignment]

    return Unordered(names)


def test_columns_are_views_of_one_memory(source):
    """Aligned, read-only, and shared with forked processes."""
    columns = sidecar.load(sidecar.save(everything(), ZST, source), source).columns
    owners = set()
    for column in columns.values():
        owner: object = column
        while isinstance(owner, np.ndarray):
            owner = owner.base
        owners.add(id(owner.obj) if isinstance(owner, memoryview) else None)  # type: ignore[attr-defined]
        assert not column.flags.writeable
        assert column.flags.aligned
    assert len(owners) == 1
    child = os.fork()
    if child == 0:
        os._exit(columns["size"].tolist() != [30, 30, 5, 5, 5])
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("how", ["truncated", "overwritten", "grown", "deleted", "replaced"])
def test_what_was_loaded_stays(source, how):
    """Whatever becomes of the file: a mapped one ends the process, or leads native code astray."""
    path = sidecar.save(everything(), ZST, source)
    code = (
        "import os\n"
        "path, how = sys.argv[2:]\n"
        "columns = sidecar.load_any(LocalSource(sys.argv[1])).columns\n"
        "before = {name: column.tobytes() for name, column in columns.items()}\n"
        "size = os.path.getsize(path)\n"
        "if how == 'truncated': os.truncate(path, 0)\n"
        "if how == 'overwritten': open(path, 'r+b').write(bytes([0xFF]) * size)\n"
        "if how == 'grown': os.truncate(path, 1 << 30)\n"
        "if how == 'deleted': os.unlink(path)\n"
        "if how == 'replaced': os.rename(sys.argv[1], path)\n"
        "assert before == {name: column.tobytes() for name, column in columns.items()}\n"
        "offsets = columns['name_offset']\n"
        "assert NameTable(columns['names'], offsets[:-1], offsets[1:]).find('b/ä') == 1\n"
    )
    run(PRELUDE + "from archivestream._native.names import NameTable\n" + code, source.path, path, how)


def run(code: str, *arguments: object) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1])}
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore::ResourceWarning", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_limits_come_before_memory(source, tmp_path):
    """What a sidecar holds is counted before its columns are read."""
    path = sidecar.save(members("a", "b"), TAR, source)
    size = sum(column.nbytes for column in members("a", "b").values())
    same(sidecar.load(path, source, limits=Limits(max_members=2, max_index_bytes=size)), members("a", "b"))
    for few, said in (
        (Limits(max_members=1), "2 members, more than Limits.max_members"),
        (Limits(max_index_bytes=size - 1), str(size)),
    ):
        with pytest.raises(LimitExceededError, match=said):
            sidecar.load_any(source, limits=few)


def test_a_saved_index_is_in_proportion_to_its_file(source):
    """One with a hole takes no room on the disk."""
    path = sidecar.save({**members("a"), "aux": np.zeros(130 << 20, np.uint8)}, TAR, source)
    with pytest.raises(LimitExceededError, match=r"max_index_ratio"):
        sidecar.load(path, source, limits=Limits())


def test_other_programs_read_it(source):
    """It is a file of safetensors."""
    numpy = pytest.importorskip("safetensors.numpy")
    safetensors = pytest.importorskip("safetensors")
    path = sidecar.save(everything(), ZST, source)
    tensors = numpy.load_file(path)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: column.tolist() for name, column in everything().items()
    }
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "tar.zst"


def test_it_is_the_same_for_the_same_archive(source):
    first = sidecar.save(everything(), ZST, source).read_bytes()
    assert sidecar.save(everything(), ZST, source).read_bytes() == first


def archives() -> Iterator[Path]:
    """Those that other projects test their readers with."""
    corpus = Path(os.environ.get("ARCHIVESTREAM_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
    return (path for path in sorted(corpus.rglob("*")) if path.is_file() and path.stat().st_size < 1 << 20)


def test_the_indexes_of_real_archives(tmp_path):
    """What the formats make keeps to what is asked of a saved index, and comes back as it was."""
    path = tmp_path / "saved.asidx"
    seen: set[tuple[str, frozenset[str]]] = set()
    for archive in archives():
        source = LocalSource(archive)
        read_index = tar.read_index if tar.is_tar(bytes(source.read_at(0, 512))) else zip.read_index
        for options in ({"metadata_encoding": None}, {"metadata_encoding": "cp932"}):
            try:
                index = read_index(source, strict=False, limits=Limits(), progress=None, **options)
            except ArchiveError:
                continue
            if index is None:
                continue
            metadata = Metadata(index.formats[0], index.layouts[0], index.data_end[0], **options)
            sidecar.save(index.columns, metadata, source, path)
            loaded = sidecar.load(path, source, **options)
            assert loaded.metadata == metadata
            found = Index(loaded.columns, data_end=[metadata.data_end])
            assert found.columns.keys() == index.columns.keys()
            for name, column in index.columns.items():
                assert np.array_equal(found[name], column)
            assert found.fingerprint() == index.fingerprint()
            seen.add((index.formats[0], frozenset(index.columns)))
        source.close()
    if not seen:
        pytest.skip("the corpus is not here")
    assert {kind for kind, _ in seen} == {"zip", "tar"}
    assert {"raw_names", "successor", "extent_size"} <= set().union(*(columns for _, columns in seen))


# ---- damaged ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, MemorySource]:
    """A sidecar of few bytes."""
    source = MemorySource(b"archive")
    return sidecar.save(members("a", "b"), TAR, source, tmp_path / "small.asidx"), source


def test_every_truncation_is_refused(small):
    path, source = small
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptArchiveError, match=r"small\.asidx: the saved index is damaged"):
            sidecar.load(path, source)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptArchiveError):
        sidecar.load(path, source)


def test_every_flip_is_refused(small):
    path, source = small
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(CorruptArchiveError):
                sidecar.load(path, source)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"PK\3\4" * 100, struct.pack("<Q", 2**63) * 10, b"{}" * 99])
def test_what_is_no_sidecar_is_refused(small, data):
    path, source = small
    path.write_bytes(data)
    with pytest.raises(CorruptArchiveError):
        sidecar.load(path, source)


def test_what_is_no_file_is_refused(small, tmp_path):
    _, source = small
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptArchiveError, match="not a regular file"):
        sidecar.load(tmp_path / "pipe", source)
    with pytest.raises(CorruptArchiveError, match="not a regular file"):
        sidecar.load(tmp_path, source)
    with pytest.raises(FileNotFoundError):
        sidecar.load(tmp_path / "nothing", source)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """Change the header of a sidecar, and make its checksum right."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    header["__metadata__"]["header_crc32"] = "0" * 8
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    head = len(text).to_bytes(8, "little")
    checked = text.replace(b"0" * 8, b"%08x" % crc32(head + text), 1)
    path.write_bytes(head + checked + data[end:])


def hostile(path: Path, columns: dict[str, np.ndarray], metadata: Metadata, source: MemorySource) -> None:
    """Write a sidecar of any columns, with checksums that are right."""
    sidecar.save(members(), Metadata("tar", Layout.RANGES, 0), source, path)
    body = b""

    def change(header: dict) -> None:
        nonlocal body
        saved = {key: value for key, value in header["__metadata__"].items() if not key.startswith("crc32:")}
        saved["layout"] = str(int(metadata.layout))
        header.clear()
        header["__metadata__"] = saved
        for name in sorted(columns, key=lambda name: -columns[name].itemsize):
            column = columns[name]
            saved[f"crc32:{name}"] = f"{crc32(column.tobytes()):08x}"
            header[name] = {
                "dtype": f"U{8 * column.itemsize}",
                "shape": [len(column)],
                "data_offsets": [len(body), len(body) + column.nbytes],
            }
            body += column.tobytes()

    rewrite(path, change)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:start] + body)


def test_a_forged_one_is_like_a_saved_one(tmp_path):
    """What the tests below begin with is good."""
    source = MemorySource(b"archive")
    hostile(tmp_path / "forged", everything(), ZST, source)
    same(sidecar.load(tmp_path / "forged", source), everything())


@pytest.mark.parametrize(
    ("metadata", "columns"),
    [
        (TAR, members("a", "b", name_offset=[0, 1])),
        (TAR, members("a", "b", name_offset=[0, 3, 2])),
        (TAR, members("a", "b", name_offset=[1, 1, 2])),
        (TAR, members("a", "b", name_offset=[0, 2**63, 2])),
        (TAR, members("a", "b", name_offset=[0, 1, 3])),
        (TAR, members("a", "b", name_offset=[])),
        (TAR, members("ä", "b", name_offset=[0, 1, 3])),
        (TAR, members("ab", names=[0xC3, 0x28])),
        (TAR, members("ab", names=[0xC0, 0x80])),
        (TAR, members("abc", names=[0x80, 0x41, 0x41])),
        (TAR, members("abcd", names=[0xF4, 0x90, 0x80, 0x80])),
        (TAR, members("a", "b", size=[1])),
        (TAR, members("a", "b", flags=[0x2000, 0])),
        (TAR, members("a", "b", flags=[0x8, 0])),
        (TAR, members("a", "b", flags=[0x200, 0])),
        (TAR, members("a", "b", flags=[0x800, 0])),
        (TAR, {**members("a"), **typed(successor=[1])}),
        (TAR, {**members("a"), **typed(successor=[0, 0])}),
        (TAR, {**members("a", flags=[8]), **typed(raw_member=[1], raw_offset=[0, 0], raw_names=[])}),
        (TAR, {**members("a", flags=[8]), **typed(raw_member=[0], raw_offset=[0, 9], raw_names=[])}),
        (TAR, {**members("a", "b", flags=[8, 8]), **typed(raw_member=[1, 0], raw_offset=[0, 0, 0], raw_names=[])}),
        (TAR, {**members("a", "b", flags=[0, 8]), **typed(raw_member=[0], raw_offset=[0, 0], raw_names=[])}),
        (TAR, {**members("a"), **typed(raw_member=[0])}),
        (TAR, {name: column for name, column in members("a").items() if name != "flags"}),
        (TAR, {name: column for name, column in members("a").items() if name != "names"}),
        (TAR, {}),
        (TAR, blocks(1)),
        (ZST, members("a")),
        (ZST, {**members("a"), **blocks(2, block_start=[0, 11])}),
        (ZST, {**members("a"), **blocks(2, block_start=[1, 11])}),
        (ZST, {**members("a"), **blocks(3, block_start=[0, 2**64 - 1, 0], block_size=[2**64 - 1, 1, 1])}),
        (ZST, {**members("a"), **blocks(2, aux_offset=[0, 1, 1])}),
        (ZST, {**members("a"), **blocks(2, block_flags=[1, 2])}),
        (ZST, {**members("a"), **blocks(2, block_size=[10])}),
        (ZIP, {**members("a"), **blocks(2)}),
        (ZIP, {**segmented(), **typed(segment_first=[0, 1])}),
        (ZIP, {**segmented(), **typed(segment_first=[0, 3])}),
        (ZIP, {**segmented(), **typed(segment_member=[0])}),
        (ZIP, {**segmented(), **typed(size=[10, 21])}),
        (ZIP, {**segmented(), **typed(size=[10, 19])}),
        (ZIP, {**segmented(), **typed(flags=[0x800, 0x800], segment_member=[0, 1], segment_first=[0, 2, 2])}),
        (ZIP, {**segmented(), **typed(gzip_index=range(9))}),
        (TAR, {**members("a"), **typed(gzip_index=range(9))}),
        (ZST, {**everything(), **typed(gzip_index=range(7))}),
        (ZST, {**everything(), **typed(sparse_offset=[0, 1, 2])}),
        (ZST, {**everything(), **typed(extent_place=[0, 9, 29])}),
        (ZST, {**everything(), **typed(extent_place=[0, 21, 29])}),
        (ZST, {**everything(), **typed(extent_size=[10, 2**64 - 1, 1])}),
        (ZST, {**everything(), **typed(extent_size=[10, 10])}),
        (ZST, {**everything(), **typed(dictionary=[1, 2, 3])}),
        (ZST, {**everything(), **typed(dictionary=[0x37, 0xA4, 0x30, 0xEC, *[7] * 100])}),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, metadata, columns):
    """With checksums that are right; and it is not saved, either."""
    source = MemorySource(b"archive")
    hostile(tmp_path / "forged", columns, metadata, source)
    with pytest.raises(CorruptArchiveError, match="the saved index is damaged"):
        sidecar.load(tmp_path / "forged", source)
    with pytest.raises(ValueError, match="<7 bytes>"):
        sidecar.save(columns, metadata, source, tmp_path / "saved")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["size"].update(dtype="U32"),
        lambda header: header["size"].update(dtype="F64"),
        lambda header: header["size"].update(dtype=[]),
        lambda header: header["size"].update(shape=[2, 1]),
        lambda header: header["size"].update(shape=[3]),
        lambda header: header["size"].update(shape=[-2]),
        lambda header: header["size"].update(shape=[2.0]),
        lambda header: header["size"].update(shape=None),
        lambda header: header["size"].update(data_offsets=[0, 2**70]),
        lambda header: header["size"].update(data_offsets=header["offset"]["data_offsets"]),
        lambda header: header["size"].update(data_offsets=None),
        lambda header: header["size"].pop("data_offsets"),
        lambda header: header.update(size=7),
        lambda header: header.update(surprise=header.pop("size")),
        lambda header: header.pop("size"),
        lambda header: header["__metadata__"].update(layout="9"),
        lambda header: header["__metadata__"].update(layout=1),
        lambda header: header["__metadata__"].update(data_end="-1"),
        lambda header: header["__metadata__"].update(data_end="9" * 5000),
        lambda header: header["__metadata__"].update(data_end="\u0665"),
        lambda header: header["__metadata__"].update(archive_crc32="0x12"),
        lambda header: header["__metadata__"].update({"crc32:size": "00000000"}),
        lambda header: header["__metadata__"].pop("crc32:size"),
        lambda header: header["__metadata__"].pop("format"),
        lambda header: header["__metadata__"].update(format="tar\x1b]0;a title\x07"),
        lambda header: header["__metadata__"].update(format="tar\n"),
        lambda header: header["__metadata__"].pop("layout"),
    ],
)
def test_headers_that_are_wrong_are_refused(small, change):
    path, source = small
    rewrite(path, change)
    with pytest.raises(CorruptArchiveError):
        sidecar.load(path, source)


def test_headers_that_are_no_header_are_refused(small):
    path, source = small
    for text in (b'"}}', b'"},"a":' + b"[" * 5000, b'"},"a":' + b"9" * 5000 + b"}", b'"}}\xff', b'"},"a":NaN}'):
        whole = b'{"__metadata__":{"header_crc32":"00000000' + text
        whole += b" " * (-(8 + len(whole)) % 64)
        head = len(whole).to_bytes(8, "little")
        path.write_bytes(head + whole.replace(b"0" * 8, b"%08x" % crc32(head + whole), 1))
        with pytest.raises((CorruptArchiveError, StaleSidecar)):
            sidecar.load(path, source)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_columns_are_refused_or_safe(tmp_path_factory, data):
    """Values changed anywhere: an error, or look-ups that stay inside."""
    folder = tmp_path_factory.mktemp("forged")
    metadata, columns = data.draw(st.sampled_from([(ZST, everything()), (ZIP, segmented())]))
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(columns)))
        column = columns[name].copy()
        highest = int(np.iinfo(column.dtype).max)
        match data.draw(st.sampled_from(["set", "drop", "add", "none"])):
            case "set" if len(column):
                near = st.one_of(st.integers(0, min(40, highest)), st.integers(0, highest), st.just(highest))
                column[data.draw(st.integers(0, len(column) - 1))] = data.draw(near)
            case "drop":
                column = column[: data.draw(st.integers(0, len(column)))]
            case "add":
                column = np.append(column, column[-1:])
            case _:
                columns.pop(name)
                continue
        columns[name] = column
        if not columns:
            break
    source = MemorySource(b"archive")
    hostile(folder / "forged", columns, metadata, source)
    try:
        found = sidecar.load(folder / "forged", source).columns
    except CorruptArchiveError:
        return
    table = NameTable(found["names"], found["name_offset"][:-1], found["name_offset"][1:])
    n = len(found["size"])
    for i in range(n):
        begin, end = found["name_offset"][i : i + 2].tolist()
        name = found["names"][begin:end].tobytes()
        assert name.decode("utf-8", "surrogatepass").encode("utf-8", "surrogatepass") == name
        assert i <= table.find(name) < n
    assert table.find("absent") == -1


# ---- stale ------------------------------------------------------------------------------------------------------


def restamp(path: str, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("crc", [None, "right"])
@pytest.mark.parametrize(
    "change",
    ["longer", "shorter", "begin", "end", "middle, later"],
)
def test_an_archive_that_changed(source, change, crc):
    path = Path(source.path)
    before = path.read_bytes()
    crc = crc32(before) if crc else None
    sidecar.save(members("a"), Metadata("tar", Layout.RANGES, 1, crc32=crc), source)
    status = path.stat()
    data = bytearray(before)
    match change:
        case "longer":
            data += b"\0"
        case "shorter":
            data.pop()
        case "begin":
            data[0] ^= 1
        case "end":
            data[-1] ^= 1
        case _:
            data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if change == "middle, later":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        restamp(source.path, status)
    with pytest.raises(StaleSidecar, match=r"archive\.tar\.asidx: the saved index is out of date") as caught:
        sidecar.load_any(LocalSource(path))
    assert isinstance(caught.value, ArchiveChangedError)
    path.write_bytes(before)
    restamp(source.path, status)
    same(sidecar.load_any(LocalSource(path)), members("a"))


def test_a_touched_archive(source):
    """With the CRC of all of it, that decides; without, it is stale."""
    path = Path(source.path)
    crc = fingerprint.whole_crc32(source)
    assert crc == crc32(path.read_bytes())
    sidecar.save(members("a"), Metadata("tar", Layout.RANGES, 1, crc32=crc), source)
    os.utime(path, ns=(1, 1))
    touched = LocalSource(path)
    seen: list[tuple[int, int]] = []
    found = sidecar.load_any(touched, progress=lambda *done: seen.append(done))
    assert found.touched
    assert seen[-1] == (200_000, 200_000)
    sidecar.save(found.columns, found.metadata, touched)
    assert not sidecar.load_any(touched).touched
    sidecar.save(members("a"), TAR, touched)
    os.utime(path, ns=(2, 2))
    with pytest.raises(StaleSidecar, match="touched"):
        sidecar.load_any(LocalSource(path))


def test_an_archive_that_changes_while_it_is_indexed(source):
    os.utime(source.path, ns=(1, 1))
    with pytest.raises(ArchiveChangedError, match="changed while it was indexed"):
        sidecar.save(members("a"), TAR, source)
    assert os.listdir(Path(source.path).parent) == ["archive.tar"]


def test_the_sidecar_of_another_archive(source, tmp_path):
    path = sidecar.save(members("a"), TAR, source)
    other = tmp_path / "other.tar"
    other.write_bytes(random.Random(2).randbytes(200_000))
    path.rename(tmp_path / "other.tar.asidx")
    with pytest.raises(StaleSidecar, match="other contents"):
        sidecar.load_any(LocalSource(other))


def test_another_version_or_other_options(source):
    path = sidecar.save(members("a"), TAR, source)
    for options in ({"strict": True}, {"metadata_encoding": "cp932"}):
        with pytest.raises(StaleSidecar, match="other options"):
            sidecar.load_any(source, **options)
    rewrite(path, lambda header: header["__metadata__"].update(version="2", layout="of another kind"))
    with pytest.raises(StaleSidecar, match="version 2"):
        sidecar.load_any(source)


@pytest.mark.parametrize("make", [MemorySource, lambda data: FileObjectSource(__import__("io").BytesIO(data))])
def test_archives_without_a_time(tmp_path, make):
    path = tmp_path / "given.asidx"
    sidecar.save(members("a"), TAR, make(b"archive"), path)
    same(sidecar.load(path, make(b"archive")), members("a"))
    with pytest.raises(StaleSidecar):
        sidecar.load(path, make(b"archivf"))
    assert sidecar.places(make(b"archive")) == []
    assert sidecar.load_any(make(b"archive")) is None
    with pytest.raises(FileNotFoundError, match="give a path"):
        sidecar.save(members("a"), TAR, make(b"archive"))


# ---- where they lie, and how they get there ---------------------------------------------------------------------


def test_places(source, tmp_path):
    beside, cached = sidecar.places(source)
    assert beside == Path(f"{source.path}.asidx")
    assert cached.is_relative_to(os.environ["XDG_CACHE_HOME"])
    with open(source.path, "rb") as file:
        assert sidecar.places(OpenFileSource(file)) == [beside, cached]
    (tmp_path / "folder").mkdir()
    moved = Path(source.path).rename(tmp_path / "folder" / "archive.tar")
    assert sidecar.places(source) == []
    assert sidecar.places(LocalSource(moved))[1] != cached


def test_a_name_that_leaves_no_room(tmp_path):
    """Of 255 bytes: the one beside would have too many."""
    path = tmp_path / ("ä" * 125 + ".tar")
    path.write_bytes(b"archive")
    source = LocalSource(path)
    found = sidecar.save(members("a"), TAR, source)
    assert [found] == sidecar.places(source)
    assert find(source) == found
    same(sidecar.load_any(source), members("a"))


def test_the_first_valid_one_is_loaded(source):
    """And where none is, the error is that of the one beside the archive."""
    beside, cached = sidecar.places(source)
    cached.parent.mkdir(parents=True)
    sidecar.save(members("cached"), TAR, source, cached)
    sidecar.save(members("beside"), TAR, source, beside)
    same(sidecar.load_any(source), members("beside"))
    beside.write_bytes(b"")
    same(sidecar.load_any(source), members("cached"))
    cached.write_bytes(b"")
    with pytest.raises(CorruptArchiveError, match=r"archive\.tar\.asidx"):
        sidecar.load_any(source)


def as_nobody(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in another process, without the rights of root."""
    setup = "import os, sys\nif os.getuid() == 0:\n    os.setgid(65534); os.setgroups([]); os.setuid(65534)\n"
    command = [sys.executable, "-c", PRELUDE + setup + code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1]), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


PRELUDE = """
import sys, numpy as np
from archivestream import fingerprint, sidecar
from archivestream.columns import DTYPES
from archivestream._native.columns import Layout
from archivestream.sources import LocalSource
TAR = sidecar.Metadata("tar", Layout.RANGES, 1)
def columns(n, value=1):
    rows = {name: np.full(n, value, DTYPES[name]) for name in
        ("size", "compressed_size", "offset", "crc32", "codec", "timestamp", "attributes")}
    names = {"names": np.empty(0, np.uint8), "name_offset": np.zeros(n + 1, np.uint64)}
    return {**rows, "flags": np.zeros(n, np.uint16), **names}
"""


@pytest.fixture
def open_folder() -> Path:
    """A folder that everybody can enter, which those of pytest are not."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_written_to(open_folder):
    archive = open_folder / "archive.tar"
    archive.write_bytes(b"archive")
    cache = open_folder / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    open_folder.chmod(0o555)
    code = (
        "source = LocalSource(sys.argv[1])\n"
        "print(sidecar.save(columns(3), TAR, source))\n"
        "print(len(sidecar.load_any(source).columns['size']))\n"
    )
    done = as_nobody(code, archive, XDG_CACHE_HOME=str(cache))
    path, count = done.stdout.split()
    assert Path(path).is_relative_to(cache)
    assert count == "3"
    assert sorted(os.listdir(open_folder)) == ["archive.tar", "cache"]
    cache.chmod(0o555)
    done = as_nobody(code, archive, XDG_CACHE_HOME=str(cache / "none"))
    assert "PermissionError" in done.stderr
    cache.chmod(0o777)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600, 0o444, 0o755, 0o666])
def test_who_reads_the_archive_reads_the_sidecar(source, mode):
    """And nobody else writes to it, not even who writes to the archive."""
    os.chmod(source.path, mode)
    path = sidecar.save(members("a"), TAR, source)
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o444 | 0o600
    assert (path.stat().st_uid, path.stat().st_gid) == (os.stat(source.path).st_uid, os.stat(source.path).st_gid)


def test_another_file_in_its_way(source, tmp_path):
    """Nothing that somebody has laid there is written to."""
    beside = sidecar.places(source)[0]
    temporary = temporary_of(beside)
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for lay in (os.symlink, os.link):
        lay(precious, temporary)
        with pytest.raises(OSError, match=r"link|somebody else"):
            sidecar.save(members("a"), TAR, source, beside)
        assert precious.read_bytes() == b"precious"
        temporary.unlink()


def temporary_of(place: Path) -> Path:
    return place.with_name(f".asidx-{hashlib.blake2b(os.fsencode(place.name), digest_size=8).hexdigest()}.tmp")


def test_a_writer_that_hangs(source):
    """One that was stopped while it saved holds up nobody for long."""
    beside, cached = sidecar.places(source)
    hold = (
        "import fcntl, os, sys\n"
        "descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)\n"
        "fcntl.flock(descriptor, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold, str(temporary_of(beside))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(BlockingIOError, match="another process is writing"):
            sidecar.save(members("a"), TAR, source, beside)
        assert sidecar.save(members("a"), TAR, source) == cached
        holder.send_signal(signal.SIGCONT)
    assert sidecar.save(members("a"), TAR, source) == beside


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of others")
def test_a_file_of_somebody_else_is_not_waited_for(source):
    """Nor written to, where he has the lock."""
    beside, cached = sidecar.places(source)
    theirs = temporary_of(beside)
    theirs.touch()
    os.chown(theirs, 65534, 65534)
    theirs.chmod(0o666)
    with theirs.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(PermissionError):
            sidecar.save(members("a"), TAR, source, beside)
    assert sidecar.save(members("a"), TAR, source) == cached


def test_a_folder_that_cannot_be_listed(open_folder):
    """So that it cannot be opened to be synced: what was saved there is there."""
    archive = open_folder / "archive.tar"
    archive.write_bytes(b"archive")
    open_folder.chmod(0o333)
    done = as_nobody("print(sidecar.save(columns(3), TAR, LocalSource(sys.argv[1])))", archive)
    open_folder.chmod(0o755)
    assert (done.stdout.strip(), done.stderr) == (f"{archive}.asidx", "")
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.*"))


def test_a_full_disk(source):
    """The old one stays, and nothing else is left."""
    path = sidecar.save(members("old"), TAR, source)
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    sidecar.save(columns(100_000), TAR, LocalSource(sys.argv[1]))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1])}
    command = [sys.executable, "-c", PRELUDE + code, source.path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["27"], done.stderr  # EFBIG
    same(sidecar.load_any(source), members("old"))
    assert os.listdir(path.parent) == unordered("archive.tar", "archive.tar.asidx")
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.*"))


SAVE_FOREVER = """
import itertools
source = LocalSource(sys.argv[1])
for i in itertools.count(1):
    sidecar.save(columns(200_000, i % 200), TAR, source)
    print(i, flush=True)
"""


def savers(source: LocalSource, count: int) -> list[subprocess.Popen[bytes]]:
    """Processes that save one sidecar again and again."""
    environment = {**os.environ, "PYTHONPATH": str(Path(sidecar.__file__).parents[1])}
    command = [sys.executable, "-c", PRELUDE + SAVE_FOREVER, source.path]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
    for process in started:
        process.stdout.readline()
    return started


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_saving(source, how):
    """What is under the final name is whole, whenever that was, and the next one cleans up."""
    for attempt in range(6):
        [process] = savers(source, 1)
        time.sleep(0.003 * attempt)
        process.send_signal(how)
        process.wait(timeout=60)
        process.stdout.close()
        found = sidecar.load_any(source).columns
        assert len(set(found["size"].tolist())) == 1
    folder = Path(source.path).parent
    if how == signal.SIGINT:
        assert os.listdir(folder) == unordered("archive.tar", "archive.tar.asidx")
    sidecar.save(members("a"), TAR, source)
    assert os.listdir(folder) == unordered("archive.tar", "archive.tar.asidx")


def test_several_save_at_the_same_time(source):
    """A reader sees one of theirs, and no mix."""
    started = savers(source, 3)
    try:
        for _ in range(60):
            found = sidecar.load_any(source).columns
            assert len(found["size"]) == 200_000
            assert len({int(found[name][0]) for name in ("size", "offset", "crc32")}) == 1
        assert [process.poll() for process in started] == [None] * 3
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


# ---- of unfinished scans ----------------------------------------------------------------------------------------


def test_partial(source):
    """It is no index, and goes when there is one."""
    assert sidecar.load_partial(source) is None
    path = sidecar.save_partial(blocks(3), ZST, source)
    assert path == Path(f"{source.path}.asidx.part")
    same(sidecar.load_partial(source), blocks(3))
    assert sidecar.load_any(source) is None
    assert find(source) is None
    path.rename(sidecar.places(source)[0])
    with pytest.raises(StaleSidecar, match="partial"):
        sidecar.load_any(source)
    sidecar.save_partial(blocks(3), ZST, source)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptArchiveError):
        sidecar.load_partial(source)
    sidecar.save({**members("a"), **blocks(3)}, ZST, source)
    assert not path.exists()
    sidecar.save_partial(blocks(3), ZST, source)
    sidecar.drop_partial(source)
    sidecar.drop_partial(source)
    assert sidecar.load_partial(source) is None


def test_errors_name_the_sidecar(source):
    path = sidecar.save(members("a"), TAR, source)
    path.write_bytes(b"?")
    with pytest.raises(ArchiveError) as caught:
        sidecar.load_any(source)
    assert caught.value.archive == str(path)


def test_loading_a_million_members(source):
    """In the time of reading it: far below the second that indexing takes."""
    n = 1_000_000
    names = np.frombuffer(b"".join(b"%08d" % i for i in range(n)), np.uint8)
    columns = {
        **{name: np.zeros(n, DTYPES[name]) for name in members()},
        "names": names,
        "name_offset": np.arange(0, 8 * n + 1, 8, dtype=np.uint64),
    }
    sidecar.save(columns, TAR, source)
    best = min(timed(lambda: sidecar.load_any(source)) for _ in range(5))
    assert best < 0.1  # some 5 ms on an idle machine


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
