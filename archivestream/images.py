"""Images: JPEG through libjpeg-turbo, everything else through Pillow; and batches of them, decoded to their places."""

from __future__ import annotations

import io
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from archivestream.errors import ArchiveError, CorruptArchiveError, LimitExceededError, UnsupportedFeatureError
from archivestream.index import MemberIds
from archivestream.jpeg import check_scans
from archivestream.reader import Allocate, MemberReader, take_bytes, without_frames

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["ImageDecoder", "decode_pil", "find_pil", "read_images"]

_Result = TypeVar("_Result")

_JPEG = b"\xff\xd8\xff"
_MAX_PIXELS = 178_956_970  # where Pillow refuses an image, too
_COLOURS = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}  # of a JPEG, as it is; CMYK is left to Pillow
# Modes of Pillow that NumPy does not have, or that are no colours as one means them.
_AS_IS = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
_DTYPES = {"I": np.int32, "F": np.float32}
_MISSING = "images need {}: pip install 'archivestream[image]'"
_JPEGS = ("JPEG", "MPO")
_WITH_JPEG = ("BLP", "FPX", "IPTC")  # formats of Pillow that may hold one (libtiff bounds its own)
_PIECE = 8  # images that a thread takes at once


class _Jpeg(NamedTuple):
    """How a JPEG is decoded.

    The shape of its pixels, the colours, how many pixels it has and how many are allowed, and how high and wide it is
    decoded at least.
    """

    shape: tuple[int, ...]
    colours: str
    pixels: tuple[int, int]
    least: tuple[int, int] = (0, 0)  # as large as it is


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
    size : (int, int), optional
        Height and width that every image is brought to, whatever its proportions, as by torchvision's
        ``Resize((h, w))`` and Pillow's ``resize((w, h))``; with ``mode="RGB"`` only. A JPEG that is larger is decoded
        at the smallest M/8 of its size (M from 1 to 8) that is not below `size`, so that libjpeg-turbo leaves out what
        is not needed; for one that is left to Pillow, ``draft`` does so at 1/2, 1/4 or 1/8. Pillow does the rest, if
        any, with its bilinear filter, which averages where it scales down. Default: each image as large as it is.
    max_pixels : int
        Larger images are refused before memory is taken, whatever `size`, and a JPEG that would be decoded too many
        times over: in more than 500 scans, or in more than 32 where it is that large. Pillow has a bound of its own
        (``Image.MAX_IMAGE_PIXELS``), which is to be raised, too, for images other than JPEG.

    Raises
    ------
    ImportError
        If Pillow or simplejpeg is not installed.
    ValueError
        If there is no such mode or size.

    Notes
    -----
    A decoder that can fill a given array (`archivestream.decoding.ArrayDecoder`). Safe for any number of threads.
    """

    mode: Literal["RGB"] | None = "RGB"
    size: tuple[int, int] | None = None
    max_pixels: int = _MAX_PIXELS

    def __post_init__(self) -> None:
        if self.mode not in ("RGB", None):
            raise ValueError(f"the mode of an ImageDecoder is 'RGB' or None, not {self.mode!r}")
        if self.size is not None:
            object.__setattr__(self, "size", _check_size(self.size))
            if self.mode is None:
                raise ValueError("images are brought to a size with mode='RGB' only")
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
        if self.size is not None:
            out = np.empty((*self.size, 3), np.uint8)
            self.into(data, out)
            return out
        jpeg = self._jpeg_header(data)
        if jpeg is not None:
            image = _decode_jpeg(data, jpeg, None)
            if image is not None:
                return image.reshape(jpeg.shape)
        return self._read(data)

    def shape(self, data: memoryview) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the type of the array, from the header alone.

        Raises
        ------
        CorruptArchiveError, LimitExceededError
            As decoding does.
        """
        jpeg = self._jpeg_header(data)
        if self.size is not None:
            if jpeg is None:
                _read(data, lambda image: None, self.max_pixels)
            return (*self.size, 3), np.dtype(np.uint8)
        if jpeg is not None:
            return jpeg.shape, np.dtype(np.uint8)
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
        if self.size is not None:
            _check_fit(out, (*self.size, 3), np.dtype(np.uint8))
        jpeg = self._jpeg_header(data)
        if jpeg is not None and (self.size is None or jpeg.shape == out.shape):
            _check_fit(out, jpeg.shape, np.dtype(np.uint8))
            if _decode_jpeg(data, jpeg, out) is not None:
                return
        elif jpeg is not None and self.size is not None:
            pixels = _decode_jpeg(data, jpeg, None)
            if pixels is not None:
                out[...] = _resize(pixels, self.size)
                return
        image = self._read(data)
        _check_fit(out, image.shape, image.dtype)
        out[...] = image

    def _jpeg_header(self, data: memoryview) -> _Jpeg | None:
        """Return how to decode a JPEG, or None for what is left to Pillow."""
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
        wanted, pixels = self.mode or _COLOURS[colours], (height * width, self.max_pixels)
        if self.size is None:
            return _Jpeg((height, width, 3) if wanted == "RGB" else (height, width), wanted, pixels)
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, *self.size)
        return _Jpeg((height, width, 3), wanted, pixels, self.size)

    def _read(self, data: memoryview) -> NDArray[Any]:
        return _read(data, self._decode, self.max_pixels)

    def _decode(self, image: PIL.Image.Image) -> NDArray[Any]:
        if self.size is None:
            return _to_array(_convert(image, self.mode or _mode_as_is(image)))
        image.draft(None, self.size[::-1])
        return _resize(_convert(image, "RGB"), self.size)

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


def _decode_jpeg(data: memoryview, jpeg: _Jpeg, out: NDArray[Any] | None) -> NDArray[Any] | None:
    """Decode with libjpeg-turbo; None where it finds something wrong, of which Pillow has the last word."""
    import simplejpeg

    check_scans(data, *jpeg.pixels)
    try:
        image: NDArray[Any] = simplejpeg.decode_jpeg(
            data, jpeg.colours, min_height=jpeg.least[0], min_width=jpeg.least[1], buffer=out
        )
    except ValueError:
        return None
    return image


def _read(data: memoryview, use: Callable[[PIL.Image.Image], _Result], max_pixels: int | None) -> _Result:
    """Open an image with Pillow, and return what is made of it."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            if image.format == "EPS":
                raise UnsupportedFeatureError("it is PostScript, a program, which is not run")
            if max_pixels is not None:
                _check_pixels(image.height, image.width, max_pixels)
            most = _MAX_PIXELS if max_pixels is None else max_pixels
            if image.format in _JPEGS:
                check_scans(data, image.height * image.width, most)
            elif image.format in _WITH_JPEG:  # of a size of its own
                check_scans(data, most, most, embedded=True)
            return use(image)
    except (MemoryError, Warning, LimitExceededError, UnsupportedFeatureError):
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


def _resize(image: PIL.Image.Image | NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an image in RGB to a height and a width."""
    import PIL.Image

    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    if image.size != size[::-1]:
        image = image.resize(size[::-1], PIL.Image.Resampling.BILINEAR)
    return np.asarray(image)


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        raise ValueError(f"the size of images is (height, width), not {size!r}") from None
    if height < 1 or width < 1:
        raise ValueError(f"the size of images is 1 pixel or more each way, not {size!r}")
    return height, width


def _check_pixels(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise LimitExceededError(
            f"the image has {width} x {height} pixels, more than {most}; ImageDecoder(max_pixels=...) allows more"
        )


def _check_fit(out: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out has shape {out.shape} and type {out.dtype}; the image has {shape} and {dtype}")


class _Encoded:
    """The encoded images of a batch; what is wrong with one is kept under its place, or raised if nobody keeps it."""

    def __init__(self, reader: MemberReader, members: MemberIds, bad: dict[int, Exception] | None) -> None:
        data, offsets = reader.read_batch(members, None, bad)
        self._data = data.data
        self._bounds = offsets.tolist()
        self._reader = reader
        self._members = members
        self._bad = bad

    def decode(self, place: int, decode: Callable[[memoryview], _Result]) -> _Result | None:
        """Decode one; None where it is bad."""
        try:
            return decode(self._data[self._bounds[place] : self._bounds[place + 1]])
        except (ArchiveError, MemoryError, ValueError) as error:
            named = self._name(error, int(self._members[place]))
            if self._bad is None:
                raise named from error
            self._bad[place] = without_frames(named)
            return None

    def _name(self, error: Exception, member: int) -> Exception:
        """Say in an exception which archive and which member it is about."""
        archive, name = self._reader.archive_name(member), self._reader.index.name(member)
        if isinstance(error, ArchiveError):
            return type(error)(error.reason, archive=archive, member=name)
        if isinstance(error, MemoryError):
            return MemoryError(f"{archive}: member {name!r}: no memory to decode it")
        return ValueError(f"{archive}: member {name!r}: {error}; size=(height, width) brings images to one size")


def read_images(
    reader: MemberReader,
    members: MemberIds,
    out: NDArray[np.uint8] | Allocate | None,
    size: tuple[int, int] | None,
    errors: dict[int, Exception] | None = None,
) -> NDArray[np.uint8]:
    """Decode images to their places in one array: see `archivestream.Archive.read_images`."""
    decoder = ImageDecoder(size=size)
    n = len(members)
    allocate = out if callable(out) else None
    images = None if out is None or callable(out) else _check_batch(out, n, decoder.size)
    if n == 0 and images is None and size is None:
        raise ValueError("no members: the size of the images is not known")
    bad: dict[int, Exception] = {}
    encoded = _Encoded(reader, members, None if errors is None else bad)
    left = [place for place in range(n) if place not in bad]
    if images is None and decoder.size is not None:
        images = _take_images(allocate, n, decoder.size)
    while images is None and left:  # as large as the first good one, which its header alone does not prove to be
        place = left.pop(0)
        first = encoded.decode(place, decoder)
        if first is not None:
            images = _take_images(allocate, n, first.shape)
            images[place] = first
    if images is None:
        images = _take_images(allocate, n, (0, 0))

    def fill(places: list[int]) -> None:
        for place in places:
            encoded.decode(place, partial(decoder.into, out=images[place]))

    piece = min(_PIECE, -(-len(left) // reader.threads) or 1)
    pieces = [left[begin : begin + piece] for begin in range(0, len(left), piece)]
    if len(pieces) < 2:
        for places in pieces:
            fill(places)
    else:
        with ThreadPoolExecutor(min(reader.threads, len(pieces))) as pool:
            for _ in pool.map(fill, pieces):  # raises for the first bad one in the order of the keys
                pass
    if errors is not None:
        errors.update(bad)
    return images


def _take_images(allocate: Allocate | None, n: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    height, width = shape[:2]
    return take_bytes(allocate, n * height * width * 3).reshape(n, height, width, 3)


def _check_batch(out: Any, n: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Check the caller's memory for the images of a batch."""
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.ndim != 4 or out.shape[3] != 3:
        raise TypeError("out must be a NumPy array of uint8 of shape (n, height, width, 3), or a callable")
    if len(out) != n or (size is not None and out.shape[1:3] != size):
        raise ValueError(f"out has shape {out.shape}; the batch needs {(n, *(size or out.shape[1:3]), 3)}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writable")
    return out
