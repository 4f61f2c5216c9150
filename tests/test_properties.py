"""Whatever zipfile writes is read alike: contents, names, and what the directory says."""

from __future__ import annotations

import fnmatch
import glob
import io
import os
import sysconfig
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from zipmaker import begins_as_another

import archivestream

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=30)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda piece, n: piece * n, st.binary(min_size=1, max_size=20), st.integers(0, 3000)),
)
MEMBERS = st.lists(
    st.tuples(NAMES, CONTENTS, st.sampled_from(METHODS), st.booleans(), st.binary(max_size=20)), max_size=12
)


class Unseekable(io.RawIOBase):
    """Makes zipfile write data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def written(members: list[tuple[str, bytes, int, bool, bytes]], prefix: bytes, comment: bytes, stream: bool) -> bytes:
    target = Unseekable() if stream else io.BytesIO()
    target.write(prefix)
    with zipfile.ZipFile(target, "w") as writer:
        for name, data, method, zip64, comment_of_member in members:
            info = zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6))
            info.compress_type = method
            info.comment = comment_of_member
            info.external_attr = 0o100644 << 16
            with writer.open(info, "w", force_zip64=zip64) as member:
                member.write(data)
        writer.comment = comment
    return bytes(target.data if isinstance(target, Unseekable) else target.getvalue())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(MEMBERS, st.binary(max_size=40), st.binary(max_size=40), st.booleans(), st.integers(1, 8), st.randoms())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_written_by_zipfile(members, prefix, comment, stream, threads, rng) -> None:  # type: ignore[no-untyped-def]
    if b"PK" in prefix + comment or begins_as_another(prefix):
        return
    data = written(members, prefix, comment, stream)
    reference = zipfile.ZipFile(io.BytesIO(data))
    with archivestream.open(data, threads=threads) as archive:
        infos = reference.infolist()
        assert archive.namelist() == [info.filename for info in infos]
        contents = [reference.read(info) for info in infos]
        assert list(archive) == contents
        for info, ours in zip(infos, archive.infolist(), strict=True):
            for field in (
                *("filename", "file_size", "compress_size", "CRC", "compress_type", "date_time"),
                *("external_attr", "header_offset"),
            ):
                assert getattr(ours, field) == getattr(info, field), field
            assert ours.is_dir() == info.is_dir()
        for name in set(archive.namelist()):
            assert archive[name] == reference.read(name)
            assert archive.getinfo(name).header_offset == reference.getinfo(name).header_offset
        keys = [rng.randrange(len(infos)) for _ in range(30)] if infos else []
        assert archive.read_many(keys) == [contents[key] for key in keys]
        assert [bytes(part) for part in archive.submit(keys).result()] == [contents[key] for key in keys]
        out = np.empty(sum(len(contents[key]) for key in keys) + 3, np.uint8)
        assert [bytes(part) for part in archive.read_batch(keys, out)] == [contents[key] for key in keys]
        assert archive.testzip() is None
        assert archive.verify().ok


@given(st.lists(st.text("ab/.", min_size=1, max_size=6), max_size=20), st.text("ab/.*?[]", max_size=6), st.data())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_views(names: list[str], pattern: str, data: st.DataObject) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        for i, name in enumerate(names):
            writer.writestr(zipfile.ZipInfo(name), str(i))
    archive = archivestream.open(file.getvalue())
    pairs = [(name, str(i).encode()) for i, name in enumerate(names)]

    def check(view: archivestream.Archive, expected: list[tuple[str, bytes]]) -> None:
        assert [*zip(view.names, view, strict=True)] == expected
        for name, contents in dict(expected).items():
            assert view[name] == contents
            assert view.info(name).position == max(i for i, pair in enumerate(expected) if pair[0] == name)
        assert all((name in view) == (name in dict(expected)) for name in names)
        for suffix in ("a", ("b", "/"), ".a"):
            mask = [name.endswith(suffix) for name, _ in expected]
            assert view.names.endswith(suffix).tolist() == mask

    check(archive.select(pattern), [pair for pair in pairs if fnmatch.fnmatchcase(pair[0], pattern)])
    cut = data.draw(st.slices(len(names)))
    mask = data.draw(st.lists(st.booleans(), min_size=len(pairs[cut]), max_size=len(pairs[cut])))
    view = archive[cut]
    check(view, pairs[cut])
    narrower = view.select(np.array(mask, bool))
    check(narrower, [pair for pair, keep in zip(pairs[cut], mask, strict=True) if keep])
    check(narrower[::-1], [pair for pair, keep in zip(pairs[cut], mask, strict=True) if keep][::-1])


BUNDLED = sorted(
    path
    for place in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    for pattern in ("ensurepip/_bundled/*.whl", "**/*.npz", "**/*.whl")
    for path in glob.glob(os.path.join(place, pattern), recursive=True)
)[:20]


@pytest.mark.skipif(not BUNDLED, reason="this Python brings no wheel along")
@pytest.mark.parametrize("path", BUNDLED, ids=os.path.basename)
def test_archives_that_others_made(path: str) -> None:
    reference = zipfile.ZipFile(path)
    for strict in (False, True):
        with archivestream.open(path, strict=strict) as archive:
            assert archive.namelist() == reference.namelist()
            assert archive.read_many(range(len(archive))) == [reference.read(info) for info in reference.infolist()]


def test_several_as_one(tmp_path: Path) -> None:
    expected = []
    for shard in range(12):
        with zipfile.ZipFile(tmp_path / f"part-{shard:03d}.zip", "w") as writer:
            for i in range(shard % 3):
                writer.writestr(f"{shard}/é{i}.txt", f"{shard} {i}" * shard)
                expected.append((f"{shard}/é{i}.txt", (f"{shard} {i}" * shard).encode()))
    paths = sorted(tmp_path.iterdir())
    for opened in (
        paths,
        f"{tmp_path}/part-*.zip",
        f"{tmp_path}/part-{{000..011}}.zip",
        f"{tmp_path}/part-0{{{{00..09}},10,11}}.zip",
        [path.read_bytes() for path in paths],
        [paths[0], *map(str, paths[1:6]), *(io.BytesIO(path.read_bytes()) for path in paths[6:])],
    ):
        with archivestream.open(opened, threads=3) as archive:
            assert [*zip(archive.names, archive, strict=True)] == expected
            assert archive.read_many(range(len(archive))[::-1]) == [data for _, data in expected][::-1]
            assert archive["7/é0.txt"] == b"7 0" * 7
            assert archive.info(-1).archive == (str(paths[-1]) if isinstance(opened, str) else archive.info(-1).archive)
            assert archive.verify().ok
