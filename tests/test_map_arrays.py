"""Stored arrays as views of the file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import archivestream
from archivestream import ArchiveChangedError, CorruptArchiveError, UnsupportedFeatureError, ZipPacker, pack, repack

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(5, dtype=">i2"),
    np.array(3.5),
    np.empty((0, 3)),
    np.array(["a", "bc"]),
]


def stored(path: Path, **options: object) -> Path:
    pack(ARRAYS, path, **({"method": "stored", **options} if path.suffix == ".zip" else {}))  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_views(name: str, in_memory: bool, tmp_path: Path) -> None:
    path = stored(tmp_path / name)
    with archivestream.open(path.read_bytes() if in_memory else path) as archive:
        found = archive.map_arrays([*range(6), 0])
        for array, expected in zip(found, [*ARRAYS, ARRAYS[0]], strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
            assert not array.flags.owndata or not array.size
            assert not array.flags.writeable or not array.size
        assert found[1].flags.f_contiguous
        assert archive.select([2]).map_arrays(["000000000002.npy"])[0].tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="read-only"):
            found[0][0, 0, 0] = 1
    np.testing.assert_array_equal(found[0], ARRAYS[0])  # it outlives the archive
    with pytest.raises(ValueError, match="closed"):
        archive.map_arrays([0])


def test_alignment(tmp_path: Path) -> None:
    with archivestream.open(stored(tmp_path / "a.zip", align=64)) as archive:
        assert all(array.ctypes.data % 64 == 0 for array in archive.map_arrays([0, 1, 2, 3]))


def test_they_show_what_is_written(tmp_path: Path) -> None:
    """They are views of the file, and nothing is checked."""
    path = stored(tmp_path / "a.zip")
    with archivestream.open(path) as archive:
        (array,) = archive.map_arrays([0])
        begin = path.read_bytes().index(ARRAYS[0].tobytes())
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(np.float32(77).tobytes())
        assert array[0, 0, 0] == 77
        with pytest.raises(ArchiveChangedError, match="written to"):
            archive.map_arrays([0])
    with archivestream.open(path) as archive:
        assert archive.map_arrays([0])[0][0, 0, 0] == 77
        assert not archive.verify().ok


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.zip", {"method": "deflate"}, r"is compressed \(deflate\), so that there is nothing to map: read_arrays"),
        ("a.zip", {"method": "zstd"}, r"is compressed \(zstd\)"),
        ("a.tar.zst", {}, "lies in compressed blocks"),
    ],
)
def test_what_is_compressed(name: str, options: dict[str, str], message: str, tmp_path: Path) -> None:
    pack([np.zeros((50, 50))], tmp_path / name, **options)  # type: ignore[arg-type]
    with archivestream.open(tmp_path / name) as archive:
        with pytest.raises(UnsupportedFeatureError, match=message) as caught:
            archive.map_arrays([0])
        assert str(caught.value).startswith(f"{tmp_path / name}: member '000000000000.npy': ")
        repack(archive, tmp_path / "b.zip", method="stored")
    with archivestream.open(tmp_path / "b.zip") as archive:
        assert archive.map_arrays([0])[0].shape == (50, 50)


def test_what_is_no_array(tmp_path: Path) -> None:
    with ZipPacker(tmp_path / "a.zip", method="stored") as packer:
        packer.add("text", b"some text")
        packer.add("objects.npy", np.zeros(3).tobytes() + b"")
        packer.add("short.npy", np.lib.format.magic(1, 0) + b"\xff\xff")
    with archivestream.open(tmp_path / "a.zip") as archive:
        for name in archive.names:
            with pytest.raises(CorruptArchiveError, match=f"member '{name}': it is no .npy file"):
                archive.map_arrays([name])
        assert archive.map_arrays(["text"], dtype="S1")[0].tobytes() == b"some text"


def test_a_local_header_that_is_damaged(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.zip")
    with path.open("r+b") as file:
        file.write(b"XX")
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match=r"member '000000000000\.npy'"):
        archive.map_arrays([0])


def test_forks_and_pickles(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.zip")
    with archivestream.open(path) as archive:
        (array,) = archive.map_arrays([0])
        child = os.fork()
        if not child:
            same = np.array_equal(archive.map_arrays([0])[0], ARRAYS[0]) and np.array_equal(array, ARRAYS[0])
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
        again = pickle.loads(pickle.dumps(archive))
        np.testing.assert_array_equal(again.map_arrays([0])[0], ARRAYS[0])


MEMORY = """
import resource, sys
import archivestream
archive = archivestream.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = archive.map_arrays(range(len(archive)))
assert sum(array.nbytes for array in arrays) > 150 << 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_nothing_is_read(tmp_path: Path) -> None:
    pack((np.zeros(20 << 20, np.uint8) for _ in range(8)), tmp_path / "a.zip", method="stored")
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "a.zip")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 << 10  # KiB
