"""What a JPEG asks of a decoder beside its pixels: it may go over them any number of times.

A scan refines some of the coefficients of all blocks, and one that changes nothing takes a few bytes whatever the size
of the image: libjpeg spends seconds on each kilobyte of such a file. Decoders bound the scans (libtiff: 100, the
fuzzers of libjpeg-turbo: 500); what is bounded here is scans times pixels, and files that anybody made for use have
about 10.
"""

from __future__ import annotations

import re

from archivestream.errors import LimitExceededError

__all__ = ["check_scans"]

_MOST_SCANS = 500
_SCANS_OF_THE_LARGEST = 32

# Markers, as libjpeg looks for them behind a segment or in coded data: those before C0, restarts (D0 to D7) and another
# D8 have no segment, and FF 00 is a coded byte.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)
_PROGRESSIVE = (0xC2, 0xCA)
_END, _SCAN = 0xD9, 0xDA


def check_scans(data: memoryview, pixels: int, max_pixels: int, *, embedded: bool = False) -> None:
    """Refuse a JPEG that takes a decoder too long.

    Parameters
    ----------
    data : memoryview
        The file.
    pixels : int
        How many it has.
    max_pixels : int
        How many are allowed.
    embedded : bool
        Whether the JPEG is somewhere in the file.

    Raises
    ------
    LimitExceededError
        If it has more scans than an image of its size may have.
    """
    most = min(_MOST_SCANS, max(_SCANS_OF_THE_LARGEST, _SCANS_OF_THE_LARGEST * max_pixels // max(pixels, 1)))
    scans = bytes(data).count(b"\xff\xda") if embedded else _count_scans(data, most)
    if scans > most:
        raise LimitExceededError(
            f"the JPEG of {pixels} pixels has more than {most} scans, each of which takes as long as an image"
        )


def _count_scans(data: memoryview, most: int) -> int:
    """Count the scans that libjpeg would decode, up to one more than some."""
    scans, at, components = 0, 2, None
    while scans <= most and (found := _MARKER.search(data, at)) is not None:
        at = found.end()
        marker = data[at - 1]
        if marker == _END:
            break
        if marker in _SEQUENTIAL and at + 7 < len(data):
            components = data[at + 7]
        elif marker in _PROGRESSIVE:
            components = None
        elif marker == _SCAN:
            scans += 1
            if scans == 1 and components is not None and data[at + 2 : at + 3] == bytes([components]):
                break  # all of the image: another one is an error; it is none where the first left components out
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans
