"""Small archives of every kind, and every way to read and to write them."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from samples import KINDS as SAMPLES
from samples import MAKERS, tar_of, zip_of

import archivestream
from archivestream import Archive, ArchiveLoader
from archivestream.tfrecord import TFRecordWriter

__all__ = ["CONTENTS", "KINDS", "MEMBERS", "READS", "basename", "is_right", "put", "tree"]

# What is opened (a path, a pattern), in a folder of its own.
Put: TypeAlias = Callable[[Path], str]


def _npy(seed: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.random.default_rng(seed).integers(0, 8, (40, 500), np.uint8))
    return file.getvalue()


# All of one shape, so that they can be read as arrays; a third of their size when compressed.
MEMBERS: Mapping[str, bytes] = {f"folder/{i:02}.npy": _npy(i) for i in range(12)}
CONTENTS = list(MEMBERS.values())


def _zip(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, data in MEMBERS.items():
            writer.writestr(name, data)
    return file.getvalue()


def _bytes(kind: str) -> bytes:
    if kind == "tar.gz":  # larger than what rapidgzip reads at a time
        return gzip.compress(tar_of(MEMBERS), 0, mtime=0)
    if kind in MAKERS:
        return MAKERS[kind](MEMBERS)
    return _zip({"zip, stored": zipfile.ZIP_STORED, "zip, LZMA": zipfile.ZIP_LZMA}[kind])


def _packed(folder: Path, name: str, **options: Any) -> str:
    archivestream.pack(list(MEMBERS.items()), folder / name, **options)
    return str(folder / name)


def _records(folder: Path, name: str, **options: Any) -> str:
    with TFRecordWriter(folder / name, **options) as writer:
        for data in CONTENTS:
            writer.write(data)
    return str(folder / name)


def _shards(folder: Path) -> str:
    items = list(MEMBERS.items())
    (folder / "a-0.zip").write_bytes(zip_of(dict(items[:5])))
    (folder / "a-1.zip").write_bytes(zip_of(dict(items[5:])))
    return str(folder / "a-{0..1}.zip")


def _shards_of_tar(folder: Path) -> str:
    items = list(MEMBERS.items())
    (folder / "a-0.tar").write_bytes(tar_of(dict(items[:5])))
    (folder / "a-1.tar").write_bytes(tar_of(dict(items[5:])))
    return str(folder / "a-{0..1}.tar")


def _written(kind: str) -> Put:
    def write(folder: Path) -> str:
        path = folder / f"archive.{kind.split(',')[0]}"
        path.write_bytes(_bytes(kind))
        return str(path)

    return write


KINDS: dict[str, Put] = {
    **{kind: _written(kind) for kind in (*SAMPLES, "zip, stored", "zip, LZMA")},
    "zip, segments": lambda folder: _packed(folder, "a.zip", method="deflate", segment_size=4096),
    "tfrecord": lambda folder: _records(folder, "a.tfrecord"),
    "tfrecord, gzip": lambda folder: _records(folder, "a.tfrecord.gz", compression="gzip", level=0),
    "shards": _shards,
    "shards of tar": _shards_of_tar,
}


def put(kind: str, folder: Path) -> str:
    """Write an archive of a kind to an empty folder."""
    folder.mkdir()
    return KINDS[kind](folder)


# Every way to read all members; each gives a list of their bytes.


def _items(archive: Archive) -> list[bytes]:
    return [archive[i] for i in range(len(archive))]


def _many(archive: Archive) -> list[bytes]:
    return archive.read_many(range(len(archive))[::-1])[::-1]


def _batch(archive: Archive) -> list[bytes]:
    return [bytes(data) for data in archive.read_batch(range(len(archive)))]


def _submitted(archive: Archive) -> list[bytes]:
    pending = [archive.submit([i, (i + 5) % len(archive)]) for i in range(len(archive))]
    results: list[Any] = []
    for one in pending:
        try:
            results.append(bytes(one.result()[0]))
        except Exception as error:  # the others must come, too
            results.append(error)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def _arrays(archive: Archive) -> list[bytes]:
    found = []
    for array in archive.read_arrays(range(len(archive))):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _opened(archive: Archive) -> list[bytes]:
    found = []
    for i in range(len(archive)):
        with archive.open_member(i) as member:
            member.seek(300)
            rest = b"".join(iter(lambda file=member: file.read(7000), b""))
            member.seek(0)
            found.append(member.read(300) + rest)
    return found


def _verified(archive: Archive) -> list[bytes]:
    report = archive.verify()
    if report.errors:
        raise report.errors[0]
    return CONTENTS[: len(archive)]


def _extracted(archive: Archive) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        paths = archive.extract(path=folder)
        return [path.read_bytes() for path in paths]


def _loaded(archive: Archive) -> list[bytes]:
    loader = ArchiveLoader(archive, 5, num_workers=2, collate_fn="list")
    return [bytes(data) for batch in loader for data in batch]


READS: dict[str, Callable[[Archive], list[bytes]]] = {
    "a[i]": _items,
    "read_many": _many,
    "read_batch": _batch,
    "submit": _submitted,
    "read_arrays": _arrays,
    "open_member": _opened,
    "verify": _verified,
    "extract": _extracted,
    "loader": _loaded,
}


def is_right(found: list[bytes]) -> bool:
    """Whether these are the members, or the one of an archive that has but one."""
    return found in (CONTENTS, CONTENTS[:1])


def tree(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def fresh(folder: Path) -> Path:
    """A new folder below one."""
    return Path(tempfile.mkdtemp(dir=folder), "files")


def basename(place: str) -> str:
    """What errors about an archive must name: all that comes before a pattern begins."""
    return os.path.basename(place).split("{")[0]
