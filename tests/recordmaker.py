"""TFRecord files and `tf.train.Example` messages, made by other means than those under test."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import zstandard
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def crc32c(data: bytes) -> int:
    """Reckon a CRC-32C a bit at a time (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> bytes:
    return struct.pack("<L", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    return packed + masked(crc32c(packed))


def record(data: bytes) -> bytes:
    return header(len(data)) + data + masked(crc32c(data))


def records(contents: Iterable[bytes]) -> bytes:
    return b"".join(map(record, contents))


def _gzip_members(data: bytes) -> bytes:
    cut = len(data) // 2 + 1
    return b"".join(map(gzip.compress, (data[:cut], b"", data[cut:])))


WRAPPERS: dict[str, Callable[[bytes], bytes]] = {
    "tfrecord": bytes,
    "tfrecord.gz": gzip.compress,
    "tfrecord-00000-of-00002.gz": _gzip_members,
    "tfrecords": zlib.compress,
    "tfrecord.zst": zstandard.compress,
}


@cache
def example_class() -> Any:
    """Return the class of `tf.train.Example`, of the official runtime."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED

    def lists(name: str, kind: int) -> None:
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=many)

    def refer(message: Any, name: str, number: int, label: int, kind: str, **more: int) -> None:
        message.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, label=label, type_name=f".tensorflow.{kind}", **more
        )

    lists("BytesList", field.TYPE_BYTES)
    lists("FloatList", field.TYPE_FLOAT)
    lists("Int64List", field.TYPE_INT64)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    refer(feature, "bytes_list", 1, one, "BytesList", oneof_index=0)
    refer(feature, "float_list", 2, one, "FloatList", oneof_index=0)
    refer(feature, "int64_list", 3, one, "Int64List", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
    refer(entry, "value", 2, one, "Feature")
    refer(features, "feature", 1, many, "Features.FeatureEntry")
    refer(file.message_type.add(name="Example"), "features", 1, one, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def contents(data: bytes) -> dict[str, tuple[str | None, list[Any]]]:
    """Parse a message with the official runtime: the kind and the values of each feature."""
    example = example_class()()
    example.ParseFromString(data)
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = (kind, list(getattr(feature, kind).value) if kind else [])
    return found
