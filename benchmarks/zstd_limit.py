"""Builds the C loops of ``zstd_limit.c``, and runs them over a ``.tar.zst``."""

from __future__ import annotations

import ctypes
import tarfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from benchmarks import ROOT
from benchmarks.limit import build, open_for
from benchmarks.measure import Batches, Digest

__all__ = ["FrameLoop", "StreamLoop", "TarMembers"]

_LIBZSTD = ROOT / "build" / "third_party" / "zstandard-0.25.0" / "zstd"
_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
_EVERYTHING = 2**64 - 1


class _FrameList(ctypes.Structure):
    """The C struct of that name."""

    _fields_ = (
        ("fd", ctypes.c_int64),
        ("offset", ctypes.c_void_p),
        ("compressed_size", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("first_piece", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
        ("piece_size", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("compressed", ctypes.c_void_p),
        ("decoded", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
    )


@cache
def _library() -> ctypes.CDLL:
    loaded = build(Path(__file__).with_suffix(".c"), _LIBZSTD, "zstd.c")
    loaded.zstd_limit_frames.argtypes = [ctypes.POINTER(_FrameList), ctypes.c_uint64, ctypes.c_uint64]
    loaded.zstd_limit_frames.restype = ctypes.c_uint64
    memory = (ctypes.c_void_p, ctypes.c_uint64)
    loaded.zstd_limit_stream.argtypes = [ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, *memory, *memory, _TAKE]
    loaded.zstd_limit_stream.restype = ctypes.c_uint64
    return loaded


@dataclass(frozen=True)
class TarMembers:
    """Where the members of a ``.tar.zst`` lie in the tar.

    Attributes
    ----------
    path : Path
        The ``.tar.zst``.
    offset, size : ndarray of int64, shape (n,)
        Of the data of each.
    """

    path: Path
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path) -> TarMembers:
        """Find the members with `tarfile`."""
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                places = np.array([(info.offset_data, info.size) for info in tar], np.int64)
        return cls(path, places[:, 0], places[:, 1])


class FrameLoop:
    """The C loop over batches of members: each frame that a batch needs is decoded once.

    Parameters
    ----------
    members : TarMembers
        Of a ``.tar.zst`` with a seek table.
    batches : sequence of batches
        Members, by position. Those of a batch lie side by side in the output memory, which all batches use in
        turn; their frames are decoded in the order of the file.
    """

    def __init__(self, members: TarMembers, batches: Batches) -> None:
        self._path = members.path
        compressed_size, size = _seek_table(members.path)
        start = np.cumsum(size) - size
        frames: list[NDArray[np.int64]] = []
        pieces: list[NDArray[np.int64]] = []
        self._ends, self._sizes = [0], []
        for batch in batches:
            table = _pieces(members, np.asarray(batch, np.int64), start, size)
            needed, first = np.unique(table[:, 0], return_index=True)
            frames.append(np.column_stack([needed, first + sum(len(other) for other in pieces)]))
            pieces.append(table)
            self._ends.append(self._ends[-1] + len(needed))
            self._sizes.append(int(table[:, 2].sum()))
        frame, first_piece = np.concatenate(frames).T
        _, place, piece_size, target = np.concatenate(pieces).T
        self._frames = len(frame)
        columns: dict[str, NDArray[Any]] = {
            "offset": (np.cumsum(compressed_size) - compressed_size)[frame],
            "compressed_size": compressed_size[frame],
            "size": size[frame],
            "first_piece": np.append(first_piece, len(place)),
            "place": place,
            "piece_size": piece_size,
            "target": target,
        }
        columns = {name: column.astype(np.uint64) for name, column in columns.items()}
        # Ones, not zeros: every page is there before the clock starts.
        columns["compressed"] = np.ones(compressed_size.max(), np.uint8)
        columns["decoded"] = np.ones(size.max(), np.uint8)
        columns["output"] = np.ones(max(self._sizes), np.uint8)
        self._columns = columns
        self._list = _FrameList(
            fd=open_for(self, members.path), **{name: column.ctypes.data for name, column in columns.items()}
        )

    def run(self) -> None:
        """Read all batches once.

        Raises
        ------
        RuntimeError
            If a frame cannot be decoded, or does not have its checksum.
        """
        self._run(0, self._frames)

    def digest(self) -> Digest:
        """Read all batches, and tell what came out."""
        crc = 0
        for i, size in enumerate(self._sizes):
            self._run(self._ends[i], self._ends[i + 1])
            crc = zlib.crc32(self._columns["output"][:size].data, crc)
        return Digest(sum(self._sizes), crc)

    @property
    def decoded_bytes(self) -> int:
        """How many bytes come out of the frames, for all batches."""
        return int(self._columns["size"].sum())

    def _run(self, begin: int, end: int) -> None:
        bad = _library().zstd_limit_frames(ctypes.byref(self._list), begin, end)
        if bad:
            raise RuntimeError(f"{self._path}: the limit loop fails at its frame {bad - 1}")


def _seek_table(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the compressed sizes and the sizes of the frames, as a seek table without checksums lists them."""
    data = path.read_bytes()
    count = int.from_bytes(data[-9:-5], "little")
    table = np.frombuffer(data[-9 - 8 * count : -9], "<u4").reshape(count, 2).astype(np.int64)
    return table[:, 0], table[:, 1]


def _pieces(
    members: TarMembers, batch: NDArray[np.int64], start: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Cut the members of a batch at the frames: rows of frame, place in it, size, place in the output."""
    rows = []
    target = 0
    for offset, left in zip(members.offset[batch].tolist(), members.size[batch].tolist(), strict=True):
        frame = int(np.searchsorted(start, offset, "right")) - 1
        while left:
            place = offset - int(start[frame])
            length = min(left, int(size[frame]) - place)
            rows.append((frame, place, length, target))
            offset, left, target, frame = offset + length, left - length, target + length, frame + 1
    return np.array(sorted(rows), np.int64)


class StreamLoop:
    """The C loop that decodes a file from its start, into memory that is used again.

    Parameters
    ----------
    members : TarMembers
        Of a ``.tar.zst``.
    """

    def __init__(self, members: TarMembers) -> None:
        self.members = members
        self._fd = open_for(self, members.path)
        self._size = members.path.stat().st_size
        self._compressed = np.ones(zstandard.DECOMPRESSION_RECOMMENDED_INPUT_SIZE, np.uint8)
        self._decoded = np.ones(zstandard.DECOMPRESSION_RECOMMENDED_OUTPUT_SIZE, np.uint8)

    def run(self, until: int = _EVERYTHING) -> None:
        """Decode the file once, or until that many bytes have come out.

        Raises
        ------
        RuntimeError
            If it is damaged.
        """
        self._run(until, _TAKE())

    def digest(self, which: NDArray[np.int64] | None = None) -> Digest:
        """Decode the file, and tell what all members hold, or some of them, in the order of the file."""
        offset, size = self.members.offset, self.members.size
        if which is not None:
            offset, size = offset[np.sort(which)], size[np.sort(which)]
        ranges = iter(zip(offset.tolist(), (offset + size).tolist(), strict=True))
        current = next(ranges, None)
        done = crc = 0

        def take(length: int) -> None:
            nonlocal current, done, crc
            while current is not None:
                begin, end = current[0] - done, current[1] - done
                crc = zlib.crc32(self._decoded[max(0, begin) : max(0, min(end, length))].data, crc)
                if end > length:
                    break
                current = next(ranges, None)
            done += length

        self._run(_EVERYTHING, _TAKE(take))
        if current is not None:
            raise RuntimeError(f"{self.members.path}: the limit loop ends before the last member")
        return Digest(int(size.sum()), crc)

    def _run(self, until: int, take: Any) -> None:
        memory = (self._compressed.ctypes.data, len(self._compressed), self._decoded.ctypes.data, len(self._decoded))
        if _library().zstd_limit_stream(self._fd, self._size, until, *memory, take) == _EVERYTHING:
            raise RuntimeError(f"{self.members.path}: the limit loop fails")
