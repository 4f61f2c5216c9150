"""DareBlopy, in a process of its own: its last wheels are for CPython 3.8, which runs this file.

The arguments are ``records BATCH PATH SIDE ...``: the size of a batch and TFRecord files, each with the side of its
images; or ``members PATH``: a ZIP, whose members are read one by one. For each line on standard input, "run" or
"digest", all is read, and a line of bytes and CRC-32 (or zeros) is written.
"""

import sys
import zipfile
import zlib
from functools import partial
from importlib import import_module
from typing import Any, Callable, Iterator  # noqa: UP035 (CPython 3.8)


def records(dareblopy: Any, batch: str, *files: str) -> Iterator[Any]:
    """Yield batches of the images of some files."""
    for i in range(0, len(files), 2):
        path, side = files[i], int(files[i + 1])
        # One thread: with two, it took ten times as long.
        parser = dareblopy.RecordParser({"data": dareblopy.FixedLenFeature([3, side, side], dareblopy.uint8)})
        reader = dareblopy.RecordYielderBasic([path])
        while True:
            try:
                (images,) = parser.parse_example(reader.next_n(int(batch)))
            except StopIteration:
                break
            yield images


def open_members(dareblopy: Any, path: str) -> Callable[[], Iterator[Any]]:
    """Open a ZIP; return what reads its members."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    archive = dareblopy.open_zip_archive(path)
    return lambda: map(archive.open_as_bytes, names)


def main() -> None:
    """Answer one line after the other."""
    dareblopy = import_module("dareblopy")
    kind, *arguments = sys.argv[1:]
    read = partial(records, dareblopy, *arguments) if kind == "records" else open_members(dareblopy, *arguments)
    for line in sys.stdin:
        size = crc = 0
        for part in read():
            if line.strip() == "digest":
                size += memoryview(part).nbytes
                crc = zlib.crc32(part, crc)
        print(size, crc, flush=True)


if __name__ == "__main__":
    main()
