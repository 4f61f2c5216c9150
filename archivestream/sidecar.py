"""The sidecar: an index in a file beside the archive.

Its container is the layout of safetensors, little-endian::

     0  u64 size of the header
     8  header: JSON, filled up with spaces so that the columns begin at a multiple of 64
        "__metadata__": strings; here what the index is of, and the checksums
        "size", ...: {"dtype": "U64", "shape": [n], "data_offsets": [begin, end]}, from the end of the header
        the columns, one behind the other, wider types first: each is aligned

The header begins with the CRC-32 of all that stands before the columns, reckoned with zeros in its own place, and holds
that of each column. A sidecar is used only where all of them hold, where it belongs to the archive as it is now,
and where the columns keep to what native code relies on. That is checked of memory of our own, into which the file is
read once: pages of a file that is mapped change, or go, with the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import platformdirs

from archivestream._native.buffers import Buffer
from archivestream._native.codecs import crc32
from archivestream._native.columns import Layout
from archivestream._version import __version__
from archivestream.atomic import replace_file
from archivestream.columns import DTYPES, Columns, find_fault
from archivestream.errors import ArchiveChangedError, CorruptArchiveError, LimitExceededError
from archivestream.fingerprint import describe, whole_crc32
from archivestream.limits import Limits
from archivestream.sources import Source

__all__ = [
    "SUFFIXES",
    "Columns",
    "Metadata",
    "Sidecar",
    "StaleSidecar",
    "drop_partial",
    "load",
    "load_any",
    "load_partial",
    "places",
    "save",
    "save_partial",
]

Progress: TypeAlias = Callable[[int, int], object]

_VERSION = "1"  # of this layout, and of what the columns mean
_SUFFIX = ".asidx"
_PARTIAL = ".part"
SUFFIXES = _SUFFIX, _SUFFIX + _PARTIAL  # of what lies beside an archive, and is none
_PREFIX = b'{"__metadata__":{"header_crc32":"'
_BLANK = b"00000000"
_LONGEST_NAME = 255  # in bytes, of a file (POSIX, NAME_MAX of all common file systems)
_LARGEST_HEADER = 1 << 20
_ALIGNMENT = 64  # of the first column
_CODES = {"<u8": "U64", "<u4": "U32", "<u2": "U16", "|u1": "U8"}  # what safetensors calls the types
_DIGITS = re.compile("0|[1-9][0-9]{0,18}")
_FORMAT = re.compile("[a-z0-9]{1,20}([.][a-z0-9]{1,20}){0,2}")  # which is shown to people


class StaleSidecar(ArchiveChangedError):
    """A sound sidecar, but not of this archive as it is now, of this version, or of these options.

    Nothing is lost: index the archive anew.
    """


@dataclass(frozen=True)
class Metadata:
    """What an index says besides its columns, and how it was made.

    Attributes
    ----------
    format : str
        Of the archive: ``"zip"``, ``"tar"``, ``"tar.zst"`` and the like.
    layout : Layout
        How the members lie in it.
    data_end : int
        Where the part of the archive that holds blocks ends.
    strict, metadata_encoding
        The options that an index depends on. One that was made under others is stale.
    crc32 : int or None
        Of the whole archive, where reading all of it was part of the work: the sidecar then outlives a copy of the
        archive that has lost its time of modification.
    """

    format: str
    layout: Layout
    data_end: int
    strict: bool = False
    metadata_encoding: str | None = None
    crc32: int | None = None


@dataclass(frozen=True)
class Sidecar:
    """A sidecar that was loaded.

    Attributes
    ----------
    path : Path
        Where it lies.
    columns : mapping of str to ndarray
        Read-only, and views of one buffer, which forked processes share: whatever becomes of the file, they stay as
        they were checked.
    metadata : Metadata
        As it was saved.
    touched : bool
        Whether the time of modification of the archive is another one than that recorded, and all of the archive
        had to be read to see that it is the same. Saving the sidecar again spares that the next time.
    """

    path: Path
    columns: Columns
    metadata: Metadata
    touched: bool = False


# ---- where sidecars lie -----------------------------------------------------------------------------------------


def places(source: Source, *, private: bool = False) -> list[Path]:
    """List where the sidecar of a source may lie: beside it, and in the user's cache folder; if `private`, only there.

    Nowhere for bytes and file objects, which no path leads back to.
    """
    path = getattr(source, "path", None)
    if path is None or source.descriptor < 0:
        return []
    try:
        if not os.path.samestat(os.stat(path), os.fstat(source.descriptor)):
            return []
    except OSError:  # deleted, or never had a path
        return []
    folder, name = os.path.split(path)
    digest = hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()
    short = os.fsdecode(os.fsencode(name)[:100])
    found = [_cache_folder() / f"{digest}-{short}{_SUFFIX}"]
    if not private and len(os.fsencode(name + _SUFFIX + _PARTIAL)) <= _LONGEST_NAME:
        found.insert(0, Path(folder, name + _SUFFIX))
    return found


def _cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("archivestream"))


# ---- what a sidecar belongs to ----------------------------------------------------------------------------------


def _check_archive(
    path: Path, source: Source, saved: Mapping[str, str], crc: int | None, progress: Progress | None
) -> bool:
    """Raise `StaleSidecar` unless the sidecar belongs to the source; return whether that took all of its bytes."""
    now = describe(source)
    if saved.get("archive_size") != now["archive_size"]:
        raise _stale(path, f"it is of an archive of {saved.get('archive_size')} bytes, and this one has {source.size}")
    if saved.get("archive_ends") != now["archive_ends"]:
        raise _stale(path, "it is of an archive with other contents")
    mtime = now.get("archive_mtime_ns")
    if mtime is None or saved.get("archive_mtime_ns") == mtime:
        return False
    if crc is None:
        raise _stale(path, "the archive was written to, copied or touched since")
    if whole_crc32(source, progress) != crc:
        raise _stale(path, "it is of an archive with other contents")
    return True


def _stale(path: Path, reason: str) -> StaleSidecar:
    return StaleSidecar(f"the saved index is out of date: {reason}; index the archive anew", archive=str(path))


def _corrupt(path: Path, reason: str) -> CorruptArchiveError:
    return CorruptArchiveError(
        f"the saved index is damaged: {reason}; delete it, and index the archive anew", archive=str(path)
    )


# ---- loading ----------------------------------------------------------------------------------------------------


def load(
    path: Path,
    source: Source,
    *,
    strict: bool = False,
    metadata_encoding: str | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> Sidecar:
    """Read a sidecar, and check all of it.

    Parameters
    ----------
    path : Path
        Of the sidecar.
    source : Source
        The archive that it must belong to.
    strict, metadata_encoding
        What it must have been made with.
    progress : callable, optional
        Called with the bytes done and their number, where the whole archive has to be read: see `Metadata.crc32`.
    limits : Limits, optional
        How much it may hold; default: any number of members and of bytes.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StaleSidecar
        If it is of another archive or of an earlier state of this one, or made by another version or other options.
    CorruptArchiveError
        If it is damaged or contradicts itself.
    LimitExceededError
        If it holds more than it may, before memory is taken.
    OSError
        If it or the archive cannot be read.
    """
    return _Wanted(source, "index", strict, metadata_encoding, progress, limits).load(path)


def load_any(
    source: Source,
    *,
    strict: bool = False,
    metadata_encoding: str | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
    private: bool = False,
) -> Sidecar | None:
    """Load the first valid sidecar of a source; None if there is none at all.

    With `private`, it must be the user's own: see `places`.

    Raises
    ------
    StaleSidecar, CorruptArchiveError, LimitExceededError, OSError
        As `load` does, of the first place, where there are some and none is valid.
    """
    wanted = _Wanted(source, "index", strict, metadata_encoding, progress, limits, private)
    return wanted.load_first(places(source, private=private))


def load_partial(
    source: Source,
    *,
    strict: bool = False,
    metadata_encoding: str | None = None,
    limits: Limits | None = None,
    private: bool = False,
) -> Sidecar | None:
    """Load what `save_partial` has left; None if it has left nothing. Raises as `load_any`."""
    wanted = _Wanted(source, "partial", strict, metadata_encoding, limits=limits, private=private)
    return wanted.load_first([_partial(place) for place in places(source, private=private)])


@dataclass(frozen=True)
class _Wanted:
    """What a sidecar has to be of, and how it must have been made."""

    source: Source
    kind: str
    strict: bool
    metadata_encoding: str | None
    progress: Progress | None = None
    limits: Limits | None = None
    private: bool = False

    def load_first(self, candidates: list[Path]) -> Sidecar | None:
        """Load the first that is there and valid; raise what is wrong with the first if none is."""
        refusal: Exception | None = None
        for place in candidates:
            try:
                return self.load(place)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (CorruptArchiveError, LimitExceededError, OSError) as error:
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return None

    def load(self, path: Path) -> Sidecar:
        """Load one, and check all of it."""
        # A FIFO would block here until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _corrupt(path, "it is not a regular file")
            if self.private and status.st_uid not in (os.geteuid(), 0):
                raise _corrupt(path, "somebody else has made it")
            header, saved, start = _read_header(path, descriptor, status.st_size)
            if saved.get("version") != _VERSION:
                raise _stale(path, f"its layout is version {saved.get('version')}, not {_VERSION}")
            if saved.get("kind") != self.kind:
                raise _stale(path, f"it holds a {saved.get('kind')}, not a {self.kind}")
            made_with = saved.get("strict"), saved.get("metadata_encoding")
            if made_with != (str(self.strict), _text(self.metadata_encoding)):
                raise _stale(path, "it was made with other options")
            metadata = _parse_metadata(path, saved, self.strict, self.metadata_encoding)
            touched = _check_archive(path, self.source, saved, metadata.crc32, self.progress)
            spans = _parse_spans(path, header, status.st_size - start)
            _check_limits(self.source, spans, status.st_size - start, self.limits)
            contents = _read(path, descriptor, start, status.st_size - start)
        finally:
            os.close(descriptor)
        columns = {}
        for name, (dtype, count, offset) in spans.items():
            column = np.frombuffer(contents, dtype, count, offset) if count else np.empty(0, dtype)
            if saved.get(f"crc32:{name}") != _hex(crc32(column.data.cast("B") if count else b"")):
                raise _corrupt(path, f"the bytes of {name!r} do not have their checksum")
            columns[name] = column
        fault = find_fault(columns, metadata.layout, whole=self.kind == "index")
        if fault:
            raise _corrupt(path, fault)
        return Sidecar(path, columns, metadata, touched)


def _check_limits(
    source: Source, spans: Mapping[str, tuple[np.dtype[Any], int, int]], size: int, limits: Limits | None
) -> None:
    if limits is None:
        return
    members = spans["size"][1] if "size" in spans else 0
    room, name = limits.index_room(source.size)
    for most, what, value in (
        (limits.max_members, f"members, more than Limits.max_members = {limits.max_members}", members),
        (room, f"bytes, more than the {room} that {name} allows", size),
    ):
        if value > most:
            raise LimitExceededError(f"the saved index has {value} {what}", archive=source.name)


def _read(path: Path, descriptor: int, begin: int, size: int) -> memoryview:
    """Read a part of a file into aligned memory."""
    contents = memoryview(Buffer(size))
    done = 0
    while done < size:
        got = os.preadv(descriptor, [contents[done : done + (1 << 30)]], begin + done)
        if not got:
            raise _corrupt(path, "it was truncated while it was read")
        done += got
    return contents.toreadonly()


def _read_header(path: Path, descriptor: int, size: int) -> tuple[dict[str, Any], dict[str, str], int]:
    """Read and check the header: (the parsed JSON without its metadata, those, where the columns begin)."""
    head = bytes(_read(path, descriptor, 0, min(8, size)))
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > min(size - 8, _LARGEST_HEADER) or (8 + length) % _ALIGNMENT:
        raise _corrupt(path, "it is truncated, or no saved index")
    text = bytes(_read(path, descriptor, 8, length))
    place = slice(len(_PREFIX), len(_PREFIX) + len(_BLANK))
    if not text.startswith(_PREFIX):
        raise _corrupt(path, "it is no saved index")
    blank = text[: place.start] + _BLANK + text[place.stop :]
    if text[place] != _hex(crc32(head + blank)).encode():
        raise _corrupt(path, "its header does not have its checksum")
    try:
        header = json.loads(text)
        saved = header.pop("__metadata__")
        if not all(isinstance(value, str) for value in saved.values()):
            raise TypeError("metadata are strings")
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise _corrupt(path, "its header cannot be read") from error
    return header, saved, 8 + length


def _parse_metadata(path: Path, saved: Mapping[str, str], strict: bool, encoding: str | None) -> Metadata:
    layout, data_end, crc = (saved.get(key, "") for key in ("layout", "data_end", "archive_crc32"))
    if not _DIGITS.fullmatch(data_end) or layout not in {str(int(known)) for known in Layout}:
        raise _corrupt(path, "its header lacks what an index needs")
    if not _FORMAT.fullmatch(saved.get("format", "")):
        raise _corrupt(path, "its header does not name a format")
    if crc and not re.fullmatch("[0-9a-f]{8}", crc):
        raise _corrupt(path, "its header cannot be read")
    return Metadata(
        format=saved["format"],
        layout=Layout(int(layout)),
        data_end=int(data_end),
        strict=strict,
        metadata_encoding=encoding,
        crc32=int(crc, 16) if crc else None,
    )


def _parse_spans(path: Path, header: Mapping[str, Any], size: int) -> dict[str, tuple[np.dtype[Any], int, int]]:
    """Return the type, the number of values and the offset of each column: they fill the file without a gap."""
    spans: dict[str, tuple[np.dtype[Any], int, int]] = {}
    end = 0
    try:
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype = DTYPES.get(name)
            [count] = entry["shape"]
            if dtype is None or entry["dtype"] != _CODES[dtype.str] or type(count) is not int or count < 0:
                raise _corrupt(path, f"{name!r} is no column of an index, or of another type")
            if entry["data_offsets"] != [end, end + count * dtype.itemsize] or end % dtype.itemsize:
                raise _corrupt(path, f"{name!r} is not where it must be")
            spans[name] = dtype, count, end
            end += count * dtype.itemsize
    except (TypeError, LookupError, ValueError) as error:
        if isinstance(error, CorruptArchiveError):
            raise
        raise _corrupt(path, "its header cannot be read") from error
    if end != size:
        raise _corrupt(path, f"its columns have {end} bytes, and there are {size}: it is truncated")
    return spans


# ---- saving -----------------------------------------------------------------------------------------------------


def save(
    columns: Columns, metadata: Metadata, source: Source, path: Path | None = None, *, private: bool = False
) -> Path:
    """Save an index, whole or not at all, and return where.

    Parameters
    ----------
    columns : mapping of str to ndarray
        Those of an index of one source.
    metadata : Metadata
        The rest of it.
    source : Source
        The archive. It must not have changed since it was opened.
    path : Path, optional
        Default: the first of `places` that can be written to.
    private : bool
        Save it in the user's cache folder, for nobody else.

    Raises
    ------
    ArchiveChangedError
        If the archive has changed.
    ValueError
        If the path leads to the archive itself.
    OSError
        If it cannot be written; what was there before is untouched.
    """
    if path is not None and _is_same(path, source):
        raise ValueError(f"{path}: this is the archive itself, which the saved index would replace")
    candidates = [path] if path is not None else places(source, private=private)
    saved = _save_first(candidates, columns, metadata, source, "index", private)
    drop_partial(source)
    return saved


def _is_same(path: Path, source: Source) -> bool:
    try:
        return source.descriptor >= 0 and os.path.samestat(os.stat(path), os.fstat(source.descriptor))
    except OSError:  # there is nothing at the path
        return False


def save_partial(columns: Columns, metadata: Metadata, source: Source, *, private: bool = False) -> Path:
    """Save what an unfinished scan has found, so that the next one goes on from there. Raises as `save`."""
    candidates = [_partial(place) for place in places(source, private=private)]
    return _save_first(candidates, columns, metadata, source, "partial", private)


def drop_partial(source: Source) -> None:
    """Delete what `save_partial` has left."""
    for place in places(source):
        try:
            _partial(place).unlink()
        except OSError:  # none there; or in a folder that cannot be written to, where it does no harm
            continue


def _partial(place: Path) -> Path:
    return place.with_name(place.name + _PARTIAL)


def _save_first(
    candidates: list[Path], columns: Columns, metadata: Metadata, source: Source, kind: str, private: bool
) -> Path:
    if not candidates:
        raise FileNotFoundError(f"{source.name}: there is no place beside it for a saved index; give a path")
    header = _make_header(columns, metadata, source, kind)

    def check() -> None:
        change = source.change()
        if change:
            raise ArchiveChangedError(f"it changed while it was indexed: {change}; open it again", archive=source.name)

    refusal: OSError | None = None
    for place in candidates:
        try:
            if place.parent == _cache_folder():
                place.parent.mkdir(parents=True, exist_ok=True)
            parts: list[Any] = [header, *(columns[name] for name in _order(columns))]
            replace_file(place, parts, like=-1 if private else source.descriptor, check=check)
        except ArchiveChangedError:
            raise
        except OSError as error:
            refusal = refusal or error
        else:
            return place
    assert refusal is not None
    raise refusal


def _order(columns: Columns) -> list[str]:
    return sorted(columns, key=lambda name: (-columns[name].itemsize, name))


def _make_header(columns: Columns, metadata: Metadata, source: Source, kind: str) -> bytes:
    fault = find_fault(columns, metadata.layout, whole=kind == "index")
    if fault:
        raise ValueError(f"{source.name}: {fault}")
    saved = {
        "header_crc32": _BLANK.decode(),
        "kind": kind,
        "version": _VERSION,
        "archivestream": __version__,
        "format": metadata.format,
        "layout": str(int(metadata.layout)),
        "data_end": str(metadata.data_end),
        "strict": str(metadata.strict),
        "metadata_encoding": _text(metadata.metadata_encoding),
        **describe(source),
    }
    if metadata.crc32 is not None:
        saved["archive_crc32"] = _hex(metadata.crc32)
    header: dict[str, Any] = {"__metadata__": saved}
    end = 0
    for name in _order(columns):
        column = columns[name]
        saved[f"crc32:{name}"] = _hex(crc32(column.data.cast("B") if len(column) else b""))
        span = [end, end + column.nbytes]
        header[name] = {"dtype": _CODES[DTYPES[name].str], "shape": [len(column)], "data_offsets": span}
        end += column.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    head = len(text).to_bytes(8, "little")
    return head + text.replace(_BLANK, _hex(crc32(head + text)).encode(), 1)


def _hex(crc: int) -> str:
    return f"{crc:08x}"


def _text(encoding: str | None) -> str:
    return "" if encoding is None else encoding
