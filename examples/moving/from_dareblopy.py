"""Moving from DareBlopy: files of a ZIP, images, and TFRecords without TensorFlow.

    python from_dareblopy.py

``before`` needs DareBlopy, whose last wheels are for CPython 3.8: it is here to be read. Checksums are checked
now, and the records of a TFRecord file can be read in any order.

    DareBlopy                                       archivestream
    ---------                                       -------------
    open_zip_archive(path), exists(name)            archivestream.open(path), name in archive
    open_as_bytes(name), open(name)                 archive[name], archive.open_member(name)
    open_as_numpy_ubyte(name, shape)                archive.read_arrays(names) for .npy files
    read_jpg_as_numpy(name, use_turbo=True)         archive.read_images(names): all at once, in threads
    RecordReader(path)                              archivestream.open(path)
    RecordParser(features).parse_example(records)   ExampleParser(features).parse(records)
    ParsedTFRecordsDatasetIterator(paths, ...)      parser.read(archive, batch) for each of a sampler
    data_loader(...)                                ArchiveLoader, or background
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import archivestream
from archivestream import tfrecord


def before(images: str, records: str) -> tuple[Any, list[Any]]:
    """Images one by one; records in order, through a buffer that shuffles them a little."""
    import dareblopy as db

    archive = db.open_zip_archive(images)
    pixels = np.stack([archive.read_jpg_as_numpy(f"{i}.jpg", use_turbo=True) for i in range(20)])
    features = {
        "image": db.FixedLenFeature([3, 32, 32], db.uint8),
        "label": db.FixedLenFeature([], db.int64),
    }
    batches = db.ParsedTFRecordsDatasetIterator([records], features, 16, 64)
    return pixels, list(batches)


def now(images: str, records: str) -> tuple[Any, list[Any]]:
    """Images in one call; records in random order, as arrays of a batch."""
    with archivestream.open(images) as archive:
        pixels = archive.read_images([f"{i}.jpg" for i in range(20)])
    features = {
        "image": tfrecord.FixedLenFeature([3, 32, 32], "uint8"),
        "label": tfrecord.FixedLenFeature([], "int64"),
    }
    parser = tfrecord.ExampleParser(features)
    with archivestream.open(records) as archive:
        sampler = archivestream.ArchiveSampler(archive, batch_size=16, shuffle=True, seed=7)
        batches = [parser.read(archive, batch) for batch in sampler]
    return pixels, batches


def main() -> None:
    """Make a ZIP and a TFRecord file, and read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, records = write_images(Path(folder, "images.zip")), write_records(Path(folder, "train.tfrecord"))
        pixels, batches = now(images, records)
    print(f"images: {pixels.dtype} {pixels.shape}")
    print(f"batches: {len(batches)}; image {batches[0]['image'].shape}, label {batches[0]['label'].shape}")
    labels = np.concatenate([batch["label"] for batch in batches])
    print("each record once:", sorted(labels.tolist()) == list(range(100)))


def write_images(path: Path) -> str:
    """Write JPEG files to a ZIP, uncompressed."""
    random = np.random.default_rng(0)

    def encode(pixels: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((64, 48)).save(file, "jpeg")
        return file.getvalue()

    members = ((f"{i}.jpg", encode(random.integers(0, 256, (8, 8, 3), np.uint8))) for i in range(20))
    return str(archivestream.pack(members, path, method="stored")[0])


def write_records(path: Path) -> str:
    """Write ``tf.train.Example`` messages."""
    random = np.random.default_rng(0)
    with tfrecord.TFRecordWriter(path) as writer:
        for number in range(100):
            image = random.integers(0, 256, (3, 32, 32), np.uint8)
            writer.write(tfrecord.encode_example({"image": image, "label": number}))
    return str(path)


if __name__ == "__main__":
    main()
