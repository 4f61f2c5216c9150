"""Images: JPEG through libjpeg-turbo, everything else through Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from archivestream.errors import CorruptArchiveError, LimitExceededError

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["ImageDecoder", "decode_pil", "find_pil"]

_Result = TypeVar("_Result")

_JPEG = b"\xff\xd8\xff"
_MAX_PIXELS = 178_956_970  # where Pillow refuses an image, too
_COLOURS = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}  # of a JPEG, as it is; CMYK is left to Pillow
# Modes of Pillow that NumPy does not have, or that are no colours as one means them.
_AS_IS = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
_DTYPES = {"I": np.int32, "F": np.float32}
_MISSING = "images need {}: pip install 'archivestream[image]'"


@dataclass(frozen=True)
class ImageDecoder:
    """From an encoded image to an array of its pixels: ``decode="image"``.

    JPEG is decoded by libjpeg-turbo (simplejpeg), which releases the GIL and gives the same pixels as Pillow; what it
    refuses, and every other format, is decoded by Pillow. Of several frames, the first is taken. The orientation that
    EXIF may speak of is not applied: pixels come as they are stored, as from Pillow and torchvision's ImageFolder.

    Parameters
    ----------
    mode : "RGB" or None
        ``"RGB"``: shape (height, width, 3), uint8, whatever the image holds, converted as Pillow does: transparency is
        dropped, grey is repeated, and 16 bits are cut off at 255. None: as it is: grey has shape (height, width), in
        the type that it has (uint8, uint16, int32 or float32), grey with transparency (height, width, 2), colours
        (height, width, 3), with transparency or in CMYK (height, width, 4); a palette is replaced by its colours.
    max_pixels : int
        Larger images are refused before memory is taken. Pillow has a bound of its own (``Image.MAX_IMAGE_PIXELS``),
        which is to be raised, too, for images other than JPEG.

    Raises
    ------
    ImportError
        If Pillow or simplejpeg is not installed.
    ValueError
        If there is no such mode.

    Notes
    -----
    A decoder that can fill a given array (`archivestream.decoding.ArrayDecoder`). Safe for any number of threads.
    """

    mode: Literal["RGB"] | None = "RGB"
    max_pixels: int = _MAX_PIXELS

    def __post_init__(self) -> None:
        if self.mode not in ("RGB", None):
            raise ValueError(f"the mode of an ImageDecoder is 'RGB' or None, not {self.mode!r}")
        try:
            import PIL.Image  # noqa: F401
            import simplejpeg  # noqa: F401
        except ImportError as error:
            raise ImportError(_MISSING.format("Pillow and simplejpeg")) from error

    def __call__(self, data: memoryview) -> NDArray[Any]:
        """Decode to a new array.

        Raises
        ------
        CorruptArchiveError
            If it is no image, or a damaged one.
        LimitExceededError
            If it has more than `max_pixels`.
        """
        colours = self._jpeg_header(data)
        if colours is not None:
            image = _decode_jpeg(data, colours[1], None)
            if image is not None:
                return image.reshape(colours[0])
        return self._read(data)

    def shape(self, data: memoryview) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the type of the array, from the header alone.

        Raises
        ------
        CorruptArchiveError, LimitExceededError
            As decoding does.
        """
        colours = self._jpeg_header(data)
        if colours is not None:
            return colours[0], np.dtype(np.uint8)
        return _read(data, self._describe, self.max_pixels)

    def into(self, data: memoryview, out: NDArray[Any]) -> None:
        """Decode into an array of the shape and type that `shape` tells; a JPEG, with no copy between.

        Parameters
        ----------
        data : memoryview
            The encoded image.
        out : ndarray
            C-contiguous and writable. What it holds after an error is undefined.

        Raises
        ------
        ValueError
            If `out` does not fit the image.
        CorruptArchiveError, LimitExceededError
            As decoding does.
        """
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("out must be C-contiguous and writable")
        colours = self._jpeg_header(data)
        if colours is not None:
            _check_fit(out, colours[0], np.dtype(np.uint8))
            if _decode_jpeg(data, colours[1], out) is not None:
                return
        image = self._read(data)
        _check_fit(out, image.shape, image.dtype)
        out[...] = image

    def _jpeg_header(self, data: memoryview) -> tuple[tuple[int, ...], str] | None:
        """Return the shape and the colours to decode to, or None for what is left to Pillow."""
        if data[:3] != _JPEG:
            return None
        import simplejpeg

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:  # no JPEG, a damaged one, or of a kind that libjpeg-turbo does not decode
            return None
        if colours not in _COLOURS:
            return None
        _check_pixels(height, width, self.max_pixels)
        wanted = self.mode or _COLOURS[colours]
        return (height, width, 3) if wanted == "RGB" else (height, width), wanted

    def _read(self, data: memoryview) -> NDArray[Any]:
        return _read(data, lambda image: _to_array(_convert(image, self.mode or _mode_as_is(image))), self.max_pixels)

    def _describe(self, image: PIL.Image.Image) -> tuple[tuple[int, ...], np.dtype[Any]]:
        from PIL import ImageMode

        mode = self.mode or _mode_as_is(image)
        bands = len(ImageMode.getmode(mode).bands)
        shape = (image.height, image.width, bands) if bands > 1 else (image.height, image.width)
        return shape, np.dtype(np.uint16 if mode.startswith("I;16") else _DTYPES.get(mode, np.uint8))


def find_pil() -> Callable[[memoryview], PIL.Image.Image]:
    """Return `decode_pil`; raises `ImportError` where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(_MISSING.format("Pillow")) from error
    return decode_pil


def decode_pil(data: memoryview) -> PIL.Image.Image:
    """Decode an image to RGB with Pillow, as torchvision's ImageFolder does: ``decode="pil"``.

    Raises
    ------
    CorruptArchiveError
        If Pillow cannot read it.
    LimitExceededError
        If it has more pixels than Pillow allows (``Image.MAX_IMAGE_PIXELS``).
    """
    return _read(data, lambda image: _convert(image, "RGB"), None)


def _decode_jpeg(data: memoryview, colours: str, out: NDArray[Any] | None) -> NDArray[Any] | None:
    """Decode with libjpeg-turbo; None where it finds something wrong, of which Pillow has the last word."""
    import simplejpeg

    try:
        image: NDArray[Any] = simplejpeg.decode_jpeg(data, colours, buffer=out)
    except ValueError:
        return None
    return image


def _read(data: memoryview, use: Callable[[PIL.Image.Image], _Result], max_pixels: int | None) -> _Result:
    """Open an image with Pillow, and return what is made of it."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if max_pixels is not None:
                _check_pixels(image.height, image.width, max_pixels)
            return use(image)
    except (MemoryError, Warning, LimitExceededError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise LimitExceededError(f"{error}; PIL.Image.MAX_IMAGE_PIXELS allows more") from error
    except Exception as error:  # of any type: Pillow has a plugin for each format, and each fails in its own way
        raise CorruptArchiveError(f"Pillow cannot read the image: {error}") from error


def _convert(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # at once to RGB gives the same, and a warning
    return image.convert(mode)


def _mode_as_is(image: PIL.Image.Image) -> str:
    if image.mode in ("P", "PA"):
        return "RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB"
    return _AS_IS.get(image.mode, image.mode)


def _to_array(image: PIL.Image.Image) -> NDArray[Any]:
    pixels = np.array(image)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _check_pixels(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise LimitExceededError(
            f"the image has {width} x {height} pixels, more than {most}; ImageDecoder(max_pixels=...) allows more"
        )


def _check_fit(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out has shape {out.shape} and type {out.dtype}; the image has {shape} and {dtype}")
