"""Batches of ``.npy`` members: NumPy's format 1.0 to 3.0 (NEP 1), decoded to their places in one array."""

from __future__ import annotations

import ast
import functools
import io
import math
import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream.errors import ArchiveError, CorruptArchiveError, LimitExceededError, UnsupportedFeatureError
from archivestream.index import MemberIds
from archivestream.reader import Allocate, MemberReader, take_bytes, without_frames

__all__ = ["decode_array", "read_arrays", "view_array", "view_values"]

_LONGEST_PREFIX = 4096  # what the engine leaves out at the start of a member
_LONGEST_HEADER = 10_000  # NumPy's own bound: Python's parser takes time, memory and stack out of proportion
_MOST_DIMENSIONS = 32  # of NumPy 1
_HEADERS = 64  # remembered for an archive, by the size of their members


def read_arrays(
    reader: MemberReader,
    members: MemberIds,
    out: NDArray[Any] | Allocate | None,
    errors: dict[int, Exception] | None = None,
) -> NDArray[Any]:
    """Read members of one shape and type: see `archivestream.Archive.read_arrays`."""
    allocate = out if callable(out) else None
    if allocate is not None:
        out = None
    if out is not None and not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array or a callable, not {type(out).__name__}")
    if len(members) == 0:
        raise ValueError("no members: the shape of the arrays is not known")
    # The header of another member of that size is a good guess: `read_slots` compares each member with it.
    guess = reader.npy_headers.get(int(reader.index["size"][members[0]]))
    if guess is not None and (out is None or (out.shape[1:], out.dtype) == _parse_header(guess)[::2]):
        bad: dict[int, Exception] | None = None if errors is None else {}
        result, odd = _read_slots(reader, members, out, allocate, guess, bad)
        if 0 not in odd and not (bad and 0 in bad):
            if errors is not None and bad is not None:
                errors.update(bad)
            _copy_each(reader, members, odd, result, errors)
            return result if out is None else out
    for place, member in enumerate(members.tolist()):
        try:
            prefix = _learn_header(reader, member)
        except (ArchiveError, MemoryError) as error:
            if errors is None:
                raise
            errors[place] = without_frames(error)
        else:
            result, odd = _read_slots(reader, members, out, allocate, prefix, errors)
            _copy_each(reader, members, odd, result, errors)
            return result if out is None else out
    return np.empty((len(members), 0), np.uint8) if out is None else out


def _learn_header(reader: MemberReader, member: int) -> bytes:
    """Read a member, and remember how it begins."""
    data = reader.read(member)
    size = int(reader.index["size"][member])
    where = {"archive": reader.archive_name(member), "member": reader.index.name(member)}
    prefix = _prefix(data, **where)
    shape, _, dtype = _parse(prefix, **where)
    if len(prefix) + dtype.itemsize * math.prod(shape) != size:
        raise CorruptArchiveError(
            f"its header describes {dtype.itemsize * math.prod(shape)} bytes of array, and it holds "
            f"{size - len(prefix)}",
            **where,
        )
    if len(prefix) <= _LONGEST_PREFIX:
        if len(reader.npy_headers) == _HEADERS:
            reader.npy_headers.clear()
        reader.npy_headers[size] = prefix
    return prefix


def _read_slots(
    reader: MemberReader,
    members: MemberIds,
    out: NDArray[Any] | None,
    allocate: Allocate | None,
    prefix: bytes,
    errors: dict[int, Exception] | None,
) -> tuple[NDArray[Any], list[int] | range]:
    """Read the members that begin with a header to their places; return the array, and the places of the others."""
    shape, fortran, dtype = _parse_header(prefix)
    fortran = fortran and len(shape) > 1
    n, size = len(members), dtype.itemsize * math.prod(shape)
    if out is not None and (out.shape != (n, *shape) or out.dtype != dtype):
        raise ValueError(f"out has shape {out.shape} and type {out.dtype}; the batch needs {(n, *shape)} of {dtype}")
    if out is not None and not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be C-contiguous and writable")
    if size == 0 or len(prefix) > _LONGEST_PREFIX or (out is not None and fortran):
        return _empty(reader, members, shape, dtype) if out is None else out, range(n)
    memory = take_bytes(allocate, n * size) if out is None else out.reshape(-1).view(np.uint8)
    slots = memory.view(dtype).reshape(n, *(shape[::-1] if fortran else shape))
    result = slots.transpose(0, *range(slots.ndim - 1, 0, -1)) if fortran else slots
    if (reader.index["size"][members] == len(prefix) + size).all():
        return result, reader.read_slots(members, memory, prefix, errors)
    return result, range(n)


def _empty(reader: MemberReader, members: MemberIds, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.empty((len(members), *shape), dtype)
    except ValueError as error:  # a dimension of 0 lets the others be of any length
        first = int(members[0])
        raise LimitExceededError(
            f"{len(members)} arrays of its shape {shape} are more than one array holds: {error}",
            archive=reader.archive_name(first),
            member=reader.index.name(first),
        ) from error


def _prefix(data: bytes | memoryview, archive: str | None, member: str | None) -> bytes:
    """Cut off everything before the array: magic string, version, length and text of the header."""
    head = bytes(data[:12]).ljust(12, b"\0")
    size = struct.unpack_from("<H" if head[6:7] == b"\1" else "<L", head, 8)[0]
    end = (10 if head[6:7] == b"\1" else 12) + size
    if head[:6] != b"\x93NUMPY" or head[6:8] not in (b"\1\0", b"\2\0", b"\3\0") or end > len(data):
        raise CorruptArchiveError("it is no .npy file", archive=archive, member=member)
    if size > _LONGEST_HEADER:
        raise CorruptArchiveError(
            f"its header has {size} bytes; none has more than {_LONGEST_HEADER}", archive=archive, member=member
        )
    return bytes(data[:end])


def _parse(prefix: bytes, archive: str | None, member: str | None) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, order, dtype = _parse_header(prefix)
    except Exception as error:  # the header is a Python literal, and a hostile one fails in many ways
        raise CorruptArchiveError(f"it is no .npy file: {error}", archive=archive, member=member) from error
    if dtype.hasobject:
        raise UnsupportedFeatureError(
            "its array holds Python objects, which would have to be unpickled; that is not safe",
            archive=archive,
            member=member,
        )
    return shape, order, dtype


@functools.lru_cache(maxsize=64)  # the members of a data set mostly have the same
def _parse_header(prefix: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(prefix)
    version = np.lib.format.read_magic(stream)
    if version == (3, 0):
        # NumPy has no public function for it: version 2.0, with a header in UTF-8 (NEP 1).
        length = struct.unpack("<L", stream.read(4))[0]
        header = ast.literal_eval(stream.read(length).decode())
        if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
            raise ValueError("its header is no dict of a descr, a fortran_order and a shape")
        shape, order = header["shape"], header["fortran_order"]
        if not isinstance(shape, tuple) or not isinstance(order, bool):
            raise ValueError(f"the shape is {shape!r}, and fortran_order {order!r}")
        dtype = np.lib.format.descr_to_dtype(header["descr"])
    else:
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # headers that Python 2 wrote
            shape, order, dtype = read(stream)
    if dtype.itemsize == 0 or dtype.subdtype is not None or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"arrays of {dtype} and {len(shape)} dimensions are not read")
    # Those of a length of 0 do not let the others wrap, in NumPy neither.
    if not all(type(n) is int and n >= 0 for n in shape) or (
        dtype.itemsize * math.prod(max(n, 1) for n in shape) >= 1 << 62
    ):
        raise ValueError(f"the shape is {shape}")
    return shape, order, dtype


def _copy_each(
    reader: MemberReader,
    members: MemberIds,
    places: list[int] | range,
    result: NDArray[Any],
    errors: dict[int, Exception] | None,
) -> None:
    """Decode members one by one: those whose header is written otherwise, though it may say the same."""
    for place in places:
        try:
            _copy(reader, int(members[place]), result, place)
        except (ArchiveError, MemoryError, ValueError) as error:
            if errors is None:
                raise
            errors[place] = without_frames(error)


def _copy(reader: MemberReader, member: int, result: NDArray[Any], place: int) -> None:
    array = decode_array(reader.read(member), reader.archive_name(member), reader.index.name(member))
    if array.shape != result.shape[1:] or array.dtype != result.dtype:
        raise ValueError(
            f"{reader.archive_name(member)}: member {reader.index.name(member)!r} has shape {array.shape} and "
            f"type {array.dtype}, the first of the batch {result.shape[1:]} and {result.dtype}"
        )
    result[place] = array


def decode_array(data: bytes | memoryview, archive: str | None, member: str | None) -> NDArray[Any]:
    """Decode the bytes of one ``.npy`` file to a new array: see `view_array`."""
    return view_array(data, archive, member).copy("K")


def view_array(data: bytes | memoryview, archive: str | None, member: str | None) -> NDArray[Any]:
    """Return the array that the bytes of one ``.npy`` file are, in their memory.

    Raises
    ------
    CorruptArchiveError
        If it is no such file, or holds more or fewer bytes than its shape takes.
    UnsupportedFeatureError
        If it holds Python objects.
    """
    prefix = _prefix(data, archive, member)
    shape, order, dtype = _parse(prefix, archive, member)
    count = math.prod(shape)
    if len(data) - len(prefix) != count * dtype.itemsize:
        raise CorruptArchiveError(
            f"its header describes {count * dtype.itemsize} bytes of array, and it holds {len(data) - len(prefix)}",
            archive=archive,
            member=member,
        )
    flat = np.frombuffer(data, dtype, count, len(prefix)) if count * dtype.itemsize else np.empty(count, dtype)
    return flat.reshape(shape, order="F" if order else "C")


def view_values(data: NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Return the array that some bytes are, in their memory; without a shape, a row.

    Raises
    ------
    UnsupportedFeatureError
        If it would hold Python objects.
    CorruptArchiveError
        If there are more or fewer bytes than it takes.
    """
    if dtype.hasobject:
        raise UnsupportedFeatureError(f"bytes are no Python objects: dtype={dtype}")
    if dtype.itemsize == 0:
        raise UnsupportedFeatureError(f"values of {dtype} take no bytes: say how long they are")
    count = -1 if shape is None else math.prod(shape)
    if data.size % dtype.itemsize or (shape is not None and data.size // dtype.itemsize != count):
        what = f"values of {dtype}" if shape is None else f"{shape} values of {dtype}"
        raise CorruptArchiveError(f"its {data.size} bytes are no {what}")
    if shape is None:
        return data.view(dtype)
    try:
        return data.view(dtype).reshape(shape)
    except ValueError as error:
        raise CorruptArchiveError(f"there are no arrays of the shape {shape}: {error}") from error
