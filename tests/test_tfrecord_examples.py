"""`tf.train.Example`: against the official runtime of protocol buffers, and as arrays."""

from __future__ import annotations

import pickle
import random
import struct
from typing import Any

import numpy as np
import pytest
import recordmaker as make
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

import archivestream
from archivestream import Batch
from archivestream.errors import CorruptArchiveError
from archivestream.tfrecord import (
    ExampleParser,
    FixedLenFeature,
    RaggedArray,
    VarLenFeature,
    encode_example,
)

DTYPES = {"bytes_list": "bytes", "float_list": "float32", "int64_list": "int64"}
GROUP = "group"
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOAT32 = st.floats(width=32)
NAMES = st.sampled_from(["", "a", "b", "label", "größe", "a" * 130])


def parse_one(message: bytes, names: dict[str, str]) -> dict[str, list[Any]]:
    parsed = ExampleParser({name: VarLenFeature(dtype) for name, dtype in names.items()}).parse([message])
    return {name: values[0].tolist() for name, values in parsed.items()}


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Compare values, where NaN is NaN."""
    return len(ours) == len(theirs) and all(a == b or (a != a and b != b) for a, b in zip(ours, theirs, strict=True))


def agree(message: bytes) -> None:
    """Compare what a message is taken for with the official runtime; groups are refused."""
    try:
        expected = make.contents(message)
    except DecodeError:
        with pytest.raises(CorruptArchiveError, match="offset"):
            parse_one(message, {"a": "bytes"})
        return
    try:
        found = parse_one(message, {name: DTYPES.get(kind or "", "bytes") for name, (kind, _) in expected.items()})
    except CorruptArchiveError as error:
        assert GROUP in str(error)
        return
    for name, (_, values) in expected.items():
        assert same(found[name], values), name
    absent = parse_one(message, {f"not {name}": "int64" for name in expected} | {"nowhere": "bytes"})
    assert not any(absent.values())


# ---- against the official runtime -------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.dictionaries(
        NAMES,
        st.one_of(
            st.tuples(st.just("bytes_list"), st.lists(st.binary(max_size=200), max_size=4)),
            st.tuples(st.just("float_list"), st.lists(FLOAT32, max_size=9)),
            st.tuples(st.just("int64_list"), st.lists(INT64, max_size=9)),
        ),
        max_size=6,
    )
)
def test_what_the_runtime_writes_is_read(features):
    example = make.example_class()()
    for name, (kind, values) in features.items():
        getattr(example.features.feature[name], kind).value.extend(values)
        getattr(example.features.feature[name], kind).SetInParent()
    message = example.SerializeToString()
    found = parse_one(message, {name: DTYPES[kind] for name, (kind, _) in features.items()})
    for name, (_, values) in features.items():
        assert same(found[name], values)
    agree(message)


@settings(deadline=None)
@given(
    st.dictionaries(
        NAMES,
        st.one_of(
            st.lists(st.binary(max_size=200), min_size=1, max_size=4),
            st.lists(FLOAT32, min_size=1, max_size=9),
            st.lists(INT64, min_size=1, max_size=9),
        ),
        max_size=6,
    )
)
def test_what_is_encoded_the_runtime_reads(features):
    found = make.contents(encode_example(features))
    assert found.keys() == features.keys()
    assert all(same(found[name][1], values) for name, values in features.items())


def varint(value: int, more: int = 0) -> bytes:
    """Encode a number, with bytes more than it needs."""
    out = []
    while value >= 0x80 or more:
        out.append(value & 0x7F | 0x80)
        value >>= 7
        more -= more > 0 and value == 0
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


UNKNOWN = st.sampled_from(
    [
        field(7, b"unknown"),
        varint(9 << 3) + b"\x81\x01",
        varint(9 << 3 | 1) + bytes(8),
        varint(2000 << 3 | 5) + bytes(4),
        b"\x08\x05",  # the number of a field, of another type
        b"\x0d" + bytes(4),
        b"\x12\x01",
        varint(0),  # no field
        varint(5 << 3 | 7),  # no type
        varint(5 << 3 | 4),  # the end of no group
        varint(1 << 33 | 2),  # a number beyond 29 bits
        b"\x8a\x80\x80\x80\x00\x00",  # with as many bytes as a tag may have, and one more
        b"\x8a\x80\x80\x80\x80\x00\x00",
        varint(5 << 3) + b"\xff" * 9 + b"\x7f",
        varint(5 << 3) + b"\xff" * 10 + b"\x01",
        b"\x3a\x85\x80\x80\x80\x00hello",
        b"\x3a\x85\x80\x80\x80\x80\x00hello",
        b"\x3a\xff\xff\xff\xff\x0f",
    ]
)
SOUND_UNKNOWN = st.sampled_from([field(7, b"unknown"), varint(9 << 3) + b"\x81\x01", varint(2000 << 3 | 5) + bytes(4)])


def some(known: st.SearchStrategy[bytes], most: int = 3) -> st.SearchStrategy[bytes]:
    """Several fields, now and then with one between them that is not known, or wrong."""
    one = st.one_of(known, known, known, known, SOUND_UNKNOWN, UNKNOWN)
    return st.lists(one, max_size=most).map(b"".join)


PACKED_INTS = st.lists(
    st.one_of(
        st.integers(0, 300).map(varint),
        INT64.map(lambda value: varint(value & (1 << 64) - 1)),
        st.integers(1, 5).map(lambda more: varint(3, more)),
        st.just(b"\xff" * 9 + b"\x7f"),
    ),
    max_size=4,
).map(b"".join)
INTS = some(st.one_of(PACKED_INTS.map(lambda p: field(1, p)), st.integers(0, 300).map(lambda n: b"\x08" + varint(n))))
FLOATS = some(
    st.one_of(
        st.lists(FLOAT32, max_size=3).map(lambda v: field(1, struct.pack(f"<{len(v)}f", *v))),
        FLOAT32.map(lambda v: b"\x0d" + struct.pack("<f", v)),
    )
)
STRINGS = some(st.binary(max_size=9).map(lambda v: field(1, v)))
FEATURE = some(
    st.one_of(STRINGS.map(lambda p: field(1, p)), FLOATS.map(lambda p: field(2, p)), INTS.map(lambda p: field(3, p)))
)
KEY = st.sampled_from([b"a", b"a", b"b", b"", "ö".encode()]).map(lambda name: field(1, name))
ENTRY = st.one_of(
    st.tuples(KEY, FEATURE).map(lambda both: both[0] + field(2, both[1])),
    some(st.one_of(KEY, FEATURE.map(lambda p: field(2, p)))),
)
MESSAGE = some(some(ENTRY.map(lambda p: field(1, p)), 5).map(lambda p: field(1, p)), 2)


@settings(max_examples=400, deadline=None)
@given(MESSAGE)
def test_odd_messages_are_taken_as_the_runtime_takes_them(message):
    """Repeated and merged fields, kinds that replace each other, packed and not, unknown and malformed ones."""
    agree(message)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([field(1, b"a") + field(2, field(3, b"\x08\x01")), field(1, b"a") + field(2, field(3, b"\x08\x02"))], [2]),
        ([field(1, b"a") + field(2, field(3, b"\x08\x01")) + field(2, field(3, b"\x08\x02"))], [1, 2]),
        ([field(1, b"a") + field(2, field(3, b"\x08\x01") + field(1, b"") + field(3, b"\x08\x02"))], [2]),
        ([field(1, b"b") + field(1, b"a") + field(2, field(3, b"\x0a\x02\x05\x06\x08\x07"))], [5, 6, 7]),
        ([field(2, field(3, b"\x08\x01")) + field(1, b"a")], [1]),
        ([field(1, b"a") + field(2, field(3, b"\x08\x01")), field(1, b"a")], []),
        ([field(1, b"a") + field(2, field(3, b"\x08\x01")), field(1, b"a") + field(2, b"") + field(9, b"")], [1]),
    ],
)
def test_what_counts_where_something_comes_twice(entries, expected):
    message = b"".join(field(1, field(1, entry)) for entry in entries)  # the features in several parts, too
    assert parse_one(message, {"a": "int64"})["a"] == expected
    assert make.contents(message)["a"][1] == expected


@pytest.mark.parametrize(
    "name", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", "größe".encode(), b"\0", "\U0010ffff".encode()]
)
def test_names_are_utf_8(name):
    agree(field(1, field(1, field(1, name) + field(2, field(3, b"\x08\x01")))))


@pytest.mark.parametrize(
    "feature", [VarLenFeature("float32"), FixedLenFeature((0,), "float32", default_value=[])], ids=["variable", "fixed"]
)
def test_no_values_have_no_memory(feature):
    """What is done with null pointers, be it to no bytes, a sanitizer sees."""
    name = field(1, b"a")
    for entry in (name + field(2, field(2, field(1, b""))), name + field(2, field(2, b"")), name + field(2, b""), b""):
        message = field(1, field(1, entry))
        assert [len(values) for values in ExampleParser({"a": feature}).parse([message])["a"]] == [0]


MIXED = encode_example({"a": [b"one", b"two"], "b": [1.5, 2.5], "label": [1, -2, 300]})


def test_every_byte_of_a_message_flipped():
    for at in range(len(MIXED)):
        for bit in range(8):
            agree(MIXED[:at] + bytes([MIXED[at] ^ 1 << bit]) + MIXED[at + 1 :])


def test_every_truncation_of_a_message():
    for size in range(len(MIXED)):
        agree(MIXED[:size])


def test_groups_are_refused():
    for message in (b"\x0b\x0c", b"\x4b\x4c", MIXED + b"\x4b\x4c"):
        with pytest.raises(CorruptArchiveError, match=r"record 0, offset .*this is a group"):
            ExampleParser({}).parse([message])


# ---- arrays -----------------------------------------------------------------------------------------------------

IMAGE = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
SPEC = {
    "image": FixedLenFeature([3, 4, 4], "uint8"),
    "label": FixedLenFeature([], "int64"),
    "box": FixedLenFeature([2, 2], "float32", 0.5),
    "id": FixedLenFeature([], "bytes", b"none"),
    "name": VarLenFeature("bytes"),
    "scores": VarLenFeature("float32"),
    "jpeg": VarLenFeature("uint8"),
}


def messages(n: int) -> list[bytes]:
    """Make messages, each with another choice of what is optional."""
    made = []
    for i in range(n):
        features: dict[str, Any] = {"image": IMAGE + i % 100, "label": i - 5, "unused": [b"x"] * (i % 3)}
        if i % 2:
            features["box"] = np.array([[1, 2], [3, i]], np.float32)
            features["id"] = f"id {i}"
        features["name"] = [b"%d" % k for k in range(i % 4)]
        features["scores"] = np.arange(i % 5, dtype=np.float32)
        if i % 3:
            features["jpeg"] = np.frombuffer(b"\xff\xd8" * i, np.uint8)
        made.append(encode_example(dict(random.Random(i).sample(list(features.items()), len(features)))))
    return made


def check(parsed: dict[str, Any], rows: list[int]) -> None:
    assert parsed["image"].shape == (len(rows), 3, 4, 4)
    assert parsed["image"].dtype == np.uint8
    assert parsed["label"].shape == (len(rows),)
    assert parsed["label"].dtype == np.int64
    for place, i in enumerate(rows):
        assert (parsed["image"][place] == IMAGE + i % 100).all()
        assert parsed["label"][place] == i - 5
        assert parsed["box"][place].tolist() == ([[1, 2], [3, i]] if i % 2 else [[0.5, 0.5], [0.5, 0.5]])
        assert parsed["id"][place] == (b"id %d" % i if i % 2 else b"none")
        assert parsed["name"][place].tolist() == [b"%d" % k for k in range(i % 4)]
        assert parsed["scores"][place].tolist() == list(range(i % 5))
        assert parsed["jpeg"][place].tobytes() == (b"\xff\xd8" * i if i % 3 else b"")


@pytest.mark.parametrize("threads", [1, 3])
def test_batches(threads):
    n = 2000
    made = messages(n)
    parser = pickle.loads(pickle.dumps(ExampleParser(SPEC, threads=threads)))
    check(parser.parse(made), list(range(n)))
    check(parser.parse([memoryview(made[3]), bytearray(made[0])]), [3, 0])
    offsets = np.cumsum([0, *map(len, made)])
    check(parser.parse(Batch(np.frombuffer(b"".join(made), np.uint8), offsets)), list(range(n)))
    check(parser.parse(iter(made[:4])), [0, 1, 2, 3])
    empty = parser.parse([])
    assert empty["image"].shape == (0, 3, 4, 4)
    assert len(empty["name"]) == 0


@pytest.mark.parametrize("suffix", ["tfrecord", "tfrecord.gz"])
def test_straight_from_an_archive(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(make.WRAPPERS[suffix](make.records(messages(90))))
    parser = ExampleParser(SPEC)
    with archivestream.open([path, path]) as archive:
        check(parser.read(archive, range(90)), list(range(90)))
        check(parser.read(archive, np.array([7, 179, 0, 7])), [7, 89, 0, 7])
        check(parser.read(archive.select(slice(10, 20)), [-1, 0]), [19, 10])
        assert parser.read(archive, [])["box"].shape == (0, 2, 2)
        assert len(parser.read(archive, [])["jpeg"]) == 0
        monkeypatch.setattr("archivestream.tfrecord.parsing._CHUNK", 1000)  # some records at a time
        rows = random.Random(3).choices(range(90), k=200)
        check(parser.read(archive, rows), rows)


@pytest.mark.parametrize(
    "dtype",
    ["uint8", "int8", "uint16", "int16", "int32", "uint32", "uint64", "float16", "float64", "bool", "complex64"],
)
def test_arrays_of_other_types_are_one_bytes_value(dtype):
    values = np.array([[0, 1, 3], [1, 0, 2]]).astype(dtype)
    message = encode_example({"x": values, "y": values[0, 1]})
    parsed = ExampleParser({"x": FixedLenFeature([2, 3], dtype), "y": FixedLenFeature([], dtype)}).parse([message] * 2)
    assert parsed["x"].dtype == dtype
    assert (parsed["x"] == values).all()
    assert (parsed["y"] == values[0, 1]).all()
    (row,) = ExampleParser({"x": VarLenFeature(dtype)}).parse([message])["x"]
    assert row.tolist() == values.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ({"nothing": FixedLenFeature([], "int64")}, "'nothing' is missing, and has no default value"),
        ({"none": FixedLenFeature([], "int64")}, "'none' is missing"),
        ({"label": FixedLenFeature([2], "int64")}, "'label' has 1 integers, not 2 integers"),
        ({"label": FixedLenFeature([], "float32")}, "'label' has 1 integers, not 1 floats"),
        ({"label": VarLenFeature("bytes")}, "'label' has 1 integers, not any number of bytes"),
        ({"label": FixedLenFeature([], "uint8")}, "'label' has 1 integers, not one bytes value of 1 bytes"),
        ({"image": FixedLenFeature([3], "uint8")}, "has 1 bytes values with 48 bytes, not one bytes value of 3 bytes"),
        ({"image": FixedLenFeature([2], "bytes")}, "'image' has 1 bytes values with 48 bytes, not 2 bytes"),
        ({"image": VarLenFeature("complex128"), "two": VarLenFeature("uint8")}, "'two' has 2 bytes values"),
        ({"odd": VarLenFeature("uint16")}, "'odd' has 1 bytes values with 3 bytes, not .* a multiple of 2 bytes"),
    ],
)
def test_features_that_are_not_as_they_should_be(tmp_path, feature, reason):
    good = {"image": IMAGE, "label": 1, "none": [], "two": [b"a", b"b"], "odd": b"abc"}
    message = encode_example(good)
    other = encode_example({**good, **{name: [] for name in feature}})
    with pytest.raises(CorruptArchiveError, match=rf"^record 1, offset \d+: the feature {reason}|{reason}"):
        ExampleParser({**feature}).parse([encode_example(_fit(feature)), message])
    path = tmp_path / "a.tfrecord"
    path.write_bytes(make.records([encode_example(_fit(feature)), message, other]))
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError, match=reason) as caught:
        ExampleParser(feature).read(archive, [0, 1])
    assert (caught.value.archive, caught.value.member) == (str(path), "1")


def _fit(features: dict[str, Any]) -> dict[str, Any]:
    """Make values that some features want."""
    made = {}
    for name, feature in features.items():
        dtype = feature.dtype
        if isinstance(feature, VarLenFeature):
            made[name] = []
        else:
            values = np.zeros(tuple(feature.shape), object if dtype == "bytes" else dtype)
            made[name] = [b""] * values.size if dtype == "bytes" else values
    return made


def test_a_malformed_record_is_named_with_its_place(tmp_path):
    bad = MIXED + b"\x07"
    path = tmp_path / "bad.tfrecord"
    path.write_bytes(make.records([MIXED, MIXED, bad]))
    parser = ExampleParser({"label": FixedLenFeature([3], "int64")})
    with pytest.raises(CorruptArchiveError) as within:
        parser.parse([MIXED, bad])
    offset = len(MIXED)
    assert str(within.value).startswith(f"record 1, offset {offset}: it is no tf.train.Example, or a damaged one")
    with archivestream.open(path) as archive, pytest.raises(CorruptArchiveError) as caught:
        parser.read(archive, [2, 0])
    begin = 2 * (16 + len(MIXED)) + 12
    assert str(caught.value).startswith(f"{path}: member '2': offset {begin + offset}: it is no tf.train.Example")


def test_one_record_and_datasets(tmp_path):
    parser = ExampleParser(SPEC)
    sample = parser(memoryview(messages(6)[5]))
    assert sample["image"].shape == (3, 4, 4)
    assert sample["label"] == 0
    assert sample["id"] == b"id 5"
    assert sample["name"].tolist() == [b"0"]
    assert sample["box"].tolist() == [[1, 2], [3, 5]]
    with pytest.raises(CorruptArchiveError, match=r"^offset 1: it is no tf\.train\.Example"):
        parser(b"\x0b")
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(make.records(messages(20)))
    wanted = {name: SPEC[name] for name in ("image", "label", "box")}
    dataset = archivestream.ArchiveDataset(path, decode=ExampleParser(wanted))
    assert len(dataset) == 20
    assert dataset[3]["label"] == -2
    for workers in (0, 1):
        (batch,) = torch.utils.data.DataLoader(pickle.loads(pickle.dumps(dataset)), 20, num_workers=workers)
        assert batch["image"].shape == (20, 3, 4, 4)
        assert batch["label"].tolist() == list(range(-5, 15))
    with archivestream.ArchiveLoader(dataset, batch_size=8, shuffle=True, seed=1) as loader:
        labels = [label for batch in loader for label in batch["label"].tolist()]
        assert sorted(labels) == list(range(-5, 15)) != labels
    path.write_bytes(make.records([*messages(2), b"\x0b"]))
    with pytest.raises(CorruptArchiveError, match=r"a.tfrecord: member '2': .*no tf.train.Example"):
        archivestream.ArchiveDataset(path, decode=ExampleParser(wanted))[2]


def test_ragged_rows():
    ragged = RaggedArray(np.arange(6), np.array([0, 2, 2, 6]))
    assert len(ragged) == 3
    assert [row.tolist() for row in ragged] == [[0, 1], [], [2, 3, 4, 5]]
    assert ragged[-1].tolist() == [2, 3, 4, 5]
    for row in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            ragged[row]


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"a": FixedLenFeature([-1], "int64")}, "negative length"),
        ({"a": FixedLenFeature([], "U3")}, "dtype is bytes or a type of numbers"),
        ({"a": VarLenFeature(object)}, "dtype is bytes or a type of numbers"),
        ({"a": FixedLenFeature([2], "int64", [1, 2, 3])}, "the default value is none of shape"),
        ({"a": FixedLenFeature([], "int64", "x")}, "the default value is none of shape"),
        ({"a": FixedLenFeature([], "bytes", 3)}, "the default value is not bytes"),
    ],
)
def test_features_that_cannot_be(features, reason):
    with pytest.raises(ValueError, match=reason):
        ExampleParser(features)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, "int64_list", [1]),
        ([False, 7], "int64_list", [0, 7]),
        (np.int64(-3), "int64_list", [-3]),
        (np.array([[1, 2], [3, 4]])[:, ::-1], "int64_list", [2, 1, 4, 3]),
        ([1, 0.5], "float_list", [1, 0.5]),
        ([np.float32(0.5), np.float64(2)], "float_list", [0.5, 2]),
        (np.array([[0.5], [1.5]], ">f4"), "float_list", [0.5, 1.5]),
        ("größe", "bytes_list", ["größe".encode()]),
        (["a", b"b", bytearray(b"c")], "bytes_list", [b"a", b"b", b"c"]),
        (np.array([b"x", b"yz"], object), "bytes_list", [b"x", b"yz"]),
        (np.array(["ab", "c"]), "bytes_list", [b"ab", b"c"]),
        (np.array([258], ">u2"), "bytes_list", [b"\x02\x01"]),
        ([], None, []),
    ],
)
def test_what_values_are_encoded_to(value, kind, expected):
    assert make.contents(encode_example({"x": value})) == {"x": (kind, expected)}


@pytest.mark.parametrize(
    ("features", "error"),
    [
        ({"x": None}, TypeError),
        ({"x": [1, b"a"]}, TypeError),
        ({"x": {"y": 1}}, TypeError),
        ({3: 1}, TypeError),
        ({"x": np.array(["2020-01-01"], "M8[D]")}, TypeError),
        ({"x": 1 << 63}, OverflowError),
    ],
)
def test_what_cannot_be_encoded(features, error):
    with pytest.raises(error):
        encode_example(features)
