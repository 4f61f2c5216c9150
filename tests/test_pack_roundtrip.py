"""Archives that `archivestream.pack` writes, as `archivestream.open` reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from packtools import content, make_tree, text

import archivestream
from archivestream import pack, repack


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"))


@cache
def members() -> dict[str, bytes]:
    found = {f"{i:03d}": text(i * 331, i) if i % 3 else content(i * 97, i) for i in range(200)}
    return {**found, "large": text(3 << 20), "larger": text(9 << 20, 1), "empty": b""}


CASES = [
    ("zip", {}),
    ("zip", {"method": "deflate", "segment_size": 65_536}),
    ("zip", {"method": "zstd"}),
    ("zip", {"method": "stored", "align": 4096}),
    ("tar.zst", {}),
    ("tar.zst", {"frame_size": 65_536}),
    ("tar.zst", {"frame_size": 4096, "dictionary": True}),
    ("tar", {}),
]


@pytest.mark.parametrize(("suffix", "options"), CASES)
def test_members(suffix: str, options: dict[str, object], tmp_path: Path) -> None:
    (path,) = pack(members(), tmp_path / f"a.{suffix}", **options)  # type: ignore[arg-type]
    with archivestream.open(path, strict=True) as archive:
        assert archive.namelist() == list(members())
        assert archive.verify().errors == []
        assert archive.read_many(range(len(archive))) == list(members().values())
        for name in ("large", "larger", "empty", "017"):
            assert archive[name] == members()[name]
            with archive.open_member(name) as member:
                assert member.read() == members()[name]


@pytest.mark.parametrize("suffix", ["zip", "tar.zst", "tar"])
def test_folders(suffix: str, tree: Path, tmp_path: Path) -> None:
    (path,) = pack(tree, tmp_path / f"a.{suffix}")
    with archivestream.open(path) as archive:
        for file in tree.rglob("*"):
            name = str(file.relative_to(tree))
            if file.is_symlink():
                assert archive.info(name).is_symlink()
            elif file.is_file():
                assert archive[name] == file.read_bytes()
                assert archive.info(name).mode == file.stat().st_mode


@pytest.mark.parametrize("first", ["zip", "tar.zst", "tar"])
@pytest.mark.parametrize("second", ["zip", "tar.zst", "tar"])
def test_from_one_to_another(first: str, second: str, tmp_path: Path) -> None:
    (path,) = pack(members(), tmp_path / f"a.{first}")
    (path,) = repack(path, tmp_path / f"b.{second}")
    (again,) = pack(members(), tmp_path / f"c.{second}")
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("suffix", ["zip", "tar.zst", "tar"])
def test_shards(suffix: str, tmp_path: Path) -> None:
    paths = pack(members(), tmp_path / f"a-{{:02d}}.{suffix}", max_shard_bytes=400_000)
    with archivestream.open(paths) as archive, archivestream.open(tmp_path / f"a-*.{suffix}") as same:
        assert archive.namelist() == same.namelist() == list(members())
        assert list(archive) == list(members().values())


@pytest.mark.parametrize("suffix", ["zip", "tar.zst", "tar"])
def test_arrays(suffix: str, tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).integers(0, 9, (8, 9), np.uint8) for i in range(40)]
    (path,) = pack(((f"{i:02d}", array) for i, array in enumerate(arrays)), tmp_path / f"a.{suffix}")
    with archivestream.open(path) as archive:
        assert (archive.read_arrays(range(40)) == np.stack(arrays)).all()
