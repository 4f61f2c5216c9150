"""A PyTorch map-style dataset over the members of an archive."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archivestream.archive import Archive, Openable, open
from archivestream.decoding import Decoder, decoder
from archivestream.errors import ArchiveError
from archivestream.reader import without_frames

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
    decode : {"image", "numpy"}, callable or None
        How the bytes of a member become a sample: an RGB image of Pillow, the array of a ``.npy`` file, what the
        callable returns for the bytes, or the bytes themselves.
    transform : callable, optional
        Applied to each decoded sample.
    target_transform : callable, optional
        Applied to each label.
    labels : "folder", optional
        Give (sample, label), where the label is the number of the folder that holds the member, among the sorted
        names of all such folders, as in torchvision's ImageFolder.
    extensions : str or sequence of str, optional
        Keep only names that end with one of these, in either case (``".jpg"``).
    pattern : str, optional
        Keep only names that this glob matches.

    Attributes
    ----------
    archive : Archive
        A view of the members that are samples, in the order of the archive: ``dataset[i]`` is made of
        ``archive[i]``.
    classes : list of str
        Names of the classes, sorted; empty without labels.
    class_to_idx : dict of str to int
        The number of each class.
    targets : ndarray of int64, shape (n,)
        The class of each sample; empty without labels.

    Raises
    ------
    ValueError
        If labels are asked for and a member lies in no folder, or `decode` or `labels` has no such value.
    ImportError
        If a decoder needs a package that is not installed.

    Notes
    -----
    ``torch.utils.data.DataLoader`` asks for whole batches (``__getitems__``), and each is read with one native call.
    Safe for any number of threads, and in worker processes however they are started; a pickle opens the
    archive again, so it must have been opened by path or from bytes.

    Examples
    --------
    >>> dataset = ArchiveDataset("images.zip", decode="image", labels="folder", transform=to_tensor)
    >>> for images, labels in DataLoader(dataset, batch_size=256, shuffle=True, num_workers=2):
    ...     train(images, labels)
    """

    def __init__(
        self,
        archive: Archive | Openable | Sequence[Openable],
        *,
        decode: str | Decoder | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        labels: str | None = None,
        extensions: str | Sequence[str] | None = None,
        pattern: str | None = None,
    ) -> None:
        if labels not in (None, "folder"):
            raise ValueError(f"labels must be 'folder' or None, not {labels!r}")
        if target_transform is not None and labels is None:
            raise ValueError("target_transform has nothing to work on without labels='folder'")
        self._decode = decoder(decode)
        self.transform = transform
        self.target_transform = target_transform
        self.labels = labels
        self.archive = _files(archive if isinstance(archive, Archive) else open(archive), extensions, pattern)
        self.classes: list[str] = []
        self.class_to_idx: dict[str, int] = {}
        self.targets: NDArray[np.int64] = np.empty(0, np.int64)
        if labels is not None:
            self._label()

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
        """The names of the samples."""
        return self.archive.names

    def __len__(self) -> int:
        return len(self.archive)

    def __getitem__(self, index: int) -> Any:
        """Return one sample, or (sample, label)."""
        index = operator.index(index)
        return self._sample(index, self.archive[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch, whose members are read with one native call."""
        if type(self).__getitem__ is not ArchiveDataset.__getitem__:
            # A subclass makes its samples in its own way, and a DataLoader would pass it over.
            return [self[i] for i in indices]
        members = self.archive.read_many(indices)
        return [self._sample(i, data) for i, data in zip(indices, members, strict=True)]

    def _sample(self, index: int, data: bytes) -> Any:
        sample: Any = data
        target: Any = None
        try:
            if self._decode is not None:
                sample = self._decode(data)
            if self.transform is not None:
                sample = self.transform(sample)
            if self.labels is not None:
                target = int(self.targets[index])
            if self.target_transform is not None:
                target = self.target_transform(target)
        except ArchiveError as error:
            if error.member is not None:
                raise
            info = self.archive.info(index)
            raise type(error)(error.reason, archive=info.archive, member=info.name) from error
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                info = self.archive.info(index)
                error.add_note(f"{info.archive}: member {info.name!r}")
            raise
        return sample if self.labels is None else (sample, target)

    def _label(self) -> None:
        folders = [name.rpartition("/")[0].rpartition("/")[2] for name in self.names]
        self.classes = sorted(set(folders))
        if "" in self.classes:
            name = self.names[folders.index("")]
            raise ValueError(
                f"{self.archive.info(folders.index('')).archive}: member {name!r} lies in no folder, so it has no "
                "label; keep it out with pattern= or extensions="
            )
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.targets = np.array([self.class_to_idx[folder] for folder in folders], np.int64)


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


def _files(archive: Archive, extensions: str | Sequence[str] | None, pattern: str | None) -> Archive:
    """View the members that are samples."""
    if pattern is not None:
        archive = archive.select(pattern)
    keep = archive.files()
    if extensions is not None:
        suffixes = (extensions,) if isinstance(extensions, str) else tuple(extensions)
        keep &= archive.names.endswith(suffixes, ignore_case=True)
    keep &= ~archive.names.startswith("__MACOSX/")
    return archive if keep.all() else archive.select(keep)
