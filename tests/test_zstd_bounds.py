"""zstd: what an index may cost for what the file has bytes, and what a hostile one may ask for."""

from __future__ import annotations

import random
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from samples import tar_of, text
from zstdmaker import aux_of, check_blocks, compressed, index, library, skippable

import archivestream
from archivestream import CorruptArchiveError, LimitExceededError, Limits, UnsupportedFeatureError, sidecar
from archivestream._native.checkpoints import restore_segment
from archivestream._native.codecs import Codec, Status
from archivestream._native.frameindex import FrameIndexer
from archivestream.formats.zstd import read_index
from archivestream.sources import LocalSource, MemorySource

BLOB = random.Random(2).randbytes(1 << 20)
MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # in what ru_maxrss counts
WIDE = zstandard.ZstdCompressionParameters.from_level(1, window_log=21)

# ---- what an index costs ----------------------------------------------------------------------------------------


def repeated(times: int) -> bytes:
    """A frame that says the same over and over, from a window that is as large as it likes."""
    compressor = zstandard.ZstdCompressor(compression_params=WIDE).compressobj()
    return b"".join([*(compressor.compress(BLOB) for _ in range(times)), compressor.flush()])


def test_an_index_is_bounded_by_the_file_and_not_by_what_it_decodes_to() -> None:
    data = repeated(60)
    assert len(data) < 1.1 * len(BLOB)
    spare = 8 << 20
    content, columns = index(data, spacing=1 << 18, spare=spare)
    assert content == BLOB * 60
    assert len(columns["aux"]) < len(data) / 2 + spare + 2 * (2 << 20)
    assert int(columns["block_size"].max()) <= 256 << 20
    check_blocks(columns, data, content)


def test_a_frame_without_a_place_to_begin_that_the_file_is_worth() -> None:
    indexer = FrameIndexer(spacing=1 << 18, spare=1 << 20)
    indexer.feed(repeated(600))
    while indexer.next() is not None:
        pass
    assert indexer.status == Status.OVER_LIMIT
    assert indexer.size < 400 << 20


def test_a_frame_with_the_dictionary_of_the_file_that_no_read_could_decode() -> None:
    dictionary = zstandard.train_dictionary(2048, [text(200, seed) for seed in range(500)])
    compressor = zstandard.ZstdCompressor(level=1, dict_data=dictionary).compressobj()
    zeros = bytes(1 << 24)
    parts = [compressor.compress(zeros) for _ in range(64)] + [compressor.compress(b"x"), compressor.flush()]
    source = MemorySource(skippable(dictionary.as_bytes()) + b"".join(parts))
    options: dict[str, Any] = {"strict": False, "limits": Limits(), "metadata_encoding": None, "progress": None}
    with pytest.raises(UnsupportedFeatureError, match=r"need the dictionary are read whole, .* larger than 1 GiB"):
        read_index(source, **options)


RESUME = """
import resource, sys
from archivestream._native.frameindex import FrameIndexer

def run(upto, **options):
    indexer = FrameIndexer(**options)
    with open(sys.argv[1], "rb") as file:
        while (data := file.read(1 << 18)) and indexer.size < upto:
            indexer.feed(data)
            while indexer.next() is not None:
                pass
    return indexer

snapshot = run(48 << 20).snapshot()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert run(1 << 60, resume=snapshot).finish() is not None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_resumed_pass_takes_no_more_memory_than_another(tmp_path: Path) -> None:
    path = tmp_path / "file.zst"
    content = text(1 << 20) + BLOB
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    path.write_bytes(b"".join([*(compressor.compress(content) for _ in range(25)), compressor.flush()]))
    command = [sys.executable, "-c", RESUME, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert int(done.stdout) < 20 * MIB


# ---- what a hostile index asks for ------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def bomb(content: int) -> bytes:
    """The end of a row of `aux`: a dictionary of so many zero bytes, in next to none."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    head = bytes(100) + varint(1) + varint(0) + varint(content)
    zeros = bytes(1 << 20)
    parts = [compressor.compress(head), *(compressor.compress(zeros) for _ in range(content >> 20)), compressor.flush()]
    return varint(content) + varint(100) + varint(len(head) + content) + b"".join(parts)


def test_a_dictionary_has_no_more_bytes_than_come_before_it() -> None:
    stops = varint(1) + varint(4) + varint(1) + struct.pack("<I", zlib.crc32(b"a"))
    aux = bytes([1, (31 - 10) << 3]) + stops + bomb(1 << 30)
    block = bytes([1 << 3, 0, 0]) + b"a"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert restore_segment(aux, block, 1, 1, before=100 << 20, max_window=1 << 40)[0] == Status.BAD_INDEX
    assert restore_segment(aux, block, 1, 1, before=1 << 40, max_window=100 << 20)[0] == Status.WINDOW_TOO_LARGE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * MIB
    # And a real one has just enough.
    data = library(BLOB + text(1 << 20) + BLOB, window_log=22)
    _, columns = index(data, spacing=1 << 20)
    row = len(columns["block_start"]) - 1
    size, start = int(columns["block_size"][row]), int(columns["block_start"][row])
    aux, block = aux_of(columns, row), compressed(columns, row, data)
    assert restore_segment(aux, block, size, size, before=start)[0] == Status.OK
    assert restore_segment(aux, block, size, size, before=1 << 19)[0] == Status.BAD_INDEX


def test_a_saved_index_that_asks_for_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.zst"
    path.write_bytes(library(tar_of({f"m{i}": text(1 << 20, i) for i in range(10)})))
    archivestream.open(path).close()
    source = LocalSource(path)
    saved = sidecar.load_any(source)
    assert saved is not None
    columns = {name: np.array(column) for name, column in saved.columns.items()}
    row = len(columns["block_start"]) - 1
    begin = int(columns["aux_offset"][row])
    stops = varint(1) + varint(int(columns["block_compressed_size"][row])) + varint(int(columns["block_size"][row]))
    hostile = bytes([1, (31 - 10) << 3]) + stops + bytes(4) + bomb(1 << 29)
    columns["aux"] = np.concatenate([columns["aux"][:begin], np.frombuffer(hostile, np.uint8)])
    columns["aux_offset"][row + 1 :] = len(columns["aux"])
    sidecar.save(columns, saved.metadata, source, saved.path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with archivestream.open(path, index="require") as archive, pytest.raises(CorruptArchiveError, match="saved index"):
        archive[len(archive) - 1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * MIB


def test_a_saved_index_whose_block_the_file_has_no_room_for(tmp_path: Path) -> None:
    """No memory is taken for it, not even where its first bytes are all that is wanted."""
    path = tmp_path / "a.tar.zst"
    path.write_bytes(library(tar_of({"a": bytes(23 << 20), "z": b"z"})))
    archivestream.open(path).close()
    source = LocalSource(path)
    saved = sidecar.load_any(source)
    assert saved is not None
    columns = {name: np.array(column) for name, column in saved.columns.items()}
    assert columns["block_codec"][-1] == Codec.ZSTD_SEGMENT
    columns["block_size"][-1] = 1 << 29
    sidecar.save(columns, saved.metadata, source, saved.path)
    with archivestream.open(path, index="require") as archive, pytest.raises(CorruptArchiveError, match="saved index"):
        archive["z"]


def test_the_limit_on_windows_holds_for_reads_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.zst"
    members = {"a": BLOB, "b": text(8 << 20), "c": BLOB}
    path.write_bytes(library(tar_of(members), window_log=27, enable_ldm=True))
    archivestream.open(path).close()
    with archivestream.open(path, index="require", limits=Limits(max_window_bytes=1 << 20)) as archive:
        assert archive["a"] == BLOB
        with pytest.raises(LimitExceededError, match="max_window_bytes"):
            archive["c"]
