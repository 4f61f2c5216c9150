"""Packers whose members fail, that are forked, whose targets are partly there; and metadata that are hostile."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import archivestream
from archivestream import ArchiveWarning, CorruptArchiveError, Limits, UnsupportedFeatureError, pack, repack

pyarrow = pytest.importorskip("pyarrow")


def rows(*labels: Any) -> list[tuple[bytes, dict[str, Any]]]:
    return [(b"%d" % i, {"label": label}) for i, label in enumerate(labels)]


def test_what_is_left_of_another_set_does_not_become_a_part(tmp_path: Path) -> None:
    pattern = str(tmp_path / "t-{:05d}.zip")
    pack([b"old%d" % i for i in range(8)], pattern, shards=4)
    for number in (0, 1):
        os.unlink(pattern.format(number))
    with pytest.raises(FileExistsError, match=r"would be a part of the set.*t-00002\.zip"):
        pack([b"new"] * 4, pattern, shards=2)
    pack([b"new"] * 4, pattern, shards=2, overwrite=True)
    assert [*archivestream.open(pattern)] == [b"new"] * 4


def test_a_set_that_is_replaced_is_gone_before_it_is_mixed(tmp_path: Path) -> None:
    pattern = str(tmp_path / "t-{0..3}.zip")
    pack([b"old%d" % i for i in range(8)], pattern)
    code = (
        "import os, archivestream\n"
        "rename, count = os.replace, 0\n"
        "def replace(*paths, **options):\n"
        "    global count\n"
        "    count += 1\n"
        "    rename(*paths, **options) if count < 3 else os._exit(9)\n"
        "os.replace = os.rename = replace\n"
        f"archivestream.pack([b'new%d' % i for i in range(8)], {pattern!r}, overwrite=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    with pytest.raises(FileNotFoundError):
        archivestream.open(pattern)


def test_after_an_error_nothing_is_written(tmp_path: Path) -> None:
    files = []
    for i in range(300):
        files.append(tmp_path / f"{i:03d}")
        files[-1].write_bytes(bytes(2000))
    packer = archivestream.ZipPacker(tmp_path / "a.zip", method="stored", threads=1)
    failed = 0
    for i, file in enumerate(files):
        try:
            packer.add_file(file.name, file)
        except (OSError, ValueError):
            failed += 1
        if i == 100:
            files[i].write_bytes(b"it shrinks")
    if failed:
        with pytest.raises(ValueError, match="not written"):
            packer.close()
    else:
        with pytest.raises((OSError, ValueError)):
            packer.close()
    assert not (tmp_path / "a.zip").exists()


def test_a_row_that_is_used_again(tmp_path: Path) -> None:
    def samples() -> Any:
        row = {}
        for i in range(5):
            row["label"] = i
            yield np.full(3, i), row

    pack(samples(), tmp_path / "a.zip")
    assert archivestream.open(tmp_path / "a.zip").metadata["label"].to_pylist() == [*range(5)]


def test_shards_are_bounded_with_their_metadata(tmp_path: Path) -> None:
    samples = [(b"x", {"numbers": [float(i)] * 500}) for i in range(200)]
    pack(samples, tmp_path / "t-{:03d}.zip", max_shard_bytes=100_000)
    sizes = [path.stat().st_size for path in tmp_path.glob("t-*.zip")]
    assert max(sizes) <= 100_000
    assert len(archivestream.open(str(tmp_path / "t-{:03d}.zip")).metadata) == 200


def test_columns_go_together_in_all_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="types that do not go together"):
        pack(rows(1, "x"), tmp_path / "t-{:03d}.zip", shards=2)
    assert not [*tmp_path.iterdir()]
    pack(rows(1, 2), tmp_path / "t-{:03d}.zip", shards=2)
    with pytest.raises(ValueError, match="types that do not go together"):
        pack(rows("x"), tmp_path / "t-{:03d}.zip", shards=1, append=True)
    pack(rows(2.5), tmp_path / "t-{:03d}.zip", shards=1, append=True)
    with archivestream.open(str(tmp_path / "t-{:03d}.zip")) as archive:
        assert archive.metadata["label"].to_pylist() == [1, 2, 2.5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_fork_that_exits_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, archivestream\n"
        "packer = archivestream.ZipPacker('a.zip', method='stored', threads=1)\n"
        "for i in range(50): packer.add(f'{i}', bytes([i]) * 3000)\n"
        "child = os.fork()\n"
        "if not child: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "for i in range(50, 60): packer.add(f'{i}', bytes([i]) * 3000)\n"
        "packer.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert [*archive] == [bytes([i]) * 3000 for i in range(60)]


def with_table(path: Path, table: Any, **options: Any) -> Path:
    stream = io.BytesIO()
    with pyarrow.ipc.new_file(stream, table.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
        archive.writestr("__metadata__.arrow", stream.getvalue())
    return path


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_columns_that_unpack_to_anything_are_refused(compression: str, dictionary: bool, tmp_path: Path) -> None:
    zeros = pyarrow.array(np.zeros(1_000_000, np.int64))
    column = pyarrow.array(["a"] * 1_000_000).dictionary_encode() if dictionary else zeros
    table = pyarrow.table({"__member__": ["a"] + [""] * 999_999, "zeros": column})
    path = with_table(tmp_path / "a.zip", table, compression=compression)
    with (
        archivestream.open(path, limits=Limits(max_member_bytes=1 << 28)) as archive,
        pytest.raises(CorruptArchiveError, match=r"a\.zip.*compressed by themselves"),
    ):
        archive.metadata  # noqa: B018


def test_plain_tables_of_others_are_read(tmp_path: Path) -> None:
    table = pyarrow.table({"__member__": ["a"], "kind": pyarrow.array(["x"]).dictionary_encode()})
    with archivestream.open(with_table(tmp_path / "a.zip", table)) as archive:
        assert archive.metadata["kind"].to_pylist() == ["x"]
    data = (tmp_path / "a.zip").read_bytes()
    begin = data.index(b"ARROW1")
    for place in range(begin, begin + 400, 7):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        with archivestream.open(bytes(damaged), verify=False) as archive, contextlib.suppress(CorruptArchiveError):
            archive.metadata  # noqa: B018


def test_names_that_are_no_text(tmp_path: Path) -> None:
    with archivestream.ShardPacker(tmp_path / "t-{:02d}.tar", shards=1) as packer:
        packer.add("caf\udce9", b"1", metadata={"label": 1})
    assert archivestream.open(str(tmp_path / "t-{:02d}.tar")).metadata["label"].to_pylist() == [1]


def test_metadata_that_are_not_the_last_member(tmp_path: Path) -> None:
    pack(rows(1, 2), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("more", b"1")
    with pytest.warns(ArchiveWarning, match="not its last member any more"):
        appended = archivestream.open(tmp_path / "a.zip")
    assert appended.metadata is None
    with pytest.warns(ArchiveWarning, match="is left out"):
        pack(appended, tmp_path / "packed.zip")
    with pytest.warns(ArchiveWarning) as caught:
        repack(tmp_path / "a.zip", tmp_path / "repacked.tar")
    assert ["not its last" in str(one.message) for one in caught] == [True, False]
    for name in ("packed.zip", "repacked.tar"):
        with archivestream.open(tmp_path / name) as archive:
            assert archive.metadata is None
            assert list(archive.names) == [name for name in appended.names if not name.startswith("__")]
            assert [*archive] == appended.read_many(archive.names)


def test_masked_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no mask"):
        pack([("a", np.ma.array([1, 2, 3], mask=[0, 1, 0]))], tmp_path / "a.zip")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", script)
    with archivestream.open(tmp_path / "a.zip") as images, pytest.raises(UnsupportedFeatureError, match="PostScript"):
        images.read_images([0])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("small in (3, 300)", [0]),
        ("small in (3, -1)", [0]),
        ("small == 300", []),
        ("large == 7", [0]),
        ("large == 9223372036854775813", [1]),
        ("large > 7", [1]),
        ("large in (7, -1)", [0]),
    ],
)
def test_queries_of_integers_of_all_kinds(query: str, found: list[int], tmp_path: Path) -> None:
    samples = [
        (b"a", {"small": np.uint8(3), "large": np.uint64(7)}),
        (b"b", {"small": np.uint8(200), "large": np.uint64(9223372036854775813)}),
    ]
    pack(samples, tmp_path / "a.zip")
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.positions(query).tolist() == found


@pytest.mark.parametrize("dtype", ["S", "V0", "U"])
def test_values_without_a_size(dtype: str, tmp_path: Path) -> None:
    pack([("a", b"1234")], tmp_path / "a.zip", method="stored")
    with archivestream.open(tmp_path / "a.zip") as archive, pytest.raises(UnsupportedFeatureError, match=r"a\.zip"):
        archive.map_arrays([0], dtype=dtype)


@pytest.mark.parametrize("kind", ["index.dat", "index.csv"])
def test_folders_of_nothing(kind: str, tmp_path: Path) -> None:
    if kind == "index.dat":
        (tmp_path / "bin00000000.dat").write_bytes(b"")
        (tmp_path / kind).write_bytes(b"")
    else:
        (tmp_path / "chunks").mkdir()
        (tmp_path / kind).write_text("ai:chunk_name,ai:offset_bytes,ai:size_bytes,ai:shape,label\n")
    assert len(archivestream.open(tmp_path / kind)) == 0


def test_writes_that_are_done_are_forgotten(tmp_path: Path) -> None:
    with archivestream.ZipPacker(tmp_path / "a.zip", method="stored", threads=2) as packer:
        file = packer._writers[0].file
        most = 0
        for i in range(600):  # of 256 KiB, each a write
            packer.add(str(i), bytes(256 << 10))
            most = max(most, len(file._under_way))
    # As many as the threads have room for, whatever was written.
    assert 0 < most <= 256
    with archivestream.open(tmp_path / "a.zip") as archive:
        assert archive.verify().ok
