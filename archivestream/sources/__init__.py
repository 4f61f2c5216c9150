"""Sources: where the bytes of an archive come from. A source serves ranges, and does nothing else."""

from archivestream.sources.base import Source
from archivestream.sources.local import LocalSource, OpenFileSource
from archivestream.sources.memory import FileObjectSource, MemorySource

__all__ = ["FileObjectSource", "LocalSource", "MemorySource", "OpenFileSource", "Source"]
