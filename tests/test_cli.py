"""The command line: what it prints, what it writes, and with which status it exits."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packtools import has_begun, leftovers
from typer.testing import CliRunner

import archivestream
from archivestream.cli import app, progress
from archivestream.cli.text import printable

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
HOSTILE = ("\x1b]0;evil\x07.txt", "two\nlines.txt", "\u202egnp.exe", "\x9b31mred.txt")
CONTENTS = {
    "readme.txt": b"hello\n",
    "cat/1.png": b"\x89PNG" + bytes(range(256)) * 8,
    "cat/2.PNG": b"second cat",
    "dog/1.jpg": b"a dog " * 1000,
    "empty": b"",
}


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a real process."""
    return subprocess.run(
        [sys.executable, "-m", "archivestream", *map(str, arguments)],
        env=ENVIRONMENT,
        timeout=60,
        check=False,
        **({"capture_output": True} | options),
    )


def invoke(*arguments: object) -> Any:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write_zip(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 2, 29, 12, 34, 56)), data, method)
    return path


def patch(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def patch_headers(path: Path, name: str, offset: int, value: int) -> None:
    """Set a 16-bit field in both headers of a member; the offset is that in the local one."""
    data = bytearray(path.read_bytes())
    for signature, length, shift in ((b"PK\3\4", 30, 0), (b"PK\1\2", 46, 2)):
        header = next(
            found.start()
            for found in re.finditer(re.escape(signature), data)
            if data[found.start() + length :].startswith(name.encode())
        )
        struct.pack_into("<H", data, header + offset + shift, value)
    path.write_bytes(data)


def write_repeated(path: Path, count: int, size: int) -> Path:
    """Write many members of zeros: quick to write, slow to verify."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = deflate.compress(bytes(size)) + deflate.flush()
    common = struct.pack("<5H3L", 20, 0, 8, 0, 0, zlib.crc32(bytes(size)), len(data), size)
    directory = b""
    with path.open("wb") as file:
        for i in range(count):
            name = b"%06d" % i
            directory += b"PK\1\2\x14\0" + common
            directory += struct.pack("<5H2L", len(name), 0, 0, 0, 0, 0, file.tell()) + name
            file.write(b"PK\3\4" + common + struct.pack("<2H", len(name), 0) + name + data)
        start = file.tell()
        file.write(directory)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "some.zip", {"cat/": b"", **CONTENTS})


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = tmp_path / "damaged.zip"
    write_zip(path, {"good": b"good bytes", "bad": b"BAD bytes", "worse": b"WORSE"}, 0)
    patch(path, b"BAD bytes", b"bAD bytes")
    patch(path, b"WORSE", b"WORST")
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "hostile.zip", {name: name.encode() for name in HOSTILE})


# ---- the whole -----------------------------------------------------------------------


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["archivestream", archivestream.__version__]


def test_help_lists_the_commands() -> None:
    output = invoke("--help").stdout
    for command in ("ls", "info", "cat", "extract", "verify", "demo"):
        assert re.search(rf"\b{command}\b", output)
        assert invoke(command, "--help").exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ls"], ["ls", "x.zip", "--nonsense"], ["cat", "x.zip"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    assert invoke(*arguments).exit_code == 2


def test_an_unknown_encoding_is_a_usage_error(archive: Path) -> None:
    result = invoke("ls", archive, "--encoding", "klingon")
    assert result.exit_code == 2
    assert "klingon" in result.stderr


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_a_missing_package_names_the_extra(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from archivestream.__main__ import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; main()"],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert module in line
    assert "pip install 'archivestream[cli]'" in line


def test_imports_stay_light() -> None:
    code = (
        "import sys, archivestream; assert not {'typer', 'rich', 'torch'} & set(sys.modules)\n"
        "import archivestream.cli; assert not {'torch', 'PIL', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


@pytest.mark.parametrize("command", ["ls", "info", "cat", "extract", "verify", "demo"])
def test_errors_of_opening_are_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("plain text")
    before = ["demo", "--archive"] if command == "demo" else [command]
    after = ["member"] if command == "cat" else []
    for name, reason in (
        ("missing.zip", "No such file"),
        ("text.zip", "looks like text: 'plain text'"),
        (".", "directory"),
    ):
        result = invoke(*before, tmp_path / name, *after)
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"archivestream: error: {tmp_path / name}")
        assert reason in line


def test_a_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    result = invoke("ls", tmp_path / "*.zip")
    assert result.exit_code == 1
    assert "no file fits the pattern" in result.stderr


def test_too_many_braces_are_an_error() -> None:
    result = invoke("verify", "{1..99999999}.zip")
    assert result.exit_code == 1
    assert "archivestream: error:" in result.stderr


def test_errors_cannot_control_the_terminal(tmp_path: Path) -> None:
    done = run("ls", tmp_path / "\x1b[2J\n\udcff.zip")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr
    assert rb"\x1b[2J\n\udcff.zip" in done.stderr


def test_strict(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "twice.zip", {"aa": b"1", "ab": b"2"})
    patch(path, b"ab", b"aa")
    assert invoke("ls", path).stdout == "aa\naa\n"
    for command in (["ls"], ["info"], ["verify"], ["extract", "-C", tmp_path / "out"]):
        result = invoke(*command, path, "--strict")
        assert result.exit_code == 1
        assert "aa" in result.stderr


def test_encoding(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "russian.zip", {"XY.txt": b"text"})
    patch(path, b"XY.txt", "Пр.txt".encode("cp866"))
    assert invoke("ls", path, "--encoding", "cp866").stdout == "Пр.txt\n"
    assert invoke("cat", path, "Пр.txt", "--encoding", "cp866").stdout == "text"


# ---- output to pipes -----------------------------------------------------------------


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    many = write_zip(tmp_path / "many.zip", {f"a-rather-long-name-{i:06}": b"" for i in range(9000)})
    few = write_zip(tmp_path / "few.zip", {"a": b"1"})
    for path, lines in ((many, 1), (many, 0), (few, 0)):
        process = subprocess.Popen(
            [sys.executable, "-m", "archivestream", "ls", str(path)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        with process.stderr:
            assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_an_error(archive: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run("ls", archive, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert done.stderr.decode() == "archivestream: error: No space left on device\n"


def test_names_that_the_encoding_of_the_output_lacks(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"Ω.txt": b"1"})
    done = subprocess.run(
        [sys.executable, "-m", "archivestream", "ls", str(path)],
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\\u03a9.txt\n"


# ---- ls ------------------------------------------------------------------------------


def test_ls(archive: Path) -> None:
    done = run("ls", archive)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == ["cat/", *CONTENTS]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["*.png"], ["cat/1.png"]),
        (["dog/*", "readme.txt"], ["dog/1.jpg", "readme.txt"]),
        (["cat/?.[pP][nN][gG]"], ["cat/1.png", "cat/2.PNG"]),
        (["*"], ["cat/", *CONTENTS]),
    ],
)
def test_ls_patterns(archive: Path, patterns: list[str], names: list[str]) -> None:
    assert invoke("ls", archive, *patterns).stdout.splitlines() == names


@pytest.mark.parametrize("pattern", ["nothing", "nothing*"])
@pytest.mark.parametrize("command", ["ls", "extract"])
def test_what_matches_nothing_is_an_error(
    archive: Path, command: str, pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(command, archive, "readme.txt", pattern)
    assert (result.exit_code, result.stdout) == (1, "")
    assert pattern in result.stderr
    assert os.listdir(tmp_path) == [archive.name]


def test_an_exact_name_comes_before_a_glob(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"[1].txt": b"brackets", "1.txt": b"one"})
    assert invoke("ls", path, "[1].txt").stdout == "[1].txt\n"
    assert invoke("ls", path, "[01].txt").stdout == "1.txt\n"


def test_ls_long(archive: Path) -> None:
    lines = invoke("ls", "-l", archive, "dog/1.jpg", "empty").stdout.splitlines()
    data = CONTENTS["dog/1.jpg"]
    size, compressed, method, crc, date, clock, name = lines[0].split()
    assert int(size) == len(data)
    assert 0 < int(compressed) < len(data)
    assert int(crc, 16) == zlib.crc32(data)
    assert (method, date, clock, name) == ("deflate", "2024-02-29", "12:34:56", "dog/1.jpg")
    assert lines[1].split()[0] == "0"


def test_ls_json(archive: Path) -> None:
    members = json.loads(invoke("ls", "--json", archive).stdout)
    assert [member["name"] for member in members] == ["cat/", *CONTENTS]
    assert [member["directory"] for member in members] == [True] + [False] * 5
    data = CONTENTS["cat/1.png"]
    compressed_size = members[2].pop("compressed_size")
    assert 0 < compressed_size < len(data)
    assert members[2] == {
        "name": "cat/1.png",
        "size": len(data),
        "method": "deflate",
        "crc32": f"{zlib.crc32(data):08x}",
        "date": "2024-02-29 12:34:56",
        "directory": False,
        "archive": str(archive),
    }


def test_ls_json_of_an_empty_archive(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "empty.zip", {})
    assert json.loads(invoke("ls", "--json", path).stdout) == []
    assert invoke("ls", path).stdout == ""


def test_several_archives_as_one(tmp_path: Path) -> None:
    for i in range(3):
        write_zip(tmp_path / f"part-{i}.zip", {f"{i}.txt": b"%d" % i})
    for pattern in ("part-*.zip", "part-{0..2}.zip"):
        assert invoke("ls", tmp_path / pattern).stdout.split() == ["0.txt", "1.txt", "2.txt"]
        assert invoke("cat", tmp_path / pattern, "2.txt", "0.txt").stdout == "20"
    members = json.loads(invoke("ls", "--json", tmp_path / "part-*.zip").stdout)
    assert members[1]["archive"] == str(tmp_path / "part-1.zip")


@pytest.mark.parametrize("options", [[], ["-l"], ["*"]])
def test_hostile_names_are_escaped(hostile: Path, options: list[str]) -> None:
    output = run("ls", hostile, *options).stdout.decode()
    lines = output.split("\n")[:-1]
    assert len(lines) == len(HOSTILE)
    assert all(line.isprintable() for line in lines)
    assert lines[0].endswith(r"\x1b]0;evil\x07.txt")
    assert lines[2].endswith(r"\u202egnp.exe")


def test_json_has_the_exact_names(hostile: Path) -> None:
    output = run("ls", "--json", hostile).stdout.decode()
    assert tuple(member["name"] for member in json.loads(output)) == HOSTILE
    assert output.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["plain", "naïve/日本\u3000語 🎉", "a b", r"back\slash"])
def test_printable_leaves_text_alone(text: str) -> None:
    assert printable(text) == text


# ---- info ----------------------------------------------------------------------------


def test_info_json(archive: Path) -> None:
    summary = json.loads(invoke("info", "--json", archive).stdout)
    with zipfile.ZipFile(archive) as reference:
        infos = reference.infolist()
    assert 0 < summary.pop("index_bytes") <= len(infos) * 64 + sum(len(i.filename) for i in infos)
    assert summary == {
        "format": "zip",
        "archives": 1,
        "members": 6,
        "files": 5,
        "directories": 1,
        "size": sum(map(len, CONTENTS.values())),
        "compressed_size": sum(info.compress_size for info in infos),
        "methods": {"deflate": 6},
        "encrypted": 0,
        "unsupported": 0,
        "saved_indexes": [],
        "largest": {"name": "dog/1.jpg", "size": 6000},
        "extensions": {".png": 2, ".txt": 1, ".jpg": 1, "": 1},
    }


def test_info_counts_what_cannot_be_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "odd.zip", {"fine": b"1", "secret": b"2", "odd": b"3"}, 0)
    patch_headers(path, "secret", 6, 1)  # general purpose bit 0: encrypted
    patch_headers(path, "odd", 8, 97)  # compression method
    summary = json.loads(invoke("info", "--json", path).stdout)
    assert (summary["encrypted"], summary["unsupported"]) == (1, 1)
    assert summary["methods"] == {"stored": 2, "wavpack": 1}


def test_info_is_for_people(archive: Path, hostile: Path) -> None:
    done = run("info", archive, hostile)
    lines = done.stdout.decode().split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    table = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    assert table["archives"] == "2"
    assert table["members"] == "10"
    assert table["largest member"] == "6.0 kB (6,000 bytes)  dog/1.jpg"
    assert table["extensions"].startswith(".txt 4, .png 2, ")


def test_info_of_an_empty_archive(tmp_path: Path) -> None:
    result = invoke("info", write_zip(tmp_path / "empty.zip", {}))
    assert result.exit_code == 0
    assert re.search(r"^members +0$", result.stdout, re.MULTILINE)


# ---- cat -----------------------------------------------------------------------------


def test_cat(archive: Path) -> None:
    done = run("cat", archive, "cat/1.png", "empty", "readme.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == CONTENTS["cat/1.png"] + CONTENTS["readme.txt"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_cat_of_a_large_member(tmp_path: Path, method: int) -> None:
    data = os.urandom(1 << 10) * (20 << 10)  # 20 MiB: above what is decoded at once
    path = write_zip(tmp_path / "large.zip", {"large": data}, method)
    assert run("cat", path, "large").stdout == data


def test_cat_writes_nothing_where_a_name_is_missing(archive: Path) -> None:
    done = run("cat", archive, "readme.txt", "missing\x1b")
    assert (done.returncode, done.stdout) == (1, b"")
    assert rb"member 'missing\x1b': there is no such member" in done.stderr


def test_cat_of_a_bad_member(damaged: Path) -> None:
    done = run("cat", damaged, "good", "bad")
    assert (done.returncode, done.stdout) == (1, b"good bytes")
    assert done.stderr.startswith(b"archivestream: error: ")
    assert b"damaged.zip: member 'bad': its bytes do not have the CRC-32" in done.stderr


# ---- extract -------------------------------------------------------------------------


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_extract(archive: Path, tmp_path: Path) -> None:
    done = run("extract", archive, "-C", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, b"")
    assert files_below(tmp_path / "out") == CONTENTS
    size = sum(map(len, CONTENTS.values()))
    assert done.stdout.decode() == f"6 members, 8.1 kB ({size:,} bytes), to {tmp_path / 'out'}\n"


def test_extract_goes_to_the_current_folder(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert run("extract", archive, "readme.txt", cwd=tmp_path / "here").returncode == 0
    assert files_below(tmp_path / "here") == {"readme.txt": b"hello\n"}


def test_extract_writes_what_two_patterns_match_once(archive: Path, tmp_path: Path) -> None:
    patterns = ("cat/*.png", "*.[pP][nN][gG]", "cat/1.png")
    result = invoke("extract", archive, *patterns, "--directory", tmp_path / "out", "--threads", 1)
    assert result.exit_code == 0
    assert sorted(files_below(tmp_path / "out")) == ["cat/1.png", "cat/2.PNG"]


def test_extract_overwrites_only_when_asked(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("mine")
    arguments = ("extract", archive, "readme.txt", "-C", tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert f"{tmp_path / 'readme.txt'}: it is there already; --overwrite" in result.stderr
    assert (tmp_path / "readme.txt").read_text() == "mine"
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert (tmp_path / "readme.txt").read_bytes() == CONTENTS["readme.txt"]


def test_extract_stays_in_its_folder(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "slip.zip", {"fine.txt": b"1", "../evil.txt": b"2"})
    result = invoke("extract", path, "-C", tmp_path / "out")
    assert result.exit_code == 1
    assert "../evil.txt" in result.stderr
    assert sorted(files_below(tmp_path)) == ["slip.zip"]


def test_extract_of_a_bad_member(damaged: Path, tmp_path: Path) -> None:
    result = invoke("extract", damaged, "-C", tmp_path / "out")
    assert result.exit_code == 1
    assert "member 'bad'" in result.stderr
    assert files_below(tmp_path / "out") == {"good": b"good bytes"}


# ---- verify --------------------------------------------------------------------------


def test_verify(archive: Path) -> None:
    done = run("verify", archive, "--threads", 2)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(
        r"all good: 6 members, 8\.1 kB in \d+\.\d\d s \([\d.]+ [kMG]?B/s\)\n",
        done.stdout.decode().replace("bytes/s", "B/s"),
    )


def test_verify_lists_the_bad_members(damaged: Path, archive: Path) -> None:
    done = run("verify", archive, damaged)
    assert done.returncode == 1
    bad, worse = done.stdout.decode().splitlines()
    assert re.fullmatch(rf"{damaged}: member 'bad': .*CRC-32.*", bad)
    assert re.fullmatch(rf"{damaged}: member 'worse': .*CRC-32.*", worse)
    assert done.stderr.decode() == "archivestream: error: 2 of 9 members are bad\n"


def test_verify_goes_on_after_an_archive_that_does_not_open(damaged: Path, archive: Path) -> None:
    truncated = archive.with_name("truncated.zip")
    truncated.write_bytes(archive.read_bytes()[:-30])
    result = invoke("verify", truncated, archive)
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(rf"archivestream: error: {truncated}: .*truncated.*\n", result.stderr)
    result = invoke("verify", truncated, damaged)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(result.stderr.splitlines()) == 2


def test_verify_escapes_hostile_names(hostile: Path) -> None:
    patch_headers(hostile, HOSTILE[1], 8, 97)
    done = run("verify", hostile)
    assert done.returncode == 1
    (line,) = done.stdout.decode().split("\n")[:-1]
    assert line.isprintable()
    assert "wavpack" in line


def test_verify_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    """The bar shows what goes on, on a terminal; an interrupt ends it at once, and says nothing."""
    path = write_repeated(tmp_path / "long.zip", 4000, 16 << 20)
    with terminal() as (master, slave):
        begin = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "archivestream", "verify", str(path)],
            env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=slave,
        )
        os.close(slave)
        shown = b""
        while b"/s" not in shown:  # the rate
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        while chunk := read_terminal(master):
            shown += chunk
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.read() == b""
        assert process.wait() == 130
    assert time.monotonic() - begin < 20
    assert b"verifying" in shown
    assert b"Traceback" not in shown
    assert b"Aborted" not in shown


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)


def read_terminal(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError:  # Linux: the other side is closed
        return b""


# ---- the bar -------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("count_bytes", [True, False])
def test_the_bar_shows_each_part(monkeypatch: pytest.MonkeyPatch, count_bytes: bool) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Bar("[bold]first[/bold]", count_bytes=count_bytes) as bar:
        bar(1, 10)
        bar.begin("second")
        bar(2, 20)
    assert bar.total == 20
    assert "[bold]first[/bold]" in stderr.getvalue()
    assert "second" in stderr.getvalue()


@pytest.mark.parametrize(("stream", "delay"), [(Terminal, 60.0), (io.StringIO, 0.0)])
def test_no_bar_for_what_is_quick_or_not_watched(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], delay: float
) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "_DELAY", delay)
    with progress.Bar("quick") as bar:
        bar(1, 10)
        bar.begin("second")
        bar(10, 10)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("command", ["ls", "info", "verify", "cat"])
def test_streams_that_are_closed(tmp_path: Path, command: str) -> None:
    """As of a daemon: what is opened instead does not become the terminal of the program."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as writer:
        writer.writestr("a", b"contents")
    program = f"{sys.executable} -m archivestream {command} {path} " + ("a " if command == "cat" else "")
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        done = subprocess.run(program + closed, shell=True, env=ENVIRONMENT, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(
        program.replace(str(path), "missing.zip") + "2>&-", shell=True, env=ENVIRONMENT, capture_output=True
    )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_extract_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    path = write_repeated(tmp_path / "long.zip", 40, 40 << 20)
    process = subprocess.Popen(
        [sys.executable, "-m", "archivestream", "extract", str(path), "-C", str(tmp_path / "out")], env=ENVIRONMENT
    )
    while not has_begun(process.pid, tmp_path / "out"):
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not leftovers(tmp_path / "out")


@pytest.mark.parametrize("option", [("--encoding", "hex"), ("--encoding", "none-such"), ("--threads", "5000")])
def test_values_that_no_option_has(tmp_path: Path, option: tuple[str, str]) -> None:
    result = invoke("verify", tmp_path / "a.zip", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr or option[1] in result.stderr
