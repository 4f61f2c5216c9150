"""Decoders: images, arrays, text, tables and audio, as other libraries read them, and hostile ones of each."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import threading
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import zip_of

import archivestream
from archivestream import ArchiveError, CorruptArchiveError, LimitExceededError, UnsupportedFeatureError, decoding
from archivestream.decoding import (
    ArrayDecoder,
    AudioDecoder,
    ByExtension,
    CsvDecoder,
    ImageDecoder,
    NpzDecoder,
    NumpyDecoder,
    find_decoder,
    register_decoder,
)

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("simplejpeg")
soundfile = pytest.importorskip("soundfile")

RANDOM = np.random.default_rng(0)
PIXELS = np.asarray(Image.fromarray(RANDOM.integers(0, 256, (5, 6, 3), np.uint8)).resize((61, 47)))


def decode(name: str, data: bytes) -> Any:
    decoder = find_decoder(name)
    assert callable(decoder)
    return decoder(memoryview(data))


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(mode: str) -> Any:
    """Make an image of a mode, with something in each band."""
    if mode == "I;16":
        return Image.fromarray(np.arange(47 * 61, dtype=np.uint16).reshape(47, 61) * 20)
    image = Image.fromarray(PIXELS)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PIXELS[..., 1]))
    return image.convert(mode)


# Images

FORMATS = [
    ("RGB", "JPEG", {"quality": 90}),
    ("RGB", "JPEG", {"quality": 40, "progressive": True, "subsampling": 0}),
    ("L", "JPEG", {}),
    ("CMYK", "JPEG", {}),
    ("RGB", "PNG", {}),
    ("RGBA", "PNG", {}),
    ("L", "PNG", {}),
    ("LA", "PNG", {}),
    ("1", "PNG", {}),
    ("P", "PNG", {}),
    ("P", "PNG", {"transparency": 0}),
    ("P", "PNG", {"transparency": bytes(range(256))}),
    ("I;16", "PNG", {}),
    ("I;16", "TIFF", {}),
    ("F", "TIFF", {}),
    ("P", "GIF", {}),
    ("RGB", "WEBP", {"lossless": True}),
    ("RGBA", "WEBP", {"lossless": True}),
    ("RGB", "BMP", {}),
    ("L", "PPM", {}),
]
IMAGES = [
    pytest.param(encoded(picture(mode), kind, **options), id=f"{mode}-{kind}-{i}")
    for i, (mode, kind, options) in enumerate(FORMATS)
]


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("data", IMAGES)
def test_images_are_what_pillow_makes_of_them(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert("RGB"))
    found = decode("image", data)
    assert (found.shape, found.dtype) == ((47, 61, 3), np.uint8)
    assert found.flags.writeable
    np.testing.assert_array_equal(found, expected)
    pil = decode("pil", data)
    assert (pil.mode, pil.size) == ("RGB", (61, 47))
    np.testing.assert_array_equal(np.array(pil), expected)


@pytest.mark.parametrize("mode", ["RGB", None])
@pytest.mark.parametrize("data", IMAGES)
def test_a_header_tells_shape_and_type_and_an_array_is_filled(data: bytes, mode: Any) -> None:
    decoder = ImageDecoder(mode)
    assert isinstance(decoder, ArrayDecoder)
    expected = decoder(memoryview(data))
    assert decoder.shape(memoryview(data)) == (expected.shape, expected.dtype)
    batch = np.zeros((3, *expected.shape), expected.dtype)
    decoder.into(memoryview(data), batch[1])
    np.testing.assert_array_equal(batch[1], expected)
    assert not batch[::2].any()
    for wrong in (batch, batch[1][1:], batch[1].astype(np.int8), np.asfortranarray(batch[1])):
        with pytest.raises(ValueError, match="out"):
            decoder.into(memoryview(data), wrong)
    batch.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        decoder.into(memoryview(data), batch[1])


@pytest.mark.parametrize(
    ("mode", "kind", "shape", "dtype"),
    [
        ("RGB", "JPEG", (47, 61, 3), np.uint8),
        ("L", "JPEG", (47, 61), np.uint8),
        ("CMYK", "JPEG", (47, 61, 4), np.uint8),
        ("L", "PNG", (47, 61), np.uint8),
        ("1", "PNG", (47, 61), np.uint8),
        ("LA", "PNG", (47, 61, 2), np.uint8),
        ("RGBA", "PNG", (47, 61, 4), np.uint8),
        ("P", "PNG", (47, 61, 3), np.uint8),
        ("P", "GIF", (47, 61, 3), np.uint8),
        ("I;16", "PNG", (47, 61), np.uint16),
        ("F", "TIFF", (47, 61), np.float32),
    ],
)
def test_images_as_they_are(mode: str, kind: str, shape: tuple[int, ...], dtype: Any) -> None:
    image = picture(mode)
    found = ImageDecoder(mode=None)(memoryview(encoded(image, kind)))
    assert (found.shape, found.dtype) == (shape, dtype)
    if kind != "JPEG":
        image = {"P": lambda: image.convert("RGB"), "1": lambda: image.convert("L")}.get(mode, lambda: image)()
        np.testing.assert_array_equal(found, np.array(image))


def test_orientation_is_left_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode("image", encoded(picture("RGB"), "JPEG", exif=exif)).shape == (47, 61, 3)


def test_what_libjpeg_turbo_refuses_is_left_to_pillow() -> None:
    """An end that is missing, which Pillow refuses, too, and bytes too many, which it does not."""
    data = encoded(picture("RGB"), "JPEG")
    scan = data.index(b"\xff\xda")
    odd = data[:scan] + b"\x00\x00" + data[scan:]  # "extraneous bytes before marker"
    np.testing.assert_array_equal(decode("image", odd), decode("image", data))
    out = np.zeros((47, 61, 3), np.uint8)
    ImageDecoder().into(memoryview(odd), out)
    np.testing.assert_array_equal(out, decode("image", data))
    with pytest.raises(CorruptArchiveError, match="Pillow cannot read the image"):
        decode("image", data[: len(data) // 2])


def forge_jpeg(height: int, width: int) -> bytes:
    data = bytearray(encoded(picture("RGB"), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def forge_png(height: int, width: int) -> bytes:
    data = bytearray(encoded(picture("RGB"), "PNG"))
    struct.pack_into(">II", data, 16, width, height)
    import zlib

    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("data", [forge_jpeg(65535, 65535), forge_png(65535, 65535), forge_png(1 << 30, 1 << 30)])
def test_large_images_are_refused_before_memory_is_taken(data: bytes) -> None:
    decoder = ImageDecoder()
    for call in (decoder, decoder.shape, lambda data: decoder.into(data, np.empty((1, 1, 3), np.uint8))):
        with pytest.raises(LimitExceededError):
            call(memoryview(data))


def test_a_bound_of_pixels_can_be_chosen() -> None:
    for kind in ("JPEG", "PNG"):
        data = memoryview(encoded(picture("RGB"), kind))
        assert ImageDecoder(max_pixels=47 * 61)(data).shape == (47, 61, 3)
        with pytest.raises(LimitExceededError, match=r"61 x 47 pixels, more than 2866"):
            ImageDecoder(max_pixels=47 * 61 - 1)(data)
    with pytest.raises(ValueError, match="mode"):
        ImageDecoder("L")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_damaged_images_end_in_an_error_or_an_image(kind: str) -> None:
    data = encoded(picture("P" if kind == "GIF" else "RGB"), kind)
    decoder = ImageDecoder(max_pixels=1 << 20)
    chance = np.random.default_rng(1)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(data[: chance.integers(1, len(data) + 1)])
        for place in chance.integers(0, len(broken), 3):
            broken[place] = chance.integers(256)
        try:
            outcomes.add(decoder(memoryview(broken)).ndim)
        except (CorruptArchiveError, LimitExceededError) as error:
            outcomes.add(type(error))
    assert CorruptArchiveError in outcomes


def test_threads_decode_into_slots_of_one_batch() -> None:
    images = [encoded(Image.fromarray(np.roll(PIXELS, i, 0)), "JPEG") for i in range(64)]
    decoder = ImageDecoder()
    batch = np.zeros((64, 47, 61, 3), np.uint8)

    def work(first: int) -> None:
        for i in range(first, 64, 8):
            decoder.into(memoryview(images[i]), batch[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(batch, [decoder(memoryview(data)) for data in images])


# Arrays


def saved(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_a_dict_of_arrays(save: Callable[..., None]) -> None:
    arrays = {
        "x": np.arange(12.0).reshape(3, 4),
        "folder/y": np.asfortranarray(np.eye(3, dtype=np.int8)),
        "z": np.array(5),
    }
    found = decode("npz", saved(save, **arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable
    assert decode("npz", saved(np.savez)) == {}


def test_pickles_in_arrays_are_never_loaded() -> None:
    objects = np.array([{"a": 1}], object)
    with pytest.raises(UnsupportedFeatureError, match="unpickled"):
        decode("numpy", saved(np.save, objects))
    with pytest.raises(UnsupportedFeatureError, match=r"its member 'x\.npy': .*unpickled"):
        decode("npz", saved(np.savez, x=objects))


def test_hostile_npz() -> None:
    zeros = saved(np.savez_compressed, x=np.zeros(1 << 20, np.uint8), y=np.zeros(1 << 20, np.uint8))
    assert len(zeros) < 10_000
    with pytest.raises(LimitExceededError):
        NpzDecoder(max_bytes=1 << 20)(memoryview(zeros))
    with pytest.raises(LimitExceededError, match="allows no more"):
        NpzDecoder(max_bytes=3 << 19)(memoryview(zeros))
    assert len(NpzDecoder(max_bytes=5 << 19)(memoryview(zeros))) == 2
    with pytest.raises(CorruptArchiveError, match=r"its member 'a\.txt': it is no \.npy file"):
        decode("npz", zip_of({"a.txt": b"text"}))
    with pytest.raises(CorruptArchiveError, match=r"its member 'a\.npy'"):
        decode("npz", zip_of({"a.npy": b"text"}))
    for data in (b"", b"no zip", zeros[:-30], saved(np.save, np.arange(3))):
        with pytest.raises(CorruptArchiveError):
            decode("npz", data)


# Text


def test_text_numbers_and_json() -> None:
    assert decode("text", "grün\r\n".encode()) == "grün\r\n"
    assert decode("text", b"\xef\xbb\xbfa") == "a"
    assert [decode("int", data) for data in (b"7", b" -12\n", b"\xef\xbb\xbf3")] == [7, -12, 3]
    value = {"a": [1, 2.5, None, "ü"], "b": {}}
    assert decode("json", json.dumps(value).encode()) == value
    assert decode("json", b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("text", b"ab\xff", r"no text in UTF-8 \(invalid start byte at byte 2\)"),
        ("int", b"cat", "no whole number, but begins with b'cat'"),
        ("int", b"", "no whole number"),
        ("int", b"1.5", "no whole number"),
        ("int", b"9" * 10_000, "no whole number"),
        ("json", b"{", "no JSON"),
        ("json", b"", "no JSON"),
        ("json", '{"a": 1}'.encode("utf-16"), "UTF-8"),
        ("json", b"[" * 200_000, "no JSON"),
        ("csv", b"a,b\n1\n", "line 2 has 1 fields, and the header has 2"),
        ("csv", b"a,b\n1,2,3\n", "line 2 has 3 fields"),
        ("csv", b"a,a\n1,2\n", "two columns have one name"),
        ("csv", b'a,b\n"1,2\n', "line 2 is no CSV"),
        ("csv", b"a\n" + b"x" * 200_000, "field larger than field limit"),
        ("csv", b"\xff,b\n", "UTF-8"),
    ],
)
def test_text_that_is_none(name: str, data: bytes, message: str) -> None:
    with pytest.raises(CorruptArchiveError, match=message):
        decode(name, data)


def test_tables_are_those_of_the_standard_library() -> None:
    text = 'name,label\r\n"a,b",1\r\n"line\nbreak",2\r\n\r\n"quo""te",ü\r\n'
    expected = list(csv.DictReader(io.StringIO(text, newline="")))
    assert decode("csv", text.encode()) == expected == CsvDecoder()(memoryview(b"\xef\xbb\xbf" + text.encode()))
    assert decode("tsv", b"a\tb\n1,5\t2\n") == [{"a": "1,5", "b": "2"}]
    assert decode("csv", b"") == decode("csv", b"a,b\n") == []


# Audio

SOUND = (RANDOM.random((1001, 2)) * 2 - 1) * 0.99


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAV", "ULAW"),
        ("WAVEX", "PCM_16"),
        ("WAVEX", "PCM_24"),
        ("WAVEX", "FLOAT"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
    ],
)
def test_audio_is_what_soundfile_reads(kind: str, subtype: str, channels: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, SOUND[:, :channels], 16_000, format=kind, subtype=subtype)
    found, rate = decode("audio", file.getvalue())
    expected, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)
    assert rate == 16_000
    assert (found.shape, found.dtype) == ((1001, channels), np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.writeable


def test_audio_of_the_standard_library() -> None:
    file = io.BytesIO()
    values = np.array([[-32768, 32767], [0, 1]], "<i2")
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(values.tobytes())
    found, rate = decode("wav", file.getvalue())
    assert (found.tolist(), rate) == ((values / 32768).tolist(), 8000)


def wav(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body


def wave_format(kind: int = 1, channels: int = 1, rate: int = 8000, width: int = 2, bits: int = 16) -> bytes:
    return struct.pack("<HHIIHH", kind, channels, rate, (rate * width) & 0xFFFFFFFF, width, bits)


def test_chunks_of_wav() -> None:
    samples = np.arange(-5, 6, dtype="<i2").tobytes()
    expected = np.arange(-5, 6)[:, None] / 32768
    layouts = [
        wav([(b"fmt ", wave_format()), (b"data", samples)]),
        wav([(b"LIST", b"odd"), (b"fmt ", wave_format() + b"\0\0"), (b"fact", b"1234"), (b"data", samples)]),
        wav([(b"fmt ", wave_format()), (b"data", samples), (b"LIST", b"behind")]),
        wav([(b"fmt ", wave_format()), (b"data", samples + b"x")]),  # a part of a frame
        wav([(b"fmt ", wave_format()), (b"data", samples)]).replace(b"data\x16\0\0\0", b"data\xff\xff\xff\xff"),
    ]
    for data in layouts:
        np.testing.assert_array_equal(decode("audio", data)[0], expected)
    assert decode("audio", wav([(b"fmt ", wave_format()), (b"data", b"")]))[0].shape == (0, 1)


HOSTILE_WAVES = {
    "cut off": (wav([(b"fmt ", wave_format()), (b"data", bytes(100))])[:-10], "100 bytes, and 90 are left"),
    "no samples": (wav([(b"fmt ", wave_format())]), "no samples"),
    "nothing": (b"RIFF\4\0\0\0WAVE", "no samples"),
    "a short format": (wav([(b"fmt ", b"\1\0"), (b"data", bytes(4))]), "there are 16 at least"),
    "no format": (wav([(b"data", bytes(4))]), "before their format"),
    "no channels": (wav([(b"fmt ", wave_format(channels=0)), (b"data", bytes(4))]), "make no frame"),
    "no rate": (wav([(b"fmt ", wave_format(rate=0)), (b"data", bytes(4))]), "make no frame"),
    "a width of 0": (wav([(b"fmt ", wave_format(width=0)), (b"data", bytes(4))]), "make no frame"),
    "many channels": (wav([(b"fmt ", wave_format(channels=65535)), (b"data", bytes(4))]), "make no frame"),
    "no audio": (b"this is no audio", "soundfile cannot read"),
    "empty": (b"", "soundfile cannot read"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE_WAVES.values(), ids=HOSTILE_WAVES)
def test_hostile_audio(data: bytes, message: str) -> None:
    with pytest.raises(CorruptArchiveError, match=message):
        decode("audio", data)


def test_audio_that_expands_is_bounded() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((1 << 20, 2), np.int16), 8000, format="FLAC")
    assert len(file.getvalue()) < 100_000
    assert AudioDecoder(max_bytes=8 << 20)(memoryview(file.getvalue()))[0].shape == (1 << 20, 2)
    with pytest.raises(LimitExceededError, match="more than"):
        AudioDecoder(max_bytes=(8 << 20) - 1)(memoryview(file.getvalue()))
    data = wav([(b"fmt ", wave_format(width=1, bits=8)), (b"data", bytes(1000))])
    with pytest.raises(LimitExceededError, match="more than 3999"):
        AudioDecoder(max_bytes=3999)(memoryview(data))


def test_a_flac_that_declares_more_than_it_has() -> None:
    file = io.BytesIO()
    soundfile.write(file, SOUND, 8000, format="FLAC")
    data = bytearray(file.getvalue())
    data[21] |= 0x0F  # the number of samples in STREAMINFO: 36 bits
    data[22:26] = b"\xff" * 4
    try:
        found, _ = decode("audio", bytes(data))
    except CorruptArchiveError:
        return
    assert len(found) <= len(SOUND)


# Which decoder

BY_NAME = {
    "image": ImageDecoder,
    "numpy": NumpyDecoder,
    "npz": NpzDecoder,
    "csv": CsvDecoder,
    "audio": AudioDecoder,
    "wav": AudioDecoder,
}


def test_decoders_are_found_by_name() -> None:
    for name, kind in BY_NAME.items():
        assert type(find_decoder(name)) is kind
        assert find_decoder(name) == find_decoder(name) == pickle.loads(pickle.dumps(find_decoder(name)))
    assert find_decoder(None) is None
    assert find_decoder(len) is len
    for wrong in ("jpeg", "pickle", "", 3, {"jpg": "nothing"}, {"": "image"}, {"a/b": "image"}):
        with pytest.raises(ValueError, match=r"decoder|extension"):
            find_decoder(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        ("jpg", "image"),
        ("JPEG", "image"),
        ("seg.png", "image"),
        ("0001.v2.webp", "image"),
        ("npy", "numpy"),
        ("npz", "npz"),
        ("json", "json"),
        ("cls", "int"),
        ("id", "int"),
        ("txt", "text"),
        ("csv", "csv"),
        ("tsv", "tsv"),
        ("flac", "audio"),
        ("bin", None),
        ("", None),
    ],
)
def test_decoders_are_found_by_extension(extension: str, name: str | None) -> None:
    auto = find_decoder("auto")
    assert isinstance(auto, ByExtension)
    assert auto.find(extension) == find_decoder(name)
    assert auto == find_decoder("auto") == pickle.loads(pickle.dumps(auto))


@pytest.mark.parametrize("extension", ["pkl", "pickle", "pyd", "pth", "pt", "joblib", "x.PKL"])
def test_pickles_are_refused(extension: str) -> None:
    auto = find_decoder("auto")
    assert isinstance(auto, ByExtension)
    with pytest.raises(UnsupportedFeatureError, match=r"may run any code .* decode=\{'\w+': callable\}"):
        auto.find(extension)
    trusted = find_decoder({extension: pickle.loads})
    assert isinstance(trusted, ByExtension)
    assert trusted.find(extension) is pickle.loads


def test_a_mapping_takes_the_longest_extension() -> None:
    by = find_decoder({".PNG": "image", "seg.png": len, "txt": "text"})
    assert isinstance(by, ByExtension)
    assert by.find("png") == by.find("depth.png") == ImageDecoder()
    assert by.find("seg.png") is by.find("x.SEG.png") is len
    assert by.find("jpg") is None
    assert by.find("pkl") is None  # bytes, as any other
    assert by.common(["png", "depth.png"]) == ImageDecoder()
    assert by.common(["png", "txt"]) is by.common(["png", "jpg"]) is by
    assert by.common(["jpg", "gif"]) is None


@pytest.fixture
def registry() -> Any:
    """Forget what a test registers."""
    before = decoding._registered
    yield
    decoding._registered = before


def count_bytes(data: memoryview) -> int:
    return len(data)


@pytest.mark.usefixtures("registry")
def test_registered_decoders() -> None:
    before = find_decoder("auto")
    register_decoder(".DCM", count_bytes)
    register_decoder("jpg", "pil")
    archivestream.register_decoder("pkl", count_bytes)
    after = find_decoder("auto")
    assert isinstance(before, ByExtension)
    assert isinstance(after, ByExtension)
    assert before != after
    assert before.find("dcm") is None
    assert after.find("x.dcm") is after.find("pkl") is count_bytes
    assert after.find("jpg") is decoding.decode_pil
    for extension, decoder in (("", len), (".", len), ("a/b", len), ("dcm", "dicom")):
        with pytest.raises(ValueError, match=r"extension|decoder"):
            register_decoder(extension, decoder)


@pytest.mark.usefixtures("registry")
def test_threads_register_side_by_side() -> None:
    threads = [threading.Thread(target=register_decoder, args=(f"x{i}", count_bytes)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    auto = find_decoder("auto")
    assert isinstance(auto, ByExtension)
    assert all(auto.find(f"x{i}") is count_bytes for i in range(64))


# In a dataset


def test_a_dataset_decodes_by_extension(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    files = {
        "a.JPG": encoded(picture("RGB"), "JPEG"),
        "b.json": b'{"a": 1}',
        "c.bin": b"bytes",
        "d.pkl": pickle.dumps(1),
        "e.npy": saved(np.save, np.arange(3)),
        "f.txt": b"\xff",
    }
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of(files))
    dataset = archivestream.ArchiveDataset(path, decode="auto")
    assert isinstance(dataset.decode, ByExtension)
    assert (dataset[0].shape, dataset[1], dataset[2]) == ((47, 61, 3), {"a": 1}, b"bytes")
    assert type(dataset[2]) is bytes
    assert dataset[4].tolist() == [0, 1, 2]
    for place, kind in ((3, UnsupportedFeatureError), (5, CorruptArchiveError)):
        with pytest.raises(kind, match=rf"a\.zip: member '{list(files)[place]}'"):
            dataset[place]
    # One decoder for all is known as such, so that who reads whole batches can make use of it.
    assert archivestream.ArchiveDataset(path, decode="auto", extensions=".jpg").decode == ImageDecoder()
    assert archivestream.ArchiveDataset(path, decode="auto", extensions=".npy").decode == NumpyDecoder()
    assert archivestream.ArchiveDataset(path, decode={"jpg": "image"}, extensions=".bin").decode is None


@pytest.mark.parametrize("name", ["image", "pil", "numpy", "npz", "json", "int", "csv", "audio"])
def test_the_failure_of_any_decoder_names_archive_and_member(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "broken.zip"
    path.write_bytes(zip_of({"x": b"\xfe\xffnothing that anybody reads"}))
    with pytest.raises(ArchiveError, match=r"broken\.zip: member 'x': ") as caught:
        archivestream.ArchiveDataset(path, decode=name)[0]
    assert type(caught.value) is CorruptArchiveError


def test_decoders_get_memory_and_no_copy() -> None:
    pytest.importorskip("torch")
    seen: list[Any] = []

    def look(data: memoryview) -> int:
        seen.append(data.obj)
        return len(data)

    dataset = archivestream.ArchiveDataset(zip_of({"a": b"abc"}), decode=look)
    given = b"given by a loader"
    assert dataset.decode_sample(0, [given]) == dataset.decode_sample(0, [memoryview(given)]) == len(given)
    assert [memory is given for memory in seen] == [True, True]
    with zipfile.ZipFile(io.BytesIO(zip_of({"a": b"abc"}))) as archive:
        assert dataset[0] == len(archive.read("a"))
