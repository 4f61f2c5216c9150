"""Targets: `archivestream.deflate` against zlib, and `ExampleParser` against the official runtime of protobuf."""

from __future__ import annotations

import zlib
from typing import Any

from google.protobuf.message import DecodeError
from recordmaker import contents

from archivestream import CorruptArchiveError, deflate
from archivestream._native import codecs
from archivestream._native.deflating import deflate as compress_segment
from archivestream.tfrecord import ExampleParser, FixedLenFeature, VarLenFeature

from .target import Data, chance, require

__all__ = ["run_deflate", "run_example"]

MOST = 1 << 18
WRAPPERS = {"deflate": -15, "zlib": 15, "gzip": 31}
DTYPES = {"bytes_list": "bytes", "float_list": "float32", "int64_list": "int64", None: "bytes"}


def run_deflate(data: Data) -> None:
    """Decompress what may be a stream of each kind, and compress the input."""
    rng = chance(data)
    for number, (name, wbits) in enumerate(WRAPPERS.items()):
        _decompress(data, number, name, wbits)
    level = rng.choice((-1, 0, 1, 1, 2, 3, 6, 9, 12))
    name, wbits = rng.choice(list(WRAPPERS.items()))
    packed = getattr(deflate, f"{name}_compress")(data, level)
    require(zlib.decompress(packed, wbits) == data, "zlib reads something else", name, level)
    require(getattr(deflate, f"{name}_decompress")(packed, len(data)) == data, "it reads something else", name)
    cut = rng.randrange(len(data) + 1)
    stream = compress_segment(data[:cut], max(level, 0), False) + compress_segment(data[cut:], max(level, 0))
    require(zlib.decompress(stream, -15) == data, "segments are no stream")
    start = rng.getrandbits(32)
    require(deflate.crc32(data, start) == zlib.crc32(data, start), "another CRC-32")
    require(deflate.adler32(data) == zlib.adler32(data), "another Adler-32")


def _decompress(data: Data, number: int, name: str, wbits: int) -> None:
    reference = zlib.decompressobj(wbits)
    try:
        expected = reference.decompress(data, MOST)
    except zlib.error:
        expected = None
    if expected is not None and len(expected) == MOST:
        return
    try:
        found = getattr(deflate, f"{name}_decompress")(data, MOST)
    except deflate.DeflateError:
        found = None
    if expected is None or not reference.eof:
        require(found is None or _is_lenient(data, name), "zlib refuses it", name)
        return
    require(found == expected, "another content than zlib's", name)
    made, consumed = codecs.decompress(data, len(expected), number)
    require(made == expected and consumed == len(data) - len(reference.unused_data), "another end", name)
    if expected:
        for size in (0, len(expected) - 1):
            made, _ = codecs.decompress(data, size, number)
            require(made == codecs.Status.TOO_MANY_BYTES, "more bytes than there is room for", name, made)


def _is_lenient(data: Data, name: str) -> bool:
    """Whether libdeflate takes by design what zlib refuses: what stands in a header beside the stream."""
    return False


def run_example(data: Data) -> None:
    """Parse a message, as the official runtime does; then several of it."""
    rng = chance(data)
    message = bytes(data)
    try:
        expected = contents(message)
    except DecodeError:
        require(_parse(data, {"a": "bytes"}) is None, "the official runtime refuses it")
        return
    found = _parse(data, {name: DTYPES[kind] for name, (kind, _) in expected.items()})
    if found is None:
        return
    for name, (_, values) in expected.items():
        require(_same(found[name][0].tolist(), values), "other values", name, values)
    absent = _parse(data, {f"not {name}": "int64" for name in expected if f"not {name}" not in expected})
    require(absent is not None and not any(len(values[0]) for values in absent.values()), "values that are not there")
    fixed = {
        name: FixedLenFeature([len(values)], DTYPES[kind])
        for name, (kind, values) in expected.items()
        if kind and values
    }
    if "not there" not in expected:
        fixed["not there"] = FixedLenFeature([2], "float32", 1.5)
    batch = ExampleParser(fixed, threads=rng.choice((1, 2))).parse([message] * 3)
    for name, feature in fixed.items():
        rows = batch[name].tolist()
        want = expected[name][1] if name in expected else [1.5] * 2
        require(all(_same(row, want) for row in rows) and len(rows) == 3, "other values in a batch", name, feature)
    try:
        wrong = ExampleParser({name: FixedLenFeature([2, 2], "uint8") for name in expected}).parse([message])
        require(all(values.shape == (1, 2, 2) for values in wrong.values()), "another shape")
    except CorruptArchiveError:
        pass


def _parse(data: Data, names: dict[str, str]) -> dict[str, Any] | None:
    """Parse a message; None where it is refused."""
    parser = ExampleParser({name: VarLenFeature(dtype) for name, dtype in names.items()}, threads=1)
    try:
        return parser.parse([data])
    except CorruptArchiveError as error:
        require("offset" in str(error), "an error without a place", error)
        return None


def _same(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(a == b or (a != a and b != b) for a, b in zip(ours, theirs, strict=True))
