"""Moving from DataStack: views, combinations, splits and reports, of the archive itself.

    python from_datastack.py

    DataStack                                          archivestream
    ---------                                          -------------
    FileStorageConnector, an iterator of your own      ArchiveDataset("images.zip", decode=, labels=)
    DatasetIteratorView(iterator, indices)             dataset.select(indices), or by name: "cat/*"
    CombinedDatasetIterator([a, b])                    a + b
    InMemoryDatasetIterator(iterator)                  open(..., cache=archivestream.Cache(bytes))
    get_random_splitter([0.8, 0.2], seed)              dataset.split({"train": 0.8, "test": 0.2}, seed=)
    get_stratified_splitter([0.8, 0.2], seed)          the same, stratify=True
    get_cv_splitter(5), get_nested_cv_splitter(5, 2)   dataset.split(StratifiedKFold(5)), and again
    DatasetIteratorReportGenerator.generate_report     archivestream info, loader.stats

Splits look at the labels, which come from the index: no sample is decoded for them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

import archivestream
from archivestream import ArchiveDataset

Folds = list[list[Any]]


def before(path: str) -> Folds:
    """An iterator over the archive, of one's own; the splitter goes through all samples to find their labels."""
    from data_stack.dataset.iterator import DatasetIterator
    from data_stack.dataset.splitter import SplitterFactory

    class Arrays(DatasetIterator):
        def __init__(self) -> None:
            self.archive = np.load(path)
            self.classes = sorted({name.split("/")[0] for name in self.archive.files})

        def __len__(self) -> int:
            return len(self.archive.files)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            name = self.archive.files[index]  # an IndexError ends the iteration
            return self.archive[name], self.classes.index(name.split("/")[0])

    folds = SplitterFactory.get_cv_splitter(num_folds=5, shuffle=True, seed=1).split(Arrays())
    return [[fold[i] for i in range(len(fold))] for fold in folds]


def now(path: str) -> Folds:
    """Views of one dataset; any splitter of scikit-learn makes them."""
    dataset = ArchiveDataset(path, decode="numpy", labels="folder")
    print({dataset.classes[label]: count for label, count in Counter(dataset.targets.tolist()).items()})
    folds = dataset.split(StratifiedKFold(5, shuffle=True, random_state=np.random.RandomState(1)))
    train, test = folds[0]
    inner = train.split({"train": 0.75, "val": 0.25}, stratify=True)  # views stack
    print(f"fold 1: {len(inner['train'])} to train on, {len(inner['val'])} to validate, {len(test)} to test")
    print(f"combined again: {len(train + test)}")
    return [[test[i] for i in range(len(test))] for _, test in folds]


def main() -> None:
    """Split the samples of an archive in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_arrays(Path(folder, "arrays.npz"))
        folds = now(path)
        try:
            folds_before = before(path)
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        else:
            print("the same as before:", equal(folds, folds_before))


def equal(ours: Folds, theirs: Folds) -> bool:
    """Whether all folds have the same samples, in the same order."""
    return all(
        len(a) == len(b) and all(np.array_equal(x, y) and i == j for (x, i), (y, j) in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def write_arrays(path: Path) -> str:
    """Write an ``.npz``, which is a ZIP, of arrays in a folder for each class."""
    random = np.random.default_rng(0)
    arrays = ((f"{'cat' if i % 3 else 'dog'}/{i:03}", random.random(8)) for i in range(120))
    return str(archivestream.pack(arrays, path, format="zip")[0])


if __name__ == "__main__":
    main()
