"""What the tests of the packers share: folders to pack, and the programs that read back what was written."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = [
    "SEVEN_ZIP",
    "content",
    "has_begun",
    "has_unnamed_files",
    "leftovers",
    "make_tree",
    "run",
    "same_tree",
    "text",
]

SEVEN_ZIP = next((name for name in ("7zz", "7z", "7za") if shutil.which(name)), "7zz")


def run(*command: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a program that must succeed; skip the test where it is not installed."""
    program = str(command[0])
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=120, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def text(size: int, seed: int = 0) -> bytes:
    """Bytes that compress well, and differently in different places."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(300)]
    return b" ".join(rng.choices(words, k=size // 4 + 1))[:size]


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def make_tree(root: Path) -> Path:
    """A folder with all that a folder of files can have."""
    files = {
        "empty": b"",
        "readme.txt": text(5000),
        "cat/1.jpg": content(20_000),
        "cat/2.jpg": content(3),
        "dog/deep/er/note.txt": text(123_456, 1),
        "naïve/日本語.txt": text(700, 2),
        "large.txt": text(5 << 20, 3),
        "larger.bin": content(3 << 20, 4) + text(8 << 20, 5),
        "n" * 120 + "/" + "m" * 150: b"a long name",
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_700_000_001, 1_700_000_001))
    (root / "hollow").mkdir()
    (root / "link").symlink_to("cat/1.jpg")
    (root / "outside").symlink_to("/etc")
    (root / "readme.txt").chmod(0o640)
    (root / "cat/2.jpg").chmod(0o755)
    for folder, _, _ in os.walk(root):
        os.utime(folder, (1_600_000_000, 1_600_000_000))
    return root


def same_tree(left: Path, right: Path, *, times: Callable[[Path], bool] = lambda _: True) -> None:
    """Compare all that is in two folders: types, bytes, links, permissions and times of files."""

    def listing(root: Path) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = ("link", os.readlink(path))
            elif path.is_dir():
                found[name] = ("folder", path.stat().st_mode)
            else:
                status = path.stat()
                found[name] = ("file", status.st_mode, int(status.st_mtime) if times(path) else 0, path.read_bytes())
        return found

    a, b = listing(left), listing(right)
    assert a.keys() == b.keys()
    for name, what in a.items():
        assert what == b[name], name


def leftovers(folder: Path) -> list[str]:
    """Temporary files of packers."""
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def has_unnamed_files(folder: Path) -> bool:
    """Whether files in a folder can be written without a name: nothing is left of them when a process is killed."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except (AttributeError, OSError):
        return False
    return True


def has_begun(process: int, folder: Path) -> bool:
    """Whether a process writes a file in a folder that has not got its name yet."""
    opened = Path(f"/proc/{process}/fd")
    with contextlib.suppress(FileNotFoundError):  # it has closed one meanwhile, or there is no /proc
        if any(os.readlink(link).startswith(f"{folder}/#") for link in opened.iterdir()):
            return True
    return folder.is_dir() and bool(leftovers(folder))
