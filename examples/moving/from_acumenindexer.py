"""Moving from AcumenIndexer: its folders are read as they are, or written to one ZIP, types and checksums included.

    python from_acumenindexer.py [FOLDER] [--dtype float16]   # with index.csv and chunks/; without it, one is made

    AcumenIndexer                                  archivestream
    -------------                                  -------------
    read_from_index(load_index(...), dtype)(i)     archive.map_arrays([i], dtype=...), archive.metadata
    split_into_chunks(samples, folder, n_jobs=8)   pack(samples, "arrays.zip", n_jobs=8)
    index[index.label == 3]                        archive.select("label == 3")
    in_memory=True                                 archive.map_arrays: nothing is copied

Samples are pairs of an array and a dict. In a ZIP, an array is a ``.npy`` file: it keeps its type, and has a checksum.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import archivestream

Samples = list[tuple[NDArray[Any], dict[str, Any]]]


def before(folder: str, dtype: str) -> Samples:
    """One row of the DataFrame, and one file opened, for each array."""
    from acumenindexer import load_index, read_from_index

    index = load_index(f"{folder}/index.csv")
    read = read_from_index(index, dtype=np.dtype(dtype), chunk_paths=folder)
    return [read(i) for i in range(len(index))]


def now(folder: str, dtype: str) -> Samples:
    """All arrays as views of the files, and all metadata as one table."""
    with archivestream.open(folder) as archive:
        arrays = archive.map_arrays(range(len(archive)), dtype=dtype)
        rows = archive.metadata.drop_columns(["ai:shape"]).to_pylist()
    return list(zip(arrays, rows, strict=True))


def move(samples: Samples, path: Path) -> Samples:
    """Write samples to a ZIP, and read them again."""
    archivestream.pack(samples, path, method="stored", align=64)
    with archivestream.open(path) as archive:
        arrays = archive.read_arrays(range(len(archive)))  # checksums are checked; of one shape, so one array
        return list(zip(arrays, archive.metadata.to_pylist(), strict=True))


def main() -> None:
    """Read a folder in both ways, and move it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="of arrays of one shape")
    parser.add_argument("--dtype", default="float16", help="which its index does not say; default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or write_chunks(Path(scratch, "arrays"))
        samples = now(folder, args.dtype)
        array, metadata = samples[0]
        print(f"{len(samples)} arrays; the first: {array.dtype} {array.shape}, {metadata}")
        try:
            print("the same as before:", equal(samples, before(folder, args.dtype)))
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        print("the same after moving:", equal(samples, move(samples, Path(scratch, "arrays.zip"))))


def equal(ours: Samples, theirs: Samples) -> bool:
    """Whether all arrays and all metadata are the same."""
    return all(np.array_equal(a, b) and m == n for (a, m), (b, n) in zip(ours, theirs, strict=True))


def write_chunks(folder: Path) -> str:
    """Write arrays as `split_into_chunks` does: values one after the other, and a table of where they are."""
    (folder / "chunks").mkdir(parents=True)
    random = np.random.default_rng(0)
    with open(folder / "index.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ai:chunk_name", "ai:offset_bytes", "ai:size_bytes", "ai:shape", "label", "split"])
        for number in range(100):
            name = f"chunks/chunk_{number // 40}.chnk"
            values = random.random((16, 3)).astype(np.float16)
            with open(folder / name, "ab") as chunk:
                table.writerow([name, chunk.tell(), values.nbytes, values.shape, number % 5, "train"])
                chunk.write(values.tobytes())
    return str(folder)


if __name__ == "__main__":
    main()
