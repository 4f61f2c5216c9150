"""zstd files by hand and by the programs that make them, and what the tests of frames and checkpoints share."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zstandard
from numpy.typing import NDArray

from archivestream._native.checkpoints import restore_segment
from archivestream._native.codecs import Codec, Status, crc32
from archivestream._native.frameindex import FrameIndexer

Columns: TypeAlias = dict[str, NDArray[Any]]

TYPES: Mapping[str, type[np.generic]] = {
    "block_start": np.uint64,
    "block_size": np.uint64,
    "block_offset": np.uint64,
    "block_compressed_size": np.uint64,
    "block_codec": np.uint16,
    "block_flags": np.uint16,
    "block_crc32": np.uint32,
    "aux_offset": np.uint64,
    "aux": np.uint8,
    "dictionary": np.uint8,
}
MAGIC = b"\x28\xb5\x2f\xfd"
NO_BUDGET = 1e9


def arrays(columns: Mapping[str, Any]) -> Columns:
    """Look at the columns of an indexer as arrays."""
    return {name: np.frombuffer(data, TYPES[name]) for name, data in columns.items() if len(data)} | {
        name: np.empty(0, TYPES[name]) for name, data in columns.items() if not len(data)
    }


def drain(indexer: FrameIndexer, data: bytes, piece: int = 1 << 20) -> bytes:
    """Feed a file in pieces, and return the content."""
    content = []
    for at in range(0, len(data), piece):
        indexer.feed(data[at : at + piece])
        while (part := indexer.next()) is not None:
            content.append(bytes(memoryview(part)))
    return b"".join(content)


def index(data: bytes, piece: int = 1 << 20, **options: Any) -> tuple[bytes, Columns]:
    """Index a file that has no fault: content and columns."""
    indexer = FrameIndexer(**options)
    content = drain(indexer, data, piece)
    columns = indexer.finish()
    assert columns is not None, (Status(indexer.status), indexer.offset, indexer.detail)
    assert indexer.size == len(content)
    assert indexer.offset == len(data)
    return content, arrays(columns)


def fault(data: bytes, piece: int = 1 << 20, **options: Any) -> FrameIndexer:
    """Index a file that has a fault."""
    indexer = FrameIndexer(**options)
    drain(indexer, data, piece)
    assert indexer.finish() is None
    assert indexer.status != Status.OK
    return indexer


def aux_of(columns: Columns, row: int) -> bytes:
    begin, end = columns["aux_offset"][row : row + 2].tolist()
    return columns["aux"][begin:end].tobytes()


def compressed(columns: Columns, row: int, data: bytes) -> bytes:
    offset, size = int(columns["block_offset"][row]), int(columns["block_compressed_size"][row])
    assert offset + size <= len(data)
    return data[offset : offset + size]


def check_blocks(columns: Columns, data: bytes, content: bytes) -> None:
    """Restore every block by itself, and compare it."""
    at = 0
    for row in range(len(columns["block_start"])):
        size = int(columns["block_size"][row])
        expected = content[at : at + size]
        assert int(columns["block_start"][row]) == at
        assert int(columns["block_crc32"][row]) == crc32(expected)
        source = compressed(columns, row, data)
        if columns["block_codec"][row] == Codec.ZSTD:
            decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            assert decoder.decompressobj().decompress(source) == expected
            assert aux_of(columns, row) == b""
        else:
            assert columns["block_codec"][row] == Codec.ZSTD_SEGMENT
            status, restored = restore_segment(aux_of(columns, row), source, size, size, before=at)
            assert status == Status.OK
            assert bytes(memoryview(restored)) == expected
        at += size
    assert at == len(content)


def mixed(size: int, seed: int = 0) -> bytes:
    """Return real text and code, random bytes, runs and far copies, as an archive has them side by side."""
    choose = random.Random(seed)
    sources = sorted(Path(random.__file__).parent.glob("*.py"))
    parts: list[bytes] = []
    length = 0
    while length < size:
        kind = choose.random()
        if kind < 0.70 or not parts:
            part = choose.choice(sources).read_bytes()
        elif kind < 0.80:
            part = choose.randbytes(choose.randrange(1, 40_000))
        elif kind < 0.85:
            part = bytes([choose.randrange(256)]) * choose.randrange(1, 200_000)
        else:
            part = choose.choice(parts)
        parts.append(part)
        length += len(part)
    return b"".join(parts)[:size]


def program(data: bytes, *options: str) -> bytes:
    """Compress with the command line program, from a pipe: the frame has no content size."""
    path = shutil.which("zstd")
    assert path is not None
    return subprocess.run([path, "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def library(data: bytes, **parameters: Any) -> bytes:
    """Compress with libzstd."""
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(parameters.pop("level", 3), **parameters)
    ).compress(data)


def skippable(payload: bytes, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + number, len(payload)) + payload


def block(kind: int, content: bytes, size: int | None = None) -> bytes:
    """Make a block that is not the last."""
    return ((len(content) if size is None else size) << 3 | kind << 1).to_bytes(3, "little") + content


def frame(blocks: Sequence[bytes], window_byte: int = 0) -> bytes:
    """Make a frame of blocks, without content size and checksum."""
    last = bytearray(blocks[-1])
    last[0] |= 1
    return MAGIC + bytes([0, window_byte]) + b"".join(blocks[:-1]) + bytes(last)
