"""`open(index=)`: what is saved where, when it is used, and that nothing stale, damaged or foreign is."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import KINDS, MAKERS, make_members, tar_of, text, zst_of

import archivestream
from archivestream import (
    ArchiveChangedError,
    ArchiveError,
    CorruptArchiveError,
    LimitExceededError,
    Limits,
    sidecar,
)
from archivestream._native.frameindex import FrameIndexer
from archivestream.sources import LocalSource

MEMBERS = make_members([300_000, 0, 1, 511, 512, 513, 70_000, *range(1000, 1030)])
WORK = [kind for kind in KINDS if kind != "zip"]  # whose index is work, and is saved
SUFFIXES = {kind: kind.partition(",")[0] for kind in KINDS}


@pytest.fixture(autouse=True)
def _needs_rapidgzip(request: pytest.FixtureRequest) -> None:
    if "gz" in str(getattr(getattr(request.node, "callspec", None), "params", "")):
        pytest.importorskip("rapidgzip")


def contents(kind: str, members: dict[str, bytes] = MEMBERS) -> list[bytes]:
    return list(members.values())[: 1 if kind in ("zst", "gz") else None]


def put(folder: Path, kind: str, members: dict[str, bytes] = MEMBERS, name: str = "archive") -> Path:
    path = folder / f"{name}.{SUFFIXES[kind]}"
    path.write_bytes(MAKERS[kind](members))
    return path


def saved_by(path: Any, **options: Any) -> list[str]:
    with archivestream.open(path, **options) as archive:
        return archive.summary().saved_indexes


class Told:
    """A callback of progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))

    def check(self) -> None:
        """It only grows, and ends at the total, which stays the same."""
        assert self.seen
        assert {total for _, total in self.seen} == {self.seen[-1][0]}
        assert self.seen == sorted(self.seen)


# ---- what is saved where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_and_used(tmp_path, kind, cache_folder):
    path = put(tmp_path, kind)
    beside = Path(f"{path}.asidx")
    with pytest.raises(FileNotFoundError, match="no saved index") as caught:
        archivestream.open(path, index="require")
    assert caught.value.filename == str(path)
    with archivestream.open(path, index="memory") as archive:
        assert list(archive) == contents(kind)
        assert archive.summary().saved_indexes == []
    assert os.listdir(tmp_path) == [path.name]

    told = Told()
    assert saved_by(path, progress=told) == ([] if kind == "zip" else [str(beside)])
    told.check()
    if kind == "zip":  # its directory is an index
        assert os.listdir(tmp_path) == [path.name]
        with archivestream.open(path) as archive:
            assert [Path(saved) for saved in archive.save_index()] == [beside]
    assert sorted(os.listdir(tmp_path)) == [path.name, beside.name]
    assert not any(cache_folder.rglob("*.*"))

    before = beside.stat()
    for mode in ("auto", "require"):
        told = Told()
        with archivestream.open(path, index=mode, progress=told) as archive:
            assert archive.summary().saved_indexes == [str(beside)]
            assert list(archive) == archive.read_many(range(len(archive))) == contents(kind)
            assert archive.verify().ok
        assert told.seen == []  # nothing was scanned or decoded
    assert os.path.samestat(beside.stat(), before)
    told = Told()
    assert saved_by(path, index="memory", progress=told) == []
    told.check()


@pytest.mark.parametrize("kind", WORK)
def test_a_private_index(tmp_path, kind, cache_folder):
    """Is in the user's cache folder, and for nobody else; one beside the archive is neither used nor written."""
    path = put(tmp_path, kind)
    Path(f"{path}.asidx").write_bytes(b"of somebody else")
    for _ in range(2):
        with archivestream.open(path, index="private") as archive:
            [saved] = map(Path, archive.summary().saved_indexes)
            assert list(archive) == contents(kind)
    assert saved.is_relative_to(cache_folder)
    assert saved.stat().st_mode & 0o777 == 0o600
    assert Path(f"{path}.asidx").read_bytes() == b"of somebody else"
    if os.getuid() == 0:
        os.chown(saved, 65534, 65534)
        with pytest.raises(CorruptArchiveError, match="somebody else"):
            sidecar.load_any(LocalSource(path), private=True)
        assert saved_by(path, index="private") == [str(saved)]  # anew
        assert saved.stat().st_uid == 0


def test_a_saved_index_is_all_that_opening_reads(tmp_path):
    """Of an archive that is sound where it is looked at, and nowhere else."""
    members = {"a": text(3_000_000), "b": b"b" * 70_000}
    for kind in ("tar", "tar.zst, frames"):
        path = put(tmp_path, kind, members)
        saved_by(path)
        when = path.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(bytes(1000))
        os.utime(path, ns=(when, when))
        with archivestream.open(path) as archive:
            assert archive["b"] == members["b"]
            if kind != "tar":
                with pytest.raises(CorruptArchiveError):
                    archive["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_save_index_to_a_path(tmp_path, kind):
    path = put(tmp_path, kind)
    with archivestream.open(path, index="memory") as archive:
        [saved] = archive.save_index(tmp_path / "elsewhere")
    assert Path(saved) == tmp_path / "elsewhere"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "elsewhere"])
    (tmp_path / "elsewhere").rename(f"{path}.asidx")
    with archivestream.open(path, index="require") as archive:
        assert list(archive) == contents(kind)


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
def test_the_archive_is_not_saved_over(tmp_path, how):
    path = put(tmp_path, "tar")
    target = path if how == "itself" else tmp_path / "elsewhere"
    if how == "symbolic link":
        target.symlink_to(path)
    elif how == "hard link":
        target.hardlink_to(path)
    before = path.read_bytes()
    with archivestream.open(path, index="memory") as archive, pytest.raises(ValueError, match="the archive itself"):
        archive.save_index(target)
    assert path.read_bytes() == target.read_bytes() == before
    assert target.is_symlink() == (how == "symbolic link")


def test_an_archive_that_changes_while_it_is_compared(tmp_path):
    """With an index that is of it as it was before that."""
    path = put(tmp_path, "tar.zst")
    saved_by(path)
    os.utime(path, (1, 1))

    def change(done: int, total: int) -> None:
        if done == total:
            os.utime(path, (2, 2))

    with pytest.raises(ArchiveChangedError, match="written to"):
        archivestream.open(path, progress=change)


def test_save_the_indexes_of_a_set(tmp_path):
    """Each is indexed once more, which takes as long as it does."""
    paths = [put(tmp_path, kind) for kind in ("zip", "tar.zst")]
    with archivestream.open(paths, index="memory") as archive:
        with pytest.raises(ValueError, match="one path for 2 indexes"):
            archive.save_index(tmp_path / "elsewhere")
        told = Told()
        assert archive.save_index(progress=told) == [Path(f"{path}.asidx") for path in paths]
        told.check()
    with archivestream.open(paths, index="require") as archive:
        assert list(archive) == contents("zip") + contents("tar.zst")


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("how", ["bytes", "object", "opened"])
def test_bytes_and_file_objects(tmp_path, kind, how):
    """Have no place for a saved index, but for a file that was opened by its path."""
    path = put(tmp_path, kind)
    with path.open("rb") as file:
        source = {"bytes": path.read_bytes(), "object": io.BytesIO(path.read_bytes()), "opened": file}[how]
        saved = saved_by(source)
        assert saved == ([f"{path}.asidx"] if how == "opened" else [])
        with archivestream.open(source) as archive:
            assert list(archive) == contents(kind)
        if how != "opened":
            assert os.listdir(tmp_path) == [path.name]
            with pytest.raises(FileNotFoundError, match="no saved index"):
                archivestream.open(source, index="require")
            with archivestream.open(source) as archive, pytest.raises(FileNotFoundError, match="give a path"):
                archive.save_index()


def test_a_set_of_files(tmp_path):
    """Each has a saved index of its own, whatever its kind."""
    pytest.importorskip("rapidgzip")
    for i, kind in enumerate(KINDS):
        put(tmp_path, kind, make_members([5000, 20_000, 3], i), f"shard-{i}")
    files = sorted(tmp_path.iterdir())
    expected = [data for i, kind in enumerate(KINDS) for data in contents(kind, make_members([5000, 20_000, 3], i))]
    told = Told()
    with archivestream.open(tmp_path / "shard-*", progress=told) as archive:
        assert list(archive) == expected
        saved = archive.summary().saved_indexes
    told.check()
    assert sorted(saved) == [f"{path}.asidx" for path in files if path.suffix != ".zip"]
    told = Told()
    with archivestream.open(files, progress=told) as archive:
        assert archive.read_many(range(len(archive))) == expected
        assert sorted(archive.summary().saved_indexes) == sorted(saved)
        assert archive.summary().archives == len(files)
        copy = pickle.loads(pickle.dumps(archive))
        assert copy.read_many(range(len(archive))[::-1]) == expected[::-1]
    with pytest.raises(FileNotFoundError, match=r"no saved index.*shard-0\.zip"):
        archivestream.open(files, index="require")
    with archivestream.open(files) as archive:
        archive.save_index()
    with archivestream.open(files, index="require") as archive:
        assert archive.read_many(range(len(archive))) == expected


def test_a_pattern_does_not_take_saved_indexes_for_archives(tmp_path):
    for i in range(3):
        put(tmp_path, "tar", make_members([100], i), f"shard-{i}")
    for _ in range(2):
        with archivestream.open(tmp_path / "shard-*") as archive:
            assert archive.summary().archives == 3


# ---- what is not trusted ----------------------------------------------------------------------------------------


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_time", [False, True])
def test_another_archive_in_its_place(tmp_path, kind, keep_time):
    """Of equal size where that can be: the members are those that are there."""
    path = put(tmp_path, kind)
    with archivestream.open(path) as archive:
        archive.save_index()
    status = path.stat()
    members = {name: data[::-1] for name, data in MEMBERS.items()}
    path.write_bytes(MAKERS[kind](members))
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kind != "tar" or path.stat().st_size == status.st_size
    with pytest.raises(ArchiveChangedError, match="out of date"):
        archivestream.open(path, index="require")
    with archivestream.open(path) as archive:
        assert list(archive) == contents(kind, members)
    if kind != "zip":
        assert saved_by(path, index="require") == [f"{path}.asidx"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_was_touched(tmp_path, kind):
    """Is the same one; where all of it was read to index it, that is seen without indexing it anew."""
    path = put(tmp_path, kind)
    with archivestream.open(path) as archive:
        archive.save_index()
    os.utime(path, ns=(1, 1))
    if kind in ("zip", "tar"):
        with pytest.raises(ArchiveChangedError, match="touched"):
            archivestream.open(path, index="require")
    else:
        told = Told()
        assert saved_by(path, index="require", progress=told) == [f"{path}.asidx"]
        told.check()
    told = Told()
    with archivestream.open(path, progress=told) as archive:
        assert list(archive) == contents(kind)
    told.check()
    if kind != "zip":
        told = Told()
        saved_by(path, progress=told)
        assert told.seen == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [append, lambda path: os.truncate(path, path.stat().st_size - 1)])
def test_an_archive_that_grew_or_shrank(tmp_path, kind, change):
    """Is what it is without a saved index."""
    path = put(tmp_path, kind)
    with archivestream.open(path) as archive:
        archive.save_index()
    change(path)
    with pytest.raises(ArchiveChangedError, match="out of date"):
        archivestream.open(path, index="require")
    found = []
    for mode in ("memory", "auto"):
        try:
            with archivestream.open(path, index=mode) as archive:
                found.append(list(archive))
        except ArchiveError as error:
            found.append(str(error))
    assert found[0] == found[1]


def damage(kind: str) -> dict[str, Callable[[bytes], bytes]]:
    return {
        "truncated": lambda data: data[:-1],
        "half": lambda data: data[: len(data) // 2],
        "empty": lambda data: b"",
        "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "header": lambda data: data[:99] + bytes([data[99] ^ 1]) + data[100:],
        "no index": lambda data: b"no index" * 1000,
        "archive": lambda data: MAKERS[kind](MEMBERS),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", damage("zip"))
def test_damaged_ones(tmp_path, kind, how):
    path = put(tmp_path, kind)
    with archivestream.open(path) as archive:
        [beside] = archive.save_index()
    whole = beside.read_bytes()
    beside.write_bytes(damage(kind)[how](whole))
    with pytest.raises(CorruptArchiveError, match="saved index is damaged") as caught:
        archivestream.open(path, index="require")
    assert caught.value.archive == str(beside)
    with archivestream.open(path, index="memory") as archive:
        assert list(archive) == contents(kind)
    with archivestream.open(path) as archive:
        assert list(archive) == contents(kind)
    if kind != "zip":  # it is replaced
        assert saved_by(path, index="require") == [str(beside)]


@pytest.mark.parametrize("kind", WORK)
def test_what_is_in_its_way_and_no_file(tmp_path, kind, cache_folder):
    path = put(tmp_path, kind)
    Path(f"{path}.asidx").mkdir()
    [saved] = saved_by(path)
    assert Path(saved).is_relative_to(cache_folder)
    with archivestream.open(path, index="require") as archive:
        assert list(archive) == contents(kind)


def test_those_of_other_archives(tmp_path):
    """Also of another kind, and of another file with the same members."""
    pytest.importorskip("rapidgzip")
    paths = {kind: put(tmp_path, kind, name=f"archive-{i}") for i, kind in enumerate(WORK)}
    saved = {kind: Path(*saved_by(path)).read_bytes() for kind, path in paths.items()}
    for kind, foreign in itertools.permutations(WORK, 2):
        Path(f"{paths[kind]}.asidx").write_bytes(saved[foreign])
        with pytest.raises(ArchiveChangedError, match="out of date"):
            archivestream.open(paths[kind], index="require")
        with archivestream.open(paths[kind]) as archive:
            assert list(archive) == contents(kind)


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.gz"])
def test_options_are_not_mixed_up(tmp_path, kind):
    """An index of strict mode, or of another encoding of names, is another index."""
    name = "日本".encode("cp932").decode("utf-8", "surrogateescape")
    path = put(tmp_path, kind, {name: b"data"})
    for options in ({}, {"metadata_encoding": "cp932"}, {"strict": True, "metadata_encoding": "cp932"}, {}):
        for mode in ("auto", "require"):
            with archivestream.open(path, index=mode, **options) as archive:
                assert archive.namelist() == ["日本" if options else name]
        for others in ({"metadata_encoding": "latin-1"}, {**options, "strict": not options.get("strict")}):
            with pytest.raises(ArchiveChangedError, match="other options"):
                archivestream.open(path, index="require", **others)


@pytest.mark.parametrize("kind", WORK)
def test_limits_hold_with_a_saved_index(tmp_path, kind):
    path = put(tmp_path, kind)
    saved_by(path)
    for mode in ("auto", "require", "memory"):
        if kind not in ("zst", "gz"):
            with pytest.raises(LimitExceededError, match="max_members"):
                archivestream.open(path, index=mode, limits=Limits(max_members=5))
        with (
            archivestream.open(path, index=mode, limits=Limits(max_member_bytes=200_000)) as archive,
            pytest.raises(LimitExceededError, match="max_member_bytes"),
        ):
            archive[0]
    with pytest.raises(LimitExceededError, match="max_index_bytes"):
        archivestream.open(path, limits=Limits(max_index_bytes=10))


# ---- where nothing can be written -------------------------------------------------------------------------------


def run(code: str, *arguments: object, nobody: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    # Modules first: where they lie, nobody may not go.
    setup = (
        "import sys, os, warnings, multiprocessing, archivestream\ntry: import rapidgzip\nexcept ImportError: pass\n"
    )
    if nobody and os.getuid() == 0:
        setup += "os.setgid(65534); os.setgroups([]); os.setuid(65534)\n"
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1]), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


OPEN = (
    "with warnings.catch_warnings(record=True) as caught:\n"
    "    warnings.simplefilter('always')\n"
    "    archive = archivestream.open(sys.argv[1])\n"
    "print(archive.summary().saved_indexes)\n"
    "print([(w.category.__name__, str(w.message)) for w in caught])\n"
    "assert archive.verify().ok and len(archive.read_many(range(len(archive)))) == len(archive)\n"
)


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.gz"])
def test_a_folder_that_cannot_be_written_to(open_folder, kind):
    path = put(open_folder, kind)
    cache = open_folder / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    open_folder.chmod(0o555)
    for _ in range(2):
        done = run(OPEN, path, nobody=True, XDG_CACHE_HOME=str(cache))
        assert done.returncode == 0, done.stderr
        saved, caught = done.stdout.splitlines()
        assert saved.startswith(f"['{cache}/archivestream/")
        assert caught == "[]"
    shutil.rmtree(cache / "archivestream")
    cache.chmod(0o555)
    done = run(OPEN, path, nobody=True, XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    saved, caught = done.stdout.splitlines()
    assert saved == "[]"
    assert caught.count("ArchiveWarning") == 1
    assert str(path) in caught
    assert "Permission denied" in caught
    assert sorted(os.listdir(open_folder)) == sorted([path.name, "cache"])
    assert os.listdir(cache) == []


@pytest.mark.parametrize("kind", ["tar", "tar.zst", "tar.gz"])
def test_a_full_disk(tmp_path, kind, cache_folder):
    """The archive is read all the same, and nothing half is left."""
    path = put(tmp_path, kind)
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    )
    done = run(limit + OPEN, path)
    assert done.returncode == 0, done.stderr
    saved, caught = done.stdout.splitlines()
    assert saved == "[]"
    assert caught.count("ArchiveWarning") == 1
    assert os.listdir(tmp_path) == [path.name]
    assert not any(found.is_file() for found in cache_folder.rglob("*"))
    done = run(limit + "archivestream.open(sys.argv[1], index='memory').save_index()", path)
    assert f"OSError: [Errno {errno.EFBIG}]" in done.stderr
    assert os.listdir(tmp_path) == [path.name]


# ---- other processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("mode", ["auto", "memory"])
def test_pickles(tmp_path, kind, mode):
    path = put(tmp_path, kind)
    with archivestream.open(path, index=mode) as archive:
        if archive.summary().saved_indexes:
            before = Path(f"{path}.asidx").stat()
        copy = pickle.loads(pickle.dumps(archive))
        assert copy.read_many(range(len(copy))) == contents(kind)
        view = pickle.loads(pickle.dumps(archive.select([0])))
        assert view.read_many([0]) == contents(kind)[:1]
        pickled = pickle.dumps(archive)
    if mode == "auto":
        assert os.path.samestat(before, Path(f"{path}.asidx").stat())
    path.write_bytes(MAKERS[kind]({name: data[1:] for name, data in MEMBERS.items()}))
    with pytest.raises(ArchiveChangedError, match="not the one that was pickled"):
        pickle.loads(pickled)


def collate(items: list[bytes]) -> list[bytes]:
    return items


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers(tmp_path, kind, start):
    data = pytest.importorskip("torch.utils.data")
    path = put(tmp_path, kind)
    dataset = archivestream.ArchiveDataset(path)
    assert dataset[0] == contents(kind)[0]  # it has been read from in this process
    workers = 1 if start == "spawn" else 2
    loader = data.DataLoader(
        dataset, batch_size=16, num_workers=workers, multiprocessing_context=start, collate_fn=collate
    )
    assert [item for batch in loader for item in batch] == contents(kind)


def test_several_processes_open_at_once(tmp_path):
    """And build the index at once: one of theirs stays, and all read the right bytes."""
    path = put(tmp_path, "tar.zst")
    code = (
        "import zlib\n"
        "print(flush=True); input()\n"
        "with archivestream.open(sys.argv[1]) as archive:\n"
        "    print(zlib.crc32(b''.join(archive.read_many(range(len(archive))))), archive.summary().saved_indexes)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
    command = [sys.executable, "-c", "import sys, archivestream\n" + code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(4)]
    for process in started:
        process.stdout.readline()
    found = [process.communicate("\n", timeout=60)[0] for process in started[:1]]
    for process in started[1:]:
        process.stdin.write("\n")
        process.stdin.flush()
    found += [process.communicate(timeout=60)[0] for process in started[1:]]
    assert len(set(found)) == 1
    assert f"{path}.asidx" in found[0]
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.asidx"]


# ---- interrupted ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A single frame of many segments, and what it holds: a build that can be interrupted."""
    members = {f"{i:02}": text(3_000_000, i) for i in range(16)}
    path = tmp_path_factory.mktemp("long") / "long.tar.zst"
    path.write_bytes(zst_of(tar_of(members)))
    return path, b"".join(members.values())


def read_all(path: Path, **options: Any) -> bytes:
    with archivestream.open(path, **options) as archive:
        return b"".join(archive.read_many(range(len(archive))))


class Interrupt:
    """Interrupts a build when it has come so far, as Ctrl-C does."""

    def __init__(self, part: float, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.part, self.error = part, error

    def __call__(self, done: int, total: int) -> None:
        if done >= self.part * total:
            raise self.error


def test_an_interrupted_build_goes_on(long, tmp_path):
    """From the checkpoints that there are, and comes to the same index."""
    path = shutil.copy(long[0], tmp_path)
    part, final = Path(f"{path}.asidx.part"), Path(f"{path}.asidx")
    kept = []
    for portion in (0.3, 0.5, 0.5, 0.8):
        with pytest.raises(KeyboardInterrupt):
            archivestream.open(path, progress=Interrupt(portion))
        assert not final.exists()
        with contextlib.closing(LocalSource(path)) as source:
            kept.append(len(sidecar.load_partial(source).columns["block_start"]))
    assert 1 <= kept[0] < kept[1] == kept[2] < kept[3]
    with archivestream.open(path) as archive:
        assert archive["15"] == long[1][-3_000_000:]
    assert final.exists()
    assert not part.exists()
    resumed = sidecar.load_any(LocalSource(path)).columns
    final.unlink()
    assert read_all(path) == long[1]
    anew = sidecar.load_any(LocalSource(path)).columns
    for name, column in anew.items():
        assert np.array_equal(resumed[name], column), name


@pytest.mark.parametrize("column", ["block_crc32", "block_size", "block_offset", "aux"])
def test_a_partial_index_of_other_bytes(long, tmp_path, column):
    """As after a change within the archive that left its time as it was: what was kept is compared, and goes."""
    path = Path(shutil.copy(long[0], tmp_path))
    with pytest.raises(KeyboardInterrupt):
        archivestream.open(path, progress=Interrupt(0.6))
    with contextlib.closing(LocalSource(path)) as source:
        saved = sidecar.load_partial(source)
        columns = {name: values.copy() for name, values in saved.columns.items()}
        assert len(columns[column]) > 2
        if column == "block_size":
            columns["block_start"][1] += 1
            columns["block_size"][:2] += np.array([1, -1]).astype(np.uint64)
        else:
            columns[column][len(columns[column]) // 4] ^= 1
        sidecar.save_partial(columns, saved.metadata, source)
    assert read_all(path) == long[1]
    assert read_all(path, index="require") == long[1]
    assert not Path(f"{path}.asidx.part").exists()


def test_the_partial_index_of_another_archive(long, tmp_path):
    """Is not gone on from, nor one that was made with other options, is damaged, or does not fit."""
    path = Path(shutil.copy(long[0], tmp_path))
    part = Path(f"{path}.asidx.part")
    with pytest.raises(KeyboardInterrupt):
        archivestream.open(path, progress=Interrupt(0.6))
    kept = part.read_bytes()
    for data in (kept[:-1], kept[:200] + b"?" + kept[201:], b"", bytes(4096)):
        part.write_bytes(data)
        assert read_all(path) == long[1]
        assert not part.exists()
        Path(f"{path}.asidx").unlink()
    part.write_bytes(kept)
    assert read_all(path, strict=True) == long[1]
    Path(f"{path}.asidx").unlink()
    # Sound, and of this archive as far as one can see, but it does not fit: as after a change within the file.
    part.write_bytes(kept)
    with contextlib.closing(LocalSource(path)) as source:
        saved = sidecar.load_partial(source)
        for name, change in (("block_offset", 1), ("block_start", 0), ("block_codec", 7)):
            columns = {key: column.copy() for key, column in saved.columns.items()}
            columns[name][-1] += change
            if name == "block_start":
                columns["block_size"][-2] += 1
                columns["block_start"][-1] += 1
            sidecar.save_partial(columns, saved.metadata, source)
            assert read_all(path) == long[1], name
            Path(f"{path}.asidx").unlink()
        for name in ("block_offset", "block_compressed_size"):  # of one that was done
            for value in (path.stat().st_size, 1 << 63, (1 << 64) - 1):
                columns = {key: column.copy() for key, column in saved.columns.items()}
                columns[name][0] = value
                sidecar.save_partial(columns, saved.metadata, source)
                assert read_all(path) == long[1], (name, value)
                Path(f"{path}.asidx").unlink()


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_every_build_can_be_interrupted(tmp_path, kind, error):
    path = put(tmp_path, kind)
    with pytest.raises(error):
        archivestream.open(path, progress=Interrupt(0, error))
    assert not Path(f"{path}.asidx").exists()
    with archivestream.open(path) as archive:
        assert list(archive) == contents(kind)
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.asidx"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_while_building(long, tmp_path, how):
    """Nothing is under the final name, and the next one goes on."""
    path = Path(shutil.copy(long[0], tmp_path))
    # What is kept every ten seconds is not awaited here: SIGKILL leaves nothing.
    code = (
        "def tell(done, total):\n"
        "    print(done, flush=True)\n"
        "    if done > 0.5 * total:\n"
        "        sys.stdin.readline()\n"
        "archivestream.open(sys.argv[1], progress=tell)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
    command = [sys.executable, "-c", "import sys, archivestream\n" + code, str(path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, **pipes) as process:
        while int(process.stdout.readline()) <= path.stat().st_size // 2:
            pass
        process.send_signal(how)
        process.communicate(timeout=60)
        assert process.returncode == -how
    left = {path.name} | ({f"{path.name}.asidx.part"} if how == signal.SIGINT else set())
    assert set(os.listdir(tmp_path)) == left
    assert read_all(path) == long[1]
    assert sorted(os.listdir(tmp_path)) == [path.name, f"{path.name}.asidx"]


def test_going_on_makes_fewer_checkpoints(long):
    """The same from any place where it was interrupted, at any piece."""
    data = long[0].read_bytes()
    whole = index(data)
    expected = {name: bytes(column) for name, column in whole.finish().items()}
    count = len(expected["block_crc32"]) // 4
    assert count >= 8
    for portion in (0.2, 0.5, 0.9, 1):
        first = FrameIndexer()
        feed(first, data[: int(portion * len(data))])
        kept = {name: bytes(column) for name, column in first.snapshot().items()}
        again = FrameIndexer(resume=kept)
        # What is there from the beginning: all but the last row.
        assert len(bytes(again.snapshot()["block_crc32"])) == max(0, len(kept["block_crc32"]) - 4)
        feed(again, data)
        assert {name: bytes(column) for name, column in again.finish().items()} == expected


def feed(indexer: FrameIndexer, data: bytes) -> None:
    for at in range(0, len(data), 99_991):
        indexer.feed(data[at : at + 99_991])
        while indexer.next() is not None:
            pass


def index(data: bytes) -> FrameIndexer:
    indexer = FrameIndexer()
    feed(indexer, data)
    return indexer
