"""The case over images that become arrays."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import archivestream
from benchmarks import data
from benchmarks.cases.registry import case, ours_threads, random_batches
from benchmarks.measure import reading, time_sides
from benchmarks.results import Measured, Scale, SpeedTarget


@case(
    "read_images",
    "read_images, JPEG 256 x 256, stored, out= reused",
    SpeedTarget("ours, 1 thread", "Pillow", 2),
    SpeedTarget("ours, 1 thread", "limit", 0.90),
)
def _read_images(scale: Scale) -> Measured:
    import PIL.Image
    import simplejpeg

    path = data.jpegs(scale.pictures)
    batches = random_batches(scale.pictures, scale.batch)
    out = np.ones((scale.batch, *data.PHOTO), np.uint8)
    with zipfile.ZipFile(path) as peer:
        names = peer.namelist()
        encoded = [peer.read(name) for name in names]

        def pillow() -> Iterator[NDArray[np.uint8]]:
            for batch in batches:
                for place, member in enumerate(batch.tolist()):
                    with PIL.Image.open(io.BytesIO(peer.read(names[member]))) as image:
                        out[place] = np.asarray(image.convert("RGB"))
                yield out

        def limit() -> Iterator[NDArray[np.uint8]]:
            for batch in batches:
                for place, member in enumerate(batch.tolist()):
                    simplejpeg.decode_jpeg(encoded[member], buffer=out[place])
                yield out

        with archivestream.open(path) as archive, archivestream.open(path, threads=1) as one:
            sides = [
                reading("ours", "ours", lambda: (archive.read_images(batch, out) for batch in batches)),
                reading("ours, 1 thread", "ours", lambda: (one.read_images(batch, out) for batch in batches)),
                reading("Pillow", "peer", pillow),
                reading("limit", "limit", limit),
            ]
            timings, digest = time_sides(sides, scale.rounds)
    notes = [ours_threads(), "Pillow reads through zipfile; the limit is libjpeg-turbo in a loop, over JPEGs in memory"]
    return Measured(len(batches) * scale.batch, digest.bytes, timings, notes=notes)
