"""What `zipfile` writes, read here: the same names, fields and bytes, in whatever order and through any view."""

from __future__ import annotations

import ensurepip
import fnmatch
import io
import pickle
import sysconfig
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from zipmaker import METHODS, Entry, begins_as_another, extra, make, unicode_path

import archivestream
from archivestream import Archive, CorruptArchiveError

OpenAs = Callable[..., Archive]

quick = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])

# ---- what zipfile writes ---------------------------------------------------------------------------------------


@dataclass
class Written:
    """One member, as `zipfile` is asked to write it."""

    name: str
    data: bytes
    method: int = 0
    level: int | None = None
    comment: bytes = b""
    extra: bytes = b""
    date_time: tuple[int, int, int, int, int, int] = (1980, 1, 1, 0, 0, 0)
    external_attr: int = 0
    force_zip64: bool = False


@dataclass
class Whole:
    """An archive, as `zipfile` is asked to write it."""

    members: list[Written]
    comment: bytes = b""
    prefix: bytes = b""
    seekable: bool = True
    bytes: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.bytes = write(self)


class Pipe(io.BytesIO):
    """Can neither seek nor tell."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise io.UnsupportedOperation

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation


def write(whole: Whole) -> bytes:
    file = io.BytesIO() if whole.seekable else Pipe()
    if whole.seekable:
        file.write(whole.prefix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of duplicate names
        with zipfile.ZipFile(file, "a" if whole.seekable and whole.prefix else "w") as archive:
            archive.comment = whole.comment
            for member in whole.members:
                info = zipfile.ZipInfo(member.name, member.date_time)
                info.compress_type = member.method
                info.comment = member.comment
                info.extra = member.extra
                info.external_attr = member.external_attr
                info._compresslevel = member.level  # type: ignore[attr-defined]
                with archive.open(info, "w", force_zip64=member.force_zip64) as target:
                    target.write(member.data)
    return file.getvalue()


contents = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=20), st.integers(0, 3000)),
    st.builds(lambda seed, size: np.random.default_rng(seed).bytes(size), st.integers(0, 9), st.integers(0, 40_000)),
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
plain_names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=12)
extras = st.lists(st.builds(extra, st.integers(0x4000, 0x6FFF), st.binary(max_size=40)), max_size=2).map(b"".join)
dates = st.tuples(
    st.integers(1980, 2107),
    st.integers(1, 12),
    st.integers(1, 28),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 29).map(lambda half: 2 * half),
)


def wholes(member_names: st.SearchStrategy[list[str]]) -> st.SearchStrategy[Whole]:
    member = st.builds(
        Written,
        st.just(""),
        contents,
        st.sampled_from([0, 8, 8, 12, 14]),
        st.sampled_from([None, 1, 9]),
        st.binary(max_size=30),
        extras,
        dates,
        st.integers(0, 2**32 - 1),
        st.booleans(),
    )

    def name_them(drawn: tuple[list[str], list[Written]]) -> list[Written]:
        for name, one in zip(*drawn, strict=False):
            one.name = name
        return drawn[1][: len(drawn[0])]

    members = st.tuples(member_names, st.lists(member, max_size=12)).map(name_them)
    return st.builds(
        Whole,
        members,
        st.one_of(st.just(b""), st.binary(max_size=50).filter(lambda comment: b"PK" not in comment)),
        st.one_of(
            st.just(b""),
            st.binary(max_size=100).filter(lambda prefix: b"PK" not in prefix and not begins_as_another(prefix)),
        ),
        st.booleans(),
    )


def may_be_prefix(data: bytes) -> bool:
    return b"PK" not in data and not begins_as_another(data)


def assert_same_as_zipfile(archive: Archive, data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as expected:
        assert archive.namelist() == expected.namelist()
        assert list(archive.names) == expected.namelist()
        assert archive.testzip() is None
        bytes_of = [expected.read(info) for info in expected.infolist()]
        assert list(archive) == bytes_of
        assert archive.read_many(range(len(archive))) == bytes_of
        for position, (ours, theirs) in enumerate(zip(archive.infolist(), expected.infolist(), strict=True)):
            assert ours.position == position
            for attribute in ("filename", "file_size", "compress_size", "CRC", "compress_type"):
                assert getattr(ours, attribute) == getattr(theirs, attribute)
            for attribute in ("date_time", "header_offset", "external_attr"):
                assert getattr(ours, attribute) == getattr(theirs, attribute)
            assert ours.is_dir() == theirs.is_dir()
        for name in expected.namelist():
            assert archive[name] == archive.read(name) == expected.read(name)
            assert archive.getinfo(name).header_offset == expected.getinfo(name).header_offset
        assert archive.verify().bytes == sum(map(len, bytes_of))


@quick
@given(wholes(st.lists(names, max_size=12)))
@example(Whole([Written("x", b"1"), Written("x", b"2"), Written("x/", b"")]))
def test_round_trip(open_as: OpenAs, whole: Whole) -> None:
    archive = open_as(whole.bytes)
    assert [archive[i] for i in range(len(archive))] == [member.data for member in whole.members]
    assert_same_as_zipfile(archive, whole.bytes)


@settings(quick, max_examples=150)
@given(wholes(st.lists(plain_names, max_size=12, unique=True)), st.sampled_from(["", "folder/", "a/b/"]))
def test_strict_accepts_what_zipfile_writes(whole: Whole, folder: str) -> None:
    for member in whole.members:
        member.name = folder + member.name
    data = write(whole)
    assert_same_as_zipfile(archivestream.open(data, strict=True), data)


def bundled() -> list[Path]:
    """ZIPs that are on every machine: the wheels of ensurepip, and what Python's own tests bring along."""
    folders = [Path(ensurepip.__file__).parent / "_bundled", Path(sysconfig.get_path("stdlib")) / "test"]
    found = [path for folder in folders for pattern in ("*.whl", "*.zip") for path in folder.rglob(pattern)]
    return sorted(path for path in found if zipfile.is_zipfile(path))[:12]


@pytest.mark.parametrize("path", bundled(), ids=lambda path: path.name)
def test_real_archives(open_as: OpenAs, path: Path) -> None:
    data = path.read_bytes()
    assert_same_as_zipfile(open_as(data), data)


# ---- names -----------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.binary(max_size=30), max_size=8), st.booleans())
@example([b"", b"\0", b"a\0b", b"\xff", bytes(range(1, 256))], False)
def test_raw_names(raw_names: list[bytes], views: bool) -> None:
    """Names in no declared encoding: shown as zipfile shows them, found by their bytes."""
    data = make(*(Entry(raw, b"%d" % i) for i, raw in enumerate(raw_names)))
    archive = archivestream.open(data)
    with zipfile.ZipFile(io.BytesIO(data)) as expected:
        assert archive.namelist() == expected.namelist()
    if views:
        archive = archive.select(range(len(archive)))
    last = {raw: b"%d" % i for i, raw in enumerate(raw_names)}
    for i, raw in enumerate(raw_names):
        assert archive[i] == b"%d" % i
        assert archive[raw] == last[raw]
        assert raw in archive
        assert (raw + b"?" in archive) == (raw + b"?" in last)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        *((encoding, "日本語/表.txt") for encoding in ("utf-8", "cp932", "gbk", "euc-jp", "iso2022_jp", "utf-7")),
        *((encoding, "привет/Я") for encoding in ("utf-8", "cp866", "koi8-r", "cp1251")),
        *((encoding, "naïve/é") for encoding in ("utf-8", "latin-1", "cp437", "mac-roman")),
        *((encoding, "plain.txt") for encoding in ("utf-8", "cp932", "latin-1")),
    ],
)
def test_metadata_encoding(open_as: OpenAs, encoding: str, text: str) -> None:
    raw = text.encode(encoding)
    marked = Entry("ü".encode(), b"marked as UTF-8", flags=0x0800)
    archive = open_as(make(Entry(b"a", b"first"), Entry(raw, b"named"), marked), metadata_encoding=encoding)
    assert archive.namelist() == ["a", text, "ü"]
    assert archive[text] == archive[raw] == archive[1] == b"named"
    assert archive["ü"] == archive["ü".encode()] == b"marked as UTF-8"


def test_name_is_not_in_the_encoding(open_as: OpenAs) -> None:
    with pytest.raises(CorruptArchiveError, match="metadata_encoding"):
        open_as(make(Entry(b"a"), Entry(b"\xff\xfe", b"")), metadata_encoding="utf-8")


def test_longest_names(open_as: OpenAs) -> None:
    raw = [b"x" * 65535, "é".encode("cp437") * 65535, b"\x00" + b"y" * 65534]
    archive = open_as(make(*(Entry(name, b"%d" % i) for i, name in enumerate(raw))))
    assert archive.namelist() == ["x" * 65535, "é" * 65535, ""]
    assert [archive[name] for name in raw] == [b"0", b"1", b"2"]


def test_raw_names_of_duplicates(open_as: OpenAs) -> None:
    same = Entry(b"other", b"2", extra=unicode_path(b"same", b"other"))
    archive = open_as(make(Entry(b"same", b"0"), Entry(b"same", b"1"), same))
    assert archive.namelist() == ["same"] * 3
    assert archive["same"] == b"2"
    assert archive[b"other"] == b"2"
    assert archive[b"same"] == b"1", "the last member whose name is these bytes"


def test_raw_names_in_a_view(open_as: OpenAs) -> None:
    view = open_as(make(Entry(b"same", b"0"), Entry(b"same", b"1"))).select([0])
    assert view["same"] == b"0"
    assert view[b"same"] == b"0"


# ---- any order, any view ---------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
SIZES = [0, 1, 200, 3000, 17_000, 40_000]
MEMBERS = [(f"{'abc'[i % 3]}/{i:02}.bin", RNG.bytes(SIZES[i % 6] // 2) * 2, METHODS[i % 5]) for i in range(60)]
ARCHIVE = make(*(Entry(name.encode(), data, method) for name, data, method in MEMBERS))
NAMES = [name for name, _, _ in MEMBERS]
DATA = [data for _, data, _ in MEMBERS]

keys = st.one_of(
    st.integers(-60, 59),
    st.integers(-60, 59).map(np.int64),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES).map(str.encode),
)


def expected_of(chosen: Sequence[object]) -> list[bytes]:
    by_key: dict[object, bytes] = dict(zip(NAMES, DATA, strict=True))
    by_key |= {name.encode(): data for name, data in zip(NAMES, DATA, strict=True)}
    by_key |= {i - n: data for n in (0, len(DATA)) for i, data in enumerate(DATA)}
    return [by_key[key] for key in chosen]


@pytest.mark.parametrize("threads", range(1, 9))
def test_any_order(open_as: OpenAs, threads: int) -> None:
    archive = open_as(ARCHIVE, threads=threads)

    @settings(quick, max_examples=25)
    @given(st.lists(keys, max_size=150), st.integers(0, 30))
    def check(chosen: list[object], more: int) -> None:
        expected = expected_of(chosen)
        assert archive.read_many(chosen) == expected  # type: ignore[arg-type]
        assert list(map(bytes, archive.read_batch(chosen))) == expected  # type: ignore[arg-type]
        out = np.full(sum(map(len, expected)) + more, 7, np.uint8)
        batch = archive.read_batch(chosen, out=out)  # type: ignore[arg-type]
        assert batch.data.base is not None or not len(batch.data)
        assert list(map(bytes, batch)) == expected
        assert bytes(out) == b"".join(expected) + b"\7" * more
        assert list(map(bytes, archive.submit(chosen).result())) == expected  # type: ignore[arg-type]

    check()


@settings(quick, max_examples=200)
@given(st.data())
def test_views_of_views(draw: st.DataObject) -> None:
    archive = archivestream.open(ARCHIVE)
    rows = list(range(len(NAMES)))
    for _ in range(draw.draw(st.integers(1, 4))):
        n = len(rows)
        kind = draw.draw(st.sampled_from(["slice", "mask", "list", "array", "glob", "names", "range"]))
        if kind == "slice":
            cut = draw.draw(st.slices(n))
            archive, rows = archive[cut], rows[cut]
        elif kind == "mask":
            mask = draw.draw(st.lists(st.booleans(), min_size=n, max_size=n))
            archive = archive.select(np.array(mask, np.bool_))
            rows = [row for row, chosen in zip(rows, mask, strict=True) if chosen]
        elif kind in ("list", "array"):
            places = draw.draw(st.lists(st.integers(-n, n - 1), max_size=80)) if n else []
            archive = archive.select(places if kind == "list" else np.array(places, np.int32))
            rows = [rows[place] for place in places]
        elif kind == "glob":
            pattern = draw.draw(st.sampled_from(["a/*", "*1.bin", "*", "[ab]/?0.*", "nothing", "*/*"]))
            archive = archive.select(pattern)
            rows = [row for row in rows if fnmatch.fnmatchcase(NAMES[row], pattern)]
        elif kind == "names":
            chosen = draw.draw(st.lists(st.sampled_from(rows), max_size=20)) if n else []
            archive = archive.select([NAMES[row] for row in chosen])
            rows = chosen
        else:
            archive, rows = archive.select(range(n - 1, -1, -2)), rows[::-2]
    assert len(archive) == len(rows)
    assert archive.namelist() == [NAMES[row] for row in rows]
    assert archive.read_many(range(len(rows))) == [DATA[row] for row in rows]
    assert [archive[i] for i in range(-len(rows), 0)] == [DATA[row] for row in rows]
    assert [archive[name] for name in archive.names] == [DATA[row] for row in rows]
    for row in set(range(len(NAMES))) - set(rows):
        assert NAMES[row] not in archive
        assert NAMES[row].encode() not in archive
    assert [info.position for info in archive.infolist()] == list(range(len(rows)))
    assert [len(archive[name.encode()]) for name in archive.names] == [len(DATA[row]) for row in rows]


@pytest.mark.parametrize("bad", [60, -61, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -(2**70)])
def test_positions_that_are_not_there(bad: int) -> None:
    archive = archivestream.open(ARCHIVE)
    ways: list[Callable[[], object]] = [
        lambda: archive[bad],
        lambda: archive.info(bad),
        lambda: archive.read_many([0, bad]),
        lambda: archive.read_batch([bad]),
        lambda: archive.select([bad]),
        lambda: archive.open_member(bad),
    ]
    if -(2**63) <= bad < 2**64:
        ways.append(lambda: archive.read_many(np.array([bad])))
    for way in ways:
        with pytest.raises(IndexError):
            way()


def test_keys_of_the_wrong_type() -> None:
    archive = archivestream.open(ARCHIVE)
    for bad in (1.0, None, [0], object()):
        with pytest.raises(TypeError):
            archive[bad]  # type: ignore[call-overload]
    for bad in ([1.0], [None], np.array([0.5]), "a/00.bin", 3):
        with pytest.raises(TypeError):
            archive.read_many(bad)  # type: ignore[arg-type]
    assert archive.read_many(np.array(NAMES[:3])) == DATA[:3]
    with pytest.raises(IndexError):
        archive.select(np.zeros(59, np.bool_))


# ---- several archives as one -----------------------------------------------------------------------------------


@settings(quick, max_examples=40)
@given(
    st.lists(wholes(st.lists(names, max_size=5)), min_size=1, max_size=4),
    st.sampled_from(["list", "glob", "braces", "mixed"]),
    st.randoms(use_true_random=False),
)
def test_several_archives(tmp_path_factory: pytest.TempPathFactory, parts: list[Whole], how: str, rng: object) -> None:
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"part-{i:03}.zip" for i in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part.bytes)
    opened: object = paths
    if how == "glob":
        opened = folder / "part-*.zip"
    elif how == "braces":
        opened = str(folder / f"part-{{000..{len(parts) - 1:03}}}.zip")
    elif how == "mixed":
        kinds = [lambda i: paths[i], lambda i: parts[i].bytes, lambda i: io.BytesIO(parts[i].bytes)]
        opened = [kinds[i % 3](i) for i in range(len(parts))]
    expected = [member for part in parts for member in part.members]
    with archivestream.open(opened) as archive:  # type: ignore[arg-type]
        assert archive.namelist() == [member.name for member in expected]
        order = [*range(len(expected))] * 2
        rng.shuffle(order)  # type: ignore[attr-defined]
        assert archive.read_many(order) == [expected[i].data for i in order]
        assert archive.read_batch(order[::-1]).data.tobytes() == b"".join(expected[i].data for i in order[::-1])
        last = {member.name: member.data for member in expected}
        assert all(archive[name] == data for name, data in last.items())
        assert archive.verify().ok
        sources = [info.archive for info in archive.infolist()]
        assert len(set(sources)) <= len(parts)
        if how != "mixed":
            assert sources == [str(path) for path, part in zip(paths, parts, strict=True) for _ in part.members]
            copy = pickle.loads(pickle.dumps(archive.select(order)))
            assert list(copy) == [expected[i].data for i in order]
