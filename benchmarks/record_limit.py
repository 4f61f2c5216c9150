"""Builds the C loop of ``record_limit.cpp``, and runs it over TFRecord files."""

from __future__ import annotations

import ctypes
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT
from benchmarks.limit import build, open_for
from benchmarks.measure import Digest

__all__ = ["RecordLoop"]

_HEADER = struct.Struct("<QL")
_MASK = 0xA282EAD8


class _RecordList(ctypes.Structure):
    """The C struct of that name."""

    _fields_ = (
        ("fd", ctypes.c_int64),
        ("mapped", ctypes.c_void_p),
        ("n", ctypes.c_uint64),
        ("offset", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("crc32c", ctypes.c_void_p),
        ("payload", ctypes.c_uint64),
        ("batch", ctypes.c_uint64),
        ("output", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("stride", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    loaded = build(Path(__file__).with_suffix(".cpp"), ROOT / "archivestream" / "_native", None)
    loaded.limit_records.argtypes = [ctypes.POINTER(_RecordList), ctypes.c_uint64]
    loaded.limit_records.restype = ctypes.c_uint64
    return loaded


class RecordLoop:
    """The C loop over the records of a file, in order.

    Parameters
    ----------
    path : Path
        The file.
    payload : int
        Bytes at the end of each record that are copied.
    batch : int
        Payloads that lie side by side in the output memory, which all batches use in turn.
    threads : int
        Each has an equal run of the records, and memory of its own.
    mapped : bool
        Map the file into memory, where each record is read with pread otherwise.
    """

    def __init__(self, path: Path, payload: int, *, batch: int, threads: int, mapped: bool = False) -> None:
        self._path = path
        self._threads = threads
        columns = _scan(path)
        stride = int(columns["size"].max()) + 4096
        # Ones, not zeros: every page is there before the clock starts.
        columns["output"] = np.ones(threads * batch * payload, np.uint8)
        columns["scratch"] = np.ones(threads * stride, np.uint8)
        self._columns = columns
        self._map = np.memmap(path, np.uint8, "r")
        self._map.sum()  # so that all of it is there
        self._list = _RecordList(
            fd=open_for(self, path),
            mapped=self._map.ctypes.data if mapped else None,
            n=len(columns["size"]),
            payload=payload,
            batch=batch,
            stride=stride,
            **{name: column.ctypes.data for name, column in columns.items()},
        )

    def run(self) -> None:
        """Read, check and copy all records once.

        Raises
        ------
        RuntimeError
            If a record has another CRC-32C.
        """
        bad = _library().limit_records(ctypes.byref(self._list), self._threads)
        if bad:
            raise RuntimeError(f"{self._path}: the limit loop fails at its record {bad - 1}")

    def digest(self, before: Digest) -> Digest:
        """Run, and tell what is copied, behind what was before."""
        self.run()
        payload, crc = self._list.payload, before.crc32
        ends = (self._columns["offset"] + self._columns["size"]).tolist()
        for end in ends:
            crc = zlib.crc32(self._map[end - payload : end].data, crc)
        return Digest(before.bytes + len(ends) * payload, crc)


def _scan(path: Path) -> dict[str, NDArray[Any]]:
    """Find the records of a file, and the CRC-32C of each, without its mask."""
    data = path.read_bytes()
    offsets, sizes, crcs = [], [], []
    at = 0
    while at < len(data):
        size, _ = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        masked = int.from_bytes(data[at + size : at + size + 4], "little") - _MASK & 0xFFFFFFFF
        offsets.append(at)
        sizes.append(size)
        crcs.append((masked >> 17 | masked << 15) & 0xFFFFFFFF)
        at += size + 4
    return {
        "offset": np.array(offsets, np.uint64),
        "size": np.array(sizes, np.uint64),
        "crc32c": np.array(crcs, np.uint32),
    }
