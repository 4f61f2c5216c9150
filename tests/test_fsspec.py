"""The file system of fsspec: every kind of archive, against fsspec's own of ZIP; chained, mounted, in processes."""

from __future__ import annotations

import errno
import io
import multiprocessing
import operator
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tarmaker
from hypothesis import example, given
from hypothesis import strategies as st
from samples import KINDS, MAKERS, zip_of
from zipmaker import Entry, make

import archivestream
from archivestream import ArchiveWarning, CorruptArchiveError
from archivestream.reader import MemberReader

fsspec = pytest.importorskip("fsspec")
from archivestream.integrations.fsspec import ArchiveFileSystem  # noqa: E402

ROOT = Path(archivestream.__file__).parent.parent
FILES = {
    "readme.txt": b"read me",
    "train/cat/1.txt": b"cat one",
    "train/cat/2.txt": b"cat two",
    "train/dog/1.txt": bytes(300_000),
    "train/empty": b"",
    "sonderbar/näme mit [x] 'y' & ☃.txt": b"odd",
}


# As the entry point does it where the package is installed.
fsspec.register_implementation("archivestream", ArchiveFileSystem, clobber=True)


@pytest.fixture(params=[kind for kind in KINDS if kind not in ("zst", "gz")])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a.{request.param.partition(',')[0]}"
    path.write_bytes(MAKERS[request.param](FILES))
    return path


def write(folder: Path, files: Mapping[str, bytes] = FILES, name: str = "a.zip") -> Path:
    path = folder / name
    path.write_bytes(zip_of(files))
    return path


def tree_of(fs: Any) -> dict[str, Any]:
    """What all listings say, in a form in which file systems can be compared."""
    plain = operator.itemgetter("name", "size", "type")
    folders = ["", *(one for one in fs.find("", withdirs=True) if fs.isdir(one))]
    return {
        "ls": {folder: [plain(one) for one in fs.ls(folder)] for folder in folders},
        "names": {folder: fs.ls(folder, detail=False) for folder in folders},
        "info": {one: plain(fs.info(one)) for one in fs.find("", withdirs=True)},
        "walk": sorted((above, sorted(inner), sorted(files)) for above, inner, files in fs.walk("")),
        "find": [fs.find(""), fs.find("train", maxdepth=1), fs.find("train/cat/1.txt"), fs.find("nothing")],
        "glob": {one: fs.glob(one) for one in ("*", "**", "train/*/1.*", "**/*.txt", "train/**", "no*", "*/")},
        "du": [fs.du(""), fs.du("train"), fs.du("train", total=False)],
        "exists": [fs.exists(one) for one in ("train", "train/cat/1.txt", "train/cat/1", "tra", "/train/", "")],
        "kinds": [(fs.isdir(one), fs.isfile(one)) for one in ("train", "train/cat/1.txt", "none", "")],
        "cat": {one: fs.cat_file(one) for one in fs.find("")},
    }


def test_every_kind_of_archive_is_listed_as_fsspec_lists_a_zip(path: Path, tmp_path: Path) -> None:
    reference = fsspec.filesystem("zip", fo=str(write(tmp_path, name="reference.zip")))
    fs = fsspec.filesystem("archivestream", fo=str(path))
    expected, found = tree_of(reference), tree_of(fs)
    for what in expected:
        assert found[what] == expected[what], what
    for ends in ((2, 5), (0, 3), (-3, None), (None, -1), (3, 99), (None, None)):
        data = fs.cat_file("train/cat/1.txt", *ends)
        assert data == reference.cat_file("train/cat/1.txt", *ends) == b"cat one"[slice(*ends)]
    assert fs.cat_file("train/cat/1.txt", 5, 2) == b""


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "c.txt", "ü", "a b", "x[1]"]), min_size=1, max_size=4).map("/".join),
        st.binary(max_size=9),
        max_size=12,
    ),
    st.sets(st.sampled_from(["a/", "b/c.txt/", "z/", "z/y/x/"])),
)
def test_any_tree_is_listed_as_fsspec_lists_it(files: dict[str, bytes], folders: set[str]) -> None:
    # fsspec has no rule for a file that has the path of a folder.
    above = {name[: match.start()] for name in [*files, *folders] for match in re.finditer("/", name)}
    files = {name: data for name, data in files.items() if name not in above}
    data = zip_of(files | dict.fromkeys(folders, b""))
    reference = fsspec.filesystem("zip", fo=io.BytesIO(data))
    fs = ArchiveFileSystem(data)
    if not files and not folders:  # of which fsspec says that it has no root
        assert fs.ls("") == []
        return
    assert tree_of(fs) == tree_of(reference)


def test_many_files_are_one_native_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    read_many = MemberReader.read_many

    def counted(self: MemberReader, members: Any, *args: Any) -> Any:
        calls.append(len(members))
        return read_many(self, members, *args)

    monkeypatch.setattr(MemberReader, "read_many", counted)
    fs = ArchiveFileSystem(str(path))
    names = ["train/cat/2.txt", "readme.txt"]
    assert fs.cat(names) == {name: FILES[name] for name in names}
    assert fs.cat("train/*/1.txt") == {name: FILES[name] for name in ("train/cat/1.txt", "train/dog/1.txt")}
    assert fs.cat("train", recursive=True) == {name: data for name, data in FILES.items() if name.startswith("train/")}
    assert calls == [2, 2, 4]
    assert fs.cat("readme.txt") == fs.cat("readme.txt", recursive=True) == b"read me"
    assert fs.cat(["readme.txt"]) == {"readme.txt": b"read me"}
    assert fs.cat(names, start=1, end=3) == {name: FILES[name][1:3] for name in names}
    assert fs.cat_ranges(names, [0, 1], [2, 3]) == [FILES[names[0]][:2], FILES[names[1]][1:3]]
    assert fs.get_mapper("train").getitems(["cat/1.txt", "none"], on_error="omit") == {"cat/1.txt": b"cat one"}


def test_what_cannot_be_read_of_many(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make(Entry(b"good", b"1"), Entry(b"bad", b"2", crc=0), Entry(b"d/e", b"3")))
    fs = ArchiveFileSystem(path)
    with pytest.raises(CorruptArchiveError, match=r"a\.zip: member 'bad'"):
        fs.cat(["good", "bad"])
    with pytest.raises(FileNotFoundError, match=r"a\.zip: there is no such member: 'none'"):
        fs.cat(["good", "none"])
    with pytest.raises(IsADirectoryError, match=r"a\.zip: this is a folder: 'd'"):
        fs.cat(["d"])
    names = ["good", "bad", "none", "d"]
    found = fs.cat(names, on_error="return")
    assert list(found) == sorted(names)
    assert [type(found[name]) for name in names] == [bytes, CorruptArchiveError, FileNotFoundError, IsADirectoryError]
    assert fs.cat(names, on_error="omit") == {"good": b"1"}


def test_files_are_seekable_and_text_or_bytes(path: Path) -> None:
    fs = ArchiveFileSystem(path)
    with fs.open("train/dog/1.txt") as file:
        assert file.size == 300_000
        assert file.seek(-5, os.SEEK_END) == 299_995
        assert file.read() == bytes(5)
    with fs.open("train/cat/1.txt", "r") as file:
        assert file.read() == "cat one"
    assert fs.read_text("train/cat/2.txt") == "cat two"
    assert fs.tail("train/cat/2.txt", 3) == b"two"


def test_everything_is_copied_out(path: Path, tmp_path: Path) -> None:
    ArchiveFileSystem(path).get("", str(tmp_path / "out"), recursive=True)
    out = tmp_path / "out"
    assert {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()} == FILES


@pytest.mark.parametrize(
    "write_with",
    [
        lambda fs: fs.open("new", "wb"),
        lambda fs: fs.open("readme.txt", "ab"),
        lambda fs: fs.open("readme.txt", "r+b"),
        lambda fs: fs.write_text("new", "text"),
        lambda fs: fs.pipe("new", b""),
        lambda fs: fs.pipe({"new": b""}),
        lambda fs: fs.touch("new"),
        lambda fs: fs.mkdir("new"),
        lambda fs: fs.mkdirs("new/one", exist_ok=True),
        lambda fs: fs.rmdir("train"),
        lambda fs: fs.rm("readme.txt"),
        lambda fs: fs.rm("train", recursive=True),
        lambda fs: fs.rm_file("readme.txt"),
        lambda fs: fs.delete("readme.txt"),
        lambda fs: fs.mv("readme.txt", "new"),
        lambda fs: fs.cp("readme.txt", "new"),
        lambda fs: fs.put(__file__, "new"),
        lambda fs: fs.upload(__file__, "new"),
        lambda fs: fs.get_mapper("").__setitem__("new", b""),
    ],
)
def test_nothing_is_written(tmp_path: Path, write_with: Callable[[Any], object]) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="read-only here") as caught:
        write_with(ArchiveFileSystem(path))
    assert caught.value.errno == errno.EROFS
    assert path.read_bytes() == before


def test_urls_are_chained(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fsspec.open(f"archivestream://train/cat/1.txt::{path}") as file:
        assert file.read() == b"cat one"
    with fsspec.open(f"archivestream://train/cat/1.txt::file://{path}", "rt", archivestream={"threads": 1}) as file:
        assert file.read() == "cat one"
    files = fsspec.open_files(f"archivestream://train/*/1.txt::{path}")
    assert [one.path for one in files] == ["train/cat/1.txt", "train/dog/1.txt"]
    monkeypatch.chdir(tmp_path)
    with fsspec.open(f"archivestream://train/cat/1.txt::{path.name}") as file:
        assert file.read() == b"cat one"
    with pytest.raises(FileNotFoundError, match=r"no\.zip"):
        fsspec.open("archivestream://train::no.zip").open()


def test_archives_of_other_file_systems(path: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/test_fsspec/{path.name}", path.read_bytes())
    url = f"memory://test_fsspec/{path.name}"
    with fsspec.open(f"archivestream://train/cat/1.txt::{url}") as file:
        assert file.read() == b"cat one"
    fs = ArchiveFileSystem(url)
    assert contents(pickle.loads(pickle.dumps(fs))) == FILES
    # A local copy, which is closed once the archive is open, or cannot be opened: a warning would be an error here.
    cached = f"simplecache::{url}"
    options = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
    with fsspec.open(f"archivestream://train/cat/1.txt::{cached}", **options) as file:
        assert file.read() == b"cat one"
    memory.pipe("/test_fsspec/bad.zip", b"PK no archive")
    with pytest.raises(CorruptArchiveError):
        fsspec.open("archivestream://a::simplecache::memory://test_fsspec/bad.zip", **options)
    memory.rm("/test_fsspec", recursive=True)


def test_an_archive_inside_an_archive(tmp_path: Path) -> None:
    path = write(tmp_path, {"inner.tar": MAKERS["tar"](FILES)})
    with fsspec.open(f"archivestream://train/cat/2.txt::archivestream://inner.tar::{path}") as file:
        assert file.read() == b"cat two"


def test_fsspec_finds_the_entry_point(tmp_path: Path) -> None:
    """As it does where the package is installed: from the metadata of a distribution."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    lines = project.read_text(encoding="utf-8").split('[project.entry-points."fsspec.specs"]\n')[1]
    name, value = re.match(r'(\w+) = "([\w.:]+)"\n', lines).groups()  # type: ignore[union-attr]
    about = tmp_path / "archivestream_test-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: archivestream-test\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[fsspec.specs]\n{name} = {value}\n")
    path = write(tmp_path)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import fsspec\n"
        "assert 'archivestream' not in sys.modules\n"
        f"with fsspec.open('archivestream://readme.txt::{path}') as file: print(file.read().decode())\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "read me\n", "")


def test_odd_names_have_plain_paths(tmp_path: Path) -> None:
    names = [
        "/lead",
        "./dot",
        ".//two/./dots",
        "x//y",
        "a/./b",
        "plain",
        "./plain",
        "tail/..x",
        "::url://x",
        "back\\slash",
    ]
    path = write(tmp_path, {name: name.encode() for name in names})
    fs = ArchiveFileSystem(path)
    paths = ["lead", "dot", "two/dots", "x/y", "a/b", "plain", "plain", "tail/..x", "::url:/x", "back\\slash"]
    expected = dict(zip(paths[::-1], names[::-1], strict=True))
    expected["plain"] = "plain"
    assert set(fs.find("")) == set(expected)
    assert {one: fs.cat_file(one).decode() for one in fs.find("")} == expected
    for one in fs.find("", detail=True).values():
        assert fs.archive.names[one["position"]] == expected[one["name"]]
        assert fs.info(one["name"]) == one
    assert fs.cat_file("/lead") == fs.cat_file("./lead") == fs.cat_file("archivestream://lead") == b"/lead"


@given(st.lists(st.lists(st.sampled_from(["a", "b", "", ".", ".."]), min_size=1, max_size=4).map("/".join), max_size=9))
@example(["//a"])
@example(["./a", "/a"])
@example(["/a", "./a"])
@pytest.mark.filterwarnings("ignore:.*have no path:archivestream.ArchiveWarning")
def test_listings_and_look_ups_agree_on_any_names(names: list[str]) -> None:
    names = [name or "c" for name in names]
    at: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        parts = name.split("/")
        if ".." not in parts and parts[-1] not in ("", "."):
            at.setdefault("/".join(part for part in parts if part not in ("", ".")), []).append(position)
    expected = {}
    for path, positions in at.items():
        orders = [path, f"./{path}", f"/{path}"]  # the names that go before others, in this order; of each, the last
        rank = {position: orders.index(names[position]) if names[position] in orders else 3 for position in positions}
        expected[path] = max(positions, key=lambda position: (-rank[position], position))
    fs = ArchiveFileSystem(make(*(Entry(name.encode(), b"%d" % i) for i, name in enumerate(names))))
    for path, position in expected.items():
        assert fs.info(path)["position"] == position
    listed = fs.find("", detail=True)
    assert {path: info["position"] for path, info in listed.items()} == expected
    assert all(fs.info(path) == info for path, info in listed.items())
    assert fs.cat("", recursive=True) == {path: b"%d" % position for path, position in expected.items()}
    for path in fs.find("", withdirs=True):
        assert fs.exists(path)
        assert ".." not in path.split("/")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_have_no_path(kind: str, tmp_path: Path) -> None:
    bad = ["../up", "a/../../up", "a/..", "..", "/" * 3, "d/" * 101 + "deep", "x/." if kind == "zip" else "/.."]
    files = {**dict.fromkeys(bad, b"!"), "good": b"1", "a/b": b"2"}
    data = make(*(Entry(name.encode(), data) for name, data in files.items())) if kind == "zip" else MAKERS[kind](files)
    path = tmp_path / "a"
    path.write_bytes(data)
    fs = ArchiveFileSystem(path)
    assert fs.cat_file("good") == b"1"  # found without a pass over the names
    with pytest.warns(ArchiveWarning, match=r"[67] of the members have no path in a file system.*'\.\./up'"):
        assert fs.find("") == ["a/b", "good"]
    for name in bad:
        assert not fs.isfile(name)
    fs.get("", str(tmp_path / "deep" / "out"), recursive=True)
    assert not list(tmp_path.rglob("up"))
    assert fs.archive[0] == b"!"  # it can be read still


def test_of_several_members_with_one_name_the_last_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(make(Entry(b"d/a", b"1"), Entry(b"d/a", b"22"), Entry(b"d//b", b"3"), Entry(b"d/.//b", b"44")))
    fs = ArchiveFileSystem(path)
    assert fs.cat(["d/a", "d/b"]) == {"d/a": b"22", "d/b": b"44"}
    assert [one["size"] for one in fs.ls("d")] == [2, 2]
    assert fs.du("d") == 4


def test_a_file_may_have_the_path_of_a_folder(tmp_path: Path) -> None:
    fs = ArchiveFileSystem(write(tmp_path, {"a": b"file", "a/b": b"below", "c/d/e": b"deep", "c/d": b"shallow"}))
    assert fs.find("") == ["a", "a/b", "c/d", "c/d/e"]
    assert [one["type"] for one in fs.ls("")] == ["directory", "file", "directory"]
    assert fs.ls("", detail=False) == ["a", "c"]
    assert fs.cat_file("a") == b"file"
    assert fs.cat("c", recursive=True) == {"c/d": b"shallow", "c/d/e": b"deep"}


def test_directories_links_and_devices_of_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as writer:
        for name, kind in (
            (".", tarfile.DIRTYPE),
            ("./was", tarfile.REGTYPE),
            ("./was", tarfile.DIRTYPE),
            ("./d", tarfile.DIRTYPE),
            ("./d/link", tarfile.SYMTYPE),
            ("./d/pipe", tarfile.FIFOTYPE),
            ("./d/file", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../secret" if kind == tarfile.SYMTYPE else ""
            writer.addfile(info)
    fs = ArchiveFileSystem(path)
    assert [(one["name"], one["type"]) for one in fs.ls("")] == [("d", "directory"), ("was", "directory")]
    assert {one["name"]: one["type"] for one in fs.ls("d")} == {"d/file": "file", "d/link": "link", "d/pipe": "other"}
    assert fs.cat_file("d/link") == b"../secret"
    assert not fs.isfile("d/link")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    names = [b"d/\xff\xfe", b"d/n\n\t", b"d/\xe4.txt", "d/☃".encode()]
    path.write_bytes(b"".join(tarmaker.member(name, b"%d" % i) for i, name in enumerate(names)) + tarmaker.END)
    fs = ArchiveFileSystem(path)
    found = fs.find("d")
    assert sorted(fs.cat_file(name) for name in found) == [b"0", b"1", b"2", b"3"]
    assert len({fs.ukey(name) for name in found}) == 4
    assert "d/☃" in found


def test_mounts(tmp_path: Path) -> None:
    first, second = write(tmp_path, name="1.zip"), tmp_path / "2.tar"
    second.write_bytes(MAKERS["tar"]({"./readme.txt": b"newer", "train/x//y": b"more"}))
    view = archivestream.open(first).select("train/*")
    fs = ArchiveFileSystem({"/one/": str(first), "two/deep": second, "view": view})
    assert fs.ls("", detail=False) == ["one", "two", "view"]
    assert fs.ls("two/deep", detail=False) == ["two/deep/readme.txt", "two/deep/train"]
    assert fs.find("one") == [f"one/{name}" for name in sorted(FILES)]
    assert fs.find("view") == [f"view/{name}" for name in sorted(FILES) if name.startswith("train/")]
    names = ["one/readme.txt", "two/deep/readme.txt", "two/deep/train/x/y", "view/train/cat/1.txt"]
    assert fs.cat(names) == dict(zip(names, [b"read me", b"newer", b"more", b"cat one"], strict=True))
    assert fs.glob("**/readme.txt") == names[:2]
    assert not any(map(fs.exists, ["readme.txt", "two/readme.txt", "view/readme.txt", "one/x/y", "onereadme.txt"]))
    for one in fs.find("", detail=True).values():
        assert fs.archive.read(one["position"]) == fs.cat_file(one["name"])
    # One folder of a mount is a file system, too.
    train = fsspec.filesystem("dir", path="one/train", fs=fs)
    assert train.cat("cat/2.txt") == b"cat two"
    assert ArchiveFileSystem({"empty/one": zip_of({})}).find("", withdirs=True) == ["empty", "empty/one"]
    with pytest.raises(ValueError, match="no folder"):
        ArchiveFileSystem({"../one": first})
    with pytest.raises(ValueError, match="no archive"):
        ArchiveFileSystem({})


def test_of_mounts_at_one_place_the_last_counts(tmp_path: Path) -> None:
    below, above = (
        write(tmp_path, {"a": b"1", "b": b"2", "d/c": b"3"}, "1.zip"),
        write(tmp_path, {"d/b": b"4"}, "2.zip"),
    )
    fs = ArchiveFileSystem({"": below, "d": write(tmp_path, {"c": b"33"}, "3.zip"), "/": above})
    assert fs.cat("", recursive=True) == {"a": b"1", "b": b"2", "d/b": b"4", "d/c": b"33"}
    assert [one["size"] for one in fs.ls("d")] == [1, 2]


def test_file_systems_are_equal_where_their_contents_are(tmp_path: Path) -> None:
    path = write(tmp_path)
    fs, archive = ArchiveFileSystem(str(path)), archivestream.open(path)
    assert fs == ArchiveFileSystem(archive) == pickle.loads(pickle.dumps(fs))
    assert hash(fs) == hash(ArchiveFileSystem(path))
    views = [ArchiveFileSystem(archive.select([i])) for i in (0, 1)]  # of one length, so of one `repr`
    assert views[0] != views[1]
    assert fs != ArchiveFileSystem({"mount": path})
    other = ArchiveFileSystem(write(tmp_path, FILES | {"readme.txt": b"READ ME"}, "b.zip"))
    assert fs.ukey("readme.txt") == ArchiveFileSystem(archive).ukey("/readme.txt") != other.ukey("readme.txt")
    assert fs.checksum("readme.txt") != other.checksum("readme.txt")
    with pytest.raises(TypeError, match="an archive already"):
        ArchiveFileSystem(archive, threads=1)
    with pytest.raises(TypeError, match="nothing"):
        ArchiveFileSystem(path, nothing=1)


def contents(fs: ArchiveFileSystem) -> dict[str, bytes]:
    files: dict[str, bytes] = fs.cat("", recursive=True)
    assert files == {name: fs.open(name).read() for name in fs.find("")}
    return files


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["zip", "tar.zst"])
def test_in_other_processes(kind: str, method: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(MAKERS[kind](FILES))
    fs = ArchiveFileSystem(path)
    assert contents(fs) == FILES
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(contents, [fs, fs, ArchiveFileSystem(archivestream.open(path))]) == [FILES] * 3


def test_from_many_threads(path: Path) -> None:
    fs = ArchiveFileSystem(path)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == FILES for found in pool.map(contents, [fs] * 24))


def test_one_file_of_many_takes_no_pass_over_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {f"./d/{i}": b"%d" % i for i in range(50)})
    fs = ArchiveFileSystem(path)
    monkeypatch.setattr(fs, "_folders", None)
    assert fs.cat(["d/7", "d/8"]) == {"d/7": b"7", "d/8": b"8"}
    assert fs.open("d/9").read() == b"9"
    assert fs.info("d/49")["size"] == 2


def test_other_libraries_read_through_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"name": ["a", "b"], "label": [1, 2]})
    path = write(tmp_path, {"t/labels.csv": table.to_csv(index=False).encode(), "t/labels.parquet": table.to_parquet()})
    for name, read in (("csv", pandas.read_csv), ("parquet", pandas.read_parquet)):
        pandas.testing.assert_frame_equal(read(f"archivestream://t/labels.{name}::{path}"), table)


def test_folders_take_no_memory_out_of_proportion(tmp_path: Path) -> None:
    """Of each of these names, 100 folders, whose paths are fifty times as long as the name."""
    count = 300
    names = ["/".join([f"{i:05d}" + "x" * 630, *["y" * 640] * 98, "f"]) for i in range(count)]
    plain = {f"plain/{i}/{j}.txt": b"" for i in range(200) for j in range(5)}
    fs = ArchiveFileSystem(write(tmp_path, {**plain, **dict.fromkeys(names, b"hostile")}))
    tracemalloc.start()
    try:
        with pytest.warns(ArchiveWarning, match=r"of the members have no path"):
            fs.ls("")
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < (64 << 20) + 8 * sum(map(len, names))  # of one GB
    assert len(fs.glob("plain/**/*.txt")) == len(plain)
    assert fs.cat(names[-1]) == b"hostile"  # by its name, all the same
