"""What the five earlier systems do, line by line, done with archivestream: one test for each of these lines.

What their own programs wrote is read, too, by the tests of each format; what they wrote side by side with what one
writes now is in ``examples/moving``.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
import wave
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import archivestream
from archivestream import ArchiveDataset, ArchiveLoader, ArchiveSampler, Cache, CorruptArchiveError, tfrecord
from archivestream.cli import app
from archivestream.decoding import ImageDecoder

torch = pytest.importorskip("torch")
image_module = pytest.importorskip("PIL.Image")

Contents = dict[str, bytes]


def texts(n: int = 60) -> Contents:
    draw = np.random.default_rng(2)
    sizes = draw.integers(1, 4000, n).tolist()
    return {f"c{i % 3}/{i:03d}.txt": draw.integers(32, 127, size, np.uint8).tobytes() for i, size in enumerate(sizes)}


def zipped(path: Path, contents: Contents, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def encoded(kind: str, pixels: Any) -> bytes:
    stream = io.BytesIO()
    image_module.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def pixels(i: int, height: int = 48, width: int = 64) -> Any:
    small = np.random.default_rng(i).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(image_module.fromarray(small).resize((width, height)))


def command(*arguments: object) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


class TestCdmltrain:
    """cdmltrain: stream ZIP / .tar.zst into PyTorch."""

    @pytest.mark.parametrize("kind", ["zip", "tar.zst"])
    def test_stream_dataset(self, kind: str, tmp_path: Path) -> None:
        """CDMLStreamDataset: len, index, get_filenames, get_by_filename, extract_sample_to_disk, context manager."""
        contents = texts()
        (path,) = archivestream.pack(contents.items(), tmp_path / f"a.{kind}")
        with archivestream.open(path) as archive:
            dataset = ArchiveDataset(archive, transform=lambda data: bytes(data).upper())
            assert len(dataset) == len(archive) == 60
            assert [*archive.names] == [*contents]
            assert archive["c1/001.txt"] == contents["c1/001.txt"]
            assert dataset[4] == archive[4].upper()
            archive.extract([7], tmp_path / "out")
            assert (tmp_path / "out" / archive.names[7]).read_bytes() == archive[7]

    def test_bounded_cache_and_threads(self, tmp_path: Path) -> None:
        """A byte-bounded LRU cache, 8 threads without races; a corrupt ZIP rejected cleanly."""
        contents = texts()
        path = zipped(tmp_path / "a.zip", contents)
        cache = Cache(40_000, policy="lru")
        wrong: list[str] = []
        with archivestream.open(path, cache=cache) as archive:

            def work(seed: int) -> None:
                for i in np.random.default_rng(seed).integers(0, len(archive), 300).tolist():
                    if archive[i] != contents[archive.names[i]]:
                        wrong.append(archive.names[i])

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not wrong
            assert cache.stats.bytes <= 40_000
            assert cache.stats.hits
        broken = path.read_bytes()[:-40]
        with pytest.raises(CorruptArchiveError):
            archivestream.open(broken)

    def test_forked_workers_and_pickles(self, tmp_path: Path) -> None:
        """Its faults: forked workers share a file offset, datasets are not picklable, duplicate names lose data."""
        contents = texts()
        dataset = ArchiveDataset(zipped(tmp_path / "a.zip", contents), transform=bytes)
        assert pickle.loads(pickle.dumps(dataset))[5] == dataset[5]
        loader = torch.utils.data.DataLoader(
            dataset, 7, num_workers=2, shuffle=True, multiprocessing_context="fork", collate_fn=list
        )
        assert Counter(data for batch in loader for data in batch) == Counter(contents.values())
        double = zipped(tmp_path / "b.zip", {"a": b"1"})
        with zipfile.ZipFile(double, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"2")
        with archivestream.open(double) as both:
            assert [*both] == [b"1", b"2"]

    def test_tar_zst_in_bounded_memory(self, tmp_path: Path) -> None:
        """.tar.zst is not decompressed as a whole: few blocks are decoded for one member."""
        contents = {f"{i:04d}": os.urandom(5000) for i in range(400)}
        (path,) = archivestream.pack(contents.items(), tmp_path / "a.tar.zst", frame_size=64 << 10)
        with archivestream.open(path).metered() as archive:
            assert archive["0300"] == contents["0300"]
            assert archive.counters.decoded_bytes <= 3 * (64 << 10)

    def test_types(self, tmp_path: Path) -> None:
        """Images, audio, CSV, JSON, text and tables are loaded by type (LiveBatchLoader)."""
        sound = io.BytesIO()
        with wave.open(sound, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.arange(100, dtype="<i2").tobytes())
        contents = {
            "a.jpg": encoded("JPEG", pixels(1)),
            "b.png": encoded("PNG", pixels(2)),
            "c.wav": sound.getvalue(),
            "d.csv": b"x,y\n1,2\n",
            "e.json": b'{"k": [1, 2]}',
            "f.txt": "grüße".encode(),
        }
        with archivestream.open(zipped(tmp_path / "a.zip", contents)) as archive:
            kinds = {kind: [*members.names] for kind, members in archive.by_type().items()}
            assert sorted(name for names in kinds.values() for name in names) == sorted(contents)
            assert kinds["image"] == ["a.jpg", "b.png"]
            decoded = dict(zip(archive.names, ArchiveDataset(archive, decode="auto"), strict=True))
        assert np.array_equal(decoded["b.png"], pixels(2))
        assert decoded["a.jpg"].shape == (48, 64, 3)
        assert decoded["e.json"] == {"k": [1, 2]}
        assert decoded["f.txt"] == "grüße"
        assert [row["y"] for row in decoded["d.csv"]] in (["2"], [2])
        assert len(decoded["c.wav"][0].reshape(-1)) == 100

    def test_gpu_loader(self, tmp_path: Path) -> None:
        """GPUDirectLoader(dataset, batch_size=32, device="auto"): pinned copies, CPU fallback, benchmark()."""
        path = zipped(tmp_path / "a.zip", texts())
        loader = ArchiveLoader(path, batch_size=32, device="auto")
        batches = [*loader]
        assert [len(batch.lengths) for batch in batches] == [32, 28]
        assert bool(loader.stats.fallback) != torch.cuda.is_available()
        loader.close()
        assert "60 samples in 2 batches" in command("bench", path, "--batch-size", 32, "--device", "auto")

    def test_check_and_ddp(self, tmp_path: Path) -> None:
        """cdmltrain-check --path P; multi-GPU DDP."""
        path = zipped(tmp_path / "a.zip", texts())
        command("verify", path)
        shares = [[*ArchiveSampler(60, shuffle=True, rank=rank, world_size=3)] for rank in range(3)]
        assert sorted(i for share in shares for i in share) == [*range(60)]


class TestSplitdataloader:
    """splitdataloader: records in N bin files with an index."""

    def records(self, n: int = 200) -> list[bytes]:
        draw = np.random.default_rng(3)
        return [draw.bytes(int(draw.integers(0, 500))) for _ in range(n)]

    def test_write_and_append(self, tmp_path: Path) -> None:
        """write_split_data(dir, records, splits, shuffle, start_clean): appends."""
        pattern = str(tmp_path / "part-{:05d}.zip")
        records = self.records()
        archivestream.pack(iter(records[:150]), pattern, shards=8, shuffle=5)
        archivestream.pack(iter(records[150:]), pattern, shards=4, append=True)
        assert len([*tmp_path.glob("part-*.zip")]) == 12
        with archivestream.open(pattern) as archive:
            assert Counter(archive) == Counter(records)

    def test_length_index_and_iteration(self, tmp_path: Path) -> None:
        """SplitDataLoader: len, index, iterate. Its fault: list(loader) fails."""
        records = self.records()
        pattern = str(tmp_path / "part-{:05d}.zip")
        archivestream.pack(records, pattern, shards=8)
        with archivestream.open(pattern) as archive:
            assert len(archive) == 200
            assert list(archive) == records
            assert archive[17] == records[17]
            assert archive[-1] == records[-1]
            with pytest.raises(IndexError):
                archive[200]

    def test_binwise(self, tmp_path: Path) -> None:
        """iterate_binwise(shuffle): by block, with a seed."""
        records = self.records()
        pattern = str(tmp_path / "part-{:05d}.zip")
        archivestream.pack(records, pattern, shards=8)
        with archivestream.open(pattern) as archive:
            orders = [[*ArchiveSampler(archive, shuffle="block", seed=seed)] for seed in (1, 1, 2)]
            assert orders[0] == orders[1] != orders[2]
            assert [archive[i] for i in sorted(orders[0])] == records

    def test_iterator_in_a_process(self) -> None:
        """MpQItr(generator_fn, *args). Its faults: exceptions end it silently, a killed child hangs it."""
        assert [*archivestream.background(count, 5, processes=True)] == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="after 3"):
            [*archivestream.background(fail, 3, processes=True)]


def count(n: int) -> Iterator[int]:
    yield from range(n)


def fail(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError(f"after {n}")


class TestDareBlopy:
    """DareBlopy: C++ reading blocks."""

    def test_zip_archive(self, tmp_path: Path) -> None:
        """open_zip_archive, open_as_bytes, exists, open (a file object)."""
        contents = texts()
        with archivestream.open(zipped(tmp_path / "a.zip", contents)) as archive:
            assert archive.read("c0/003.txt") == contents["c0/003.txt"]
            assert "c0/003.txt" in archive
            assert "nothing" not in archive
            with archive.open_member("c0/003.txt") as file:
                file.seek(5)
                assert file.read(7) == contents["c0/003.txt"][5:12]

    def test_arrays(self, tmp_path: Path) -> None:
        """open_as_numpy_ubyte(name, shape): the shape is in the file. Its fault: a wrong one overflows the heap."""
        arrays = {f"{i}.npy": pixels(i) for i in range(5)}
        archivestream.pack([(name.removesuffix(".npy"), array) for name, array in arrays.items()], tmp_path / "a.zip")
        with archivestream.open(tmp_path / "a.zip") as archive:
            assert np.array_equal(archive.read_arrays([*arrays]), np.stack([*arrays.values()]))
            with pytest.raises(ValueError, match="out has shape"):
                archive.read_arrays([*arrays], np.empty((5, 3, 3, 3), np.uint8))

    def test_jpeg(self, tmp_path: Path) -> None:
        """read_jpg_as_numpy(name, use_turbo). Its fault: one bad JPEG breaks all later ones."""
        contents = {f"{i}.jpg": encoded("JPEG", pixels(i)) for i in range(6)}
        contents["2.jpg"] = contents["2.jpg"][:100]
        with archivestream.open(zipped(tmp_path / "a.zip", contents, zipfile.ZIP_STORED)) as archive:
            errors: dict[int, Exception] = {}
            images = archive.read_images(range(6), errors=errors)
            assert [*errors] == [2]
            for i in (0, 1, 3, 4, 5):
                assert np.array_equal(images[i], ImageDecoder()(memoryview(contents[f"{i}.jpg"])))

    def test_filesystem(self, tmp_path: Path) -> None:
        """A virtual filesystem with mounts and search paths: fsspec's."""
        fsspec = pytest.importorskip("fsspec")
        contents = texts()
        path = zipped(tmp_path / "a.zip", contents)
        filesystem = fsspec.filesystem("archivestream", fo=str(path))
        assert sorted(filesystem.find("")) == sorted(contents)
        assert filesystem.cat_file("c0/003.txt") == contents["c0/003.txt"]
        with fsspec.open(f"archivestream://c1/001.txt::{path}") as file:
            assert file.read() == contents["c1/001.txt"]

    @pytest.mark.parametrize("compression", [None, "gzip", "zlib"])
    def test_tfrecords(self, compression: Any, tmp_path: Path) -> None:
        """RecordReader (CRC-32C, gzip, zlib); ours in any order, too."""
        records = [os.urandom(n * 13) for n in range(50)]
        with tfrecord.TFRecordWriter(tmp_path / "a.tfrecord", compression=compression) as writer:
            for record in records:
                writer.write(record)
        with archivestream.open(tmp_path / "a.tfrecord") as archive:
            assert [*archive] == records
            assert archive.read_many([40, 3, 17]) == [records[i] for i in (40, 3, 17)]
        if compression is None:
            damaged = bytearray((tmp_path / "a.tfrecord").read_bytes())
            damaged[-6] ^= 1
            with archivestream.open(bytes(damaged)) as archive, pytest.raises(CorruptArchiveError):
                archive[49]

    def test_examples_to_batched_arrays(self, tmp_path: Path) -> None:
        """FixedLenFeature with uint8 straight into an array; RecordParser.parse_example; random order with a seed."""
        images = np.random.default_rng(1).integers(0, 256, (40, 3, 8, 8), np.uint8)
        with tfrecord.TFRecordWriter(tmp_path / "a.tfrecord") as writer:
            for i, image in enumerate(images):
                writer.write(tfrecord.encode_example({"image": image, "label": i}))
        spec = {
            "image": tfrecord.FixedLenFeature([3, 8, 8], "uint8"),
            "label": tfrecord.FixedLenFeature([], "int64"),
        }
        parser = tfrecord.ExampleParser(spec)
        with archivestream.open(tmp_path / "a.tfrecord") as archive:
            for batch in ArchiveSampler(archive, batch_size=16, shuffle=True, seed=4):
                arrays = parser.read(archive, batch)
                assert arrays["image"].dtype == np.uint8
                assert np.array_equal(arrays["image"], images[batch])
                assert arrays["label"].tolist() == batch
            assert np.array_equal(parser.parse([*archive])["image"], images)

    def test_loader_and_its_exceptions(self, tmp_path: Path) -> None:
        """data_loader with threads. Its fault: it hangs on a worker's exception."""

        def transform(data: Any) -> int:
            if len(data) == 0:
                raise ZeroDivisionError
            return len(data)

        contents = {f"{i}": bytes(i % 20) for i in range(40)}
        dataset = ArchiveDataset(zipped(tmp_path / "a.zip", contents), transform=transform)
        batches = iter(ArchiveLoader(dataset, 10, num_workers=3))
        with pytest.raises(ZeroDivisionError):
            next(batches)
        assert next(batches).tolist() == [*range(10, 20)]

    def test_lz4(self, tmp_path: Path) -> None:
        """LZ4 members, by a private method id."""
        block = pytest.importorskip("lz4.block")
        data = b"abc" * 1000
        raw = bytearray(zipped(tmp_path / "a.zip", {"m": block.compress(data, store_size=False)}, 0).read_bytes())
        crc = zipfile.crc32(data).to_bytes(4, "little")
        for begin, method, where in ((0, 8, 14), (raw.index(b"PK\1\2"), 10, 16)):
            raw[begin + method : begin + method + 2] = (30).to_bytes(2, "little")
            raw[begin + where : begin + where + 4] = crc
            raw[begin + where + 8 : begin + where + 12] = len(data).to_bytes(4, "little")
        assert archivestream.open(bytes(raw))["m"] == data


class TestDataStack:
    """DataStack: retrieval (of which remote is not meant here), storage, stackable iterators."""

    def test_storage_with_a_path_guard(self, tmp_path: Path) -> None:
        """Storage by identifier, with a path guard. Its fault: a guard by startswith."""
        path = zipped(tmp_path / "a.zip", {"../out-of-it": b"x", "in": b"y"})
        (tmp_path / "out").mkdir()
        with archivestream.open(path) as archive, pytest.raises(archivestream.ArchiveError):
            archive.extract(None, tmp_path / "out")
        assert not (tmp_path / "out-of-it").exists()

    def test_streamed_resources(self, tmp_path: Path) -> None:
        """StreamedResource: a lazy file object."""
        with archivestream.open(zipped(tmp_path / "a.zip", {"t": b"one\ntwo\n"})) as archive:
            assert [*io.TextIOWrapper(archive.open_member("t"))] == ["one\n", "two\n"]

    def test_views(self, tmp_path: Path) -> None:
        """Iterator views, combined iterators, in memory, shuffled. Its fault: [-1] is wrong."""
        contents = texts()
        values = [*contents.values()]
        with archivestream.open(zipped(tmp_path / "a.zip", contents), cache=Cache(10**6)) as archive:
            view = archive.select(range(10, 30)).select([3, 1])
            assert [*view] == [values[13], values[11]]
            assert view[-1] == values[11]
            assert [*(view + archive[:2])] == [values[13], values[11], *values[:2]]
            assert Counter(archive[i] for i in ArchiveSampler(archive, shuffle=True)) == Counter(values)

    def test_splits(self, tmp_path: Path) -> None:
        """Random, stratified, cross-validation and nested splits. Its fault: splitters decode every sample."""
        selection = pytest.importorskip("sklearn.model_selection")

        def decode(data: Any) -> Any:
            pytest.fail("a sample was decoded")

        dataset = ArchiveDataset(zipped(tmp_path / "a.zip", texts()), decode=decode, labels="folder")
        parts = dataset.split({"train": 0.8, "test": 0.2}, seed=1, stratify=True)
        assert {name: len(part) for name, part in parts.items()} == {"train": 48, "test": 12}
        assert Counter(parts["test"].targets.tolist()) == {0: 4, 1: 4, 2: 4}
        folds = dataset.split(selection.StratifiedKFold(5))
        inner = [train.split(selection.StratifiedKFold(4)) for train, _ in folds]
        assert [len(test) for _, test in folds] == [12] * 5
        assert {len(test) for part in inner for _, test in part} == {12}

    def test_report(self, tmp_path: Path) -> None:
        """A report: length, class distribution, iteration speed."""
        found = json.loads(command("stats", zipped(tmp_path / "a.zip", texts()), "--json"))
        text = json.dumps(found)
        assert "60" in text
        assert all(name in text for name in ("c0", "c1", "c2"))

    def test_named_data_sets(self, tmp_path: Path) -> None:
        """A registry of data sets: a manifest."""
        zipped(tmp_path / "digits.zip", texts())
        (tmp_path / "datasets.toml").write_text('[digits]\npath = "digits.zip"\nlabels = "folder"\n')
        manifest = archivestream.Manifest(tmp_path / "datasets.toml")
        with manifest["digits"].open() as archive:
            assert len(archive) == 60
        assert manifest["digits"].dataset().classes == ["c0", "c1", "c2"]

    def test_mnist_example(self, tmp_path: Path) -> None:
        """An MNIST example: `examples/train_digits.py`, which its own tests run to the end."""
        script = Path(__file__).parent.parent / "examples" / "train_digits.py"
        environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
        done = subprocess.run(
            [sys.executable, str(script), "--help"], env=environment, capture_output=True, text=True, check=True
        )
        assert "usage" in done.stdout


class TestAcumenIndexer:
    """AcumenIndexer: arrays and metadata in chunk files."""

    def samples(self, n: int = 60) -> list[tuple[Any, dict[str, Any]]]:
        draw = np.random.default_rng(4)
        return [
            (draw.random((4, 5)).astype(np.float32), {"label": i % 4, "split": "train" if i % 3 else "test"})
            for i in range(n)
        ]

    @pytest.mark.parametrize("jobs", [1, 4])
    def test_pack_in_parallel(self, jobs: int, tmp_path: Path) -> None:
        """split_into_chunks(data_list, ..., n_jobs). Its faults: n_jobs > 1 corrupts; silent float16."""
        samples = self.samples()
        archivestream.pack(iter(samples), tmp_path / "a.zip", n_jobs=jobs)
        with archivestream.open(tmp_path / "a.zip") as archive:
            arrays = archive.read_arrays(range(60))
            assert arrays.dtype == np.float32
            assert np.array_equal(arrays, np.stack([array for array, _ in samples]))
            assert archive.metadata.to_pylist() == [metadata for _, metadata in samples]

    def test_index_as_a_frame(self, tmp_path: Path) -> None:
        """load_index: a DataFrame."""
        pytest.importorskip("pandas")
        samples = self.samples()
        archivestream.pack(samples, tmp_path / "a.zip")
        with archivestream.open(tmp_path / "a.zip") as archive:
            frame = archive.to_pandas()
            assert frame["label"].tolist() == [metadata["label"] for _, metadata in samples]
            chosen = archive.select("label == 3 and split == 'train'")
            assert [*chosen.names] == [*frame[(frame.label == 3) & (frame.split == "train")].index]
            dataset = ArchiveDataset(archive, decode="numpy", labels="label")
            assert dataset.targets.tolist() == [metadata["label"] for _, metadata in samples]

    def test_read_from_index(self, tmp_path: Path) -> None:
        """read_from_index(index, in_memory) to (array, metadata): reads without a copy where bytes are stored."""
        samples = self.samples()
        archivestream.pack(samples, tmp_path / "a.zip", method="stored", align=64)
        with archivestream.open(tmp_path / "a.zip") as archive:
            views = archive.map_arrays([5, 50])
            for view, i in zip(views, (5, 50), strict=True):
                assert np.array_equal(view, samples[i][0])
                assert not view.flags.writeable
                assert not view.flags.owndata
