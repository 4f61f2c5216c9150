"""From the bytes of a member to a sample: by name, by extension, or by a callable of the user's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from archivestream.decoding.arrays import NpzDecoder, NumpyDecoder
from archivestream.decoding.audio import AudioDecoder
from archivestream.decoding.texts import CsvDecoder, decode_int, decode_json, decode_text
from archivestream.errors import UnsupportedFeatureError
from archivestream.file_types import EXTENSIONS
from archivestream.images import ImageDecoder, decode_pil, find_pil

__all__ = [
    "ArrayDecoder",
    "AudioDecoder",
    "ByExtension",
    "CsvDecoder",
    "Decode",
    "Decoder",
    "ImageDecoder",
    "NpzDecoder",
    "NumpyDecoder",
    "decode_pil",
    "find_decoder",
    "register_decoder",
]

# From the bytes of a member to what it holds.
Decoder: TypeAlias = Callable[[memoryview], Any]
# What a user may say: a name, a decoder, or one of these for each extension.
Decode: TypeAlias = str | Decoder | Mapping[str, str | Decoder]


@runtime_checkable
class ArrayDecoder(Protocol):
    """A decoder that can fill a given array, for example a slot of a batch."""

    def __call__(self, data: memoryview) -> NDArray[Any]:
        """Decode to a new array."""
        ...

    def shape(self, data: memoryview) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the type of the array, from the header of the member alone."""
        ...

    def into(self, data: memoryview, out: NDArray[Any]) -> None:
        """Decode into an array of that shape and type."""
        ...


# By name: what makes the decoder, which may need a package.
_NAMED: Mapping[str, Callable[[], Decoder]] = {
    "audio": AudioDecoder,
    "csv": CsvDecoder,
    "image": ImageDecoder,
    "int": lambda: decode_int,
    "json": lambda: decode_json,
    "npz": NpzDecoder,
    "numpy": NumpyDecoder,
    "pil": find_pil,
    "text": lambda: decode_text,
    "tsv": lambda: CsvDecoder("\t"),
    "wav": AudioDecoder,
}

# "auto": the name of the decoder of each extension.
_EXTENSIONS: Mapping[str, str] = {
    extension: one.decoder for extension, one in EXTENSIONS.items() if one.decoder is not None
}

_registered: Mapping[str, str | Decoder] = MappingProxyType({})  # replaced as a whole, never changed
_registering = threading.Lock()


def register_decoder(extension: str, decoder: str | Decoder) -> None:
    """Have ``decode="auto"`` decode members with some extension in a way of your own.

    A dataset takes up what is registered when it is made, and carries it to worker processes: a callable must be one
    that can be pickled, where these are spawned. Safe for any number of threads.

    Parameters
    ----------
    extension : str
        Such as ``".dcm"`` or ``"seg.png"``, in either case. It replaces what was there.
    decoder : str or callable
        A name, as for ``decode=``, or a callable from a memoryview to anything.

    Raises
    ------
    ValueError
        If it is no extension, or there is no decoder of that name.
    ImportError
        If the decoder needs a package that is not installed.

    Examples
    --------
    >>> archivestream.register_decoder(".dcm", read_dicom)
    """
    global _registered
    new = {_normalise(extension): decoder if callable(decoder) else _by_name(decoder)}
    with _registering:
        _registered = MappingProxyType({**_registered, **new})


def find_decoder(decode: Decode | None) -> Decoder | ByExtension | None:
    """Find the decoder that a user means; None for the bytes as they are.

    Parameters
    ----------
    decode : str, callable, mapping or None
        See `archivestream.ArchiveDataset`.

    Raises
    ------
    ImportError
        If the package that a decoder needs is not installed; the message names the extra.
    ValueError
        If there is no such decoder.
    """
    if decode is None or callable(decode):
        return decode
    if isinstance(decode, Mapping):
        given = {_normalise(name): one if callable(one) else _by_name(one) for name, one in decode.items()}
        return ByExtension(given, auto=False)
    if decode == "auto":
        return ByExtension({**_EXTENSIONS, **_registered}, auto=True)
    return _by_name(decode)


class ByExtension:
    """Finds the decoder of a member by its extension.

    Parameters
    ----------
    decoders : mapping of str to str or Decoder
        By extension, in lower case and without the dot in front: a decoder, or the name of one, made on first use.
    auto : bool
        Refuse pickles, where they have no decoder.

    Immutable, so safe for any number of threads.
    """

    def __init__(self, decoders: Mapping[str, str | Decoder], *, auto: bool) -> None:
        self._decoders = dict(decoders)
        self._auto = auto
        self._made: dict[str, Decoder] = {}  # by name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByExtension) and (self._decoders, self._auto) == (other._decoders, other._auto)

    __hash__ = None  # type: ignore[assignment]

    def find(self, extension: str) -> Decoder | None:
        """Return the decoder of an extension, or None where there is none: such members stay bytes.

        Of ``v2.seg.png``, the longest end that is known counts: that, ``seg.png`` or ``png``.

        Raises
        ------
        UnsupportedFeatureError
            If it is that of a pickle.
        ImportError
            If the decoder needs a package that is not installed.
        """
        rest = extension.lower()
        while rest:
            found = self._decoders.get(rest)
            if isinstance(found, str):
                # Two threads may make it at once; they are the same.
                return self._made.get(found) or self._made.setdefault(found, _by_name(found))
            if found is not None:
                return found
            if self._auto and rest in EXTENSIONS and EXTENSIONS[rest].name == "pickle":
                raise UnsupportedFeatureError(
                    f"a .{rest} file is a pickle, which may run any code when it is loaded, so it is not decoded "
                    f"by itself; if you trust the archive, say how: decode={{{rest!r}: callable}}"
                )
            rest = rest.partition(".")[2]
        return None

    def common(self, extensions: Iterable[str]) -> Decoder | ByExtension | None:
        """Return the one decoder that all of some extensions have, or this, if there are several."""
        found: list[Decoder | None] = []
        for extension in extensions:
            try:
                decoder = self.find(extension)
            except UnsupportedFeatureError:  # said of the member, when it is read
                return self
            if decoder not in found:
                found.append(decoder)
            if len(found) > 1:
                return self
        return found[0] if found else self


def _by_name(name: object) -> Decoder:
    if isinstance(name, str) and name in _NAMED:
        return _NAMED[name]()
    raise ValueError(
        f"a decoder is a callable or one of {', '.join(map(repr, _NAMED))}, not {name!r}; "
        "decode= may also be 'auto', a dict of decoders by extension, or None"
    )


def _normalise(extension: str) -> str:
    normal = extension.lower().removeprefix(".")
    if not normal or "/" in normal:
        raise ValueError(f"{extension!r} is no extension")
    return normal
