"""Cases of writing archives, and of reading what only ours can read in parallel."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

import archivestream
from benchmarks import BUILD, tar_data
from benchmarks.cases.registry import case, limit_side, note_threads
from benchmarks.limit import BatchLoop, Payloads
from benchmarks.measure import Digest, Kind, Side, idle_cores, processors, reading, time_sides
from benchmarks.results import Figure, Measured, Scale, SpeedTarget

_TAR_ZSTD = "tar | zstd -T2"


@case(
    "pack_zip",
    "pack a folder of real files to ZIP, deflate 6",
    SpeedTarget("ours", "zip", 2),
)
def _pack_zip(scale: Scale) -> Measured:
    folder = tar_data.folder(scale.packed)

    def ours(target: Path) -> None:
        archivestream.pack(folder, target, method="deflate", level=6)

    def peer(target: Path) -> None:
        subprocess.run(["zip", "-r", "-q", "-6", str(target), "."], cwd=folder, check=True)

    def contents(path: Path) -> Iterable[tuple[str, bytes]]:
        with zipfile.ZipFile(path) as archive:
            return [(info.filename, archive.read(info)) for info in archive.infolist() if not info.is_dir()]

    with TemporaryDirectory(dir=BUILD) as scratch:
        target = Path(scratch, "packed.zip")
        sides = [_writing("ours", "ours", target, ours, contents)]
        if shutil.which("zip"):
            sides.append(_writing("zip", "peer", target, peer, contents))
        return _packing(scale, sides, target)


@case(
    "pack_zst",
    "pack the same folder to .tar.zst, level 3",
    SpeedTarget("ours", _TAR_ZSTD, 0.9),
)
def _pack_zst(scale: Scale) -> Measured:
    folder = tar_data.folder(scale.packed)

    def ours(target: Path) -> None:
        archivestream.pack(folder, target, level=3)

    def peer(target: Path) -> None:
        with subprocess.Popen(["tar", "-c", "-C", str(folder), "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(["zstd", "-q", "-T2", "-3", "-o", str(target)], stdin=tar.stdout, check=True)
        if tar.returncode:
            raise subprocess.CalledProcessError(tar.returncode, tar.args)

    def contents(path: Path) -> Iterable[tuple[str, bytes]]:
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for info in archive:
                    extracted = archive.extractfile(info)
                    if extracted is not None:
                        yield info.name.removeprefix("./"), extracted.read()

    with TemporaryDirectory(dir=BUILD) as scratch:
        target = Path(scratch, "packed.tar.zst")
        sides = [_writing("ours", "ours", target, ours, contents)]
        if shutil.which("tar") and shutil.which("zstd"):
            sides.append(_writing(_TAR_ZSTD, "peer", target, peer, contents))
        return _packing(scale, sides, target)


def _writing(
    name: str,
    kind: Kind,
    target: Path,
    write: Callable[[Path], None],
    contents: Callable[[Path], Iterable[tuple[str, bytes]]],
) -> Side:
    """Make the side that writes an archive; its digest is of all that is read back from it."""

    def run() -> None:
        target.unlink(missing_ok=True)
        write(target)

    def digest() -> Digest:
        run()
        size = crc = 0
        for member, data in sorted(contents(target)):
            size += len(data)
            crc = zlib.crc32(data, zlib.crc32(member.encode(), crc))
        return Digest(size, crc)

    return Side(name, kind, run, digest)


def _packing(scale: Scale, sides: list[Side], target: Path) -> Measured:
    timings, digest = time_sides(sides, scale.slow_rounds)
    figures = []
    for side in sides:
        side.run()
        figures.append(Figure(f"{side.name}, the archive", side.kind, target.stat().st_size / 1e6, "MB"))
    notes = [f"threads: {processors()} for ours, whose archive is on the disk in the end: it waits for that"]
    if len(sides) == 1:
        notes.append("the programs to compare with are not installed")
    members = sum(path.is_file() for path in tar_data.folder(scale.packed).rglob("*"))
    return Measured(members, digest.bytes, timings, figures, notes)


@case(
    "segmented",
    "a[0], one deflated member of 64 MiB, written in segments",
    SpeedTarget("ours, 2 threads", "ours, 1 thread", 1.7),
)
def _segmented(scale: Scale) -> Measured:
    idle = idle_cores()
    with TemporaryDirectory(dir=BUILD) as scratch:
        path = Path(scratch, "segmented.zip")
        archivestream.pack([("text.txt", tar_data.content(scale.member))], path, method="deflate")
        with (
            zipfile.ZipFile(path) as peer,
            archivestream.open(path, threads=1) as one,
            archivestream.open(path, threads=2) as two,
        ):
            sides = [
                reading("ours, 1 thread", "ours", lambda: [one[0]]),
                reading("ours, 2 threads", "ours", lambda: [two[0]]),
                reading("zipfile", "peer", lambda: [peer.read("text.txt")]),
                limit_side(BatchLoop(Payloads.of(path), [[0]])),
            ]
            timings, digest = time_sides(sides, scale.rounds)
    measured = Measured(1, digest.bytes, timings)
    measured.notes.append("limit: one thread, into memory that is used again; ours makes a new bytes object")
    note_threads(measured, idle)
    return measured
