"""From the bytes of a member to a sample."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeAlias

from archivestream.errors import CorruptArchiveError
from archivestream.npy import decode_array

__all__ = ["Decoder", "decoder"]

# From the bytes of a member to a sample.
Decoder: TypeAlias = Callable[[bytes], Any]


def decoder(decode: str | Decoder | None) -> Decoder | None:
    """Find the decoder that a user means.

    Parameters
    ----------
    decode : {"image", "numpy"}, callable or None
        ``"image"``: a `PIL.Image.Image` in RGB; ``"numpy"``: the array of a ``.npy`` file; a callable: what it makes
        of the bytes; None: the bytes.

    Raises
    ------
    ImportError
        If the package that a decoder needs is not installed; the message names the extra.
    ValueError
        If there is no such decoder.
    """
    if decode is None or callable(decode):
        return decode
    if decode == "image":
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise ImportError("decode='image' needs Pillow: pip install 'archivestream[image]'") from error
        return decode_image
    if decode == "numpy":
        return decode_numpy
    raise ValueError(f"decode must be 'image', 'numpy', a callable or None, not {decode!r}")


def decode_image(data: bytes) -> Any:
    """Decode an image to RGB with Pillow, as torchvision's ImageFolder does.

    Raises
    ------
    CorruptArchiveError
        If Pillow cannot read it.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # of any type: Pillow has a plugin for each format, and each fails in its own way
        raise CorruptArchiveError(f"Pillow cannot read the image: {error}") from error


def decode_numpy(data: bytes) -> Any:
    """Decode a ``.npy`` file; objects are refused."""
    return decode_array(data, None, None)
