"""`Archive.read_images` and images of a given size against Pillow, on good, odd, truncated and hostile files."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from samples import KINDS, MAKERS, zip_of

import archivestream
from archivestream import Archive, CorruptArchiveError, LimitExceededError, MemberNotFoundError
from archivestream.decoding import ImageDecoder
from archivestream.images import decode_pil
from archivestream.jpeg import check_scans

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("simplejpeg")

BILINEAR = Image.Resampling.BILINEAR
Pixels = NDArray[np.uint8]


def photo(height: int, width: int, seed: int = 0, detail: int = 16) -> Any:
    """Colours that change within so many pixels, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // detail + 2, width // detail + 2, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(image + rng.integers(-4, 5, (height, width, 3)), 0, 255).astype(np.uint8))


def encoded(image: Any, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(data: bytes, size: tuple[int, int] | None = None, *, draft: bool = False) -> Pixels:
    """Decode as its users do: torchvision's loader and ``Resize((h, w))``, or with `draft` before."""
    with Image.open(io.BytesIO(data)) as image:
        if draft and size is not None:
            image.draft(None, size[::-1])
        rgb = image.convert("RGB")
    return np.asarray(rgb if size is None else rgb.resize(size[::-1], BILINEAR))


def archive_of(*files: bytes, **options: Any) -> Archive:
    return archivestream.open(zip_of({f"{i}.img": data for i, data in enumerate(files)}), **options)


PHOTO = photo(48, 64)
GREY, CMYK = encoded(PHOTO.convert("L")), encoded(PHOTO.convert("CMYK"))
ODD = {
    "jpeg": encoded(PHOTO),
    "progressive": encoded(PHOTO, progressive=True),
    "grey": GREY,
    "cmyk": CMYK,
    "png": encoded(PHOTO, "PNG"),
    "rgba": encoded(PHOTO.convert("RGBA"), "PNG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "gif": encoded(PHOTO, "GIF"),
    "webp": encoded(PHOTO, "WEBP"),
    "bmp": encoded(PHOTO, "BMP"),
}


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PHOTO, exif=exif)


# ---- whole images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_images_are_those_of_pillow(threads: int) -> None:
    files = [*ODD.values(), *(encoded(photo(48, 64, seed)) for seed in range(30))]
    expected = np.stack([by_pillow(data) for data in files])
    with archive_of(*files, threads=threads) as archive:
        found = archive.read_images(range(len(files)))
        assert (found.dtype, found.flags.c_contiguous, found.flags.writeable) == (np.uint8, True, True)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(archive.read_images(["3.img", 3, -1, 3]), expected[[3, 3, -1, 3]])
        assert archive.read_images([], size=(5, 7)).shape == (0, 5, 7, 3)
        assert archive.read_images([], np.empty((0, 5, 7, 3), np.uint8)).shape == (0, 5, 7, 3)
        with pytest.raises(ValueError, match="no members"):
            archive.read_images([])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith(("zip", "tar"))])
def test_every_container(kind: str) -> None:
    if kind == "tar.gz":
        pytest.importorskip("rapidgzip")
    with archivestream.open(MAKERS[kind](ODD), index="memory", threads=2) as archive:
        expected = np.stack([by_pillow(data) for data in ODD.values()])
        np.testing.assert_array_equal(archive.read_images(archive.files()), expected)


def test_a_cache_and_views() -> None:
    cache = archivestream.Cache(1 << 20)
    with archivestream.open(zip_of(ODD), cache=cache) as archive:
        view = archive.select(["grey", "jpeg", "cmyk"])
        for _ in range(2):
            np.testing.assert_array_equal(view.read_images(range(3))[2], by_pillow(CMYK))
        assert cache.stats.hits >= 3


def test_memory_of_the_caller() -> None:
    with archive_of(*ODD.values()) as archive:
        out = np.zeros((10, 48, 64, 3), np.uint8)
        assert archive.read_images(range(10), out) is out
        np.testing.assert_array_equal(out, archive.read_images(range(10)))
        asked: list[int] = []

        def allocate(size: int) -> Pixels:
            asked.append(size)
            return np.zeros(size + 5, np.uint8)

        for size in (None, (20, 30)):
            np.testing.assert_array_equal(
                archive.read_images(range(10), allocate, size), archive.read_images(range(10), size=size)
            )
        assert asked == [10 * 48 * 64 * 3, 10 * 20 * 30 * 3]
        read_only = np.zeros((10, 48, 64, 3), np.uint8)
        read_only.flags.writeable = False
        wrong: list[tuple[type[Exception], Any]] = [
            (TypeError, [0]),
            (TypeError, bytearray(10 * 48 * 64 * 3)),
            (TypeError, np.zeros((10, 48, 64, 3), np.float32)),
            (TypeError, np.zeros((10, 48, 64), np.uint8)),
            (ValueError, np.zeros((9, 48, 64, 3), np.uint8)),
            (ValueError, np.zeros((10, 48, 128, 3), np.uint8)[:, :, ::2]),
            (ValueError, read_only),
        ]
        for error, given in wrong:
            with pytest.raises(error, match="out"):
                archive.read_images(range(10), given)
        with pytest.raises(ValueError, match=r"the batch needs \(10, 20, 30, 3\)"):
            archive.read_images(range(10), out, (20, 30))


def test_images_of_several_sizes_need_one() -> None:
    with archive_of(encoded(PHOTO), encoded(photo(47, 64)), encoded(PHOTO, "PNG")) as archive:
        with pytest.raises(ValueError, match=r"member '1\.img': .*\(47, 64, 3\).*; size=\(height, width\)"):
            archive.read_images(range(3))
        errors: dict[int, Exception] = {}
        found = archive.read_images(range(3), errors=errors)
        assert list(errors) == [1]
        np.testing.assert_array_equal(found[2], np.asarray(PHOTO))
        with pytest.raises(ValueError, match=r"member '0\.img'"):
            archive.read_images(range(3), np.zeros((3, 47, 64, 3), np.uint8))
        assert archive.read_images(range(3), size=(48, 64)).shape == (3, 48, 64, 3)


@pytest.mark.parametrize("size", [None, (24, 32)])
def test_orientation_is_left_as_it_is(size: tuple[int, int] | None) -> None:
    """As by Pillow, and so by torchvision's ImageFolder."""
    files = [turned(orientation) for orientation in range(1, 9)]
    with archive_of(*files) as archive:
        for found, data in zip(archive.read_images(range(8), size=size), files, strict=True):
            np.testing.assert_array_equal(found, by_pillow(data, size, draft=True))


# ---- a size ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("rest", [(0, 0), (5, 3)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=["420", "progressive", "444"])
def test_powers_of_two_are_those_of_pillow(factor: int, rest: tuple[int, int], options: dict[str, Any]) -> None:
    """Exactly: Pillow's ``draft`` scales in the domain of the DCT, too, by these factors only."""
    size = (40, 56)
    files = [encoded(photo(40 * factor + rest[0], 56 * factor + rest[1], seed), **options) for seed in range(3)]
    if rest != (0, 0) and factor == 1:
        files = [encoded(photo(35, 50))]  # smaller than what is asked for: enlarged
    with archive_of(*files) as archive:
        found = archive.read_images(range(len(files)), size=size)
        for image, data in zip(found, files, strict=True):
            np.testing.assert_array_equal(image, by_pillow(data, size, draft=True))


@pytest.mark.parametrize("eighths", range(1, 9))
def test_eighths_need_no_other_filter(eighths: int) -> None:
    """Decoded at just the size that was asked for, and close to what Pillow makes of the whole image."""
    import simplejpeg

    data = encoded(photo(160, 240, detail=60))
    size = (20 * eighths, 30 * eighths)
    found = ImageDecoder(size=size)(memoryview(data))
    np.testing.assert_array_equal(found, simplejpeg.decode_jpeg(data, min_height=size[0], min_width=size[1]))
    assert np.abs(found.astype(int) - by_pillow(data, size)).mean() < 2


SIZES = [(203, 150), (100, 75), (101, 76), (64, 64), (31, 17), (25, 19), (1, 1), (203, 20), (20, 150), (300, 400)]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_size_is_close_to_pillow(mode: str) -> None:
    data = encoded(photo(203, 150, detail=60).convert(mode))
    for size in SIZES:
        found = ImageDecoder(size=size)(memoryview(data))
        assert (found.shape, found.dtype) == ((*size, 3), np.uint8)
        assert ImageDecoder(size=size).shape(memoryview(data)) == (found.shape, found.dtype)
        assert np.abs(found.astype(int) - by_pillow(data, size)).mean() < 5, size


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "WEBP"), ("RGB", "GIF")]
)
def test_other_images_of_any_size_are_those_of_pillow(mode: str, kind: str) -> None:
    data = encoded(photo(203, 150).convert(mode), kind)
    for size in SIZES:
        assert ImageDecoder(size=size).shape(memoryview(data)) == ((*size, 3), np.uint8)
        np.testing.assert_array_equal(ImageDecoder(size=size)(memoryview(data)), by_pillow(data, size))


def test_pillow_scales_while_it_decodes_what_is_left_to_it() -> None:
    data = encoded(photo(160, 240).convert("CMYK"))
    found = ImageDecoder(size=(40, 60))(memoryview(data))
    np.testing.assert_array_equal(found, by_pillow(data, (40, 60), draft=True))
    assert not np.array_equal(found, by_pillow(data, (40, 60)))


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5,), (1, 2, 3), 224, "ab", (2.5, 2)])
def test_sizes_that_are_none(size: Any) -> None:
    with archive_of(ODD["jpeg"]) as archive, pytest.raises(ValueError, match="the size of images is"):
        archive.read_images([0], size=size)


def test_a_decoder_of_a_size_fills_arrays_and_needs_rgb() -> None:
    decoder = ImageDecoder(size=(20, 30))
    out = np.zeros((2, 20, 30, 3), np.uint8)
    decoder.into(memoryview(CMYK), out[1])
    np.testing.assert_array_equal(out[1], decoder(memoryview(CMYK)))
    assert not out[0].any()
    with pytest.raises(ValueError, match="out has shape"):
        decoder.into(memoryview(CMYK), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="RGB"):
        ImageDecoder(None, (20, 30))
    assert ImageDecoder(size=[20, 30]) == decoder  # type: ignore[arg-type]
    for data in (b"no image", ODD["jpeg"][:20], ODD["png"][:20]):
        for call in (decoder, decoder.shape):
            with pytest.raises(CorruptArchiveError):
                call(memoryview(data))


# ---- broken ones -----------------------------------------------------------------------------------------------


def too_large() -> bytes:
    """A JPEG whose header says another size."""
    data = bytearray(ODD["jpeg"])
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65535, 65535)
    return bytes(data)


BROKEN: Mapping[str, bytes] = {
    "truncated": ODD["jpeg"][:-300],
    "header only": ODD["jpeg"][: ODD["jpeg"].index(b"\xff\xda") + 14],
    "truncated cmyk": CMYK[:-300],
    "truncated png": ODD["png"][:-300],
    "text": b"not an image",
    "empty": b"",
    "magic only": b"\xff\xd8\xff",
    "too large": too_large(),
}


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [None, (48, 64), (24, 32), (13, 17)])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_broken_image_does_no_harm_to_others(size: tuple[int, int] | None, threads: int) -> None:
    files: list[bytes] = []
    for data in BROKEN.values():
        files += [data, encoded(photo(48, 64, len(files)))]
    with archive_of(*files, threads=threads) as archive:
        before: dict[int, Exception] = {99: ValueError("of the caller")}
        errors = dict(before)
        found = archive.read_images(range(len(files)), size=size, errors=errors)
        assert sorted(errors) == [*range(0, len(files), 2), 99]
        for place in range(1, len(files), 2):
            alone = archive.read_images([place], size=size)[0]
            np.testing.assert_array_equal(found[place], alone)
        for place, (what, data) in enumerate(BROKEN.items()):
            error = errors[2 * place]
            expected = LimitExceededError if what == "too large" else CorruptArchiveError
            assert type(error) is expected, what
            assert isinstance(error, archivestream.ArchiveError)
            assert error.member == f"{2 * place}.img"
            assert error.archive is not None
            assert error.__traceback__ is None
            with pytest.raises(expected, match=f"member '{2 * place}.img'"):
                archive.read_images([1, 2 * place, 3], size=size)
            assert data == files[2 * place]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_scans(scans: int, between: bytes = b"", *, progressive: bool = True, side: int = 13_000) -> bytes:
    """A grey JPEG, as large as images may be, whose scans, but for the first one, have a few bytes and do nothing."""
    tables = segment(0xDB, bytes([0] + [1] * 64))
    tables += segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0])) + segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0xE0]))
    frame = segment(0xC2 if progressive else 0xC1, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    first = segment(0xDA, bytes([1, 1, 0, 0, 0 if progressive else 63, 0])) + bytes(((side + 7) // 8) ** 2 // 8 + 1)
    others = (between + segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + b"\0") * (scans - 1)
    return b"\xff\xd8" + tables + frame + first + others + b"\xff\xd9"


@pytest.mark.parametrize(
    "between",
    [
        b"",
        b"\xff" * 5,  # fill bytes
        b"no marker",  # which libjpeg passes over
        b"\xff\x00\xff\xd3\xff\x01",  # a coded byte, a restart, a marker without a segment
        b"\xff\x02\xff\xff",  # a reserved one, which a decoder that looks for a restart passes over
        segment(0xFE, b"a comment"),
        b"\xff\xfe\0\0",  # of an impossible length
    ],
)
def test_scans_that_do_nothing_are_bounded(between: bytes) -> None:
    bomb = with_scans(200, between)
    with pytest.raises(LimitExceededError, match="more than 33 scans"):
        ImageDecoder()(memoryview(bomb))
    archive = archive_of(encoded(PHOTO), bomb)
    errors: dict[int, Exception] = {}
    images = archive.read_images([0, 1], size=(48, 64), errors=errors)
    assert np.array_equal(images[0], by_pillow(encoded(PHOTO)))
    assert list(errors) == [1]
    assert isinstance(errors[1], LimitExceededError)


def test_a_scan_of_all_components_ends_only_what_it_begins() -> None:
    """libjpeg goes by the first scan: where that has not all components, it decodes any number of others."""
    data = encoded(PHOTO, subsampling=0)
    head = data[: data.index(b"\xff\xda")]

    def scan(*components: int) -> bytes:
        chosen = b"".join(bytes([one, 0x00 if one == 1 else 0x11]) for one in components)
        return segment(0xDA, bytes([len(components)]) + chosen + bytes([0, 63, 0])) + b"\0" * 4

    def image(*scans: bytes) -> bytes:
        return head + b"".join(scans) + b"\xff\xd9"

    pixels = PHOTO.width * PHOTO.height
    for allowed in (image(scan(1), scan(1, 2, 3), *[scan(1)] * 498), image(scan(1, 2, 3), *[scan(1)] * 600)):
        check_scans(memoryview(allowed), pixels, 1 << 24)
    bomb = memoryview(image(scan(1), scan(1, 2, 3), *[scan(1)] * 499))
    decoder = ImageDecoder()
    for decode in (decoder, decoder._read, decode_pil):
        with pytest.raises(LimitExceededError, match="more than 500 scans"):
            decode(bomb)


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
def test_scans_are_bounded_before_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_scans(200)
    with pytest.raises(LimitExceededError, match="more than 33 scans"):
        decode_pil(memoryview(bomb))
    # Left to Pillow, as libjpeg-turbo finds no header of its own in front.
    with pytest.raises(LimitExceededError, match="more than 33 scans"):
        ImageDecoder()._read(memoryview(bomb))
    head = b"BLP1" + struct.pack("<2I2I2i", 0, 0, 8, 8, 4, 0) + struct.pack("<16I", 160, *[0] * 15)
    game = head + struct.pack("<16I", len(bomb), *[0] * 15) + struct.pack("<I", 0) + bomb
    for decode in (decode_pil, ImageDecoder()):
        with pytest.raises(LimitExceededError, match="more than 32 scans"):
            decode(memoryview(game))


def test_as_many_scans_as_images_have() -> None:
    thumbnail = b"\xff\xda" * 3000  # what stands in a segment, or behind the end, is none
    for options in ({}, {"progressive": True}):
        data = encoded(PHOTO, **options)
        data = data[:2] + segment(0xE7, thumbnail) + data[2:] + thumbnail
        assert np.array_equal(ImageDecoder()(memoryview(data)), by_pillow(encoded(PHOTO, **options)))
    # A small one may have as many as libjpeg-turbo's own tests allow; whatever they do to it is not our affair.
    for scans, progressive in ((500, True), (10, False)):
        check_scans(memoryview(with_scans(scans, progressive=progressive, side=64)), 64 * 64, 1 << 24)
    with pytest.raises(LimitExceededError, match="more than 500"):
        check_scans(memoryview(with_scans(501, side=64)), 64 * 64, 1 << 24)


def test_the_first_broken_one_is_raised() -> None:
    files = [encoded(photo(48, 64, i)) if i % 10 else ODD["jpeg"][: -100 - i] for i in range(60)]
    with archive_of(*files, threads=4) as archive:
        for first in (0, 3, 11, 25):
            keys = range(first, 60)
            with pytest.raises(CorruptArchiveError, match=rf"member '{-(-first // 10) * 10}\.img'"):
                archive.read_images(keys)


def test_only_broken_ones() -> None:
    with archive_of(b"a", b"b") as archive:
        errors: dict[int, Exception] = {}
        assert archive.read_images([0, 1], errors=errors).shape == (2, 0, 0, 3)
        assert archive.read_images([0, 1], size=(4, 5), errors=errors).shape == (2, 4, 5, 3)
        assert sorted(errors) == [0, 1]


def test_members_that_cannot_be_read() -> None:
    """Bad bytes of the archive are told apart from a bad image, and are no reason to lose the others."""
    data = bytearray(zip_of({"a.png": ODD["png"], "b.jpg": ODD["jpeg"], "c.jpg": GREY}))
    data[data.index(b"a.png") + 200] ^= 0xFF
    with archivestream.open(bytes(data)) as archive:
        errors: dict[int, Exception] = {}
        found = archive.read_images(range(3), errors=errors)
        assert list(errors) == [0]
        assert "a.png" in str(errors[0])
        assert "Pillow" not in str(errors[0])
        np.testing.assert_array_equal(found[1:], [by_pillow(ODD["jpeg"]), by_pillow(GREY)])
        with pytest.raises(CorruptArchiveError, match=r"a\.png"):
            archive.read_images(range(3))
        with pytest.raises(MemberNotFoundError):
            archive.read_images(["d.jpg"])


def test_calls_from_several_threads(tmp_path: Path) -> None:
    files = [encoded(photo(48, 64, i)) for i in range(40)]
    path = tmp_path / "images.zip"
    path.write_bytes(zip_of({f"{i}.jpg": data for i, data in enumerate(files)}))
    expected = np.stack([by_pillow(data) for data in files])
    wrong: list[int] = []

    def work(seed: int, read: Callable[..., Pixels]) -> None:
        keys = np.random.default_rng(seed).permutation(40)
        if not np.array_equal(read(keys), expected[keys]):
            wrong.append(seed)

    with archivestream.open(path, threads=3) as archive:
        threads = [threading.Thread(target=work, args=(seed, archive.read_images)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_batches_of_a_loader_from_images_of_several_sizes() -> None:
    pytest.importorskip("torch")
    files = {f"{i}.jpg": encoded(photo(60 + 7 * i, 90 - 5 * i)) for i in range(8)}
    decoder = ImageDecoder(size=(24, 32))
    with archivestream.open(zip_of(files)) as archive:
        dataset = archivestream.ArchiveDataset(archive, decode=decoder)
        with archivestream.ArchiveLoader(dataset, batch_size=4, num_workers=2) as loader:
            batches = [batch.numpy() for batch in loader]
        np.testing.assert_array_equal(np.concatenate(batches), archive.read_images(range(8), size=(24, 32)))
