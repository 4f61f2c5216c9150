"""Tables of metadata: typed columns in memory, and as a member of an archive. They are tables of Arrow (pyarrow)."""

from __future__ import annotations

import io
import struct
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
_MAGIC = b"ARROW1\0\0"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


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
        if data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("it does not begin as one")
        # The stream in the file, without its footer, which says again where everything is.
        body = pyarrow.py_buffer(data).slice(len(_MAGIC))
        messages = pyarrow.ipc.MessageReader.open_stream(body)
        if any(_is_compressed(bytes(message.metadata)) for message in messages):
            raise ValueError("its columns are compressed by themselves, to sizes that have no bound")
        with pyarrow.ipc.open_stream(body) as reader:
            table = reader.read_all()
        table.validate(full=True)  # lengths and offsets in it are followed without a check
    except (pyarrow.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        raise CorruptArchiveError(f"it is no table of Arrow: {error}", archive=archive, member=MEMBER) from error
    keys = [field.type for field in table.schema if field.name == KEY]
    kinds = (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary())
    if len(keys) != 1 or keys[0] not in kinds:
        raise CorruptArchiveError(f"it has no column {KEY!r} of text", archive=archive, member=MEMBER)
    return _unique(table, archive, MEMBER)


def _is_compressed(message: bytes) -> bool:
    """Whether a message holds compressed columns: RecordBatch.compression of Message.fbs in the format of Arrow."""
    (root,) = struct.unpack_from("<I", message)
    kind = _slot(message, root, 1)
    table = _follow(message, _slot(message, root, 2))
    if not kind or not table or message[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    if message[kind] == _DICTIONARY_BATCH:
        table = _follow(message, _slot(message, table, 1))
    return bool(table and _slot(message, table, 3))


def _slot(message: bytes, table: int, number: int) -> int:
    """Return where a field of a table of FlatBuffers lies; 0 where it is not there."""
    (back,) = struct.unpack_from("<i", message, table)
    (size,) = struct.unpack_from("<H", message, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", message, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _follow(message: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", message, place)[0]) if place else 0


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
