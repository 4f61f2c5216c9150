"""The smoke run of the benchmarks: everything runs and all sides agree; speed is not tested."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)  # all cases run for one fixture, beside other tests

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "open_1m",
    "getitem_10k",
    "read_batch_10k",
    "read_batch_10k_2t",
    "stored_110k",
    "stored_30k",
    "stored_200b",
    "stored_200b_random",
    "read_arrays_224",
    "read_images",
    "dataloader_10k",
    "epoch_memory",
    "tar_1m",
    "zst_batch",
    "zst_cdml",
    "zst_cdml_images",
    "zst_index",
    "zst_read_all",
    "zst_member",
    "memory_blocks",
    "pack_zip",
    "pack_zst",
    "segmented",
    "shards_write",
    "shards_random",
    "shards_blocks",
    "arrays_10k",
    "order_1e9",
    "block_order",
    "cached_getitem",
    "keep_cache",
    "loader_raw",
    "loader_arrays",
    "loader_jpeg",
    "first_batch_1m",
    "cuda_copy",
    "cuda_stored",
    "cuda_deflate",
    "cuda_overlap",
    "cuda_peers",
    "cuda_exact",
    "cuda_flat",
    "cuda_resume",
    "tfrecord",
}
# What only ours does has no peer, and what other programs do as a whole has no limit.
ON_A_DEVICE = {case for case in CASES if case.startswith("cuda_")}
WITHOUT_PEER = {"zst_batch", "zst_index", "zst_read_all", "zst_member", "order_1e9", "block_order"}
WITHOUT_PEER |= ON_A_DEVICE - {"cuda_peers"}
WITHOUT_LIMIT = {
    "pack_zip",
    "pack_zst",
    "shards_write",
    "shards_random",
    "shards_blocks",
    "arrays_10k",
    "cuda_exact",
    "cuda_flat",
    "cuda_resume",
}
# Those of the machine alone.
WITHOUT_OURS = {"cuda_copy"}
# How fast batches get to ordinary memory has no target.
NEEDS_GPU = ON_A_DEVICE - {"cuda_exact", "cuda_flat", "cuda_resume"}
# Cases whose peer is left out where it is not installed: packages, programs.
PACKAGES = {
    **{case: ["cdmltrain"] for case in ("zst_cdml", "zst_cdml_images", "memory_blocks", "cached_getitem")},
    **{case: ["splitdataloader"] for case in ("shards_write", "shards_random", "shards_blocks")},
    "arrays_10k": ["acumenindexer"],
    "tfrecord": ["tfrecord"],
}
PROGRAMS = {"pack_zip": ["zip"], "pack_zst": ["tar", "zstd"]}
MEMORY = {"epoch_memory", "memory_blocks"}


def has_peer(case: str) -> bool:
    installed = all(map(importlib.util.find_spec, PACKAGES.get(case, [])))
    return case not in WITHOUT_PEER and installed and all(map(shutil.which, PROGRAMS.get(case, [])))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=580)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    done = run("-m", "benchmarks", "--quick", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(case in done.stdout for case in CASES)
    return json.loads(path.read_text())


def test_every_case_is_there(quick):
    assert {result["case"] for result in quick["results"]} == CASES


def test_every_case_has_ours_and_what_to_compare_with(quick):
    for result in quick["results"]:
        case = result["case"]
        if case in MEMORY and not Path("/proc/self/status").exists():
            continue
        expected = {"ours": case not in WITHOUT_OURS, "peer": has_peer(case), "limit": case not in WITHOUT_LIMIT}
        kinds = {one["kind"] for one in result["timings"] + result["figures"]}
        assert kinds == {kind for kind, there in expected.items() if there}, case


def test_every_case_reads_bytes_and_takes_time(quick):
    for result in quick["results"]:
        assert result["members"] > 0
        assert result["bytes"] > 0
        for timing in result["timings"]:
            assert 0 < timing["best_s"] <= timing["median_s"]
            assert len(timing["rounds_s"]) >= 2


def test_ratios_are_those_of_the_times(quick):
    for result in quick["results"]:
        best = {timing["side"]: timing["best_s"] for timing in result["timings"]}
        for names, ratio in result["speed_ratios"].items():
            of, than = names.split(" / ")
            assert ratio["best"] == pytest.approx(best[than] / best[of])


def test_targets_are_compared(quick):
    without = {result["case"] for result in quick["results"] if not result["targets"]}
    without_peer = {case for case in CASES if not has_peer(case)}
    assert without <= {"stored_200b_random"} | MEMORY | NEEDS_GPU | without_peer - WITHOUT_PEER
    for result in quick["results"]:
        for target in result["targets"]:
            assert isinstance(target["passed"], bool)


def test_the_system_is_described(quick):
    assert quick["quick"] is True
    assert {"date", "cpu", "cores", "gpu", "os", "python", "archivestream", "torch", "numpy"} <= set(quick["system"])


def test_on_a_device_nothing_is_wrong_and_where_there_is_none_the_notes_say_why(quick):
    on_a_device = {result["case"]: result for result in quick["results"] if result["case"] in ON_A_DEVICE}
    for case in ("cuda_exact", "cuda_resume"):
        assert [target["passed"] for target in on_a_device[case]["targets"]] == [True], case
    for case, result in on_a_device.items():
        assert quick["system"]["gpu"] in result["notes"][0], case


def test_cases_are_chosen_by_the_first_words_of_their_names():
    done = run("-m", "benchmarks", "--list", "--case", "cuda", "open_1m")
    assert done.returncode == 0, done.stderr
    assert all((case in done.stdout) == (case in ON_A_DEVICE | {"open_1m"}) for case in CASES)


def test_list():
    done = run("-m", "benchmarks", "--list")
    assert done.returncode == 0, done.stderr
    assert all(case in done.stdout for case in CASES)


def test_an_unknown_case_is_refused():
    done = run("-m", "benchmarks", "--case", "no_such_case")
    assert done.returncode == 2
    assert "no_such_case" in done.stderr


def test_sides_that_read_other_bytes_are_refused():
    program = """
from benchmarks.measure import reading, time_sides
sides = [reading("a", "ours", lambda: [b"1", b"2"]), reading("b", "peer", lambda: [b"2", b"1"])]
time_sides(sides, 1)
"""
    done = run("-c", program)
    assert done.returncode == 1
    assert "the sides do not read the same" in done.stderr


def test_the_limit_checks_every_crc(tmp_path):
    program = """
import sys, zipfile
from pathlib import Path
from benchmarks.limit import BatchLoop, Payloads
path = Path(sys.argv[1])
with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("a", b"good" * 100)
    archive.writestr("b", b"bad" * 100, zipfile.ZIP_STORED)
BatchLoop(Payloads.of(path), [[0, 1]]).run()
path.write_bytes(path.read_bytes().replace(b"badbad", b"badbud", 1))
BatchLoop(Payloads.of(path), [[0, 1]]).run()
"""
    done = run("-c", program, str(tmp_path / "damaged.zip"))
    assert done.returncode == 1
    assert "the limit loop fails at its member 1" in done.stderr


def test_the_limit_checks_every_frame(tmp_path):
    program = """
import io, sys, tarfile
from pathlib import Path
import zstandard
from archivestream._native.zstdscan import make_seek_table
from benchmarks.zstd_limit import FrameLoop, StreamLoop, TarMembers
path = Path(sys.argv[1])
stream = io.BytesIO()
with tarfile.open(fileobj=stream, mode="w") as tar:
    for name, data in (("a", b"first"), ("b", b"second" * 200)):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
data = stream.getvalue()
pieces = [data[:700], data[700:1800], data[1800:]]  # the second member begins in one frame and ends in another
frames = [zstandard.ZstdCompressor(write_checksum=True).compress(piece) for piece in pieces]
path.write_bytes(b"".join(frames) + make_seek_table(list(zip(map(len, frames), map(len, pieces)))))
members = TarMembers.of(path)
expected = StreamLoop(members).digest()
assert expected.bytes == 1205
assert FrameLoop(members, [[0, 1]]).digest() == FrameLoop(members, [[0], [1]]).digest() == expected
loop = FrameLoop(members, [[1, 0], [1]])
assert loop.digest().bytes == 2405
damaged = bytearray(path.read_bytes())
damaged[len(frames[0]) + len(frames[1]) - 1] ^= 1
path.write_bytes(damaged)
loop.run()
"""
    done = run("-c", program, str(tmp_path / "damaged.tar.zst"))
    assert done.returncode == 1
    assert "the limit loop fails at its frame 1" in done.stderr


@pytest.mark.parametrize("mapped", [False, True])
def test_the_limit_checks_every_record(tmp_path, mapped):
    program = """
import sys, zlib
from pathlib import Path
from archivestream.tfrecord import TFRecordWriter
from benchmarks.measure import Digest
from benchmarks.record_limit import RecordLoop
path, mapped = Path(sys.argv[1]), sys.argv[2] == "True"
with TFRecordWriter(path) as writer:
    writer.write(b"first" * 30)
    writer.write(b"second" * 30)
loop = RecordLoop(path, 6, batch=2, threads=2, mapped=mapped)
assert loop.digest(Digest(0, 0)) == Digest(12, zlib.crc32(b"tfirstsecond"))
damaged = bytearray(path.read_bytes())
damaged[-30] ^= 1
path.write_bytes(damaged)
RecordLoop(path, 6, batch=2, threads=2, mapped=mapped).run()
"""
    done = run("-c", program, str(tmp_path / "damaged.tfrecord"), str(mapped))
    assert done.returncode == 1
    assert "the limit loop fails at its record 1" in done.stderr
