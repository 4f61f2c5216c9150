"""From arrays to ``tf.train.Example`` messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from archivestream._native.examples import pack_varints

__all__ = ["encode_example"]

_BYTES, _FLOATS, _INTS = 1, 2, 3  # the fields of `Feature`
_DELIMITED = 2  # the wire type


def encode_example(features: Mapping[str, Any]) -> bytes:
    """Encode a ``tf.train.Example`` message.

    Parameters
    ----------
    features : mapping of str to value
        ``int``, ``bool``, or an array of int64: a list of integers. ``float``, or an array of float32: a list of
        floats, in single precision. ``bytes`` or ``str``: a list of bytes, text in UTF-8. An array of any other type of
        numbers: one bytes value, little-endian and in C order, which ``FixedLenFeature(shape, dtype)`` reads; a scalar
        of NumPy is such an array, of no dimensions. A list or tuple has one kind of these scalars; an empty one is a
        feature without values.

    Returns
    -------
    bytes
        The message: numbers are packed, features in the order in which they are given.

    Raises
    ------
    TypeError
        If a value is none of these.
    OverflowError
        If an integer does not fit 64 bits.

    Examples
    --------
    >>> encode_example({"image": image, "label": 3, "name": "cat.png"})
    """
    entries = []
    for name, value in features.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a feature is a str, not {name!r}")
        entry = _field(1, name.encode()) + _field(2, _encode_feature(name, value))
        entries.append(_field(1, entry))
    return _field(1, b"".join(entries))


def _encode_feature(name: str, value: Any) -> bytes:
    if isinstance(value, np.ndarray | np.generic):
        return _encode_array(name, np.asarray(value))
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        return b""
    if all(isinstance(one, int | np.integer | np.bool_) for one in values):
        return _field(_INTS, _field(1, pack_varints(np.array([int(one) for one in values], np.int64))))
    if all(isinstance(one, int | float | np.number) for one in values):
        return _field(_FLOATS, _field(1, np.array(values, "<f4").tobytes()))
    if all(isinstance(one, bytes | bytearray | memoryview | str) for one in values):
        return _field(_BYTES, _fields(values))
    raise TypeError(f"feature {name!r}: numbers, bytes, str, or a list of one kind of them, not {type(value).__name__}")


def _encode_array(name: str, array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.name == "int64":
        return _field(_INTS, _field(1, pack_varints(np.ascontiguousarray(array, np.int64).reshape(-1))))
    if array.dtype.name == "float32":
        return _field(_FLOATS, _field(1, array.astype("<f4").tobytes()))
    if array.dtype.kind in "biufc":
        return _field(_BYTES, _fields([array.astype(array.dtype.newbyteorder("<")).tobytes()]))
    if array.dtype.kind in "SUO":
        return _encode_feature(name, array.reshape(-1).tolist())
    raise TypeError(f"feature {name!r}: an array of {array.dtype} cannot be encoded")


def _fields(values: Iterable[Any]) -> bytes:
    return b"".join(_field(1, one.encode() if isinstance(one, str) else bytes(one)) for one in values)


def _field(number: int, data: bytes) -> bytes:
    """Encode a field of bytes or of a submessage."""
    size = len(data)
    head = [number << 3 | _DELIMITED]
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + data
