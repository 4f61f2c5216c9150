"""Text, whole numbers, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from archivestream.errors import CorruptArchiveError

__all__ = ["CsvDecoder", "decode_int", "decode_json", "decode_text", "read_rows"]


def decode_text(data: memoryview) -> str:
    """Decode text in UTF-8; a byte order mark is dropped, line ends stay as they are: ``decode="text"``.

    Raises
    ------
    CorruptArchiveError
        If it is not UTF-8.
    """
    try:
        return str(data, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptArchiveError(
            f"it is no text in UTF-8 ({error.reason} at byte {error.start}); a callable decodes other encodings"
        ) from error


def decode_int(data: memoryview) -> int:
    """Decode a whole number in decimal digits, such as WebDataset's ``.cls``: ``decode="int"``.

    Raises
    ------
    CorruptArchiveError
        If it is none.
    """
    try:
        return int(decode_text(data))
    except CorruptArchiveError:
        raise
    except ValueError as error:
        raise CorruptArchiveError(f"it is no whole number, but begins with {bytes(data[:20])!r}") from error


def decode_json(data: memoryview) -> Any:
    """Decode JSON in UTF-8 (RFC 8259): ``decode="json"``.

    Raises
    ------
    CorruptArchiveError
        If it is none, or nested too deeply for Python.
    """
    try:
        return json.loads(decode_text(data))
    except CorruptArchiveError:
        raise
    except (ValueError, RecursionError) as error:
        raise CorruptArchiveError(f"it is no JSON that can be read: {error}") from error


@dataclass(frozen=True)
class CsvDecoder:
    r"""From CSV in UTF-8, with a header, to a list of its rows, each a dict of str by column: ``decode="csv"``.

    As `csv.DictReader` gives them (RFC 4180), but a row must have as many fields as the header.

    Parameters
    ----------
    delimiter : str
        Between fields; ``"\t"`` for ``decode="tsv"``.
    """

    delimiter: str = ","

    def __call__(self, data: memoryview) -> list[dict[str, str]]:
        """Decode a file.

        Raises
        ------
        CorruptArchiveError
            If it is not UTF-8, no CSV, or of rows that do not fit the header.
        """
        rows = read_rows(data, self.delimiter)
        header = next(rows, [])
        return [dict(zip(header, row, strict=True)) for row in rows]


def read_rows(data: memoryview, delimiter: str) -> Iterator[list[str]]:
    """Read the header of a CSV file, and then its rows, of as many fields; empty lines are passed over.

    Raises
    ------
    CorruptArchiveError
        As `CsvDecoder` does.
    """
    reader = csv.reader(io.StringIO(decode_text(data), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = row
                if len(set(header)) < len(header):
                    raise CorruptArchiveError(f"two columns have one name in its header: {', '.join(header)}")
            elif len(row) != len(header):
                raise CorruptArchiveError(
                    f"line {reader.line_num} has {len(row)} fields, and the header has {len(header)}"
                )
            yield row
    except csv.Error as error:
        raise CorruptArchiveError(f"line {reader.line_num} is no CSV: {error}") from error
