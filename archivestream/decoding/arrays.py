"""NumPy's ``.npy`` and ``.npz`` files; nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from archivestream.archive import open
from archivestream.errors import ArchiveError, CorruptArchiveError, LimitExceededError
from archivestream.limits import Limits
from archivestream.npy import decode_array

__all__ = ["NpzDecoder", "NumpyDecoder"]

_SUFFIX = ".npy"


@dataclass(frozen=True)
class NumpyDecoder:
    """From a ``.npy`` file to its array, a new one that may be written to: ``decode="numpy"``."""

    def __call__(self, data: memoryview) -> NDArray[Any]:
        """Decode a file.

        Raises
        ------
        CorruptArchiveError
            If it is no ``.npy`` file, or holds more or fewer bytes than its shape takes.
        UnsupportedFeatureError
            If it holds Python objects, which would have to be unpickled.
        """
        return decode_array(data, None, None)


@dataclass(frozen=True)
class NpzDecoder:
    """From a ``.npz`` file, as `numpy.savez` writes them, to a dict of its arrays by name: ``decode="npz"``.

    Parameters
    ----------
    max_bytes : int
        Files whose arrays take more together are refused before memory is taken.
    """

    max_bytes: int = 1 << 30

    def __call__(self, data: memoryview) -> dict[str, NDArray[Any]]:
        """Decode a file.

        Raises
        ------
        CorruptArchiveError
            If it is no ZIP file of ``.npy`` files, or a damaged one.
        UnsupportedFeatureError
            If an array holds Python objects, which would have to be unpickled.
        LimitExceededError
            If the arrays take more than `max_bytes`.
        """
        try:
            with open(data, index="memory", threads=1, limits=Limits(max_member_bytes=self.max_bytes)) as archive:
                total = sum(archive.sizes.tolist())
                if total > self.max_bytes:
                    raise LimitExceededError(
                        f"its arrays take {total} bytes; NpzDecoder(max_bytes={self.max_bytes}) allows no more"
                    )
                arrays = {}
                for name, member in zip(archive.names, archive.read_many(range(len(archive))), strict=True):
                    if not name.endswith(_SUFFIX):
                        raise CorruptArchiveError("it is no .npy file", member=name)
                    arrays[name.removesuffix(_SUFFIX)] = decode_array(member, None, name)
                return arrays
        except ArchiveError as error:
            if error.member is None:
                raise type(error)(error.reason) from error
            raise type(error)(f"its member {error.member!r}: {error.reason}") from error
