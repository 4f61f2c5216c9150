"""Tables of metadata: typed columns in memory, and as a member of an archive. They are tables of Arrow (pyarrow)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from archivestream.errors import CorruptArchiveError

__all__ = ["KEY", "MEMBER", "MakeTable", "arrow", "join_tables", "read_csv", "read_ipc", "write_ipc"]

MakeTable: TypeAlias = Callable[[], Any]

# The member that holds the metadata of an archive: the last one of its file, in Arrow's IPC file format (Feather V2),
# not compressed by itself. A row belongs to the member that its column `KEY` names.
MEMBER = "__metadata__.arrow"
KEY = "__member__"

_LARGEST_BLOCK = (1 << 31) - 1


def arrow() -> Any:
    """Import pyarrow.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("metadata need pyarrow: pip install 'archivestream[metadata]'") from error
    return pyarrow


def join_tables(tables: Sequence[Any]) -> Any:
    """Put tables one after the other: columns that one lacks are null there; integers become floats where they must.

    Raises
    ------
    ValueError
        If a column is of two types that do not go together.
    """
    pyarrow = arrow()
    try:
        return pyarrow.concat_tables(tables, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise ValueError(f"the metadata have columns of types that do not go together: {error}") from error


def write_ipc(table: Any) -> bytes:
    """Write a table as the member that holds it."""
    pyarrow = arrow()
    stream = io.BytesIO()
    with pyarrow.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def read_ipc(data: bytes, archive: str) -> Any:
    """Read the member that holds a table.

    Raises
    ------
    CorruptArchiveError
        If it is damaged, or does not name its members.
    """
    pyarrow = arrow()
    try:
        with pyarrow.ipc.open_file(pyarrow.py_buffer(data)) as reader:
            table = reader.read_all()
        table.validate(full=True)  # lengths and offsets in it are followed without a check
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise CorruptArchiveError(f"it is no table of Arrow: {error}", archive=archive, member=MEMBER) from error
    keys = [field.type for field in table.schema if field.name == KEY]
    if keys not in ([pyarrow.string()], [pyarrow.large_string()]):
        raise CorruptArchiveError(f"it has no column {KEY!r} of text", archive=archive, member=MEMBER)
    return _unique(table, archive, MEMBER)


def read_csv(data: bytes, archive: str, left_out: Iterable[str]) -> Any:
    """Read a table of CSV, whose columns get the narrowest of Arrow's types that all their values fit.

    Raises
    ------
    CorruptArchiveError
        If it is none.
    """
    pyarrow = arrow()
    from pyarrow import csv

    try:
        table = csv.read_csv(
            pyarrow.BufferReader(data),
            read_options=csv.ReadOptions(block_size=min(len(data) + 1, _LARGEST_BLOCK)),  # types are those of a block
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(strings_can_be_null=True),
        )
    except pyarrow.ArrowException as error:
        raise CorruptArchiveError(f"it is no CSV: {error}", archive=archive) from error
    return _unique(table, archive, None).drop_columns(list(left_out))


def _unique(table: Any, archive: str, member: str | None) -> Any:
    if len(set(table.column_names)) < table.num_columns:
        raise CorruptArchiveError("two of its columns have one name", archive=archive, member=member)
    return table
