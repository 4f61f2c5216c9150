"""Writing archives: `pack` and `repack`, and the packers that they are made of."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import archivestream.archive
from archivestream.archive import Archive, Openable
from archivestream.packing.entries import Entry, Source, read_entries
from archivestream.packing.packer import Packer
from archivestream.packing.samples import find_entries, next_number
from archivestream.packing.shards import ShardPacker, assign, container_of, is_pattern, open_present
from archivestream.packing.tarzst import SAMPLE_BYTES, SAMPLE_PIECE, TarZstFormat, TarZstPacker, train_dictionary
from archivestream.packing.zip import Method, ZipPacker
from archivestream.session import Progress

__all__ = ["Method", "Packer", "ShardPacker", "Source", "TarZstPacker", "ZipPacker", "pack", "repack"]


def pack(
    source: Source,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    method: Method | None = None,
    level: int | None = None,
    align: int | None = None,
    segment_size: int | None = None,
    frame_size: int | None = None,
    dictionary: bool | bytes = False,
    shards: int | None = None,
    max_shard_bytes: int | None = None,
    append: bool = False,
    shuffle: int | None = None,
    n_jobs: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Write an archive, or several, from files, from samples in memory or from another archive.

    An archive stands under its name only once it is whole and on the disk. The same members and options make the
    same bytes, whatever the number of threads. Memory does not grow with the members, but for their names.

    Parameters
    ----------
    source : path, sequence of paths, iterable of samples, or Archive
        A folder: all that is in it, sorted, under names relative to it, with its folders, and with symbolic links as
        such. A file, or several files and folders: each under its own name (an archive, too: `repack` takes what is
        in it). An `Archive`, or a view of one, with its metadata. Or samples: bytes, or an array, which becomes a
        ``.npy`` file; a pair of a name and one of these (also a mapping); a pair of one of these and a dict of its
        metadata, which become typed columns (`Archive.metadata`; needs pyarrow); or a callable without arguments that
        makes one of these. Without a name, a sample is named by its number: ``000000000007``, ``000000000007.npy``.
    target : path
        Where it is to stand; for shards, the pattern of their names: see `ShardPacker`.
    format : {"zip", "tar.zst", "tar"}, optional
        Default: what the suffix of the target says.
    method, level, align, segment_size
        For ZIP: see `ZipPacker`.
    level, frame_size
        For ``.tar.zst``: see `TarZstPacker`.
    dictionary : bool or bytes
        For ``.tar.zst``: True trains one on a sample of the members.
    shards, max_shard_bytes : int, optional
        Write several archives: see `ShardPacker`. Of what has a known size (files, archives, and sequences of samples
        that are there already) `shards` takes runs of about equal size, so the order of the members stays; of other
        iterables, each sample goes to the shard with the fewest bytes.
    append : bool
        Add shards to those that are there: see `ShardPacker`. Numbers of samples without names go on, too.
    shuffle : int, optional
        A seed: write the members in a random order, which follows from it. Of an iterable that is no sequence, which
        is never there as a whole, samples are dealt out to the `shards` at random, and keep their order in each.
    n_jobs : int, optional
        For samples: make them (call what is callable, write arrays as ``.npy``) in so many threads; -1: as many as
        there are processors. Default: on the calling thread, one after the other.
    threads : int, optional
        Default: as many as there are processors.
    overwrite : bool
        Replace what stands at the target.
    progress : callable, optional
        Called with (bytes packed, bytes in all, or 0 where that is not known).

    Returns
    -------
    list of Path
        The archives that were written; `archivestream.open` takes the list.

    Raises
    ------
    ValueError
        If a name cannot be used (absolute, leading out, empty) or comes twice, the target lies in the folder that is
        packed, its suffix is not known, or an option does not fit the format.
    FileExistsError
        If something stands at the target, and `overwrite` is False.
    ArchiveError
        If a member of the source cannot be read, or a file changed meanwhile.
    OSError
        If the disk is full, a file cannot be read, and the like.

    Examples
    --------
    >>> archivestream.pack("images/", "images.zip", align=4096)
    >>> archivestream.pack("texts/", "texts.tar.zst", frame_size=64 << 10)
    >>> archivestream.pack(((f"{i:06d}", a) for i, a in enumerate(arrays)), "train-{:05d}.zip", max_shard_bytes=1 << 30)
    >>> archivestream.pack(records, "train-{:05d}.zip", shards=128, method="stored", shuffle=7)
    >>> archivestream.pack([(array, {"label": 3, "split": "train"})], "arrays.zip", method="stored", align=64)
    """
    _check_place(source, target)
    path = os.fspath(target)
    options: dict[str, Any] = {
        "method": method,
        "level": level,
        "align": align,
        "segment_size": segment_size,
        "frame_size": frame_size,
        "dictionary": dictionary if isinstance(dictionary, bytes) else None,
    }
    container = container_of(path, format, options)
    if dictionary and not isinstance(container, TarZstFormat):
        raise ValueError("dictionary is an option of .tar.zst")
    sharded = shards is not None or max_shard_bytes is not None or is_pattern(path)
    if append and not sharded:
        raise ValueError(f"{path}: shards are appended to a set of them; number them, as in train-{{:05d}}.zip")
    listing = find_entries(
        source,
        # Where a folder need not be counted first, it is read while its members are compressed.
        listed=bool(progress) or sharded or dictionary is True,
        shuffle=shuffle,
        first=_next_number(path) if append else 0,
        n_jobs=n_jobs,
    )
    if listing.is_shuffled:
        shuffle = None
    if shuffle is not None and shards is None:
        raise ValueError("shuffle= of samples that are not there as a whole needs shards= to deal them out to")
    if dictionary is True:
        options["dictionary"], entries = _train(listing.entries, level)
        listing = listing._replace(entries=entries)
    common: dict[str, Any] = {"threads": threads, "overwrite": overwrite, "progress": progress}
    packer: Packer
    if sharded:
        packer = ShardPacker(
            path,
            shards=shards,
            max_shard_bytes=max_shard_bytes,
            append=append,
            shuffle=shuffle,
            format=format,
            **common,
            **options,
        )
    else:
        packer = Packer(container_of(path, format, options), path, **common)
    with packer:
        if listing.sizes is not None:
            packer.total = sum(listing.sizes)
        for entry, shard in assign(listing, packer):
            packer.add_entry(entry, shard)
    return packer.paths


def repack(
    archive: Archive | Openable | Sequence[Openable], target: str | os.PathLike[str], **options: Any
) -> list[Path]:
    """Write the members of an archive to another one, or to several: of another format, or compressed otherwise.

    Parameters
    ----------
    archive : Archive, or what `archivestream.open` takes
        What to read; a view of an archive (`Archive.select`) stands for its members.
    target : path
        Where the new archive is to stand.
    **options
        As for `pack`.

    Returns
    -------
    list of Path
        The archives that were written.

    Raises
    ------
    ArchiveError
        If a member is bad or cannot be read; nothing is written then.
    Exception
        As `pack` raises.

    Examples
    --------
    >>> archivestream.repack("images.zip", "images-{00..15}.zip", method="stored", align=4096)
    """
    if isinstance(archive, Archive):
        return pack(archive, target, **options)
    with archivestream.archive.open(archive) as opened:
        return pack(opened, target, **options)


def _next_number(pattern: str) -> int:
    """Return the number of the next sample of a set that is appended to."""
    present = open_present(pattern)
    if present is None:
        return 0
    with present:
        return next_number(present.names)


def _check_place(source: Source, target: str | os.PathLike[str]) -> None:
    """Refuse to write into a folder that is read."""
    folders = source if isinstance(source, list | tuple) else [source]
    place = os.path.realpath(os.path.dirname(os.path.abspath(target)))
    for folder in folders:
        if isinstance(folder, str | os.PathLike) and os.path.isdir(folder):
            inside = os.path.realpath(folder)
            if os.path.commonpath([inside, place]) == inside:
                raise ValueError(
                    f"{os.fspath(target)} lies in {os.fspath(folder)}, which is to be packed; write it elsewhere"
                )


def _train(entries: Iterable[Entry], level: int | None) -> tuple[bytes, Iterable[Entry]]:
    """Train a dictionary on members of all of a list, or on the first ones of what can be read only once."""
    if isinstance(entries, list):
        step = max(1, sum(min(entry.size, SAMPLE_PIECE) for entry in entries) // SAMPLE_BYTES)
        sample = entries[::step]
    else:
        iterator, sample, size = iter(entries), [], 0
        for entry in iterator:
            sample.append(entry)
            size += entry.size
            if size >= SAMPLE_BYTES:
                break
        entries = itertools.chain(sample, iterator)
    small = [entry for entry in sample if entry.size <= SAMPLE_PIECE]
    return train_dictionary(read_entries(small), level or 3), entries
