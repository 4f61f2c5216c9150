"""Data sets by name: what a manifest opens, verifies and refuses."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from samples import KINDS, MAKERS, zip_of

import archivestream
from archivestream import ArchiveError, CorruptArchiveError, Manifest, sidecar
from archivestream.sources import LocalSource

ROOT = Path(archivestream.__file__).parent.parent
FILES = {f"{split}/{label}/{i}.txt": b"%d" % i for split in ("train", "val") for label in "ab" for i in range(20)}


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three archives below a folder of the manifest, each with a third of the files."""
    (tmp_path / "digits").mkdir()
    paths = [tmp_path / "digits" / f"{i}.zip" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(zip_of(dict([*FILES.items()][i::3])))
    return paths


def write(folder: Path, text: str) -> Path:
    path = folder / "datasets.toml"
    path.write_text(text, encoding="utf-8")
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("zst", "gz")])
def test_every_kind_of_archive_is_opened_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "ümlaut [1].bin"
    path.parent.mkdir()
    path.write_bytes(MAKERS[kind](FILES))
    manifest = Manifest(write(tmp_path, f'["a name"]\npath = "sub/ümlaut [1].bin"\nsha256 = "{digest(path).upper()}"'))
    assert list(manifest) == ["a name"]
    manifest["a name"].verify()
    with manifest["a name"].open(threads=1) as archive:
        assert dict(zip(archive.names, archive, strict=True)) == FILES
    with pytest.raises(KeyError, match="none"):
        manifest["none"]


def write_bins(folder: Path) -> list[Path]:
    """Two records of splitdataloader."""
    for number, data in enumerate((b"meow", b"woof")):
        (folder / f"bin{number:08d}.dat").write_bytes(struct.pack("<I", len(data)) + data)
    (folder / "index.dat").write_bytes(struct.pack("<6I", 0, 0, 4, 1, 0, 4))
    return sorted(folder.iterdir())


def write_chunks(folder: Path) -> list[Path]:
    """Two arrays of AcumenIndexer."""
    (folder / "chunks").mkdir()
    rows = ["ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape,label"]
    for number, data in enumerate((b"meow", b"woof")):
        name = f"chunks/chunk_{number}.chnk"
        (folder / name).write_bytes(data)
        rows.append(f'{name},0,4,"(4,)",1')
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    return sorted(path for path in folder.rglob("*.c*") if path.is_file())


@pytest.mark.parametrize("path", ["set", "set/index.*"])
@pytest.mark.parametrize("make", [write_bins, write_chunks])
def test_all_files_that_a_table_refers_to(make: Callable[[Path], list[Path]], path: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    files = make(tmp_path / "set")
    assert len(files) == 3

    def pinned(*chosen: Path) -> archivestream.manifest.NamedDataset:
        pairs = ", ".join(f'"{file.relative_to(tmp_path).as_posix()}" = "{digest(file)}"' for file in chosen)
        return Manifest(write(tmp_path, f'[a]\npath = "{path}"\nsha256 = {{{pairs}}}'))["a"]

    calls: list[tuple[int, int]] = []
    dataset = pinned(*files)
    dataset.verify(lambda *call: calls.append(call))
    assert calls[-1] == (sum(file.stat().st_size for file in files),) * 2
    assert list(dataset.open()) == [b"meow", b"woof"]
    for file in files:
        others = [other for other in files if other != file]
        with pytest.raises(ValueError, match=rf"needs a sha256.*see {re.escape(str(file.relative_to(tmp_path)))}$"):
            pinned(*others).verify()
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        # A table is read before, to know what else is checked.
        with pytest.raises(CorruptArchiveError, match=file.name):
            dataset.verify()
        file.write_bytes(before)
    [table] = [file for file in files if file.name.startswith("index")]
    with pytest.raises(ValueError, match="needs a sha256"):  # as one for all
        Manifest(write(tmp_path, f'[a]\npath = "{path}"\nsha256 = "{digest(table)}"'))["a"].verify()
    files[1].unlink()
    with pytest.raises((CorruptArchiveError, FileNotFoundError), match=files[1].name):
        dataset.verify()


def test_a_saved_index_that_came_along_is_not_trusted(tmp_path: Path) -> None:
    """It says where members lie, and what is verified are the bytes of the archive."""
    path = tmp_path / "members.tar"
    path.write_bytes(MAKERS["tar"]({"cat": b"meow", "dog": b"woof"}))
    text = f'[pinned]\npath = "members.tar"\nsha256 = "{digest(path)}"\n[other]\npath = "members.tar"\n'
    manifest = Manifest(write(tmp_path, text))
    archivestream.open(path).close()
    source = LocalSource(path)
    saved = sidecar.load_any(source)
    assert saved is not None
    columns = {**saved.columns, "offset": saved.columns["offset"][::-1].copy()}
    planted = sidecar.save(columns, saved.metadata, source)
    before = planted.read_bytes()
    manifest["pinned"].verify()
    for _ in range(2):  # the second time by an index of our own
        with manifest["pinned"].open() as archive:
            assert [archive["cat"], archive["dog"]] == [b"meow", b"woof"]
            assert archive.summary().saved_indexes == [str(sidecar.places(source)[1])]
            assert pickle.loads(pickle.dumps(archive))["cat"] == b"meow"
    assert planted.read_bytes() == before
    with manifest["pinned"].open(index="require") as archive:
        assert archive["cat"] == b"woof"
    with manifest["other"].open() as archive:
        assert archive.summary().saved_indexes == [str(planted)]


def test_patterns_and_lists(tmp_path: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path,
        '[glob]\npath = "digits/*.zip"\n[braces]\npath = "digits/{2..0}.zip"\n[number]\npath = "digits/{:d}.zip"\n'
        '[list]\npath = ["digits/1.zip", "digits/{0,2}.zip"]\n'
        '[none]\npath = "digits/*.tar"\n[gone]\npath = "gone.zip"\n',
    )
    expected = {"glob": "012", "braces": "210", "number": "012", "list": "102"}
    monkeypatch.chdir(tmp_path)
    for place in (path, str(path), "datasets.toml"):
        manifest = Manifest(place)
        for name, order in expected.items():
            assert list(manifest[name].files()) == [f"digits/{i}.zip" for i in order]
            assert [str(file.resolve()) for file in manifest[name].files().values()] == [
                str(shards[int(i)]) for i in order
            ]
            assert len(manifest[name].open()) == len(FILES)
    for name in ("none", "gone"):
        with pytest.raises(FileNotFoundError):
            manifest[name].open()


@pytest.mark.parametrize("folder", ["[ab]", "{a,b}", "*", "x-%d", "{:d}"])
def test_the_folder_of_the_manifest_is_no_pattern(folder: str, tmp_path: Path) -> None:
    """Whatever it is called; and those that it would fit as a pattern have other archives."""
    for name in (folder, "a", "b", "x-0", "0"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.zip").write_bytes(zip_of({f"a{i}": name.encode()}))
    for path in ("*.zip", "{0,1}.zip", "{:d}.zip", "[01].zip", "**/*.zip"):
        manifest = Manifest(write(tmp_path / folder, f"[a]\npath = '{path}'"))
        assert list(manifest["a"].files()) == ["0.zip", "1.zip"]
        with manifest["a"].open() as archive:
            assert archive.read_many(["a0", "a1"]) == [folder.encode()] * 2


@pytest.mark.parametrize(
    "path", ["../secret.zip", "{..,sub}/secret.zip", "sub/../../secret.zip", "sub/link/../secret.zip", "../*.zip"]
)
def test_paths_stay_below_the_folder(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "other" / "inner").mkdir(parents=True)
    (folder / "sub" / "link").symlink_to(tmp_path / "other" / "inner")
    for place in (tmp_path, tmp_path / "other", folder / "sub"):
        (place / "secret.zip").write_bytes(zip_of(FILES))
    manifest = Manifest(write(folder, f"[a]\npath = '{path}'"))
    with pytest.raises(ValueError, match=r"datasets\.toml: data set 'a': the path .* leads out") as caught:
        manifest["a"].open()
    assert path in str(caught.value)


def test_a_pattern_of_too_much_names_the_data_set(tmp_path: Path) -> None:
    manifest = Manifest(write(tmp_path, "[a]\npath = '{0..99999999}.zip'"))
    with pytest.raises(ValueError, match=r"datasets\.toml: data set 'a': .*stand for more than 1000000 paths"):
        manifest["a"].files()


def test_a_path_is_relative(tmp_path: Path, shards: list[Path]) -> None:
    with pytest.raises(ValueError, match="leads out"):
        Manifest(write(tmp_path, f"[a]\npath = '{shards[0]}'"))["a"].files()


def test_checksums(tmp_path: Path, shards: list[Path]) -> None:
    table = "\n".join(f"'digits/{path.name}' = '{digest(path)}'" for path in shards)
    named = Manifest(write(tmp_path, f"[a]\npath = 'digits/*'\n[a.sha256]\n{table}"))["a"]
    calls: list[tuple[int, int]] = []
    named.verify(lambda done, total: calls.append((done, total)))
    total = sum(path.stat().st_size for path in shards)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)
    assert len(calls) == len(shards)
    data = bytearray(shards[1].read_bytes())
    data[40] ^= 1
    shards[1].write_bytes(data)
    with pytest.raises(CorruptArchiveError, match=r"1\.zip: its SHA-256 is .* not that of 'a' in .*toml") as caught:
        named.verify()
    assert isinstance(caught.value, ArchiveError)
    assert caught.value.archive == str(shards[1])
    shards[2].unlink()
    with pytest.raises(
        ValueError, match=r"data set 'a': each archive, and each file .* needs a sha256.*: see digits/2\.zip"
    ):
        named.verify()


@pytest.mark.parametrize("sha256", ["", "sha256 = '{}'", "sha256 = {{'digits/0.zip' = '{}'}}", "sha256 = {{x = '{}'}}"])
def test_each_archive_needs_a_checksum(sha256: str, tmp_path: Path, shards: list[Path]) -> None:
    path = write(tmp_path, "[a]\npath = 'digits/*.zip'\n" + sha256.format(digest(shards[0])))
    with pytest.raises(
        ValueError, match=r"datasets\.toml: data set 'a': each archive, and each file .* needs a sha256"
    ):
        Manifest(path)["a"].verify()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\npath = 'x'\nlables = 'folder'", "data set 'a': unknown key 'lables': known are path, sha256, "),
        ("[ok]\npath = 'x'\n[b]\npath = 'x'\nurl = 'y'", "data set 'b': unknown key 'url'"),
        ("[a]\ndecode = 'image'", "data set 'a': it must be a table with a path"),
        ("a = 'x.zip'", "data set 'a': it must be a table with a path"),
        ("[a]\npath = []", "data set 'a': it must be a table with a path"),
        ("[a]\npath = 3", "data set 'a': path is 3, and must be str or list"),
        ("[a]\npath = ['x', 3]", "data set 'a': path is ['x', 3], and what it holds must be all str"),
        ("[a]\npath = 'x'\nextensions = [1]", "data set 'a': extensions is [1], and what it holds must be all str"),
        (
            "[a]\npath = 'x'\ndecode = {txt = 1}",
            "data set 'a': decode is {'txt': 1}, and what it holds must be all str",
        ),
        (
            "[a]\npath = 'x'\nlabels = {x = []}",
            "data set 'a': labels is {'x': []}, and what it holds must be all int or",
        ),
        (
            "[a]\npath = 'x'\nsha256 = {x.zip = ''}",
            "data set 'a': sha256 is {'x': {'zip': ''}}, and what it holds must",
        ),
        *(
            (f"[a]\npath = 'x'\nsplits = {{train = {value}}}", "data set 'a': splits is {'train': ")
            for value in ("[1]", "{x = 1}", "1979-05-27", "true", "0.5, val = 'val/*'", "0.5, val = 1")
        ),
        ("[a]\npath = " + "[" * 3000, "this is no manifest: "),
        ("[a]\npath = 'x'\nsplits = " + "{a = " * 3000, "this is no manifest: "),
        ("[a]\npath = 'x'\nseed" + ".a" * 3000 + " = 1", "data set 'a': seed is {'a': {'a': "),
        ("[a]\npath = 'x'\ngroup = 'yes'", "data set 'a': group is 'yes', and must be bool"),
        ("[a]\npath = 'x'\nseed = true", "data set 'a': seed is True, and must be int"),
        ("[a]\npath = 'x'\nsplits = ['a']", "data set 'a': splits is ['a'], and must be dict"),
        ("[a]\npath = 'x'\n[a]\npath = 'y'", "this is no manifest: "),
        ("path = ", "this is no manifest: "),
    ],
)
def test_what_means_nothing_names_the_file_and_the_data_set(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        Manifest(path)


def test_a_manifest_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Manifest(tmp_path / "datasets.toml")
    (tmp_path / "datasets.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no manifest"):
        Manifest(tmp_path / "datasets.toml")


def names_of(dataset: object) -> set[str]:
    return set(dataset.names)  # type: ignore[attr-defined]


def test_datasets(tmp_path: Path, shards: list[Path]) -> None:
    pytest.importorskip("torch")
    path = write(
        tmp_path,
        """
        [whole]
        path = "digits/*.zip"
        decode = { txt = "int" }
        labels = "folder"
        pattern = "*.txt"
        splits = { train = "train/*", val = "val/*" }
        [shares]
        path = "digits/*.zip"
        decode = "text"
        labels = "folder"
        splits = { train = 0.75, val = 0.25 }
        seed = 3
        stratify = true
        """,
    )
    manifest = Manifest(path)
    whole = manifest["whole"].dataset()
    found = {name: whole[i] for i, name in enumerate(whole.names)}
    assert found == {name: (int(data), "ab".index(name.split("/")[1])) for name, data in FILES.items()}
    assert names_of(manifest["whole"].dataset("val")) == {name for name in FILES if name.startswith("val/")}
    assert manifest["whole"].dataset("val").classes == ["a", "b"]
    parts: Mapping[str, object] = {name: manifest["shares"].dataset(name) for name in ("train", "val")}
    expected = manifest["shares"].dataset().split({"train": 0.75, "val": 0.25}, seed=3, stratify=True)
    for name, part in parts.items():
        assert list(part.names) == list(expected[name].names)  # type: ignore[attr-defined]
    assert names_of(parts["train"]) | names_of(parts["val"]) == set(FILES)
    with pytest.raises(ValueError, match="data set 'whole': there is no split 'test': known are train, val"):
        manifest["whole"].dataset("test")
    # What is given goes before what the manifest says.
    archive = manifest["whole"].open(cache=0)
    given = manifest["whole"].dataset("train", archive=archive, decode=None, transform=bytes.hex)
    assert given[0] == (FILES[given.names[0]].hex(), 0)
    archive.close()
    with pytest.raises(ValueError, match="closed"):
        given[0]


def test_pickles(tmp_path: Path, shards: list[Path]) -> None:
    manifest = pickle.loads(pickle.dumps(Manifest(write(tmp_path, "[a]\npath = 'digits/0.zip'"))))
    assert len(manifest["a"].open()) == len([*FILES][0::3])


def test_archives_are_opened_without_torch(tmp_path: Path, shards: list[Path]) -> None:
    path = write(tmp_path, "[a]\npath = 'digits/0.zip'")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None\n"
        f"import archivestream; print(len(archivestream.Manifest({str(path)!r})['a'].open()))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{len([*FILES][0::3])}\n")
