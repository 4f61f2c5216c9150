"""Checksums and lengths of mutated inputs, made to hold again."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib

import zstandard

from archivestream._native.checksums import crc32c

__all__ = [
    "repair_archive",
    "repair_gzip",
    "repair_records",
    "repair_sidecar",
    "repair_tar",
    "repair_zip",
    "repair_zstd",
]

_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MOST = 1 << 20


def repair_zip(data: bytes, rng: random.Random) -> bytes:
    """Sizes and offset of the directory, offsets and compressed sizes of its entries, and their CRC-32.

    Each only now and then: what does not fit together is worth trying, too.
    """
    made = bytearray(data)
    end = made.rfind(b"PK\5\6")
    first = made.find(b"PK\1\2")
    if end < 0 or len(made) - end < 22 or not 0 <= first < end:
        return data
    at, count = first, 0
    locals_ = [match.start() for match in re.finditer(b"PK\3\4", made[:first])]
    while at + _ENTRY.size <= end and made[at : at + 4] == b"PK\1\2":
        fields = _ENTRY.unpack_from(made, at)
        if count < len(locals_) and rng.random() < 0.9:
            _repair_entry(made, at, fields, locals_[count], [*locals_, first][count + 1])
        at += _ENTRY.size + sum(fields[10:13])
        count += 1
    if rng.random() < 0.8:
        struct.pack_into(
            "<HHLLH", made, end + 8, count & 0xFFFF, count & 0xFFFF, end - first, first, len(made) - end - 22
        )
    return bytes(made)


def _repair_entry(made: bytearray, at: int, fields: tuple[int, ...], local: int, behind: int) -> None:
    method, name_size = fields[4], fields[10]
    if 0xFFFFFFFF in (fields[8], fields[9], fields[16]) or local + _LOCAL.size > len(made):
        return
    struct.pack_into("<L", made, at + 42, local)
    name = made[at + _ENTRY.size : at + _ENTRY.size + name_size]
    header = _LOCAL.unpack_from(made, local)
    if header[9] == len(name):
        made[local + _LOCAL.size : local + _LOCAL.size + len(name)] = name
    begin = local + _LOCAL.size + header[9] + header[10]
    payload = bytes(made[begin : min(begin + fields[8], behind) if fields[8] else behind])
    content = _decode(method, payload)
    if content is not None and behind <= len(made):
        struct.pack_into("<LLL", made, at + 16, zlib.crc32(content), len(payload), len(content))


def _decode(method: int, payload: bytes) -> bytes | None:
    try:
        if method == 0:
            return payload
        if method == 8:
            return zlib.decompressobj(-15).decompress(payload, _MOST)
        if method == 93:
            return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    except (zlib.error, zstandard.ZstdError, MemoryError):
        pass
    return None


def repair_tar(data: bytes, rng: random.Random) -> bytes:
    """Make the checksum of every block that looks like a header right."""
    made = bytearray(data)
    for at in range(0, len(made) - 511, 512):
        block = made[at : at + 512]
        if not (block[257:262] == b"ustar" or block[148:154].strip(b" \0").isdigit()):
            continue
        block[148:156] = b" " * 8
        made[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(made)


def repair_records(data: bytes, rng: random.Random) -> bytes:
    """Make lengths of TFRecords fit what is left, and both checksums right, from record to record."""
    made = bytearray(data)
    at = 0
    while at + 12 <= len(made):
        length = int.from_bytes(made[at : at + 8], "little")
        left = len(made) - at - 16
        if length > left:
            if rng.random() < 0.3:
                return bytes(made)
            length = max(0, left) if rng.random() < 0.5 else length & 0xFF
            if length > left:
                return bytes(made)
            made[at : at + 8] = length.to_bytes(8, "little")
        made[at + 8 : at + 12] = masked(made[at : at + 8])
        at += 12 + length
        if at + 4 <= len(made):
            made[at : at + 4] = masked(made[at - length : at])
        at += 4
    return bytes(made)


def masked(data: bytes | bytearray) -> bytes:
    """Return the CRC-32C of bytes as TFRecord has it."""
    crc = crc32c(data)
    return struct.pack("<L", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def repair_zstd(data: bytes, rng: random.Random) -> bytes:
    """Drop the checksum of the first frame, which takes a decoder to make again; or compress the content anew."""
    if rng.random() < 0.2:
        return _compress_anew(data, rng)
    if data[:4] == b"\x28\xb5\x2f\xfd" and len(data) > 9 and data[4] & 4:
        made = bytearray(data)
        made[4] &= ~4
        return bytes(made)
    return data


def _compress_anew(data: bytes, rng: random.Random) -> bytes:
    content = b""
    try:
        content = zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj().decompress(data)[: 1 << 16]
    except (zstandard.ZstdError, MemoryError):
        content = data
    parameters = zstandard.ZstdCompressionParameters.from_level(
        rng.choice((-5, 1, 3, 9, 19)),
        window_log=rng.randrange(10, 18),
        write_checksum=rng.random() < 0.1,
        write_content_size=rng.random() < 0.5,
        target_length=rng.choice((0, 16, 999)),
        enable_ldm=rng.random() < 0.2,
    )
    size = len(content) if rng.random() < 0.5 else -1
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size)
    made, at = b"", 0
    while at < len(content):
        piece = rng.choice((10, 100, 1000, 5000))
        made += compressor.compress(content[at : at + piece])
        if rng.random() < 0.5:
            made += compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        at += piece
    return made + compressor.flush()


def repair_gzip(data: bytes, rng: random.Random) -> bytes:
    """Make the checksum behind a zlib stream or gzip member right."""
    for wbits, tail in ((15, 4), (31, 8)):
        head = 2 if wbits == 15 else 10
        if len(data) < head + tail or (data[:2] == b"\x1f\x8b") != (wbits == 31):
            continue
        raw = zlib.decompressobj(-15)
        try:
            content = raw.decompress(data[head:], _MOST)
        except zlib.error:
            continue
        if not raw.eof:
            continue
        body = data[: len(data) - len(raw.unused_data)]
        if wbits == 15:
            return body + zlib.adler32(content).to_bytes(4, "big")
        return body + struct.pack("<LL", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    return data


def repair_sidecar(data: bytes, rng: random.Random) -> bytes:
    """Make the header of a saved index describe its columns again, and all checksums right."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        return data
    try:
        header = json.loads(data[8 : 8 + length])
        saved = header["__metadata__"]
        spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        for name, (begin, end) in spans.items():
            column = data[8 + length + begin : 8 + length + end]
            saved[f"crc32:{name}"] = f"{zlib.crc32(column):08x}"
        if saved.pop("header_crc32", None) is None:
            return data
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return data
    header["__metadata__"] = {"header_crc32": "0" * 8, **saved}
    text = json.dumps({"__metadata__": header.pop("__metadata__"), **header}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    head = len(text).to_bytes(8, "little")
    text = text.replace(b"0" * 8, f"{zlib.crc32(head + text):08x}".encode(), 1)
    return head + text + data[8 + length :]


def repair_archive(data: bytes, rng: random.Random) -> bytes:
    """Repair an archive of any kind."""
    if data[257:262] == b"ustar":
        return repair_tar(data, rng)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return repair_zstd(data, rng)
    if b"PK\5\6" in data:
        return repair_zip(data, rng)
    return repair_records(data, rng)
