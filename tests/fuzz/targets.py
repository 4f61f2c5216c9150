"""The table of targets."""

from __future__ import annotations

from . import seeds
from .against import run_differential, run_roundtrip
from .calls import call_seeds, run_calls
from .containers import run_records, run_tar, run_zip
from .frames import run_checkpoints, run_zstd
from .indexes import run_sidecar, sidecar_seeds
from .messages import run_deflate, run_example
from .repairs import repair_archive, repair_gzip, repair_records, repair_sidecar, repair_tar, repair_zip, repair_zstd
from .target import Target

__all__ = ["TARGETS"]

ZIP = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"up", b"\1\0\x18\0", b"\xff\xff\xff\xff")
TAR = (
    *(b"ustar\x0000", b"ustar  \0", b"\0" * 512, b"12 path=a\n", b"13 size=10\n", b"22 GNU.sparse.major=1\n"),
    *(b"22 GNU.sparse.minor=0\n", b"GNU.sparse.map=", b"GNU.sparse.offset=", b"GNU.sparse.numbytes=", b"linkpath="),
    *(b"GNU.sparse.size=", b"GNU.sparse.realsize=", b"GNU.sparse.numblocks=", b"GNU.sparse.name=", b"\x80\0\0\0"),
    *(b"x", b"g", b"L", b"K", b"S", b"1", b"hdrcharset=BINARY\n"),
)
ZSTD = (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\x5e\x2a\x4d\x18", b"\xb1\xea\x92\x8f", b"\x37\xa4\x30\xec")
SIDECAR = (b'"U64"', b'"data_offsets":[', b"block_start", b"successor", b"gzip_index", b"partial", b"extent_place")
EVERY = (*ZIP, *TAR, *ZSTD)

_ALL = (
    Target("zip", run_zip, seeds.zips, repair_zip, ZIP),
    Target("tar", run_tar, seeds.tars, repair_tar, TAR, max_len=16 << 10),
    Target("zstd", run_zstd, seeds.zsts, repair_zstd, ZSTD),
    Target("checkpoints", run_checkpoints, seeds.streams, repair_zstd, ZSTD),
    Target("sidecar", run_sidecar, sidecar_seeds, repair_sidecar, SIDECAR, max_len=64 << 10),
    Target("tfrecord", run_records, seeds.tfrecords, repair_records),
    Target("example", run_example, seeds.examples, max_len=4 << 10),
    Target("deflate", run_deflate, seeds.deflated, repair_gzip),
    Target("roundtrip", run_roundtrip, seeds.archives, repair_archive, EVERY, engine="atheris"),
    Target("differential", run_differential, seeds.archives, repair_archive, EVERY, engine="atheris"),
    Target("api", run_calls, call_seeds, max_len=512, engine="atheris"),
)
TARGETS = {target.name: target for target in _ALL}
