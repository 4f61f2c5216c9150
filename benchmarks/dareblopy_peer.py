"""DareBlopy, in a process of its own: its last wheels are for CPython 3.8, which runs this file.

The arguments are the size of a batch and the files, each with the side of its images: ``PATH SIDE``. For each line on
standard input, "run" or "digest", all of them are read, and a line of bytes and CRC-32 (or zeros) is written.
"""

import sys
import zlib
from importlib import import_module


def main() -> None:
    """Answer one line after the other."""
    batch = int(sys.argv[1])
    files = [(sys.argv[i], int(sys.argv[i + 1])) for i in range(2, len(sys.argv), 2)]
    dareblopy = import_module("dareblopy")
    for line in sys.stdin:
        size = crc = 0
        for path, side in files:
            # One thread: with two, it took ten times as long.
            parser = dareblopy.RecordParser({"data": dareblopy.FixedLenFeature([3, side, side], dareblopy.uint8)})
            records = dareblopy.RecordYielderBasic([path])
            while True:
                try:
                    (images,) = parser.parse_example(records.next_n(batch))
                except StopIteration:
                    break
                if line.strip() == "digest":
                    size += images.nbytes
                    crc = zlib.crc32(images, crc)
        print(size, crc, flush=True)


if __name__ == "__main__":
    main()
