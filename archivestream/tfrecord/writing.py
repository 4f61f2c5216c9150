"""Writing TFRecord files."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from archivestream._native.tfscan import frame
from archivestream.packing.output import OutputFile, commit
from archivestream.session import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TFRecordWriter"]

_WBITS = {"gzip": 31, "zlib": 15}


class TFRecordWriter:
    """Writes records to one file; a context manager.

    The file stands under its name only once it is whole and on the disk: leaving the context by an exception leaves
    nothing behind, as does `abandon`. For one thread at a time.

    Parameters
    ----------
    path : path
        Where the file will stand.
    compression : {None, "gzip", "zlib"}
        Of the whole file, as TensorFlow has it. None is fastest to read, in any order.
    level : int
        Of the compression, from 0 to 9.
    overwrite : bool
        Replace what stands there.
    progress : callable, optional
        Called with (bytes of records written, 0, as their number is not known).

    Raises
    ------
    FileExistsError
        If something stands there, and `overwrite` is False.
    ValueError
        If there is no such compression or level.
    OSError
        If it cannot be written.

    Examples
    --------
    >>> with TFRecordWriter("train.tfrecord") as writer:
    ...     for image, label in samples:
    ...         writer.write(encode_example({"image": image, "label": label}))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Literal["gzip", "zlib"] | None = None,
        level: int = 6,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> None:
        if compression is not None and compression not in _WBITS:
            raise ValueError(f"compression is None, 'gzip' or 'zlib', not {compression!r}")
        if not 0 <= level <= 9:
            raise ValueError(f"level is from 0 to 9, not {level}")
        self._compressor = None
        if compression is not None:
            self._compressor = zlib.compressobj(level, zlib.DEFLATED, _WBITS[compression])
        self._progress = progress
        self._done = 0
        self._closed = False
        self._file = OutputFile(path, overwrite=overwrite)

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return self._file.path

    def write(self, record: Any) -> None:
        """Append a record.

        Parameters
        ----------
        record : bytes-like
            Its bytes: see `encode_example`.

        Raises
        ------
        ValueError
            If the writer is closed.
        TypeError
            If it is not bytes-like.
        OSError
            If the disk is full, and the like.
        """
        if self._closed:
            raise ValueError(f"{self.path}: the writer is closed")
        data = memoryview(record).cast("B")
        header, footer = frame(data)
        try:
            for part in (header, data, footer):
                self._file.write(part if self._compressor is None else self._compressor.compress(part))
        except BaseException:
            self.abandon()  # a part of a record would damage all behind it
            raise
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._done, 0)

    def close(self) -> None:
        """Write what is left, and give the file its name."""
        if self._closed:
            return
        try:
            if self._compressor is not None:
                self._file.write(self._compressor.flush())
            self._file.sync()
            commit([self._file])
        except BaseException:
            self.abandon()
            raise
        self._closed = True

    def abandon(self) -> None:
        """Stop, and remove what was written."""
        if not self._closed:
            self._closed = True
            self._file.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
