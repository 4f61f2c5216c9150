"""The tars that the cases read, and the real files that they are made of; kept as those of `benchmarks.data` are."""

from __future__ import annotations

import os
import shutil
import stat
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import zstandard

from archivestream._native.zstdscan import make_seek_table
from benchmarks import BUILD
from benchmarks.data import PYTHON, cached, corpus, digits, texts

__all__ = [
    "content",
    "files",
    "folder",
    "framed_texts",
    "images_in_one_frame",
    "large",
    "plain_tars",
    "texts_in_one_frame",
]

_LEVEL = 3
_FRAME = 64 << 10
_RUN = 100  # neighbouring files that are taken together
_LARGEST_FILE = 32 << 20
_FIRST_MODIFIED = 315532800  # 1 January 1980


def framed_texts(members: int) -> Path:
    """Make a seekable ``.tar.zst`` of texts of 8 to 12 KB: frames of 64 KiB of the tar, and their seek table."""

    def write(file: IO[bytes]) -> None:
        stream = BytesIO()
        _write_tar(stream, texts(members))
        data = stream.getbuffer()
        compressor = zstandard.ZstdCompressor(_LEVEL, write_checksum=True)
        sizes = []
        for at in range(0, len(data), _FRAME):
            piece = data[at : at + _FRAME]
            sizes.append((file.write(compressor.compress(piece)), len(piece)))
        file.write(make_seek_table(sizes))

    return cached(f"texts-framed-{members}-{PYTHON}.tar.zst", write)


def texts_in_one_frame(members: int) -> Path:
    """Make a ``.tar.zst`` of the same texts, as ``tar --zstd`` does."""

    def write(file: IO[bytes]) -> None:
        with _one_frame(file) as stream:
            _write_tar(stream, texts(members))

    return cached(f"texts-{members}-{PYTHON}.tar.zst", write)


def images_in_one_frame(members: int) -> Path:
    """Make such a file of random bytes, 10 KB each: as small images are, which are compressed already."""

    def write(file: IO[bytes]) -> None:
        rng = np.random.default_rng(4)
        with _one_frame(file) as stream:
            _write_tar(stream, (rng.bytes(10_000) for _ in range(members)))

    return cached(f"images-{members}.tar.zst", write)


def plain_tars(archive: Path, parts: int) -> list[Path]:
    """Make plain tars of the members of a ZIP: equal runs of them, one for each worker of a loader."""

    def write(file: IO[bytes], part: int) -> None:
        with zipfile.ZipFile(archive) as members, tarfile.open(fileobj=file, mode="w|") as tar:
            infos = members.infolist()
            for info in infos[len(infos) * part // parts : len(infos) * (part + 1) // parts]:
                entry = tarfile.TarInfo(info.filename)
                entry.size, entry.mtime = info.file_size, _FIRST_MODIFIED
                tar.addfile(entry, BytesIO(members.read(info)))

    return [
        cached(f"{archive.stem}-{part}-of-{parts}.tar", lambda file, part=part: write(file, part))  # type: ignore[misc]
        for part in range(parts)
    ]


def files(size: int) -> Path:
    """Make a ``.tar.zst`` in one frame of about so many bytes of real files of this machine."""

    def write(file: IO[bytes]) -> None:
        with _one_frame(file) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path in _real_files(size):
                # What stands in the tar is what could be read, should the file change meanwhile.
                data = path.read_bytes()
                info = tarfile.TarInfo(path.as_posix().lstrip("/"))
                info.size, info.mtime = len(data), _FIRST_MODIFIED
                tar.addfile(info, BytesIO(data))

    return cached(f"files-{size}-{PYTHON}.tar.zst", write)


def folder(size: int) -> Path:
    """Make a folder of about so many bytes of the same files."""
    path = BUILD / f"files-{size}-{PYTHON}"
    if not path.is_dir():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            made = Path(scratch) / path.name
            for source in _real_files(size):
                target = made / source.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            os.replace(made, path)
    return path


def content(size: int) -> bytes:
    """Make one large text: pieces of the corpus, in random order."""
    rng = np.random.default_rng(8)
    source = corpus()
    piece = 1 << 16
    starts = rng.integers(len(source) - piece, size=-(-size // piece)).tolist()
    return b"".join(source[start : start + piece] for start in starts)[:size]


def large(members: int) -> Path:
    """Make a plain tar of members of eight bytes; `tarfile` would take a minute for it."""

    def write(file: IO[bytes]) -> None:
        for first in range(0, members, 1 << 16):
            file.write(_records(np.arange(first, min(members, first + (1 << 16)), dtype="<u8")))
        file.write(bytes(2 * tarfile.BLOCKSIZE))

    return cached(f"large-{members}.tar", write)


def _records(number: Any) -> bytes:
    """Make the headers (POSIX.1-1988 ustar) and the data of members with these numbers."""
    fields: list[tuple[str, str, Any]] = [
        ("prefix", "S6", b"train/"),
        ("folder", "6u1", digits(number // 100, 6)),
        ("middle", "S5", b"/img_"),
        ("file", "8u1", digits(number, 8)),
        ("suffix", "S75", b".jpg"),
        ("mode", "S8", b"0000644"),
        ("user", "S8", b"0000000"),
        ("group", "S8", b"0000000"),
        ("size", "S12", b"%011o" % 8),
        ("time", "S12", b"%011o" % _FIRST_MODIFIED),
        ("checksum", "8u1", ord(" ")),
        ("kind", "S1", b"0"),
        ("link", "S100", b""),
        ("magic", "S6", b"ustar"),
        ("version", "S2", b"00"),
        ("rest", "S247", b""),
        ("data", "<u8", number),
        ("padding", "S504", b""),
    ]
    rows = np.zeros(len(number), np.dtype([(field, kind) for field, kind, _ in fields]))
    for field, _, value in fields:
        rows[field] = value
    total = rows.view(np.uint8).reshape(-1, 2 * tarfile.BLOCKSIZE)[:, : tarfile.BLOCKSIZE].sum(axis=1, dtype=np.uint64)
    octal = total[:, None] >> np.arange(15, -1, -3, dtype=np.uint64) & np.uint64(7)
    rows["checksum"][:, :6] = octal + ord("0")
    rows["checksum"][:, 6] = 0
    return rows.tobytes()


def _write_tar(file: Any, samples: Iterable[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for i, sample in enumerate(samples):
            info = tarfile.TarInfo(f"train/{i // 1000:03d}/{i:08d}.txt")
            info.size, info.mtime = len(sample), _FIRST_MODIFIED
            tar.addfile(info, BytesIO(sample))


def _one_frame(file: IO[bytes]) -> Any:
    return zstandard.ZstdCompressor(_LEVEL, write_checksum=True).stream_writer(file, closefd=False)


def _real_files(size: int) -> list[Path]:
    """Choose runs of neighbouring files, in a random order that is always the same, up to so many bytes."""
    found = _regular_files()
    runs = [found[at : at + _RUN] for at in range(0, len(found), _RUN)]
    chosen: list[Path] = []
    for run in np.random.default_rng(6).permutation(len(runs)).tolist():
        for path, length in runs[run]:
            if size <= 0:
                return sorted(chosen)
            chosen.append(path)
            size -= length
    return sorted(chosen)


@cache
def _regular_files() -> list[tuple[Path, int]]:
    """List what programs, documents and libraries there are, with their sizes, in the order of their names."""
    found = []
    roots = {Path(root).resolve() for root in ("/usr/lib", "/usr/share", sysconfig.get_path("purelib"))}
    for root in roots:
        for parent, folders, names in os.walk(root):
            folders[:] = [name for name in folders if Path(parent, name) not in roots]
            for name in names:
                path = Path(parent, name)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _LARGEST_FILE and os.access(path, os.R_OK):
                    found.append((path, status.st_size))
    return sorted(found)
