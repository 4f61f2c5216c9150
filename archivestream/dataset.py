"""A PyTorch map-style dataset over the members of an archive."""

from __future__ import annotations

import hashlib
import itertools
import operator
import pickle
from array import array
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from archivestream.archive import Archive, Openable, open
from archivestream.decoding import ByExtension, Decode, Decoder, find_decoder
from archivestream.errors import ArchiveError
from archivestream.grouping import SampleKeys, find_files, group_members, members_of_samples
from archivestream.labels import Labels, Samples, find_targets, join_targets, label_file
from archivestream.reader import without_frames
from archivestream.selection import Keys, describe_selection, split_name
from archivestream.splitting import Groups, Splitter, find_groups, find_strata, split_by_shares, split_by_splitter

try:
    from torch.utils.data import Dataset
except ImportError as error:
    raise ImportError("ArchiveDataset needs PyTorch: pip install 'archivestream[torch]'") from error

__all__ = ["ArchiveDataset"]


class ArchiveDataset(Dataset[Any]):
    """The files of an archive as samples. Subclass it, or configure it.

    Parameters
    ----------
    archive : Archive, or what `archivestream.open` takes
        Directories are left out, and so is the ``__MACOSX`` folder that macOS puts into ZIP files.
    decode : str, callable, mapping or None
        How the bytes of a member become a sample. None: they are the sample. A name: "image" (an array in RGB,
        `archivestream.decoding.ImageDecoder`), "pil" (a Pillow image in RGB, as in torchvision's ImageFolder), "numpy",
        "npz", "json", "text", "int", "csv", "tsv", "audio" (or "wav"). "auto": by the extension of the member; those
        without a decoder stay bytes, and pickles are refused (`archivestream.register_decoder` adds others). A callable
        gets a memoryview of the bytes, which it must not keep. A mapping has one of these for each extension
        (``{"jpg": "image"}``); the other members stay bytes.
    transform : callable, optional
        Applied to each decoded sample.
    target_transform : callable, optional
        Applied to each label.
    labels : str, mapping or callable, optional
        Give (sample, label). See Notes.
    group : bool
        Members with one stem are one sample, as in WebDataset, wherever they lie in the archive: a dict of what the
        members decode to by their extensions, in lower case, with ``"__key__"``, the stem, and ``"__url__"``, the name
        of the archive. The stem is the name up to the first dot of its last component. Parts that are missing are
        missing in the dict; members without a stem or an extension belong to no sample.
    extensions : str or sequence of str, optional
        Keep only names that end with one of these, in either case (``".jpg"``).
    pattern : str, optional
        Keep only names that this glob matches; or, as for `Archive.select`, a query over metadata.

    Attributes
    ----------
    archive : Archive
        A view of the members that are samples, in the order of the samples.
    bounds : ndarray of int64, shape (n + 1,), or None
        None: ``dataset[i]`` is made of ``archive[i]``. Grouped: of the members from ``bounds[i]`` to ``bounds[i + 1]``.
    decode : callable, ByExtension or None
        The decoder; None for the bytes as they are.
    classes : list of str
        Names of the classes, sorted; empty without labels, and where these are numbers.
    class_to_idx : dict of str to int
        The number of each class.
    targets : ndarray of int64 or float64, shape (n,)
        The label of each sample, where classes are numbered; empty without labels.
    ancestry : tuple of str
        Where the samples come from: what was opened, and then each step that made a view of it.

    Raises
    ------
    ValueError
        If samples have no label, or one has two members of one extension, or an argument has no such value.
    ArchiveError
        If the archive, or a table of labels in it, cannot be read.
    ImportError
        If a decoder needs a package that is not installed.

    Notes
    -----
    Labels are whole numbers, floats, or strings: these are classes, numbered in the order of their sorted names, as in
    torchvision's ImageFolder. They come from

    - ``"folder"``: the name of the folder that holds the member (ImageFolder's);
    - the name of a column of the metadata (`Archive.metadata`); grouped, of the first member of a sample;
    - a mapping from the names of samples;
    - ``"labels.csv:target"``: the column ``target`` of a CSV, TSV or JSON member of the archive, which is then no
      sample. JSON holds ``{name: label}``, ``{name: {"target": label}}``, or a list of records. Text in CSV that is a
      number in all rows is one;
    - a callable from the name of a sample to its label;
    - the extension of a part of grouped samples, such as ``"cls"``, which are read when the dataset is made.

    A mapping or a table names samples by their names, or these relative to the folder of the table, each with its
    extension or without; or by the last component alone, where no two samples have the same. The first of these
    ways by which a column has at least half of the samples counts, and the column must then have them all. Of two
    columns, the second is the label where none is given (``"labels.csv"``).

    ``torch.utils.data.DataLoader`` asks for whole batches (``__getitems__``), and each is read with one native call.
    Safe for any number of threads, and in worker processes however they are started; a pickle opens the
    archive again, so it must have been opened by path or from bytes.

    Examples
    --------
    >>> dataset = ArchiveDataset("images.zip", decode="image", labels="folder")
    >>> parts = dataset.split({"train": 0.9, "val": 0.1}, seed=0, stratify=True)
    >>> for images, labels in DataLoader(parts["train"], batch_size=256, shuffle=True, num_workers=2):
    ...     train(images, labels)
    """

    def __init__(
        self,
        archive: Archive | Openable | Sequence[Openable],
        *,
        decode: Decode | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        labels: Labels | None = None,
        group: bool = False,
        extensions: str | Sequence[str] | None = None,
        pattern: str | None = None,
    ) -> None:
        if target_transform is not None and labels is None:
            raise ValueError("target_transform has nothing to work on without labels")
        self._decoder = find_decoder(decode)
        self.transform = transform
        self.target_transform = target_transform
        self.bounds: NDArray[np.int64] | None = None
        self.classes: list[str] = []
        self.targets: NDArray[Any] = np.empty(0, np.int64)
        self._labelled = labels is not None
        whole = archive if isinstance(archive, Archive) else open(archive)
        table = label_file(labels)
        self.archive = find_files(whole, extensions, pattern, None if table is None else table.path)
        self.ancestry = self.archive.ancestry
        if group:
            self._group()
        if labels is not None:
            samples = Samples(whole, self.archive, self.bounds, self.names, self._decoder)
            self.targets, self.classes = find_targets(labels, samples)
        self.decode = self._common_decoder()

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"<{type(self).__name__} {' > '.join(self.ancestry)}: {len(self)} samples{classes}>"

    @property
    def archive(self) -> Archive:
        """A view of the members that are samples."""
        if isinstance(self._archive, Exception):
            raise copy(self._archive)  # a new one: a traceback would keep all that it refers to
        return self._archive

    @archive.setter
    def archive(self, archive: Archive) -> None:
        self._archive: Archive | Exception = archive

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": _Pickled(self.archive)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        carried = state["_archive"]
        self.__dict__.update(state)
        self._archive = carried.archive if isinstance(carried, _Pickled) else carried

    @property
    def names(self) -> Sequence[str]:
        """The names of the samples: of their members, or, grouped, their stems (``"__key__"``)."""
        names = self.archive.names
        return names if self.bounds is None else SampleKeys(names, self.bounds)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The number of each class."""
        return {name: number for number, name in enumerate(self.classes)}

    @property
    def fingerprint(self) -> str:
        """What tells these samples, in this order, from others: see `Archive.fingerprint`."""
        if self.bounds is None:
            return self.archive.fingerprint
        found = hashlib.blake2b(self.archive.fingerprint.encode(), digest_size=16)
        found.update(self.bounds.astype("<i8").tobytes())
        return found.hexdigest()

    @property
    def labelled(self) -> bool:
        """Whether samples come with labels."""
        return self._labelled

    def __len__(self) -> int:
        return len(self.archive) if self.bounds is None else len(self.bounds) - 1

    def __getitem__(self, index: int) -> Any:
        """Return one sample, or (sample, label)."""
        index, n = operator.index(index), len(self)
        if not -n <= index < n:
            raise IndexError(f"sample {index} of a dataset of {n}")
        index %= n
        if self.bounds is None:
            return self._sample(index, [self.archive[index]])
        return self._sample(index, self.archive.read_many(range(*self.bounds[index : index + 2].tolist())))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch, whose members are read with one native call."""
        if type(self).__getitem__ is not ArchiveDataset.__getitem__:
            # A subclass makes its samples in its own way, and a DataLoader would pass it over.
            return [self[i] for i in indices]
        samples = self._check(indices)
        positions, offsets = self.members_of(samples)
        members = self.archive.read_many(positions)
        spans = zip(samples.tolist(), itertools.pairwise(offsets.tolist()), strict=True)
        return [self._sample(i, members[begin:end]) for i, (begin, end) in spans]

    def members_of(self, indices: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which members some samples are made of.

        Parameters
        ----------
        indices : sequence of int, shape (n,)
            Of samples, negative from the end.

        Returns
        -------
        positions : ndarray of int64, shape (m,)
            In `archive`, sample by sample.
        offsets : ndarray of int64, shape (n + 1,)
            Which of them are a sample's: ``positions[offsets[i]:offsets[i + 1]]``.

        Raises
        ------
        IndexError
            If there is no such sample.
        """
        samples = self._check(indices)
        if self.bounds is None:
            return samples, np.arange(len(samples) + 1)
        return members_of_samples(samples, self.bounds)

    def decode_sample(self, index: int, parts: Sequence[bytes | memoryview]) -> Any:
        """Decode the members of a sample, without transforms.

        Parameters
        ----------
        index : int
            Of the sample, from 0.
        parts : sequence of bytes-like
            What its members hold, in the order of `members_of`. Nothing of it is kept.

        Raises
        ------
        ArchiveError
            If a member cannot be decoded; archive and member are named in it, as they are in a note to any exception
            of a decoder of the user's.
        """
        if self.bounds is None:
            return self._decode(index, parts[0])
        first = int(self.bounds[index])
        names = list(self.archive.names.at(np.arange(first, first + len(parts))))
        sample = {"__key__": split_name(names[0])[0], "__url__": self.archive.origin(first)}
        for place, part in enumerate(parts):
            sample[split_name(names[place])[1]] = self._decode(first + place, part)
        return sample

    def finish_sample(self, index: int, decoded: Any) -> Any:
        """Make the sample, or (sample, label), of what its members decode to: transforms are applied.

        Parameters
        ----------
        index : int
            Of the sample, from 0.
        decoded : object
            As from `decode_sample`.

        Raises
        ------
        Exception
            As the transforms raise it, with a note that names archive and member.
        """
        try:
            sample = decoded if self.transform is None else self.transform(decoded)
        except Exception as error:
            self._raise_named(error, index if self.bounds is None else int(self.bounds[index]))
        return (sample, self.label(index)) if self._labelled else sample

    def label(self, index: int) -> Any:
        """Return the label of a sample, transformed.

        Parameters
        ----------
        index : int
            Of the sample, from 0.

        Raises
        ------
        Exception
            As `target_transform` raises it, with a note that names archive and member.
        """
        target = self.targets[index].item()
        if self.target_transform is None:
            return target
        try:
            return self.target_transform(target)
        except Exception as error:
            self._raise_named(error, index if self.bounds is None else int(self.bounds[index]))

    def select(self, keys: Keys | str | slice) -> ArchiveDataset:
        """Return a view of some samples: nothing is read, and classes stay as they are.

        Parameters
        ----------
        keys : glob pattern, query, slice, boolean mask, or keys
            As for `Archive.select`; the names of grouped samples are their stems, and their metadata those of their
            first members.

        Raises
        ------
        IndexError, MemberNotFoundError, TypeError
            As `Archive.select`.
        """
        if self.bounds is None:
            places = self.archive.positions(keys)
        else:
            firsts = self.archive.select(self.bounds[:-1])
            if not (isinstance(keys, slice) or (isinstance(keys, str) and firsts.is_query(keys))):
                keys = SampleKeys(self.archive.names, self.bounds).places(keys)
            places = firsts.positions(keys)
        return self._view(places, describe_selection(keys, len(places), len(self)))

    def __add__(self, other: Any) -> Any:
        """Return one dataset of the samples of both, in order, where they are made in the same way.

        Classes are merged by their names. With any other dataset, the result is torch's ``ConcatDataset``.

        Raises
        ------
        ValueError
            If the two decode or transform differently, or their archives were opened with different options.
        """
        if not isinstance(other, ArchiveDataset):
            return super().__add__(other)
        for name in ("_decoder", "transform", "target_transform", "_labelled"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(
                    f"the datasets differ in {name.strip('_')}: torch.utils.data.ConcatDataset([a, b]) holds both"
                )
        if type(self) is not type(other) or (self.bounds is None) != (other.bounds is None):
            raise ValueError("the datasets are of two kinds: torch.utils.data.ConcatDataset([a, b]) holds both")
        both = copy(self)
        both.targets, both.classes = join_targets((self.targets, self.classes), (other.targets, other.classes))
        if self.bounds is not None and other.bounds is not None:
            both.bounds = np.concatenate([self.bounds, other.bounds[1:] + self.bounds[-1]])
        both.archive = self.archive + other.archive
        both.ancestry = (" + ".join(" > ".join(part.ancestry) for part in (self, other)),)
        both.decode = both._common_decoder()
        return both

    @overload
    def split(
        self,
        parts: Mapping[str, float],
        *,
        seed: int = ...,
        stratify: bool | str | Sequence[Any] | NDArray[Any] = ...,
        groups: None = ...,
    ) -> dict[str, ArchiveDataset]: ...
    @overload
    def split(
        self,
        parts: Splitter,
        *,
        groups: Groups = ...,
    ) -> list[tuple[ArchiveDataset, ArchiveDataset]]: ...
    def split(
        self,
        parts: Mapping[str, float] | Splitter,
        *,
        seed: int = 0,
        stratify: bool | str | Sequence[Any] | NDArray[Any] = False,
        groups: Groups = None,
    ) -> dict[str, ArchiveDataset] | list[tuple[ArchiveDataset, ArchiveDataset]]:
        """Split the samples into views; nothing is read or decoded.

        Parameters
        ----------
        parts : mapping of str to float or int, or a splitter
            The share of each part, from 0.0 to 1.0 and 1.0 at most together, or numbers of samples. Or a splitter of
            scikit-learn: KFold, StratifiedKFold, GroupKFold, ShuffleSplit, or any other object with its ``split``.
        seed : int
            Of the shuffle, where shares are given: the same parts on every platform, and with every version.
        stratify : bool, str or array of shape (n,)
            Give each part the same share of each class, to within one sample: of the labels, of a column of the
            metadata, or of the classes given here. For shares; splitters have their own (StratifiedKFold), which get
            the labels.
        groups : "folder", str, callable or array of shape (n,), optional
            What a splitter keeps together (GroupKFold): samples of one folder, of one value in a column of the
            metadata, of one that the callable returns for their names, or of one value here.

        Returns
        -------
        dict of str to ArchiveDataset
            Each part, in the order of this dataset: every sample is in one of them, where the shares make 1.
        list of (ArchiveDataset, ArchiveDataset)
            With a splitter: train and test of each fold.

        Raises
        ------
        ValueError
            If shares make more than 1, there are no classes to stratify by, or as the splitter raises it.

        Examples
        --------
        >>> dataset.split({"train": 0.8, "val": 0.1, "test": 0.1}, stratify=True)
        >>> for train, test in dataset.split(StratifiedGroupKFold(5), groups=lambda name: name[:4]):
        ...     inner = train.split({"train": 0.9, "val": 0.1})
        """
        targets = self.targets if self._labelled else None
        if isinstance(parts, Mapping):
            if groups is not None:
                raise ValueError("groups are for splitters: sklearn.model_selection.GroupShuffleSplit and the like")
            strata = find_strata(stratify, targets, self.archive, self.bounds, self.names)
            found = split_by_shares(parts, len(self), seed, strata)
            stratified = "" if stratify is False else ", stratified"
            step = f"of split {dict(parts)}, seed {seed}{stratified}"
            return {name: self._view(places, f"{name} {step}") for name, places in found.items()}
        if not isinstance(parts, Splitter):
            raise TypeError(f"parts are a mapping of shares or a splitter of scikit-learn, not {type(parts).__name__}")
        if stratify is not False:
            raise ValueError("stratify is for shares; of splitters, take StratifiedKFold and the like")
        of_group = find_groups(groups, self.archive, self.bounds, self.names)
        folds = split_by_splitter(parts, len(self), targets, of_group)
        return [
            (
                self._view(train, f"train of fold {fold} of {len(folds)}, {parts}"),
                self._view(test, f"test of fold {fold} of {len(folds)}, {parts}"),
            )
            for fold, (train, test) in enumerate(folds)
        ]

    def _view(self, places: NDArray[np.int64], step: str) -> ArchiveDataset:
        view = copy(self)
        if self.bounds is None:
            view.archive = self.archive.select(places)
        else:
            positions, view.bounds = members_of_samples(places, self.bounds)
            view.archive = self.archive.select(positions)
        if self._labelled:
            view.targets = self.targets[places]
        view.ancestry = (*self.ancestry, step)
        return view

    def _group(self) -> None:
        positions, self.bounds = group_members(self.archive)
        self.archive = self.archive.select(positions)

    def _common_decoder(self) -> Decoder | ByExtension | None:
        """Return the one decoder of all members, where there is one: who reads whole batches can make use of it."""
        if self.bounds is None and isinstance(self._decoder, ByExtension):
            return self._decoder.common(self.archive.names.extensions()[1])
        return self._decoder

    def _check(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return indices as an array, from 0; raises `IndexError` for one that is not there."""
        if not hasattr(indices, "__array__"):
            indices = np.array(array("q", indices), np.int64)
        samples = np.asarray(indices)
        if samples.ndim != 1 or (samples.size and samples.dtype.kind not in "iu"):
            raise TypeError(f"indices are a row of integers, not {samples.dtype} of shape {samples.shape}")
        if not len(samples):
            return samples.astype(np.int64)
        n, low, high = len(self), int(samples.min()), int(samples.max())  # before numbers beyond int64 become others
        if low < -n or high >= n:
            raise IndexError(f"sample {low if low < -n else high} of a dataset of {n}")
        samples = samples.astype(np.int64, copy=False)
        return samples % n if low < 0 else samples

    def _sample(self, index: int, parts: Sequence[bytes]) -> Any:
        return self.finish_sample(index, self.decode_sample(index, parts))

    def _decode(self, position: int, data: bytes | memoryview) -> Any:
        """Decode a member."""
        decoder = self.decode
        try:
            if isinstance(decoder, ByExtension):
                decoder = decoder.find(split_name(self.archive.names[position])[1])
            return bytes(data) if decoder is None else decoder(memoryview(data))
        except Exception as error:
            self._raise_named(error, position)

    def _raise_named(self, error: Exception, position: int) -> NoReturn:
        """Raise an exception with archive and member in it, or in a note."""
        info = self.archive.info(position)
        if isinstance(error, ArchiveError) and error.member is None:
            raise type(error)(error.reason, archive=info.archive, member=info.name) from error
        if not isinstance(error, ArchiveError) and hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"{info.archive}: member {info.name!r}")
        raise error


class _Pickled:
    """An archive whose pickle gives the archive, or what went wrong when it was opened again.

    A worker process that cannot load its dataset ends without a word; one whose dataset raises says why.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (pickle.dumps(self.archive),)


def _unpickle(data: bytes) -> Archive | Exception:
    try:
        archive: Archive = pickle.loads(data)
    except (ArchiveError, OSError) as error:
        return without_frames(error)
    return archive
