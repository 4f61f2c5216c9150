"""Large values that are read straight to their place, as if they lay where those of another message lay: or not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import recordmaker as make

import archivestream
from archivestream._native.tfscan import frame
from archivestream.errors import ArchiveChangedError, CorruptArchiveError
from archivestream.tfrecord import ExampleParser, FixedLenFeature, VarLenFeature

SIZE = 20_000  # above what is worth it
SPEC = {"image": FixedLenFeature([SIZE], "uint8"), "label": FixedLenFeature([2], "int64", [7, 7])}


def varint(value: int) -> bytes:
    packed = bytearray()
    while value >= 0x80:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*packed, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(name: bytes, values: bytes, kind: int, *, value_first: bool = False) -> bytes:
    key, value = field(1, name), field(2, field(kind, values))
    return field(1, value + key if value_first else key + value)


def image(data: bytes, **how: bool) -> bytes:
    return entry(b"image", field(1, data), 1, **how)


def label(first: int, second: int) -> bytes:
    return entry(b"label", field(1, varint(first) + varint(second)), 3)


def example(*entries: bytes) -> bytes:
    return field(1, b"".join(entries))


def write(messages: list[bytes]) -> bytes:
    return b"".join(header + data + footer for data in messages for header, footer in [frame(data)])


def pixels(rng: np.random.Generator) -> bytes:
    """Random bytes, or some that could be taken for fields."""
    if rng.random() < 0.5:
        return rng.bytes(SIZE)
    inner = label(3, 4) + image(b"x" * 100) + field(1, b"image")
    return (inner * (SIZE // len(inner) + 1))[:SIZE]


def shapes(rng: np.random.Generator) -> list[Callable[[], bytes]]:
    """Ways to say the same: in other orders, with more around, and several times."""
    data = pixels(rng)
    numbers = tuple(int(rng.integers(0, 1 << int(rng.integers(1, 60)))) for _ in range(2))
    extra = entry(b"more", field(1, rng.bytes(int(rng.integers(0, 30_000)))), 1)
    return [
        lambda: example(image(data), label(*numbers)),
        lambda: example(label(*numbers), image(data)),
        lambda: example(image(data, value_first=True), label(*numbers)),
        lambda: example(extra, image(data), label(*numbers)),
        lambda: example(image(data), extra),
        lambda: example(image(pixels(rng)), label(*numbers), image(data)),
        lambda: example(image(b"short"), image(data)),
        lambda: example(image(data)) + example(label(*numbers)),
        lambda: field(9, rng.bytes(SIZE + 50)) + example(label(*numbers), image(data)),
        # A list that begins with another kind, which does not count.
        lambda: example(
            field(1, field(1, b"image") + field(2, field(3, field(1, bytes(30_000))) + field(1, field(1, data))))
        ),
        lambda: example(
            field(1, field(1, b"image") + field(2, field(1, field(7, rng.bytes(25_000)) + field(1, data))))
        ),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_what_is_read_is_what_is_parsed(tmp_path, seed):
    rng = np.random.default_rng(seed)
    # Runs of one kind, so that it is foreseen, and single ones of any other.
    messages = []
    for _ in range(12):
        kind = int(rng.integers(0, 11))
        messages += [shapes(rng)[kind]() for _ in range(int(rng.integers(1, 5)))]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(write(messages))
    parser = ExampleParser(SPEC)
    wanted = ExampleParser(SPEC).parse(messages)
    official = make.example_class()
    for i, message in enumerate(messages):
        assert (
            wanted["image"][i].tobytes() == official.FromString(message).features.feature["image"].bytes_list.value[0]
        )
    with archivestream.open(path, threads=3) as archive:
        for rows in (np.arange(len(messages)), rng.permutation(len(messages)), rng.integers(0, len(messages), 50)):
            parsed = parser.read(archive, rows)
            for name in SPEC:
                assert (parsed[name] == wanted[name][rows]).all()


BAD = {
    "short": lambda data: example(image(data[:-1]), label(1, 2)),
    "two": lambda data: example(entry(b"image", field(1, data) + field(1, b""), 1)),
    "missing": lambda data: example(entry(b"imagf", field(1, data), 1)),
    "another kind": lambda data: example(entry(b"image", field(1, data), 3)),
    "another name": lambda data: example(image(data), entry(b"\xff", field(1, data), 1)),
    "cut": lambda data: example(image(data), label(1, 2))[:-1],
    "cut in the image": lambda data: example(image(data), label(1, 2))[: SIZE // 2],
    "no message": lambda data: data,
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_faults_are_those_of_the_parser(tmp_path, kind):
    rng = np.random.default_rng(5)
    good = [example(image(rng.bytes(SIZE)), label(i, i)) for i in range(4)]
    bad = BAD[kind](b"\x0b" * SIZE)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(write([*good, bad, *good]))
    parser = ExampleParser(SPEC)
    with archivestream.open(path) as archive:
        parser.read(archive, range(4))
        with pytest.raises(CorruptArchiveError) as caught:
            parser.read(archive, [0, 4, 5])
        with pytest.raises(CorruptArchiveError) as parsed:
            ExampleParser(SPEC).parse([bad])
        offset, _, reason = str(parsed.value).removeprefix("record 0, offset ").partition(": ")
        assert str(caught.value) == f"{path}: member '4': offset {archive.info(4).offset + int(offset)}: {reason}"
        assert parser.read(archive, [5, 6])["label"][:, 0].tolist() == [0, 1]


def test_damage_and_truncation_of_what_is_foreseen(tmp_path):
    data = write([example(image(bytes([i]) * SIZE), label(i, i)) for i in range(6)])
    step = len(data) // 6
    path = tmp_path / "a.tfrecord"
    parser = ExampleParser(SPEC)
    for at in (3 * step + 20, 3 * step + step // 2, 4 * step - 6):
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with archivestream.open(path) as archive:
            with pytest.raises(CorruptArchiveError, match=r"member '3': .*CRC-32C"):
                parser.read(archive, range(6))
            assert parser.read(archive, [0, 1, 2, 4, 5])["label"][:, 0].tolist() == [0, 1, 2, 4, 5]
    path.write_bytes(data)
    with archivestream.open(path, threads=1) as archive:
        parser.read(archive, range(6))
        for end in (5 * step + step // 2, 5 * step + 30, 5 * step + 3, 0):
            with path.open("r+b") as file:
                file.truncate(end)
            with pytest.raises(ArchiveChangedError, match="its size went from"):
                parser.read(archive, [5])


def test_stored_members_of_a_zip_are_read_whole():
    target = io.BytesIO()
    messages = [example(image(bytes([i]) * SIZE), label(i, i)) for i in range(5)]
    with zipfile.ZipFile(target, "w") as archive:
        for i, message in enumerate(messages):
            archive.writestr(f"{i}", message)
    with archivestream.open(target.getvalue()) as archive:
        for _ in range(2):
            assert ExampleParser(SPEC).read(archive, range(5))["image"][:, 0].tolist() == list(range(5))


def test_out(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(write([example(image(bytes([i]) * SIZE), label(i, i)) for i in range(9)]))
    parser = ExampleParser(SPEC)
    memory = np.full((12, SIZE), 99, np.uint8)
    labels = np.zeros((8, 2), np.int64)
    with archivestream.open(path) as archive:
        parsed = parser.read(archive, range(8), out={"image": memory[2:10], "label": labels})
        assert np.shares_memory(parsed["image"], memory)
        assert memory[:, 0].tolist() == [99, 99, *range(8), 99, 99] == memory[:, -1].tolist()
        assert labels.tolist() == [[i, i] for i in range(8)]
        assert (parser.read(archive, range(8), {"label": labels})["image"] == memory[2:10]).all()
        frozen = memory[:8].copy()
        frozen.flags.writeable = False
        for wrong in (memory[:7], memory[:8, ::-1], memory[:8].view(np.int8), frozen, memory[:8].tobytes(), labels):
            with pytest.raises(ValueError, match="'image' needs a writable, C-contiguous array of uint8, shape"):
                parser.read(archive, range(8), out={"image": wrong})
        with pytest.raises(ValueError, match="no feature 'imagine' is parsed"):
            parser.read(archive, range(8), out={"imagine": memory})
        more = ExampleParser({**SPEC, "label": VarLenFeature("int64")})
        parsed = more.read(archive, [3, 5], out={"image": memory[:2]})
        assert memory[:2, 5].tolist() == [3, 5]
        assert parsed["label"].values.tolist() == [3, 3, 5, 5]
        with pytest.raises(ValueError, match="'label' gets memory of its own"):
            more.read(archive, [3, 5], out={"label": labels})
