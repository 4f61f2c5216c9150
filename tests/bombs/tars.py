"""Bombs in a tar: headers of nothing, extended headers that are inherited or never end, maps of sparse files."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterable
from pathlib import Path

import tarmaker as tar
import zstandard

from bombs.bomb import bomb


def _zst(path: Path, parts: Iterable[bytes]) -> None:
    """Write one frame."""
    with zstandard.open(path, "wb", cctx=zstandard.ZstdCompressor(level=3)) as file:
        for part in parts:
            file.write(part)


def _chunks(one: bytes, n: int) -> Iterable[bytes]:
    """The same bytes n times, and the end of a tar."""
    return itertools.chain(itertools.repeat(one * 1000, n // 1000), (one * (n % 1000), tar.END))


@bomb("tar.zst", full=10_000_000, small=700_000, factor=512)  # twice Limits.max_index_ratio, while it grows
def empty_headers_zst(path: Path, n: int) -> None:
    """Headers of nothing, in one frame of zstd."""
    _zst(path, _chunks(tar.header(b"n" * 100), n))


@bomb("tar.gz", full=10_000_000, small=600_000, factor=512)  # the same
def empty_headers_gz(path: Path, n: int) -> None:
    """Headers of nothing, in gzip."""
    with gzip.open(path, "wb", 1) as file:
        file.writelines(_chunks(tar.header(b"n" * 100), n))


@bomb("tar", full=2_000_000, small=100_000)
def empty_headers(path: Path, n: int) -> None:
    """Headers of nothing."""
    with path.open("wb") as file:
        file.writelines(_chunks(tar.header(b"n" * 100), n))


@bomb("tar", full=8000, small=300)
def global_path(path: Path, n: int) -> None:
    """Headers that inherit a global path of 1 MiB."""
    body = tar.pax((b"path", b"p" * ((1 << 20) - 30)), kind=b"g") + tar.header() * n + tar.END
    path.write_bytes(body)


@bomb("tar", full=8000, small=300)
def global_link(path: Path, n: int) -> None:
    """Links that inherit a global target of 1 MiB."""
    body = tar.pax((b"linkpath", b"p" * ((1 << 20) - 30)), kind=b"g") + tar.header(kind=b"1") * n + tar.END
    path.write_bytes(body)


@bomb("tar.zst", full=8000, small=300)
def global_path_zst(path: Path, n: int) -> None:
    """Headers that inherit a global path of 1 MiB, in zstd."""
    _zst(path, (tar.pax((b"path", b"p" * ((1 << 20) - 30)), kind=b"g"), tar.header() * n + tar.END))


@bomb("tar", full=300_000, small=20_000)
def global_headers(path: Path, n: int) -> None:
    """Global headers, each with other records."""
    with path.open("wb") as file:
        file.writelines(tar.pax((b"key.%d" % i, b"v" * 400), kind=b"g") for i in range(n))
        file.write(tar.member() + tar.END)


@bomb("tar", full=400, small=20)
def pax_records(path: Path, n: int) -> None:
    """Extended headers of 60,000 records each."""
    records = b"".join(tar.record(b"k%05d" % i, b"v") for i in range(60_000))
    path.write_bytes((tar.pax(records) + tar.member()) * n + tar.END)


@bomb("tar", full=400, small=20)
def pax_values(path: Path, n: int) -> None:
    """Extended headers with a comment of nearly 1 MiB."""
    path.write_bytes((tar.pax((b"comment", b"v" * 1_048_000)) + tar.member()) * n + tar.END)


@bomb("tar", full=1 << 40, small=1 << 40)
def pax_size(path: Path, n: int) -> None:
    """Bytes that an extended header says that it has."""
    path.write_bytes(tar.header(b"x", tar.base256(n), kind=b"x") + bytes(4096))


@bomb("tar", full=200_000, small=20_000)
def pax_chain(path: Path, n: int) -> None:
    """Extended headers before one member."""
    path.write_bytes(tar.pax((b"comment", b"c")) * n + tar.member() + tar.END)


@bomb("tar", full=200_000, small=20_000)
def long_name_chain(path: Path, n: int) -> None:
    """Long names before one member."""
    path.write_bytes(tar.long_name(b"n" * 500) * n + tar.member() + tar.END)


@bomb("tar", full=400, small=20)
def long_names_tar(path: Path, n: int) -> None:
    """Long names of nearly 1 MiB."""
    path.write_bytes((tar.long_name(b"n" * 1_048_000) + tar.member()) * n + tar.END)


_SPARSE = (
    (b"GNU.sparse.major", b"1"),
    (b"GNU.sparse.minor", b"0"),
    (b"GNU.sparse.name", b"s"),
)


def _sparse(size: int, payload: bytes) -> bytes:
    return tar.pax(*_SPARSE, (b"GNU.sparse.realsize", b"%d" % size)) + tar.member(b"s", payload) + tar.END


@bomb("tar", full=10**18, small=10**18, action="test")
def sparse_count(path: Path, n: int) -> None:
    """Extents that the map of a sparse file says that it has."""
    path.write_bytes(_sparse(1 << 30, tar.block(b"%d\n0\n0\n" % n)))


@bomb("tar", full=200_000, small=20_000, action="test")
def sparse_extents(path: Path, n: int) -> None:
    """Extents of nothing in the map of a sparse file."""
    path.write_bytes(_sparse(1 << 20, tar.block(b"%d\n" % n + b"0\n0\n" * n)))


@bomb("tar.zst", full=4 << 30, small=256 << 20)
def sparse_zeros(path: Path, n: int) -> None:
    """Bytes of leading zeros in the map of a sparse file."""

    def parts() -> Iterable[bytes]:
        yield tar.pax(*_SPARSE, (b"GNU.sparse.realsize", b"9"))
        yield tar.header(b"s", tar.base256(n))
        # A line ends within the last bytes of each window, so that the next number goes on into the next one.
        at, window = 0, 512
        while at < n:
            end = min(window, n) - 5
            first = b"10000" if not at else b""
            yield from _zeros_of_text(end - at - 1 - len(first))
            yield first + b"\n"
            at, window = end, window * 2
            if window > n:
                yield from _zeros_of_text(n - at)
                return

    _zst(path, parts())


def _zeros_of_text(size: int) -> Iterable[bytes]:
    block = b"0" * (1 << 20)
    return (block[: size - at] for at in range(0, size, 1 << 20))


@bomb("tar.zst", full=8 << 30, small=256 << 20, action="test")
def sparse_size(path: Path, n: int) -> None:
    """Bytes of a sparse file of which there are five."""
    _zst(path, (_sparse(n, tar.block(b"1\n0\n5\n") + b"there"),))


@bomb("tar", full=1_000_000, small=50_000)
def hard_links(path: Path, n: int) -> None:
    """Links, each to the one before."""
    links = (tar.header(b"%d" % (i + 1), kind=b"1", link=b"%d" % i) for i in range(n))
    with path.open("wb") as file:
        file.write(tar.member(b"0"))
        file.writelines(links)
        file.write(tar.END)
