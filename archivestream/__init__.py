"""Train models straight from the archives you already have: nothing extracted, nothing converted.

>>> import archivestream
>>> archive = archivestream.open("images.zip")
>>> archive["cat/001.jpg"], archive[0], archive.read_batch(range(256))

`open` is where to begin. `ArchiveDataset` needs PyTorch, and is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archivestream import deflate
from archivestream._version import __version__
from archivestream.archive import Archive, open
from archivestream.background import BackgroundIterator, background
from archivestream.batch import Batch, PendingBatch
from archivestream.cache import Cache, CacheStats
from archivestream.errors import (
    ArchiveChangedError,
    ArchiveError,
    ArchiveWarning,
    CorruptArchiveError,
    CudaUnavailableError,
    EncryptedMemberError,
    LimitExceededError,
    MemberNotFoundError,
    SourceError,
    UnsupportedFeatureError,
)
from archivestream.limits import Limits
from archivestream.members import Member
from archivestream.stats import LoaderStats, TransferStats
from archivestream.summary import Summary
from archivestream.verification import VerifyReport

if TYPE_CHECKING:
    from archivestream import tfrecord
    from archivestream.collating import Packed, Padded
    from archivestream.dataset import ArchiveDataset
    from archivestream.decoding import register_decoder
    from archivestream.finishing import Normalize
    from archivestream.loader import ArchiveLoader
    from archivestream.manifest import Manifest
    from archivestream.packing import ShardPacker, TarZstPacker, ZipPacker, pack, repack
    from archivestream.sampling import ArchiveSampler, OrderReport

__all__ = [
    "Archive",
    "ArchiveChangedError",
    "ArchiveDataset",
    "ArchiveError",
    "ArchiveLoader",
    "ArchiveSampler",
    "ArchiveWarning",
    "BackgroundIterator",
    "Batch",
    "Cache",
    "CacheStats",
    "CorruptArchiveError",
    "CudaUnavailableError",
    "EncryptedMemberError",
    "LimitExceededError",
    "Limits",
    "LoaderStats",
    "Manifest",
    "Member",
    "MemberNotFoundError",
    "Normalize",
    "OrderReport",
    "Packed",
    "Padded",
    "PendingBatch",
    "ShardPacker",
    "SourceError",
    "Summary",
    "TarZstPacker",
    "TransferStats",
    "UnsupportedFeatureError",
    "VerifyReport",
    "ZipPacker",
    "__version__",
    "background",
    "deflate",
    "open",
    "pack",
    "register_decoder",
    "repack",
    "tfrecord",
]

# What needs an optional package, or what not everybody needs: imported on first use.
_LAZY = {
    "ArchiveDataset": "archivestream.dataset",
    "ArchiveLoader": "archivestream.loader",
    "Manifest": "archivestream.manifest",
    "Normalize": "archivestream.finishing",
    **dict.fromkeys(("Packed", "Padded"), "archivestream.collating"),
    "register_decoder": "archivestream.decoding",
    **dict.fromkeys(("ArchiveSampler", "OrderReport"), "archivestream.sampling"),
    **dict.fromkeys(("ShardPacker", "TarZstPacker", "ZipPacker", "pack", "repack"), "archivestream.packing"),
    "tfrecord": "archivestream.tfrecord",  # the module itself
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        module = import_module(_LAZY[name])
        return getattr(module, name, module)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
