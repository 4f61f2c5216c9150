"""``archivestream stats``: the numbers against those counted from the members, what it prints, and what it draws."""

from __future__ import annotations

import collections
import json
import os
import re
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import KINDS, MAKERS, zip_of
from typer.testing import CliRunner
from zipmaker import Entry, make

import archivestream
from archivestream.archive_stats import collect_stats
from archivestream.cli import app

PACKAGE = Path(archivestream.__file__).parent
RNG = np.random.default_rng(0)
MEMBERS = {
    f"train/{'cat' if i % 3 else 'dog'}/{i:03d}.{'jpg' if i % 5 else 'PNG'}": RNG.bytes(int(RNG.integers(0, 9000)))
    for i in range(200)
} | {"labels.csv": b"name,label\n", "empty": b"", "notes/a.txt": b"x"}
SIZES = [len(data) for data in MEMBERS.values()]


def stats(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["stats", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of(MEMBERS))
    return path


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("zip", "tar"))])
def test_numbers(kind: str) -> None:
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
    with archivestream.open(MAKERS[kind](MEMBERS), index="memory") as archive:
        calls: list[tuple[int, int]] = []
        found = collect_stats(archive, seconds=60, progress=lambda done, total: calls.append((done, total)))
        assert found.summary == archive.summary()
        assert found.sizes is not None
        assert (found.sizes.smallest, found.sizes.largest) == (0, max(SIZES))
        assert found.sizes.mean == pytest.approx(statistics.fmean(SIZES))
        assert found.sizes.median == statistics.median(SIZES)
        for one in found.sizes.histogram:
            assert one.count == sum(one.low <= size < one.high for size in SIZES)
        assert sum(one.count for one in found.sizes.histogram) == len(SIZES)
        assert {name: one.count for name, one in found.types.items()} == {
            name: len(view) for name, view in archive.by_type().items()
        }
        assert sum(one.size for one in found.types.values()) == sum(SIZES)
        assert found.classes == {"": 2, "cat": 133, "dog": 67, "notes": 1}
        assert list(found.classes) == sorted(found.classes)
        speed = found.speed
        assert speed is not None
        assert (speed.members, speed.bytes, speed.complete, speed.errors) == (203, sum(SIZES), True, [])
        assert speed.members_per_second == pytest.approx(speed.members / speed.seconds)
        assert calls[-1] == (sum(SIZES), sum(SIZES))
        view = collect_stats(archive.select("*/cat/*"), seconds=0)
        assert view.classes == {"cat": 133}
        assert view.speed is None


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archivestream.archive_stats._MOST_MEMBERS", 10)
    with archivestream.open(zip_of(MEMBERS)) as archive:
        speed = collect_stats(archive, seconds=1e-9).speed
        assert speed is not None
        assert (speed.members, speed.bytes, speed.complete) == (10, sum(SIZES[:10]), False)


def test_nothing_and_directories() -> None:
    with archivestream.open(make(Entry(b"folder/", b""))) as archive:
        found = collect_stats(archive)
        assert (found.sizes, found.types, found.classes, found.speed) == (None, {}, {}, None)
    with archivestream.open(make(Entry(b"a/", b""), Entry(b"a/b", b""))) as archive:
        found = collect_stats(archive)
        assert found.sizes is not None
        assert [(one.low, one.high, one.count) for one in found.sizes.histogram] == [(0, 1, 1)]
        assert found.classes == {"a": 1}


def test_sizes_that_are_lies_take_no_memory() -> None:
    huge = [Entry(b"%d.bin" % i, b"x", size=(1 << 63) - 1, zip64=["size"]) for i in range(3)]
    with archivestream.open(make(*huge, Entry(b"good", b"good"))) as archive:
        found = collect_stats(archive)
        assert found.sizes is not None
        assert found.sizes.histogram[-1].count == 3
        assert found.types["other"].size > 1 << 64
        assert found.speed is not None
        assert len(found.speed.errors) == 3


def test_text(path: Path) -> None:
    result = stats(path, "--seconds", 30)
    assert result.exit_code == 0
    assert re.search(r"^members +203 \(203 files\)$", result.stdout, re.M)
    assert re.search(r"^speed +[\d,]+ members/s, .*/s \(.*all members in [\d.]+ s\)$", result.stdout, re.M)
    assert re.search(r"^  deflate +[█#]+ +203 100.0%$", result.stdout, re.M)
    assert re.search(r"^  empty +[█#]+ +\d+ +\d\.\d%$", result.stdout, re.M)
    assert re.search(r"^  image, .*[█#]+ +200  98.5%$", result.stdout, re.M)
    assert re.search(r"^classes \(folders\): 4$", result.stdout, re.M)
    bars = dict(re.findall(r"^  (\S+) +([█#]+) +\d+ +\d+\.\d%$", result.stdout, re.M))
    assert len(bars["cat"]) == 40
    assert len(bars["dog"]) == -(-67 * 40 // 133)
    assert "not measured" in stats(path, "--seconds", 0).stdout


def test_many_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({f"{c:03d}/{i}": b"" for c in range(50) for i in range(c + 1)}))
    result = stats(path, "--seconds", 0)
    assert re.search(r"^classes \(folders\): 50\n  049 ", result.stdout, re.M)
    assert result.stdout.rstrip().endswith("and 30 more, of 1 to 30 each")


def test_json(path: Path) -> None:
    found = json.loads(stats(path, "--json").stdout)
    assert found["members"] == found["files"] == 203
    assert found["classes"] == {"": 2, "cat": 133, "dog": 67, "notes": 1}
    assert found["types"]["image"]["count"] == 200
    assert found["types"]["table"] == {"count": 1, "size": 11}
    assert found["sizes"]["largest"] == max(SIZES)
    counted = collections.Counter(size.bit_length() for size in SIZES)
    assert {one["low"].bit_length(): one["count"] for one in found["sizes"]["histogram"] if one["count"]} == counted
    assert found["speed"]["complete"]
    assert found["speed"]["bad_members"] == 0
    assert json.loads(stats(path, "--json", "--seconds", 0).stdout)["speed"] is None


def test_bad_members(path: Path) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for name in list(MEMBERS)[:200:20]:
            info = archive.getinfo(name)
            data[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 0x55
    path.write_bytes(data)
    result = stats(path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["speed"]["bad_members"] == 10
    assert result.stderr.count("archivestream: error: ") == 5
    assert result.stderr.rstrip().endswith("and 5 more bad members")


HOSTILE = {
    "\x1b[31mred\nforged line/1.jpg": b"1",
    "\u202eright to left/2.jpg": b"2",
    r"$\frac{x}$/3.jpg": b"3",
    "名前/4.jpg": b"4",
    "n" * 300 + "/5.jpg": b"5",
    "n" * 300 + "m/6.jpg": b"6",
}


def test_hostile_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path, picture = tmp_path / "a.zip", tmp_path / "out.png"
    path.write_bytes(zip_of(HOSTILE))
    result = stats(path, "--plot", picture)
    assert result.exit_code == 0
    assert result.stdout.replace("\n", "").isprintable()
    assert "\nforged" not in result.stdout
    assert result.stdout.count("nnn...") == 2
    assert max(map(len, result.stdout.splitlines())) < 120
    assert picture.stat().st_size > 10_000
    assert len(json.loads(stats(path, "--json").stdout)["classes"]) == 6


@pytest.mark.parametrize("name", ["out.png", "out.svg"])
def test_plots(path: Path, name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / name
    picture.write_bytes(b"what was there before")
    assert stats(path, "--plot", picture).exit_code == 0
    if name.endswith(".png"):
        image = pytest.importorskip("PIL.Image").open(picture)
        assert image.size == (1200, 800)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 3
    else:
        assert b"<svg" in picture.read_bytes()


def test_plots_of_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({}))
    assert stats(path, "--plot", tmp_path / "out.png").exit_code == 0
    assert (tmp_path / "out.png").exists()


def test_what_cannot_be_drawn(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for picture, message in ((tmp_path / "out.txt", "ends with .png"), (tmp_path / "no" / "out.png", "no such folder")):
        result = stats(path, "--plot", picture)
        assert result.exit_code == 1
        assert message in result.stderr
        assert not result.stdout


def test_without_matplotlib_and_without_letters_for_bars(path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); sys.modules['matplotlib'] = None\n"
        "from archivestream.__main__ import main\n"
        "sys.argv[0] = 'archivestream'\n"
        "main()\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "stats", str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )

    done = run("--plot", "out.png")
    assert done.returncode == 1
    assert "pip install 'archivestream[plot]'" in done.stderr
    done = run()
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  cat +#{40} ", done.stdout, re.M)
