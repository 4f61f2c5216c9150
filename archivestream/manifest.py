"""Data sets by name: a manifest says where their archives lie, how they become samples, and their checksums.

It is a file in TOML, with a table for each data set:

.. code-block:: toml

    [digits]
    path = "digits/train-*.zip"  # or a list; below the folder of the manifest
    sha256 = {"digits/train-0.zip" = "9f86d081…", "digits/train-1.zip" = "60303ae2…"}  # of one: just "9f86d081…"
    decode = "image"  # these as `archivestream.ArchiveDataset` takes them: decode, labels, group, extensions, pattern
    labels = "folder"
    splits = {train = 0.9, val = 0.1}  # shares; or globs and queries: {train = "train/*", test = "label == 3"}
    seed = 7  # of the shares; also: stratify
"""

from __future__ import annotations

import hashlib
import os
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archivestream.archive import Archive, Progress, open
from archivestream.errors import CorruptArchiveError
from archivestream.formats import find_table, list_files
from archivestream.paths import expand

if TYPE_CHECKING:
    from archivestream.dataset import ArchiveDataset

__all__ = ["Manifest", "NamedDataset"]

_PIECE = 1 << 20
# The keys of a table and the types of their values: of the archives, of `ArchiveDataset`, and of its `split`.
_FILES = {"path": (str, list), "sha256": (str, dict), "splits": (dict,)}
_SAMPLES = {
    "decode": (str, dict),
    "labels": (str, dict),
    "group": (bool,),
    "extensions": (str, list),
    "pattern": (str,),
}
_SHARES = {"seed": (int,), "stratify": (bool, str)}
_KEYS: Mapping[str, tuple[type, ...]] = {**_FILES, **_SAMPLES, **_SHARES}
# What lists and tables among them hold: values of one of these kinds.
_STRINGS: tuple[tuple[type, ...], ...] = ((str,),)
_VALUES = {
    "path": _STRINGS,
    "sha256": _STRINGS,
    "splits": ((float,), (int,), (str,)),
    "decode": _STRINGS,
    "labels": ((int, float, bool), (str,)),
    "extensions": _STRINGS,
}


class Manifest(dict[str, "NamedDataset"]):
    """The data sets of a manifest, by name; archives are looked for once they are asked for.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no TOML, or has an unknown key or a value of another type: the message names the file and the data set.
    ImportError
        On Python 3.10, if tomli is not installed: the extra ``manifest``.

    Examples
    --------
    >>> manifest = archivestream.Manifest("data/datasets.toml")
    >>> manifest["digits"].verify()
    >>> train = manifest["digits"].dataset("train")
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        for name, table in _load(Path(path)).items():
            self[name] = NamedDataset(Path(path), name, table)


@dataclass(frozen=True)
class NamedDataset:
    """One data set of a `Manifest`: the file, the name, and the table that stands there."""

    manifest: Path
    name: str
    table: Mapping[str, Any]

    def __post_init__(self) -> None:
        table: object = self.table
        if not isinstance(table, dict) or not table.get("path"):
            raise self._error("it must be a table with a path")
        for key, value in table.items():
            if key not in _KEYS:
                raise self._error(f"unknown key {key!r}: known are {', '.join(_KEYS)}")
            if type(value) not in _KEYS[key]:
                # Dotted keys make a value of any depth, which repr does not show.
                raise self._error(f"{key} is {reprlib.repr(value)}, and must be {_joined(_KEYS[key])}")
            if not isinstance(value, list | dict):
                continue
            found = set(map(type, value.values() if isinstance(value, dict) else value))
            if not any(found.issubset(kind) for kind in _VALUES[key]):
                kinds = ", or all ".join(map(_joined, _VALUES[key]))
                raise self._error(f"{key} is {reprlib.repr(value)}, and what it holds must be all {kinds}")

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.manifest}: data set {self.name!r}: {message}")

    def files(self) -> dict[str, Path]:
        """List its archives, in order, by their paths below the folder of the manifest.

        Of a folder whose members lie in several files, that is the table that says where.

        Raises
        ------
        FileNotFoundError
            If a pattern fits no file.
        ValueError
            If a path leads out of that folder (symbolic links in it are followed), or stands for too many.
        """
        folder, paths = self.manifest.parent, self.table["path"]
        files: dict[str, Path] = {}
        for path in [paths] if isinstance(paths, str) else paths:
            try:
                found = expand(path, str(folder))
            except ValueError as error:
                raise self._error(str(error)) from error
            for file in map(Path, map(find_table, found)):  # braces can make a `..`, too
                if os.path.isabs(path) or not file.is_relative_to(folder) or ".." in file.relative_to(folder).parts:
                    raise self._error(f"the path {path!r} leads out of the folder of the manifest")
                files[file.relative_to(folder).as_posix()] = file
        return files

    def verify(self, progress: Progress | None = None) -> None:
        """Check the SHA-256 of its archives, all bytes of which are read; ``progress(done, total)`` counts them.

        Where an archive is a table of members that lie in other files, each of those needs a checksum, too.

        Raises
        ------
        CorruptArchiveError
            For the first file with another checksum, or if a table is damaged, or refers to what is not there.
        ValueError
            If the manifest has no checksum for a file, or one for another file; as `files`.
        OSError
            As `files`, or if reading fails.
        """
        files, digests = self.files(), self.table.get("sha256", {})
        if isinstance(digests, str) and len(files) == 1:
            digests = dict.fromkeys(files, digests)
        for file in list(files.values()):
            files |= {
                Path(one).relative_to(self.manifest.parent).as_posix(): Path(one) for one in list_files(str(file))
            }
        odd = files.keys() ^ digests.keys() if isinstance(digests, Mapping) else files.keys()
        if odd:
            raise self._error(
                "each archive, and each file that a table refers to, needs a sha256, and nothing else has one: "
                f"see {', '.join(sorted(odd))}"
            )
        done, total = 0, sum(file.stat().st_size for file in files.values())
        for name, file in files.items():
            found = hashlib.sha256()
            with file.open("rb", buffering=0) as contents:
                while data := contents.read(_PIECE):
                    found.update(data)
                    done += len(data)
                    if progress is not None:
                        progress(done, total)
            if found.hexdigest() != str(digests[name]).lower():
                message = f"its SHA-256 is {found.hexdigest()}, and not that of {self.name!r} in {self.manifest}"
                raise CorruptArchiveError(f"{message}: get it anew, or correct the manifest", archive=str(file))

    def open(self, **options: Any) -> Archive:
        """Open its archives as one: see `archivestream.open` for the options and what is raised.

        Where the manifest has checksums, saved indexes that lie beside the archives, and which it says nothing of, are
        not used, unless the option ``index`` says so: its default is "private" then.
        """
        if "sha256" in self.table:
            options.setdefault("index", "private")
        return open([*self.files().values()], **options)

    def dataset(self, split: str | None = None, *, archive: Archive | None = None, **options: Any) -> ArchiveDataset:
        """Make its `ArchiveDataset`, or one of the splits of that.

        Parameters
        ----------
        split : str, optional
            The name of a split; default: all samples.
        archive : Archive, optional
            What `open` has made; default: it is opened with no options.
        **options
            Arguments of `ArchiveDataset`, such as ``transform``: they go before those of the manifest.

        Raises
        ------
        ValueError
            If there is no such split; as `files` and `ArchiveDataset`.
        ArchiveError, OSError, ImportError
            As `open` and `ArchiveDataset`.
        """
        from archivestream.dataset import ArchiveDataset

        splits = self.table.get("splits", {})
        if split is not None and split not in splits:
            raise self._error(f"there is no split {split!r}: known are {', '.join(splits) or 'none'}")
        samples = {**{key: self.table[key] for key in _SAMPLES if key in self.table}, **options}
        dataset = ArchiveDataset(self.open() if archive is None else archive, **samples)
        if split is None:
            return dataset
        if isinstance(splits[split], str):
            return dataset.select(splits[split])
        seed, stratify = self.table.get("seed", 0), self.table.get("stratify", False)
        return dataset.split(splits, seed=seed, stratify=stratify)[split]


def _load(path: Path) -> Mapping[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError(
                "on Python 3.10, a manifest needs tomli: pip install 'archivestream[manifest]'"
            ) from error
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: this is no manifest: {error}") from error


def _joined(types: tuple[type, ...]) -> str:
    return " or ".join(one.__name__ for one in types)
