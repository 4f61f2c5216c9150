"""Audio: WAV by itself, everything else through libsndfile.

A WAV file is a RIFF file of chunks, each an identifier, a size and so many bytes, padded to an even number::

    "RIFF" size "WAVE"
    "fmt " size   format u16, channels u16, rate u32, bytes a second u32, bytes a frame u16, bits a sample u16
                  and, where the format is FFFE, 10 bytes more before the GUID whose first two are the format
    "data" size   the frames, little-endian, the samples of all channels of one after the other

(Multimedia Programming Interface and Data Specifications 1.0, IBM and Microsoft, 1991; WAVEFORMATEXTENSIBLE.)
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream.errors import CorruptArchiveError, LimitExceededError

__all__ = ["AudioDecoder"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF  # of a file that was written to a pipe
_PIECE = 1 << 16  # frames


@dataclass(frozen=True)
class AudioDecoder:
    """From an audio file to its samples and their rate: ``decode="audio"``, or ``"wav"``.

    Returns what ``soundfile.read(dtype="float32", always_2d=True)`` does: an array of shape (frames, channels),
    float32, whole numbers scaled to [-1, 1), and the rate in frames a second. WAV of 8, 16, 24 or 32 bits, or 32 or 64
    in floating point, needs no other package; other WAV, FLAC, OGG and what else libsndfile reads, needs soundfile.

    Parameters
    ----------
    max_bytes : int
        Files whose samples take more are refused before memory is taken.
    """

    max_bytes: int = 1 << 30

    def __call__(self, data: memoryview) -> tuple[NDArray[np.float32], int]:
        """Decode a file.

        Raises
        ------
        CorruptArchiveError
            If it is no audio file, or a damaged one.
        LimitExceededError
            If the samples take more than `max_bytes`.
        ImportError
            If it is no plain WAV, and soundfile is not installed.
        """
        if bytes(data[:4]) == b"RIFF" and bytes(data[8:12]) == b"WAVE":
            found = _find_wave(data)
            if found is not None:
                self._check(found.frames.nbytes // found.frames.itemsize)
                return found.samples(), found.rate
        return self._read_soundfile(data)

    def _read_soundfile(self, data: memoryview) -> tuple[NDArray[np.float32], int]:
        try:
            import soundfile
        except ImportError as error:
            raise ImportError(
                "audio other than plain WAV needs soundfile: pip install 'archivestream[audio]'"
            ) from error
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                # Piece by piece: the number of frames in a header may be anything.
                pieces = [np.empty((0, file.channels), np.float32)]
                total = 0
                while len(piece := file.read(_PIECE, dtype="float32", always_2d=True)):
                    total += piece.size
                    self._check(total)
                    pieces.append(piece)
                return np.concatenate(pieces), file.samplerate
        except soundfile.SoundFileError as error:
            raise CorruptArchiveError(f"soundfile cannot read the audio: {error}") from error

    def _check(self, samples: int) -> None:
        if samples * np.dtype(np.float32).itemsize > self.max_bytes:
            raise LimitExceededError(
                f"its samples take more than {self.max_bytes} bytes; AudioDecoder(max_bytes=...) allows more"
            )


@dataclass(frozen=True)
class _Wave:
    """The frames of a plain WAV file, where they lie."""

    frames: NDArray[Any]  # of shape (frames, channels), or (frames, channels, 3) for 24 bits
    rate: int

    def samples(self) -> NDArray[np.float32]:
        if self.frames.ndim == 3:
            wide = np.zeros((*self.frames.shape[:2], 4), np.uint8)
            wide[..., 1:] = self.frames  # as the upper bytes of 32 bits
            return (wide.view("<i4")[..., 0] / np.float32(1 << 31)).astype(np.float32)
        if self.frames.dtype == np.uint8:
            return (self.frames.astype(np.float32) - 128) / np.float32(128)
        if self.frames.dtype.kind == "i":
            return self.frames.astype(np.float32) / np.float32(1 << (8 * self.frames.itemsize - 1))
        return self.frames.astype(np.float32)


def _find_wave(data: memoryview) -> _Wave | None:
    """Find the frames of a WAV file; None for a kind that is left to libsndfile."""
    layout: tuple[int, ...] = ()
    place = 12
    while place + 8 <= len(data):
        name, size = bytes(data[place : place + 4]), int.from_bytes(data[place + 4 : place + 8], "little")
        place += 8
        room = len(data) - place
        if name == b"data" and size == _UNKNOWN_SIZE:
            size = room
        if size > room:
            raise CorruptArchiveError(f"its chunk {name!r} has {size} bytes, and {room} are left of the file")
        if name == b"fmt ":
            if size < 16:
                raise CorruptArchiveError(f"its format takes {size} bytes, and there are 16 at least")
            layout = struct.unpack_from("<HHIIHH", data, place)
            if layout[0] == _EXTENSIBLE and size >= 26:
                layout = (*struct.unpack_from("<H", data, place + 24), *layout[1:])
        elif name == b"data":
            if not layout:
                raise CorruptArchiveError("its samples come before their format")
            return _cut(data[place : place + size], *layout)
        place += size + size % 2
    raise CorruptArchiveError("there are no samples in it")


def _cut(data: memoryview, kind: int, channels: int, rate: int, _: int, width: int, bits: int) -> _Wave | None:
    types = {(_PCM, 8): "u1", (_PCM, 16): "<i2", (_PCM, 24): "u1", (_PCM, 32): "<i4", (_FLOAT, 32): "<f4"}
    types[_FLOAT, 64] = "<f8"
    if (kind, bits) not in types:
        return None
    if channels == 0 or rate == 0 or width != channels * bits // 8:
        raise CorruptArchiveError(f"{channels} channels of {bits} bits make no frame of {width} bytes, {rate} a second")
    count = len(data) // width
    shape = (count, channels, 3) if bits == 24 else (count, channels)
    flat = np.frombuffer(data[: count * width], types[kind, bits])
    return _Wave(flat.reshape(shape), rate)
