"""Labels of samples: from folders, mappings, metadata, tables in the archive, parts, or a callable."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archivestream.archive import Archive
from archivestream.decoding import ByExtension, Decoder, find_decoder
from archivestream.decoding.texts import decode_json, decode_text, read_rows
from archivestream.errors import ArchiveError, CorruptArchiveError, MemberNotFoundError
from archivestream.selection import split_name

__all__ = ["LabelFile", "Labels", "Samples", "Targets", "find_column", "find_targets", "join_targets", "label_file"]

Labels: TypeAlias = str | Mapping[str, Any] | Callable[[str], Any]
# The target of each sample, shape (n,), and the names of the classes, where these are numbered.
Targets: TypeAlias = tuple[NDArray[np.int64] | NDArray[np.float64], list[str]]

_JSON = ".json"
_TABLES = (".csv", ".tsv", _JSON)
_PIECE = 65536  # samples whose parts are read at once
_SHOWN = 3  # names in a message


class LabelFile(NamedTuple):
    """A member that holds the labels: its name, and the column where several could be meant."""

    path: str
    column: str | None


class Samples(NamedTuple):
    """What labels are found for.

    Attributes
    ----------
    whole : Archive
        Where a table of labels lies.
    archive : Archive
        The members of the samples.
    bounds : ndarray of int64, shape (n + 1,), or None
        Grouped: where the members of each begin.
    names : sequence of str
        Of the samples.
    decoder : Decoder, ByExtension or None
        Of the members.
    """

    whole: Archive
    archive: Archive
    bounds: NDArray[np.int64] | None
    names: Sequence[str]
    decoder: Decoder | ByExtension | None


def label_file(labels: Labels | None) -> LabelFile | None:
    """Return the table that ``labels="labels.csv:target"`` means; None where it is something else."""
    if not isinstance(labels, str):
        return None
    if labels.lower().endswith(_TABLES):
        return LabelFile(labels, None)
    path, _, column = labels.rpartition(":")
    return LabelFile(path, column) if path.lower().endswith(_TABLES) else None


def find_targets(labels: Labels, samples: Samples) -> Targets:
    """Find the target of each sample, and the classes.

    Raises
    ------
    ValueError
        If samples have no label, labels are neither numbers nor strings, or `labels` has no such value.
    ArchiveError
        If a member that holds them cannot be read.
    """
    if isinstance(labels, str) and labels == "folder":
        return _from_folders(samples)
    file = label_file(labels)
    if file is not None:
        table = _read_table(samples.whole, file)
        found = _look_up(table, samples, f"in {file.path!r}")
        return _to_targets(found if file.path.lower().endswith(_JSON) else _from_text(found))
    if isinstance(labels, Mapping):
        table = _Table({"": list(labels)}, list(labels.values()), "")
        return _to_targets(_look_up(table, samples, "in labels"))
    if callable(labels):
        found = [labels(name) for name in samples.names]
        return _to_targets(_all_there(found, samples.names, "from the callable"))
    if type(labels) is str and _has_column(labels, samples.archive):
        return _to_targets(find_column(labels, samples.archive, samples.bounds, samples.names))
    if type(labels) is str and samples.bounds is not None:
        return _to_targets(_read_parts(labels, samples, samples.bounds))
    raise ValueError(
        "labels are 'folder', a column of the metadata, a mapping, a callable, a CSV, TSV or JSON member "
        f"('labels.csv:column'), or, with group=True, the extension of a part, not {labels!r}"
    )


def _has_column(name: str, archive: Archive) -> bool:
    table = archive.metadata
    return table is not None and name in table.column_names


def find_column(name: str, archive: Archive, bounds: NDArray[np.int64] | None, names: Sequence[str]) -> list[Any]:
    """Return the values of a column of the metadata: of each sample or, grouped, of its first member.

    Parameters
    ----------
    name : str
        Of the column.
    archive, bounds, names
        As of `Samples`.

    Raises
    ------
    ValueError
        If there is no such column, or a sample has no value in it.
    """
    table = archive.metadata
    if table is None or name not in table.column_names:
        there = "there are no metadata" if table is None else f"there are {', '.join(table.column_names)}"
        raise ValueError(f"{archive.ancestry[0]}: there is no column {name!r} of metadata; {there}")
    column = table[name] if bounds is None else table[name].take(bounds[:-1])
    return _all_there(column.to_pylist(), names, f"in the column {name!r} of the metadata")


def join_targets(first: Targets, second: Targets) -> Targets:
    """Put the targets of two datasets one after the other; classes are merged by their names."""
    if bool(first[1]) != bool(second[1]) and len(first[0]) and len(second[0]):
        raise ValueError("one of the datasets has names of classes for labels, and the other one numbers")
    classes = sorted({*first[1], *second[1]})
    place = {name: number for number, name in enumerate(classes)}
    moved = [
        np.array([place[name] for name in names], np.int64)[targets] if names else targets
        for targets, names in (first, second)
    ]
    return np.concatenate(moved), classes


def _to_targets(labels: Sequence[Any]) -> Targets:
    """Make targets of the labels of all samples: strings are classes, numbers stay."""
    types = set(map(type, labels))
    if types and all(issubclass(one, str) for one in types):
        classes = sorted(set(labels))
        place = {name: number for number, name in enumerate(classes)}
        return np.array([place[label] for label in labels], np.int64), classes
    try:
        if all(issubclass(one, int | np.integer | np.bool_) for one in types):
            return np.array(labels, np.int64), []
        if all(issubclass(one, int | float | np.integer | np.floating | np.bool_) for one in types):
            return np.array(labels, np.float64), []
    except OverflowError as error:
        raise ValueError("labels are whole numbers of 64 bits, or floats: one of them is larger") from error
    raise ValueError(
        f"labels are whole numbers, floats or strings, all of them, not {', '.join(sorted(t.__name__ for t in types))}"
    )


def _all_there(labels: list[Any], names: Iterable[str], where: str) -> list[Any]:
    if None in labels:
        without = [name for name, label in zip(names, labels, strict=True) if label is None]
        raise ValueError(f"{_count(without)} no label {where}: {_show(without)}")
    return labels


def _from_folders(samples: Samples) -> Targets:
    number, folders = samples.archive.names.folders()
    if samples.bounds is not None:
        number = number[samples.bounds[:-1]]
    if "" in folders:
        lost = np.flatnonzero(number == folders.index(""))
        names = [samples.names[int(place)] for place in lost]
        first = int(lost[0]) if samples.bounds is None else int(samples.bounds[lost[0]])
        raise ValueError(
            f"{samples.archive.origin(first)}: {_count(names)} no label, lying in no folder: {_show(names)}; pattern= "
            "or extensions= may leave out what is no sample"
        )
    classes = sorted(folders)
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[name] for name in folders], np.int64)[number], classes


class _Table(NamedTuple):
    """A table of labels: by column, what may name the samples, the labels, and the folder that it lies in."""

    columns: dict[str, list[str]]
    labels: list[Any]
    folder: str


def _read_table(archive: Archive, file: LabelFile) -> _Table:
    """Read a table, or all of that name, where several archives are one."""
    tables = []
    for position in archive.names.find_all(file.path).tolist():
        try:
            tables.append(_parse_table(memoryview(archive[position]), file))
        except ArchiveError as error:
            if error.member is not None:
                raise
            raise type(error)(error.reason, archive=archive.origin(position), member=file.path) from error
    if not tables:
        raise MemberNotFoundError(
            "there is no such member to take the labels from", archive=archive.ancestry[0], member=file.path
        )
    columns = {name: [value for table in tables for value in table[0][name]] for name in tables[0][0]}
    folder = file.path[: file.path.rfind("/") + 1]
    return _Table(columns, [label for _, labels in tables for label in labels], folder)


def _parse_table(data: memoryview, file: LabelFile) -> tuple[dict[str, list[str]], list[Any]]:
    kind = posixpath.splitext(file.path)[1].lower()
    if kind != ".json":
        rows = read_rows(data, "\t" if kind == ".tsv" else ",")
        header = next(rows, [])
        columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=False)) or {name: [] for name in header}
        label = _choose(header, file)
        labels = columns.pop(label)
        return columns, [None if text == "" else text for text in labels]
    found = decode_json(data)
    if isinstance(found, dict):
        if any(isinstance(value, dict) for value in found.values()):
            values = (value if isinstance(value, dict) else {} for value in found.values())
            return {"": list(found)}, [value.get(file.column) for value in values]
        return {"": list(found)}, list(found.values())
    if isinstance(found, list) and all(isinstance(record, dict) for record in found):
        names = list(dict.fromkeys(name for record in found for name in record))
        label = _choose(names, file)
        others = [name for name in names if name != label]
        columns = {name: [str(record.get(name, "")) for record in found] for name in others}
        return columns, [record.get(label) for record in found]
    raise CorruptArchiveError("it holds neither an object by names nor a list of records, to take labels from")


def _choose(columns: Sequence[str], file: LabelFile) -> str:
    """Choose the column of the labels; of two, it is the second."""
    if file.column is not None and file.column in columns:
        return file.column
    if file.column is None and len(columns) == 2:
        return columns[1]
    what = "several columns" if file.column is None else f"no column {file.column!r}"
    raise ValueError(f"{file.path!r} has {what}: labels='{file.path}:COLUMN', with one of {', '.join(columns)}")


def _look_up(table: _Table, samples: Samples, where: str) -> list[Any]:
    """Find the label of each sample, by the first way to name them that finds half of them in a column.

    Not by one that finds them all: numbers of rows may do so by chance, where the names in another column lack one.
    """
    names = list(samples.names)
    keys = {column: _keys(values, samples) for column, values in table.columns.items()}
    rows_of = {column: {key: row for row, key in enumerate(values)} for column, values in keys.items()}
    chosen, rows = None, [-1] * len(names)
    for shorten, may_clash in _ways(table.folder):
        short = [shorten(name) for name in names]
        if may_clash and len(set(short)) < len(short):
            continue
        for column, row_of in rows_of.items():
            found = [row_of.get(name, -1) for name in short]
            if found.count(-1) < rows.count(-1):
                chosen, rows = column, found
        if 2 * rows.count(-1) <= len(rows):
            break
    if chosen is not None:
        _check_clashes(keys[chosen], rows_of[chosen], table.labels, where)
    return _all_there([None if row < 0 else table.labels[row] for row in rows], names, where)


def _keys(values: list[str], samples: Samples) -> list[str]:
    """Return what a column may name samples by: grouped, by the name of any of their members."""
    return values if samples.bounds is None else [split_name(value)[0] for value in values]


def _ways(folder: str) -> list[tuple[Callable[[str], str], bool]]:
    """List how a table may name a sample, and whether two samples of one such name are different ones."""

    def inside(name: str) -> str:
        return name.removeprefix(folder)

    def stem(name: str) -> str:
        return posixpath.splitext(name)[0]

    return [
        (str, False),
        (inside, False),
        (stem, False),
        (lambda name: stem(inside(name)), False),
        (posixpath.basename, True),
        (lambda name: stem(posixpath.basename(name)), True),
    ]


def _check_clashes(keys: Sequence[str], row_of: Mapping[str, int], labels: Sequence[Any], where: str) -> None:
    """Raise for a name with two labels."""
    for key, label in zip(keys, labels, strict=True):
        if labels[row_of[key]] != label:
            raise ValueError(f"{key!r} has two labels {where}: {label!r} and {labels[row_of[key]]!r}")


def _from_text(labels: list[str]) -> list[Any]:
    """Take text that is a number in all rows as one."""
    for kind in (int, float):
        try:
            return list(map(kind, labels))
        except ValueError:
            continue
    return labels


def _read_parts(extension: str, samples: Samples, bounds: NDArray[np.int64]) -> list[Any]:
    """Read and decode one part of each grouped sample."""
    wanted = extension.lower().removeprefix(".")
    number, extensions = samples.archive.names.extensions()
    if wanted not in extensions:
        raise ValueError(f"no sample has a part {wanted!r} to take the label from; parts are {_show(extensions)}")
    positions = np.flatnonzero(number == extensions.index(wanted))
    of_sample = np.searchsorted(bounds, positions, "right") - 1
    labels: list[Any] = [None] * len(samples.names)
    decoder = samples.decoder if isinstance(samples.decoder, ByExtension) else None
    decode = (decoder and decoder.find(wanted)) or _auto(wanted)
    for begin in range(0, len(positions), _PIECE):
        piece = positions[begin : begin + _PIECE]
        for position, sample, data in zip(piece, of_sample[begin:], samples.archive.read_many(piece), strict=False):
            try:
                label = decode(memoryview(data))
            except ArchiveError as error:
                info = samples.archive.info(position)
                raise type(error)(error.reason, archive=info.archive, member=info.name) from error
            labels[sample] = label.strip() if isinstance(label, str) else label
    return _all_there(labels, samples.names, f"in a part {wanted!r}")


def _auto(extension: str) -> Decoder:
    decoder = find_decoder("auto")
    assert isinstance(decoder, ByExtension)
    return decoder.find(extension) or decode_text


def _count(names: Sequence[str]) -> str:
    return "1 sample has" if len(names) == 1 else f"{len(names)} samples have"


def _show(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
