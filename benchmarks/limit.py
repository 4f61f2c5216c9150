"""Builds the C loops of ``limit.c``, and runs them over the members of an archive."""

from __future__ import annotations

import ctypes
import hashlib
import os
import runpy
import shlex
import struct
import subprocess
import sysconfig
import tempfile
import weakref
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import BUILD, ROOT
from benchmarks.measure import Batches, Digest

__all__ = ["BatchLoop", "CopyLoop", "DirectoryLoop", "Payloads", "TarLoop", "build", "open_for"]

_SOURCE = Path(__file__).with_name("limit.c")
_LIBDEFLATE = ROOT / "build" / "third_party" / "deflate-0.9.0" / "libdeflate"


class _BatchList(ctypes.Structure):
    """The C struct of that name."""

    _fields_ = (
        ("fd", ctypes.c_int64),
        ("n", ctypes.c_uint64),
        ("offset", ctypes.c_void_p),
        ("compressed_size", ctypes.c_void_p),
        ("size", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
        ("crc32", ctypes.c_void_p),
        ("is_deflated", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("output_stride", ctypes.c_uint64),
        ("scratch", ctypes.c_void_p),
        ("scratch_stride", ctypes.c_uint64),
        ("skip", ctypes.c_uint64),
        ("digest", ctypes.c_void_p),
    )


def build(source: Path, third_party: Path, pattern: str | None) -> ctypes.CDLL:
    """Compile a file of loops with a library, unless that was done before, and load it.

    Parameters
    ----------
    source : Path
        The loops.
    third_party : Path
        The folder of the library, with its header, where ``setup.py`` unpacks it.
    pattern : str or None
        Of the sources in it; None where all of it is in headers, which are ours.
    """
    if not third_party.is_dir():
        runpy.run_path(str(ROOT / "setup.py"))["third_party"]()
    sources = [source] if pattern is None else [source, *sorted(third_party.glob(pattern))]
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = [*shlex.split(compiler), "-O3", "-fPIC", "-shared", "-pthread", f"-I{third_party}"]
    command += map(str, sources)
    own = source.read_bytes() + source.with_name("limit.h").read_bytes()
    if pattern is None:
        own += b"".join(header.read_bytes() for header in sorted(third_party.glob("*.hpp")))
    digest = hashlib.sha256(own + "\0".join(command).encode()).hexdigest()
    library = BUILD / f"{source.stem}-{digest[:12]}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            built = Path(scratch) / library.name
            subprocess.run([*command, "-o", str(built)], check=True)
            os.replace(built, library)
    return ctypes.CDLL(str(library))


@cache
def _library() -> ctypes.CDLL:
    loaded = build(_SOURCE, _LIBDEFLATE, "lib/**/*.c")
    loaded.limit_read.argtypes = [ctypes.POINTER(_BatchList), ctypes.c_uint64]
    loaded.limit_read.restype = ctypes.c_uint64
    range_in_file = (ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64)
    loaded.limit_scan.argtypes = [*range_in_file, *8 * (ctypes.c_void_p,)]
    loaded.limit_scan.restype = ctypes.c_uint64
    memory = (ctypes.c_void_p, ctypes.c_uint64)
    loaded.limit_scan_tar.argtypes = [ctypes.c_int64, ctypes.c_uint64, *memory, *4 * (ctypes.c_void_p,)]
    loaded.limit_scan_tar.restype = ctypes.c_uint64
    loaded.limit_copy.argtypes = [*2 * (ctypes.c_void_p,), *3 * (ctypes.c_uint64,)]
    loaded.limit_copy.restype = ctypes.c_uint64
    return loaded


@dataclass(frozen=True)
class Payloads:
    """Where the payload of each member of a ZIP lies.

    Attributes
    ----------
    path : Path
        The ZIP.
    offset, compressed_size, size : ndarray of uint64, shape (n,)
        Of the payload, behind the local header; in bytes.
    crc32 : ndarray of uint32, shape (n,)
        Of the decoded bytes.
    is_deflated : ndarray of uint8, shape (n,)
        Whether the member is deflated (1) or stored (0).
    """

    path: Path
    offset: NDArray[np.uint64]
    compressed_size: NDArray[np.uint64]
    size: NDArray[np.uint64]
    crc32: NDArray[np.uint32]
    is_deflated: NDArray[np.uint8]

    @classmethod
    def of(cls, path: Path) -> Payloads:
        """Find the payloads of a ZIP with `zipfile`."""
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = archive.infolist()
            offsets = []
            for info in infos:
                # The extra field of a local header is not that of the directory (APPNOTE 4.3.7).
                header = os.pread(file.fileno(), 30, info.header_offset)
                name_size, extra_size = struct.unpack_from("<2H", header, 26)
                offsets.append(info.header_offset + 30 + name_size + extra_size)
        return cls(
            path,
            np.array(offsets, np.uint64),
            np.array([info.compress_size for info in infos], np.uint64),
            np.array([info.file_size for info in infos], np.uint64),
            np.array([info.CRC for info in infos], np.uint32),
            np.array([info.compress_type == zipfile.ZIP_DEFLATED for info in infos], np.uint8),
        )


class BatchLoop:
    """The C loop over some members, in a given order.

    Parameters
    ----------
    payloads : Payloads
        The archive.
    batches : sequence of batches
        Members, by position. Those of a batch lie side by side in the output memory, which all
        batches use in turn; batches of one member make it a loop over single members.
    skip : int
        Bytes at the start of each member that the other sides do not hand out.
    threads : int
        Each has an equal run of the members, and memory of its own.
    """

    def __init__(
        self,
        payloads: Payloads,
        batches: Batches,
        *,
        skip: int = 0,
        threads: int = 1,
    ) -> None:
        self._path = payloads.path
        self._fd = open_for(self, payloads.path)
        self._threads = threads
        order = np.concatenate([np.asarray(batch, np.int64) for batch in batches])
        columns: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(payloads, name)[order])
            for name in ("offset", "compressed_size", "size", "crc32", "is_deflated")
        }
        sizes = columns["size"].astype(np.int64)
        ends = np.cumsum(sizes)
        firsts = np.cumsum([0] + [len(batch) for batch in batches[:-1]])
        bases = np.repeat((ends - sizes)[firsts], [len(batch) for batch in batches])
        columns["target"] = (ends - sizes - bases).astype(np.uint64)
        stride = _whole_pages(int((ends - bases).max()))
        scratch_stride = _whole_pages(int(columns["compressed_size"].max()))
        # Ones, not zeros: every page is there before the clock starts.
        columns["output"] = np.ones(stride * threads, np.uint8)
        columns["scratch"] = np.ones(scratch_stride * threads, np.uint8)
        self._columns = columns
        self._total = int(ends[-1]) - skip * len(order)
        self._list = _BatchList(
            fd=self._fd,
            n=len(order),
            output_stride=stride,
            scratch_stride=scratch_stride,
            skip=skip,
            **{name: column.ctypes.data for name, column in columns.items()},
        )

    def run(self) -> None:
        """Read and check all members once.

        Raises
        ------
        RuntimeError
            If a member cannot be read or has another CRC-32.
        """
        self._run(self._threads)

    def digest(self) -> Digest:
        """Read all members with one thread, and tell what came out."""
        crc = ctypes.c_uint32(0)
        self._list.digest = ctypes.addressof(crc)
        try:
            self._run(1)
        finally:
            self._list.digest = None
        return Digest(self._total, crc.value)

    def _run(self, threads: int) -> None:
        bad = _library().limit_read(ctypes.byref(self._list), threads)
        if bad:
            raise RuntimeError(f"{self._path}: the limit loop fails at its member {bad - 1}")


class CopyLoop:
    """The C loop that copies memory: ``memcpy``, each thread an equal run.

    Parameters
    ----------
    size : int
        Bytes of the memory.
    times : int
        How often it is copied.
    threads : int
        How many there are.
    """

    def __init__(self, size: int, times: int, threads: int) -> None:
        self._times, self._threads = times, threads
        # Ones, not zeros: every page is there before the clock starts.
        self._from, self._to = np.ones(size, np.uint8), np.ones(size, np.uint8)

    def run(self) -> None:
        """Copy the memory, so many times.

        Raises
        ------
        RuntimeError
            If a thread cannot be started.
        """
        to, source = self._to.ctypes.data, self._from.ctypes.data
        if _library().limit_copy(to, source, len(self._to), self._times, self._threads):
            raise RuntimeError(f"{self._threads} threads cannot be started")


class DirectoryLoop:
    """The C loop over a central directory, into columns that are used again.

    Parameters
    ----------
    path : Path
        A ZIP whose directory has no ZIP64 fields and no comments.
    offset, size, count : int
        Where its directory lies, and how many entries it has.
    """

    def __init__(self, path: Path, offset: int, size: int, count: int) -> None:
        self._path = path
        self._fd = open_for(self, path)
        self._offset, self._size, self._count = offset, size, count
        self._directory = np.ones(size, np.uint8)
        dtypes = (np.uint64, np.uint64, np.uint64, np.uint32, np.uint16)
        self._columns: list[NDArray[Any]] = [np.ones(count, dtype) for dtype in dtypes]
        self._columns += [np.ones(count + 1, np.uint64), np.ones(size, np.uint8)]

    def run(self) -> None:
        """Read the directory once.

        Raises
        ------
        RuntimeError
            If it does not hold that many entries.
        """
        pointers = [column.ctypes.data for column in self._columns]
        found = _library().limit_scan(self._fd, self._offset, self._size, self._directory.ctypes.data, *pointers)
        if found != self._count:
            raise RuntimeError(f"{self._path}: the limit loop finds {found} entries")

    def names(self) -> bytes:
        """Return all names, one after the other, as `run` has left them."""
        return self._columns[-1][: int(self._columns[-2][-1])].tobytes()

    def total_size(self) -> int:
        """Return the bytes of all members, as `run` has left their sizes."""
        return int(self._columns[0].sum())


class TarLoop:
    """The C loop over the headers of a tar, into columns that are used again.

    Parameters
    ----------
    path : Path
        A tar in the ustar format, with names of less than 100 bytes.
    count : int
        How many members it has.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._fd = open_for(self, path)
        self._size, self._count = path.stat().st_size, count
        self._buffer = np.ones(1 << 20, np.uint8)
        self._columns: list[NDArray[Any]] = [np.ones(count, np.uint64), np.ones(count, np.uint64)]
        self._columns += [np.ones(count + 1, np.uint64), np.ones(count * 100, np.uint8)]

    def run(self) -> None:
        """Read the headers once.

        Raises
        ------
        RuntimeError
            If there are not that many members.
        """
        pointers = [column.ctypes.data for column in self._columns]
        buffer = self._buffer
        found = _library().limit_scan_tar(self._fd, self._size, buffer.ctypes.data, len(buffer), *pointers)
        if found != self._count:
            raise RuntimeError(f"{self._path}: the limit loop finds {found} members")

    def digest(self) -> Digest:
        """Read the headers; tell the bytes of all members and the CRC-32 of all names."""
        self.run()
        sizes, _, ends, names = self._columns
        return Digest(int(sizes.sum()), zlib.crc32(names[: int(ends[-1])].data))


def open_for(owner: object, path: Path) -> int:
    """Open a file for as long as its owner lives."""
    fd = os.open(path, os.O_RDONLY)
    weakref.finalize(owner, os.close, fd)
    return fd


def _whole_pages(size: int) -> int:
    """Round up, so that two threads never write to one cache line."""
    return (size + 4095) // 4096 * 4096
