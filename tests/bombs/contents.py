"""Bombs that are members: arrays and images whose headers lie, messages in messages, metadata; and sidecars."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from samples import tar_of
from zipmaker import DEFLATE, Entry, make

from archivestream._native.codecs import crc32
from archivestream.tables import MEMBER
from bombs.bomb import bomb


def _npy(header: bytes, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<L", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header


def _array(path: Path, data: bytes) -> None:
    path.write_bytes(make(Entry(b"a.npy", data)))


@bomb("zip", full=10**18, small=10**18, action="arrays")
def npy_shape(path: Path, n: int) -> None:
    """Values that an array of ten bytes says that it has."""
    _array(path, _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % n) + bytes(10))


@bomb("zip", full=60_000, small=60_000, action="arrays")
def npy_nesting(path: Path, n: int) -> None:
    """Parentheses in the header of an array."""
    _array(path, _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * n + b"}"))


@bomb("zip", full=60_000, small=60_000, action="arrays")
def npy_signs(path: Path, n: int) -> None:
    """Signs before a number in the header of an array."""
    _array(path, _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"-" * n + b"1,)}"))


@bomb("zip", full=60 << 20, small=2 << 20, action="arrays")
def npy_header(path: Path, n: int) -> None:
    """Bytes of the header of an array of version 3."""
    _array(path, _npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1," * (n // 2) + b")}", 3))


def _jpeg(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "jpeg")
    data = file.getvalue()
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


@bomb("zip", full=65_535, small=65_535, action="images")
def jpeg_size(path: Path, n: int) -> None:
    """Pixels on each side of a JPEG of a few bytes."""
    path.write_bytes(make(Entry(b"a.jpg", _jpeg(n, n))))


@bomb("zip", full=0x7FFFFFFF, small=0x7FFFFFFF, action="images")
def png_size(path: Path, n: int) -> None:
    """Pixels on each side of a PNG of a few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">LL", n, n)
    data[29:33] = struct.pack(">L", crc32(bytes(data[12:29])))
    path.write_bytes(make(Entry(b"a.png", bytes(data))))


@bomb("zip", full=5_000_000, small=200_000, action="examples", factor=32)
def nested_messages(path: Path, n: int) -> None:
    """Groups in groups, in an example."""
    path.write_bytes(make(Entry(b"a", b"\x0b" * n + b"\x0c" * n)))


@bomb("zip", full=2_000_000, small=100_000, action="examples", factor=32)
def many_features(path: Path, n: int) -> None:
    """Features of nothing in an example."""
    feature = b"\x0a\x04\x0a\x00\x12\x00"
    features = feature * n
    path.write_bytes(make(Entry(b"a", b"\x0a" + _varint(len(features)) + features)))


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


@bomb("zip", full=100_000_000, small=60_000_000, action="metadata")
def metadata(path: Path, n: int) -> None:
    """Values of metadata, of which a few bytes are left once they are compressed, twice."""
    table = pyarrow.table({"member": pyarrow.array(np.zeros(n, np.int64))})
    file = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    path.write_bytes(make(Entry(b"a", b"some text"), Entry(MEMBER.encode(), file.getvalue(), DEFLATE)))


def _saved(path: Path, body: bytes) -> None:
    """A tar, and a saved index beside it whose header has its checksum."""
    path.write_bytes(tar_of({"a": b"some text"}))
    prefix = b'{"__metadata__":{"header_crc32":"'
    text = prefix + b"00000000" + body
    text += b" " * (-(8 + len(text)) % 64)
    head = struct.pack("<Q", len(text))
    digits = b"%08x" % crc32(head + text)
    path.with_name(path.name + ".asidx").write_bytes(head + text.replace(b"00000000", digits, 1))


@bomb("tar", full=1_000_000, small=1_000_000, action="saved")
def sidecar_nesting(path: Path, n: int) -> None:
    """Brackets in the header of a saved index."""
    _saved(path, b'"},"size":' + b"[" * n)


@bomb("tar", full=1 << 62, small=1 << 62, action="saved")
def sidecar_claims(path: Path, n: int) -> None:
    """Rows that a saved index says that it has."""
    columns = {name: {"dtype": "U64", "shape": [n], "data_offsets": [0, 8 * n]} for name in ("size", "offset")}
    _saved(path, b'"},' + json.dumps(columns).encode()[1:])


@bomb("tar", full=1 << 62, small=1 << 62, action="saved")
def sidecar_header(path: Path, n: int) -> None:
    """Bytes that the header of a saved index says that it has."""
    path.write_bytes(tar_of({"a": b"some text"}))
    path.with_name(path.name + ".asidx").write_bytes(struct.pack("<Q", n) + b'{"__metadata__":' + bytes(100))
