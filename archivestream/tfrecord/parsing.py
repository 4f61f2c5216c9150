"""From ``tf.train.Example`` messages to batched arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from archivestream._native.examples import Examples, Schema
from archivestream._native.protobuf import ExampleFault
from archivestream.archive import Archive
from archivestream.batch import Batch
from archivestream.errors import CorruptArchiveError
from archivestream.reader import empty_bytes
from archivestream.selection import Keys
from archivestream.threads import check_threads, processors

__all__ = ["ExampleParser", "FixedLenFeature", "RaggedArray", "VarLenFeature"]

_BYTES, _FLOATS, _INTS = 1, 2, 3  # the fields of `Feature`
_KINDS = {0: "no values", _BYTES: "bytes", _FLOATS: "floats", _INTS: "integers"}
_CHUNK = 2 << 20  # bytes of records that are read, then parsed while they are in the cache of the processor
_MOST_CHUNK = 4096  # records

_REASONS = {
    ExampleFault.CUT: "it ends within a field",
    ExampleFault.BAD_VARINT: "a number has too many bytes",
    ExampleFault.BAD_TAG: "this is no field",
    ExampleFault.BAD_LENGTH: "a length is beyond 2 GiB",
    ExampleFault.BAD_PACKED: "a list of floats has bytes left over",
    ExampleFault.BAD_KEY: "the name of a feature is not UTF-8",
    ExampleFault.GROUP: "this is a group, which is not handled",
    ExampleFault.CHANGED: "it was changed while it was parsed",
}

Parsed: TypeAlias = dict[str, Any]  # arrays, and ragged ones
_Fail: TypeAlias = Callable[[int, int, str], Exception]


@dataclass(frozen=True, eq=False)
class FixedLenFeature:
    """A feature that has the same shape in all examples.

    Parameters
    ----------
    shape : sequence of int
        Of its values in one example; empty for one value.
    dtype : dtype
        ``"int64"`` for a list of integers, ``"float32"`` for one of floats, ``"bytes"`` for one of bytes. Any other
        (``"uint8"``, ``"float16"``, ...) for one bytes value that holds the whole array, little-endian and in C order,
        as `numpy.ndarray.tobytes` makes it.
    default_value : array-like, optional
        What an example has that lacks the feature; one value stands for all. Without it, that is an error.
    """

    shape: Sequence[int]
    dtype: DTypeLike
    default_value: Any = None


@dataclass(frozen=True)
class VarLenFeature:
    """A feature that each example has any number of values of, or none.

    Parameters
    ----------
    dtype : dtype
        As for `FixedLenFeature`. ``"uint8"`` gives the bytes of one value, such as an encoded image.
    """

    dtype: DTypeLike


@dataclass(frozen=True, eq=False)
class RaggedArray:
    """Rows of different lengths, one behind the other: TensorFlow's ``RaggedTensor``, Arrow's ``ListArray``.

    Attributes
    ----------
    values : ndarray, shape (total,)
        The values of all rows.
    row_splits : ndarray of int64, shape (n + 1,)
        Where each row begins in `values`, and where the last one ends.
    """

    values: NDArray[Any]
    row_splits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return the values of one row, a view."""
        n = len(self)
        row = operator.index(row)
        if not -n <= row < n:
            raise IndexError(f"row {row} of {n}")
        begin, end = self.row_splits[row % n : row % n + 2].tolist()
        return self.values[begin:end]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(len(self)))


class _Plan:
    """What is made of one feature."""

    def __init__(self, name: str, feature: FixedLenFeature | VarLenFeature) -> None:
        self.name = name
        self.ragged = isinstance(feature, VarLenFeature)
        self.shape: tuple[int, ...] = ()
        if isinstance(feature, FixedLenFeature):
            self.shape = tuple(operator.index(n) for n in feature.shape)
        if any(n < 0 for n in self.shape):
            raise ValueError(f"feature {name!r}: the shape {self.shape} has a negative length")
        self.dtype, self.kind = _find_dtype(name, feature.dtype)
        self.count = math.prod(self.shape)
        self.is_raw = self.kind == _BYTES and self.dtype != object
        self.item = 0 if self.dtype == object else self.dtype.itemsize
        self.default: NDArray[Any] | None = None
        default = getattr(feature, "default_value", None)
        if default is not None:
            self.default = np.empty(self.shape, self.dtype)
            try:
                self.default[...] = np.asarray(default, self.dtype)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"feature {name!r}: the default value is none of shape {self.shape} and type {feature.dtype}"
                ) from error
            if self.dtype == object and not all(isinstance(value, bytes) for value in self.default.flat):
                raise ValueError(f"feature {name!r}: the default value is not bytes")

    def as_native(self) -> tuple[bytes, int, int, int, bool, bool]:
        """Say it as `Schema` wants it."""
        count = -1 if self.ragged else self.count
        return self.name.encode(), self.kind, count, self.item, self.is_raw, self.default is not None

    def empty(self, count: int) -> NDArray[Any]:
        """Make room for so many values."""
        if self.dtype == object:
            return np.empty(count, object)
        return empty_bytes(count * self.item).view(self.dtype)

    def fit(self, out: Any, n: int) -> NDArray[Any]:
        """Take memory of the caller's, a flat array, for the values of `n` messages."""
        if self.ragged or not self.item:
            raise ValueError(f"out: the feature {self.name!r} gets memory of its own")
        shape = (n, *self.shape)
        if not (
            isinstance(out, np.ndarray)
            and out.shape == shape
            and out.dtype == self.dtype
            and out.flags.c_contiguous
            and out.flags.writeable
        ):
            raise ValueError(f"out: {self.name!r} needs a writable, C-contiguous array of {self.dtype}, shape {shape}")
        return out.reshape(-1)

    def output(self, values: NDArray[Any], splits: NDArray[np.int64] | None) -> tuple[Any, Any, Any]:
        """Say where values go, as `Examples.fill` wants it."""
        if self.item == 0:
            return None, splits, None
        default = None if self.default is None else self.default.reshape(-1).view(np.uint8)
        return values.view(np.uint8), splits, default

    def without_gaps(self, objects: list[bytes | None]) -> list[Any]:
        """Put the default in the place of values that are missing."""
        if self.default is None:
            return objects
        default = self.default.reshape(-1).tolist()
        return [default[i % self.count] if value is None else value for i, value in enumerate(objects)]

    def expected(self) -> str:
        """Say what the feature ought to have."""
        if self.is_raw:
            of = f" of {self.count * self.item} bytes" if not self.ragged else f" of a multiple of {self.item} bytes"
            return f"one bytes value{of}"
        return f"{'any number of' if self.ragged else self.count} {_KINDS[self.kind]}"


def _find_dtype(name: str, dtype: DTypeLike) -> tuple[np.dtype[Any], int]:
    """Return the type of the array, and the field of `Feature` that its values come from."""
    if dtype is bytes or (isinstance(dtype, str) and dtype == "bytes"):
        return np.dtype(object), _BYTES
    found = np.dtype(dtype)
    if found.kind not in "biufc":
        raise ValueError(f"feature {name!r}: dtype is bytes or a type of numbers, not {dtype!r}")
    found = found.newbyteorder("<")
    return found, {"float32": _FLOATS, "int64": _INTS}.get(found.name, _BYTES)


class ExampleParser:
    """Parses ``tf.train.Example`` messages to batched arrays, in native threads.

    Parameters
    ----------
    features : mapping of str to FixedLenFeature or VarLenFeature
        What to make of which feature. Others are passed over.
    threads : int, optional
        That work on one batch, from 1 to 1024; default: as many as there are processors for this process.

    Also a decoder: ``ArchiveDataset("train.tfrecord", decode=parser)`` gives a dict of arrays, without the dimension of
    the batch, for each record. Immutable; safe for any number of threads, and in worker processes.

    Notes
    -----
    Messages are read as the official runtime of protocol buffers reads them: unknown fields are passed over, numbers
    may be packed or not, a feature that comes twice is the last one, lists in several parts are one. Groups, which no
    encoder has written for long, are refused.

    Examples
    --------
    >>> parser = ExampleParser({
    ...     "image": FixedLenFeature([3, 32, 32], "uint8"),
    ...     "label": FixedLenFeature([], "int64"),
    ...     "name": VarLenFeature("bytes"),
    ... })
    >>> with archivestream.open("train-*.tfrecord") as archive:
    ...     batch = parser.read(archive, range(256))
    >>> batch["image"].shape
    (256, 3, 32, 32)
    """

    def __init__(self, features: Mapping[str, FixedLenFeature | VarLenFeature], *, threads: int | None = None) -> None:
        check_threads(threads)
        self.features = dict(features)
        self._threads = threads
        self._plans = [_Plan(name, feature) for name, feature in self.features.items()]
        self._schema = Schema([plan.as_native() for plan in self._plans])

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.features, self._threads)

    def parse(self, records: Batch | Iterable[Any]) -> Parsed:
        """Parse messages.

        Parameters
        ----------
        records : Batch or iterable of bytes-like
            As `Archive.read_batch` and `Archive.read_many` give them.

        Returns
        -------
        dict of str to ndarray or RaggedArray
            Of a `FixedLenFeature`, an array of shape ``(n, *shape)``; of a `VarLenFeature`, its values and where those
            of each record begin. Bytes are `bytes` objects in an array of objects.

        Raises
        ------
        CorruptArchiveError
            If a message is malformed, or a feature is missing, of another kind or of another length; it says which
            record, and where in it.
        """

        def fail(record: int, offset: int, reason: str) -> Exception:
            return CorruptArchiveError(f"record {record}, offset {offset}: {reason}")

        examples = self._examine(records, fail)
        return self._gather(self._make_room(len(examples), {}), len(examples), [examples])

    def __call__(self, data: Any) -> dict[str, Any]:
        """Parse one message: arrays without the dimension of the batch, and of one value just that."""

        def fail(record: int, offset: int, reason: str) -> Exception:
            return CorruptArchiveError(f"offset {offset}: {reason}")

        parsed = self._gather(self._make_room(1, {}), 1, [self._examine([data], fail)])
        return {name: values[0] for name, values in parsed.items()}

    def read(self, archive: Archive, keys: Keys, out: Mapping[str, NDArray[Any]] | None = None) -> Parsed:
        """Read records of an archive and parse them: no bytes objects in between.

        Parameters
        ----------
        archive : Archive
            Of TFRecord files; or of any others whose members are such messages.
        keys : iterable of keys, or array of positions
            As for `Archive.read_many`.
        out : mapping of str to ndarray, optional
            Where the values of some of the features go, each a `FixedLenFeature` that is not of bytes: writable and
            C-contiguous, of shape ``(n, *shape)`` and the feature's type, such as a part of a pinned tensor. Others
            get new memory. After an error its contents are undefined.

        Returns
        -------
        dict of str to ndarray or RaggedArray
            As `parse`.

        Raises
        ------
        ValueError
            If an array of `out` does not fit.
        CorruptArchiveError
            As `parse`; it names the file and the record, and says where in the file the fault is.
        ArchiveError
            As `Archive.read_batch`.
        """
        positions = archive.positions(keys)

        def fail(record: int, offset: int, reason: str) -> Exception:
            member = archive.info(int(positions[record]))
            return CorruptArchiveError(
                f"offset {member.offset + offset}: {reason}", archive=member.archive, member=member.name
            )

        arrays = self._make_room(len(positions), {} if out is None else out)
        if any(plan.ragged or not plan.item for plan in self._plans):
            return self._gather(arrays, len(positions), self._examine_chunks(archive, positions, fail))
        # Each thread parses what it has read, while that is in the cache of its processor.
        examples = Examples(self._schema, len(positions))
        examples.place(
            [plan.output(array, None) for plan, array in zip(self._plans, arrays, strict=True) if array is not None]
        )
        examples.await_all()
        archive.feed(positions, examples)
        self._check(examples, fail)
        return self._gather(arrays, len(positions), ())

    def _make_room(self, n: int, out: Mapping[str, NDArray[Any]]) -> list[NDArray[Any] | None]:
        """Get the memory, a flat array, of the values that `n` messages have: those of a ragged feature come later."""
        if unknown := out.keys() - self.features.keys():
            raise ValueError(f"out: no feature {min(unknown)!r} is parsed")
        return [
            plan.fit(out[plan.name], n) if plan.name in out else None if plan.ragged else plan.empty(n * plan.count)
            for plan in self._plans
        ]

    def _examine_chunks(self, archive: Archive, positions: NDArray[np.int64], fail: _Fail) -> Iterator[Examples]:
        """Read and check some records at a time, so few that they stay in the cache of the processor."""
        sizes = np.minimum(archive.sizes[positions], _CHUNK)  # a larger one is a chunk by itself
        ends = np.cumsum(sizes)
        begin = 0
        while begin < len(positions):
            limit = ends[begin] - sizes[begin] + _CHUNK
            end = min(int(np.searchsorted(ends, limit, side="right")), begin + _MOST_CHUNK)
            yield self._examine(
                archive.read_batch(positions[begin:end]), lambda i, *what, first=begin: fail(first + i, *what)
            )
            begin = end

    def _examine(self, records: Any, fail: _Fail) -> Examples:
        """Check messages; raise what `fail` makes of the first that is wrong."""
        threads = self._threads or processors()
        if isinstance(records, Batch):
            examples = Examples(self._schema, records.data, records.offsets, threads=threads)
        else:
            examples = Examples(self._schema, iter(records), threads=threads)
        self._check(examples, fail)
        return examples

    def _check(self, examples: Examples, fail: _Fail) -> None:
        for record, fault, offset, feature, kind, count, size in examples.failed():
            raise fail(record, offset, self._reason(ExampleFault(fault), feature, kind, count, size))

    def _reason(self, fault: ExampleFault, feature: int, kind: int, count: int, size: int) -> str:
        if fault in _REASONS:
            return f"it is no tf.train.Example, or a damaged one: {_REASONS[fault]}"
        plan = self._plans[feature]
        if fault == ExampleFault.MISSING:
            return f"the feature {plan.name!r} is missing, and has no default value"
        has = f"{count} {_KINDS[kind]}" if kind != _BYTES else f"{count} bytes values with {size} bytes"
        return f"the feature {plan.name!r} has {has}, not {plan.expected()}"

    def _gather(self, fixed: list[NDArray[Any] | None], n: int, chunks: Iterable[Examples]) -> Parsed:
        """Put what `n` messages hold, which come some at a time, into their room and into ragged arrays."""
        ragged: list[list[RaggedArray]] = [[] for _ in self._plans]
        done = 0
        for examples in chunks:
            places: list[NDArray[Any]] = []
            outputs = []
            for i, (plan, array) in enumerate(zip(self._plans, fixed, strict=True)):
                splits = None
                if array is not None:
                    values = array[done * plan.count : (done + len(examples)) * plan.count]
                else:
                    splits = np.empty(len(examples) + 1, np.int64)
                    examples.splits(i, splits)
                    values = plan.empty(int(splits[-1]))
                    ragged[i].append(RaggedArray(values, splits))
                places.append(values)
                outputs.append(plan.output(values, splits))
            examples.place(outputs)
            objects = examples.fill(threads=self._threads or processors())
            for plan, values, found in zip(self._plans, places, objects, strict=True):
                if found is not None:
                    values[:] = plan.without_gaps(found)
            done += len(examples)
        return {
            plan.name: _join(plan, parts) if array is None else array.reshape(n, *plan.shape)
            for plan, array, parts in zip(self._plans, fixed, ragged, strict=True)
        }


def _join(plan: _Plan, parts: Sequence[RaggedArray]) -> RaggedArray:
    """Put the rows of several arrays one behind the other."""
    if len(parts) == 1:
        return parts[0]
    lengths = [np.diff(part.row_splits) for part in parts]
    splits = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))
    return RaggedArray(np.concatenate([plan.empty(0), *(part.values for part in parts)]), splits)


def _remake(features: Mapping[str, FixedLenFeature | VarLenFeature], threads: int | None) -> ExampleParser:
    return ExampleParser(features, threads=threads)
