"""`Archive.by_type`: views of the files of each type."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import KINDS, MAKERS, tar_of, zip_of

import archivestream
from archivestream.decoding import ByExtension, find_decoder
from archivestream.file_types import EXTENSIONS

MEMBERS = {
    "a/1.JPG": "image",
    "a/2.seg.png": "image",
    "a/3.cls": "number",
    "a.b/4": "other",
    "a/5.json": "json",
    "a/6.wav": "audio",
    "a/7.tar.csv": "table",
    "a/8.npy": "array",
    "a/9.Txt": "text",
    "a/10.jpg.bak": "other",
    "a/.png": "other",  # all of it is the stem
    "a/11.pkl": "pickle",
    "a/12.mp4": "video",
    "a/13.parquet": "table",
    "a/14.": "other",
    "a/15.jpeg": "image",
}
CONTENTS = {name: name.encode() for name in MEMBERS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("zip", "tar"))])
def test_each_file_is_in_one_view_in_the_order_of_the_archive(kind: str) -> None:
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
    with archivestream.open(MAKERS[kind](CONTENTS), index="memory") as archive:
        views = archive.by_type()
        for one, view in views.items():
            names = [name for name, expected in MEMBERS.items() if expected == one]
            assert list(view.names) == names
            assert list(view) == [name.encode() for name in names]
            assert view.ancestry == (*archive.ancestry, f"type {one!r}")
        assert set(views) == set(MEMBERS.values())
        assert [len(view) for view in views.values()] == sorted(map(len, views.values()), reverse=True)


def test_views_of_views() -> None:
    data = zip_of(CONTENTS)
    with archivestream.open(data) as archive:
        some = archive.select(["a/9.Txt", "a/15.jpeg", "a/1.JPG"])
        views = some.by_type()
        assert {name: list(view.names) for name, view in views.items()} == {
            "image": ["a/15.jpeg", "a/1.JPG"],
            "text": ["a/9.Txt"],
        }
        image = pickle.loads(pickle.dumps(views["image"]))
        assert list(image) == [b"a/15.jpeg", b"a/1.JPG"]
        assert list(views["image"].by_type()) == ["image"]
        assert archive.select([]).by_type() == {}


def test_only_files() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as writer:
        writer.mkdir("folder.jpg") if hasattr(writer, "mkdir") else writer.writestr("folder.jpg/", b"")
        writer.writestr("folder.jpg/1.jpg", b"x")
    with archivestream.open(stream.getvalue()) as archive:
        assert list(archive.by_type()["image"].names) == ["folder.jpg/1.jpg"]
    stream = io.BytesIO(tar_of({"1.jpg": b"x"}))
    with tarfile.open(fileobj=stream, mode="a") as tar:
        for name, kind in (("2.jpg", tarfile.SYMTYPE), ("3.jpg", tarfile.DIRTYPE), ("4.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "1.jpg"
            tar.addfile(info)
    with archivestream.open(stream.getvalue(), index="memory") as archive:
        assert len(archive) == 4
        assert {name: list(view.names) for name, view in archive.by_type().items()} == {"image": ["1.jpg"]}


def test_decode_auto_knows_the_same_extensions() -> None:
    decoder = find_decoder("auto")
    assert isinstance(decoder, ByExtension)
    for extension, (name, decoded_by) in EXTENSIONS.items():
        assert extension == extension.lower()
        assert "." not in extension  # the last one of several counts
        if name == "pickle":
            with pytest.raises(archivestream.UnsupportedFeatureError):
                decoder.find(extension)
        else:
            assert (decoder.find(extension) is None) == (decoded_by is None)


NAMES = st.lists(st.sampled_from(["a", "b", ".", "/", ".jpg", ".CSV", "é", ".npy"]), min_size=1, max_size=6).map(
    "".join
)


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES.filter(lambda name: not name.endswith("/")), unique=True, max_size=12))
def test_types_are_those_of_the_last_extension(names: list[str]) -> None:
    with archivestream.open(zip_of(dict.fromkeys(names, b""))) as archive:
        found = {name: one for one, view in archive.by_type().items() for name in view.names}
    expected = {}
    for name in names:
        last = name.rpartition("/")[2]
        stem, _, extension = last.rpartition(".")
        hidden = last.startswith(".")  # has no extension, as split_name has it
        known = EXTENSIONS.get(extension.lower()) if stem and not hidden else None
        expected[name] = "other" if known is None else known.name
    assert found == expected
