"""Metadata of members on their way into an archive: rows become typed columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archivestream.packing.entries import Row
from archivestream.tables import KEY, arrow, join_tables, write_ipc

__all__ = ["MetadataWriter"]

_ROWS = 8192  # that become columns at once
_OF_ROW, _OF_COLUMN = 16, 512  # bytes beside values and names


class MetadataWriter:
    """Gathers the rows of one archive.

    Attributes
    ----------
    size : int
        Bytes of the member that holds them, about.
    schema : pyarrow.Schema
        The columns, once they are finished.
    """

    def __init__(self) -> None:
        arrow()  # at once, where it is not installed
        self.size = 0
        self.schema: Any = None
        self._names: list[str] = []
        self._rows: list[Mapping[str, Any]] = []
        self._places: list[int] = []
        self._source: Any = None  # the table that the places are in
        self._tables: list[Any] = []

    def add(self, name: str, row: Mapping[str, Any] | Row) -> None:
        """Append the row of a member."""
        if isinstance(row, Row):
            if row.table is not self._source:
                self._flush()
                self._source = row.table
            self._places.append(row.position)
            self.size += row.table.nbytes // max(1, row.table.num_rows)
        else:
            if self._source is not None:
                self._flush()
            self._rows.append(row)
            values = row.values()
            self.size += sum(map(_bytes_of, values))
        if not self._names:
            self.size += _OF_COLUMN * (2 + len(row.table.column_names if isinstance(row, Row) else row))
        self._names.append(name)
        self.size += _OF_ROW + len(name)
        if len(self._rows) == _ROWS:
            self._flush()

    def finish(self) -> bytes:
        """Return the member that holds them.

        Raises
        ------
        ValueError
            If values of a column are of types that do not go together.
        """
        self._flush()
        table = join_tables(self._tables)
        self.schema = table.drop_columns([KEY]).schema
        try:
            keys = arrow().array(self._names, arrow().string())
        except UnicodeEncodeError:  # of bytes that are not UTF-8
            keys = arrow().array([name.encode("utf-8", "surrogatepass") for name in self._names], arrow().binary())
        return write_ipc(table.set_column(table.column_names.index(KEY), KEY, keys))

    def _flush(self) -> None:
        if self._rows:
            names = dict.fromkeys(name for row in self._rows for name in row)
            columns = {name: _column(name, [row.get(name) for row in self._rows]) for name in names}
            columns[KEY] = arrow().nulls(len(self._rows))  # keeps the number of rows where there is no other
            self._tables.append(arrow().table(columns))
        if self._source is not None:
            keys = arrow().nulls(len(self._places))
            self._tables.append(self._source.take(self._places).append_column(KEY, keys))
        self._rows, self._places, self._source = [], [], None


def _bytes_of(value: Any) -> int:
    """Return about how many bytes a value takes."""
    if isinstance(value, str | bytes):
        return 16 + len(value)
    if isinstance(value, np.ndarray):
        return 16 + value.nbytes
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set):
        return 16
    return 16 + sum(map(_bytes_of, value))


def _column(name: str, values: list[Any]) -> Any:
    """Make a column: the types of NumPy stay; others are chosen by Arrow."""
    types = {type(value) for value in values}
    try:
        if len(types) == 1 and issubclass(next(iter(types)), np.generic):
            return arrow().array(np.array(values))
        return arrow().array([value.item() if isinstance(value, np.generic) else value for value in values])
    except (arrow().ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"the metadata {name!r} make no column: {error}") from error
