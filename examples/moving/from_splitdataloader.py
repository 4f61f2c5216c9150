"""Moving from splitdataloader: its folders are read as they are, and its records written to shards of ZIP.

    python from_splitdataloader.py [FOLDER]   # with bin*.dat and index.dat; without it, a small one is made

    splitdataloader                               archivestream
    ---------------                               -------------
    SplitDataLoader(folder), loader[i]            archivestream.open(folder), archive[i]
    write_split_data(folder, records, splits=8)   pack(records, "folder/part-{:05d}.zip", shards=8)
    the same again, which appends                 pack(..., shards=8, append=True)
    shuffle=True                                  shuffle=7: by seed
    loader.iterate_binwise(shuffle=True)          ArchiveSampler(archive, shuffle="block", seed=7)
    MpQItr(generator_fn, *args)                   background(generator_fn, *args, processes=True)

Records have checksums, shards stand under their names only once they are whole, and an exception in a child process
arrives in the parent.
"""

from __future__ import annotations

import argparse
import random
import struct
import tempfile
from pathlib import Path

import archivestream


def before(folder: str) -> tuple[list[bytes], list[bytes]]:
    """Records by their number; then bin by bin, in random order."""
    from splitdataloader import SplitDataLoader

    loader = SplitDataLoader(folder)
    return [loader[i] for i in range(len(loader))], list(loader.iterate_binwise(shuffle=True))


def now(folder: str) -> tuple[list[bytes], list[bytes]]:
    """Batches of records by their numbers; then block by block, in an order that the seed decides."""
    with archivestream.open(folder) as archive:
        in_order = archive.read_many(range(len(archive)))
        sampler = archivestream.ArchiveSampler(archive, batch_size=64, shuffle="block", seed=7)
        shuffled = [record for batch in sampler for record in archive.read_many(batch)]
    return in_order, shuffled


def move(folder: str, target: Path) -> list[bytes]:
    """Write the records to shards, append one more, and read them again."""
    pattern = str(target / "part-{:05d}.zip")
    with archivestream.open(folder) as archive:
        archivestream.pack(archive, pattern, shards=4, method="stored")
    archivestream.pack([b"one more"], pattern, shards=1, append=True)
    with archivestream.open(pattern) as archive:
        return list(archive)


def main() -> None:
    """Read a folder in both ways, and move it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or write_bins(Path(scratch, "bins"))
        records, shuffled = now(folder)
        print(f"{len(records)} records; all of them in block order: {sorted(shuffled) == sorted(records)}")
        try:
            records_before, shuffled_before = before(folder)
        except ImportError as error:
            print(f"nothing to compare with: {error}")
        else:
            print("the same as before:", records == records_before and sorted(shuffled) == sorted(shuffled_before))
        print("the same after moving:", move(folder, Path(scratch)) == [*records, b"one more"])


def write_bins(folder: Path, bins: int = 8) -> str:
    """Write records as `write_split_data` does: each after its size; the index has bin, position, size."""
    folder.mkdir()
    source = random.Random(0)
    with open(folder / "index.dat", "wb") as index:
        for number in range(200):
            record = source.randbytes(source.randrange(2000))
            with open(folder / f"bin{number % bins:08}.dat", "ab") as file:
                index.write(struct.pack("<III", number % bins, file.tell(), len(record)))
                file.write(struct.pack("<I", len(record)) + record)
    return str(folder)


if __name__ == "__main__":
    main()
