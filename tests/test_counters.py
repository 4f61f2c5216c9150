"""What reading costs, counted: `Archive.metered` and `Archive.counters`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import archivestream


def texts(n: int = 64) -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    return {f"{i:03d}.txt": rng.integers(0, 20, int(rng.integers(50, 9000)), np.uint8).tobytes() for i in range(n)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counters")
    archivestream.pack(texts().items(), folder / "a.zip")
    archivestream.pack(texts().items(), folder / "a.tar.zst", frame_size=32 << 10)
    archivestream.repack(folder / "a.zip", folder / "stored.zip", method="stored")
    return folder


@pytest.mark.parametrize("name", ["a.zip", "stored.zip"])
@pytest.mark.parametrize("by_object", [False, True])
def test_members_that_are_blocks(folder: Path, name: str, by_object: bool) -> None:
    total = sum(map(len, texts().values()))
    data = (folder / name).read_bytes()
    with archivestream.open(io.BytesIO(data) if by_object else folder / name) as archive:
        assert archive.counters == (0.0, 0, 0)
        metered = archive.metered()
        assert metered.read_many(range(64)) == [*texts().values()]
        counters = metered.counters
        assert counters.decoded_bytes == total
        assert total < counters.fetched_bytes + (0 if name == "stored.zip" else total)
        assert counters.fetched_bytes <= len(data)
        assert counters.fetch_seconds > 0
        archive.read_many(range(64))
        assert metered.counters == counters
        metered.close()
        assert archive[0] == texts()["000.txt"]


def test_blocks_that_members_share(folder: Path) -> None:
    with archivestream.open(folder / "a.tar.zst", cache=0) as archive:
        metered = archive.metered(2)
        whole = int(archive._shared.reader.index["block_size"].sum())
        metered.read_many(range(64))
        assert metered.counters.decoded_bytes <= whole
        before = metered.counters.decoded_bytes
        metered.read_many([0])
        metered.read_many([0])
        assert metered.counters.decoded_bytes - before >= 2 * len(texts()["000.txt"])
    with archivestream.open(folder / "a.tar.zst", index="require") as archive:
        metered = archive.metered()
        for _ in range(3):
            assert metered.read_many(range(64)) == [*texts().values()]
        assert metered.counters.decoded_bytes <= whole  # then they are in the cache


def test_a_view_and_other_methods(folder: Path) -> None:
    with zipfile.ZipFile(folder / "a.zip") as reference, archivestream.open(folder / "a.zip") as archive:
        view = archive.select("00*").metered()
        names = reference.namelist()[:10]
        sizes = sum(reference.getinfo(name).file_size for name in names)
        assert view.read_batch(range(10)).data.size == sizes
        assert view.counters.decoded_bytes == sizes
        view.read_padded(range(10))
        assert view.counters.decoded_bytes == 2 * sizes
        assert view[0] == reference.read(names[0])
        assert view.counters.decoded_bytes == 2 * sizes + len(view[0])
        with pytest.raises(ValueError, match="threads"):
            archive.metered(0)
