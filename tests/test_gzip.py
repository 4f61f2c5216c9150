"""gzip: what other programs compress is read at any place, and what is damaged is an error."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rapidgzip")

import archivestream
from archivestream import fingerprint, sidecar
from archivestream._native.codecs import crc32
from archivestream._native.columns import Layout
from archivestream.errors import ArchiveError, CorruptArchiveError, LimitExceededError
from archivestream.formats.gzip import open_decoded, read_index
from archivestream.index import Index
from archivestream.limits import Limits
from archivestream.reader import MemberReader
from archivestream.sources import FileObjectSource, LocalSource, MemorySource, Source
from archivestream.sources.gzip import GzipSource

WORDS = [b"%x " % random.Random(i).getrandbits(i % 60 + 4) for i in range(3000)]


def text(size: int, seed: int = 1) -> bytes:
    """Bytes that deflate halves or so."""
    made = b"".join(random.Random(seed).choices(WORDS, k=size // 6 + 1))
    assert len(made) >= size
    return made[:size]


def index(data: bytes | Source, **options: object) -> tuple[Index, GzipSource, int]:
    source = data if isinstance(data, Source) else MemorySource(data)
    usual = {"strict": False, "limits": Limits(), "metadata_encoding": None, "threads": None, "progress": None}
    return read_index(source, **{**usual, **options})  # type: ignore[arg-type]


def check(data: bytes | Source, plain: bytes, **options: object) -> None:
    """All that is said of a file is true, and it is read at any place."""
    found, source, crc = index(data, **options)
    try:
        assert (source.size, found.data_end, found.formats) == (len(plain), (len(plain),), ("gz",))
        assert bytes(source.read_at(0, len(plain) + 9)) == plain
        assert found["size"].tolist() == [len(plain)]
        assert found["crc32"].tolist() == [zlib.crc32(plain)]
        rows = (found[f"block_{name}"].tolist() for name in ("offset", "size", "crc32"))
        for begin, size, block_crc in zip(*rows, strict=True):
            assert crc32(source.read_at(begin, size)) == block_crc
        chance = random.Random(3)
        for _ in range(40):
            at = chance.randrange(len(plain) + 1)
            assert bytes(source.read_at(at, 5000)) == plain[at : at + 5000]
        assert crc == fingerprint.whole_crc32(source.base)
    finally:
        source.close()


# ---- what others write ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, 100, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_python_and_gzip(tmp_path, level, size):
    plain = text(size)
    check(gzip.compress(plain, level), plain)
    if level and shutil.which("gzip"):
        path = tmp_path / "file"
        path.write_bytes(plain)
        subprocess.run(["gzip", f"-{level}", path], check=True)
        check(LocalSource(f"{path}.gz"), plain)


@pytest.mark.parametrize("threads", [1, 2, 4, 6])
def test_any_number_of_threads(tmp_path, threads):
    plain = text(30_000_000)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(plain, 1))
    check(LocalSource(path), plain, threads=threads)
    check(FileObjectSource(io.BytesIO(path.read_bytes())), plain, threads=threads)


def as_bgzip(plain: bytes) -> bytes:
    """Members of 64 KiB with their length in an extra field, and an empty one at the end (SAM specification, 4.1)."""
    members = []
    for i in range(0, len(plain) + 65280, 65280):
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = packer.compress(plain[i : i + 65280]) + packer.flush()
        header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\6\0BC\2\0" + struct.pack("<H", len(body) + 25)
        size = len(plain[i : i + 65280])
        members.append(header + body + struct.pack("<2L", zlib.crc32(plain[i : i + 65280]), size))
    return b"".join(members)


def as_pigz(plain: bytes) -> bytes:
    """One member of pieces that were compressed side by side, and end with empty stored blocks."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = b"".join(
        packer.compress(plain[i : i + 131072]) + packer.flush(zlib.Z_FULL_FLUSH) for i in range(0, len(plain), 131072)
    )
    trailer = struct.pack("<2L", zlib.crc32(plain), len(plain))
    return b"\x1f\x8b\x08\0\0\0\0\0\0\3" + body + packer.flush() + trailer


def test_files_of_several_members():
    plain = text(3_000_000)
    check(as_bgzip(plain), plain)
    check(as_pigz(plain), plain)
    parts = [plain[:1], b"", plain[1:70_000], plain[70_000:], b""]
    check(b"".join(map(gzip.compress, parts)), plain)
    check(gzip.compress(b"") * 3, b"")
    check(gzip.compress(b"") + gzip.compress(b"one"), b"one")


@pytest.mark.skipif(not shutil.which("pigz"), reason="pigz is not installed")
def test_pigz(tmp_path):
    plain = text(3_000_000)
    packed = subprocess.run(["pigz", "-p", "3"], input=plain, capture_output=True, check=True).stdout
    check(packed, plain)


# ---- headers ----------------------------------------------------------------------------------------------------


def with_header(flags: int, fields: bytes, modified: int = 0, plain: bytes = b"plain") -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(plain) + packer.flush()
    head = struct.pack("<3sBLBB", b"\x1f\x8b\x08", flags, modified, 0, 3) + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + body + struct.pack("<2L", zlib.crc32(plain), len(plain))


@pytest.mark.parametrize(
    ("flags", "fields", "name"),
    [
        (0, b"", "data"),
        (8, b"file.txt\0", "file.txt"),
        (8, b"caf\xe9\0", "café"),
        (8, b"/etc/folder/file\0", "file"),
        (8, b"folder/\0", "data"),
        (8, b"\0", "data"),
        (4 | 8, b"\5\0extrafile\0", "file"),
        (4 | 8 | 16 | 2, b"\1\0\0file\0comment\0", "file"),
        (16, b"comment\0", "data"),
    ],
)
def test_the_name_in_the_header(tmp_path, flags, fields, name):
    data = with_header(flags, fields)
    check(data, b"plain")
    found, _, _ = index(data)
    assert found["names"].tobytes().decode() == name
    assert found["name_offset"].tolist() == [0, len(name.encode())]
    path = tmp_path / "told.by.the.file.gz"
    path.write_bytes(data)
    found, _, _ = index(LocalSource(path))
    assert found["names"].tobytes() == b"told.by.the.file"


@pytest.mark.parametrize(
    ("file", "name"), [("a.tgz", "a.tar"), ("a.GZ", "a"), ("a.svgz", "inside"), ("a", "inside"), (".gz", "inside")]
)
def test_the_name_of_the_file(tmp_path, file, name):
    path = tmp_path / file
    path.write_bytes(with_header(8, b"inside\0"))
    found, _, _ = index(LocalSource(path))
    assert found["names"].tobytes() == name.encode()


def test_the_encoding_of_the_name():
    found, _, _ = index(with_header(8, "日本\0".encode("cp932")), metadata_encoding="cp932")
    assert found["names"].tobytes().decode() == "日本"


@pytest.mark.parametrize(
    ("modified", "expected"), [(0, 0), (1_000_000_000, (2001, 9, 9, 1, 46, 40)), (315532799, 0), (2**32 - 1, 2106)]
)
def test_the_time(modified, expected):
    found, _, _ = index(with_header(0, b"", modified))
    [stamp] = found["timestamp"].tolist()
    date, clock = stamp >> 16, stamp & 0xFFFF
    found = 1980 + (date >> 9), date >> 5 & 15, date & 31, clock >> 11, clock >> 5 & 63, 2 * (clock & 31)
    assert (found if isinstance(expected, tuple) else found[0] if expected else stamp) == expected


# ---- damaged ----------------------------------------------------------------------------------------------------


def quiet(capfd: pytest.CaptureFixture[str]) -> None:
    """What rapidgzip writes to the standard error, nobody can stop."""
    capfd.readouterr()


SMALL = gzip.compress(text(300), mtime=0)
SEVERAL = b"".join(gzip.compress(part, mtime=0) for part in (b"one", b"", text(60)))


@pytest.mark.parametrize("whole", [SMALL, SEVERAL])
def test_every_truncation(capfd, whole):
    plain = gzip.decompress(whole)
    begins = {0, 23, 43} if whole is SEVERAL else {0}  # what ends with a member is a file
    for size in range(len(whole)):
        if size in begins and size:
            check(whole[:size], plain[:3])
            continue
        with pytest.raises(CorruptArchiveError):
            index(whole[:size])
    quiet(capfd)


@pytest.mark.parametrize("whole", [SMALL, SEVERAL])
@pytest.mark.parametrize("strict", [False, True])
def test_every_flip(capfd, whole, strict):
    """An error, or the same bytes."""
    plain = gzip.decompress(whole)
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            try:
                _, source, _ = index(bytes(flipped), strict=strict)
            except ArchiveError as error:
                assert error.archive == f"<{len(whole)} bytes>"
                refused += 1
                continue
            with source.base.memory:
                assert bytes(source.read_at(0, 1000)) == plain
            source.close()
    assert refused > 4 * len(whole)
    quiet(capfd)


@pytest.mark.parametrize("at", [-8, -4])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 4])
def test_trailers_are_checked(tmp_path, at, number, threads):
    """CRC-32 and ISIZE of every member, and the error says which."""
    members = [bytearray(gzip.compress(text(2_500_000, seed))) for seed in range(3)]
    members[number][at] ^= 1
    begin = sum(map(len, members[:number]))
    path = tmp_path / "file.gz"
    path.write_bytes(b"".join(members))
    reason = "data check" if at == -8 else "length check"
    with pytest.raises(CorruptArchiveError, match=rf"file\.gz: the gzip member at offset {begin} .*{reason}"):
        index(LocalSource(path), threads=threads)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_wrong_length_where_the_last_trailer_is_that_of_the_whole(threads):
    """Strict mode looks at it; else the bytes, which are right by their CRC-32, are taken for those of one member."""
    empty = gzip.compress(b"", mtime=0)
    plain = text(300)
    whole = empty[:-4] + (7).to_bytes(4, "little") + SMALL
    check(whole, plain)
    with pytest.raises(CorruptArchiveError, match=r"the gzip member at offset 0 .*length check"):
        index(whole, strict=True, threads=threads)
    _, source, _ = index(empty + SMALL, strict=True, threads=threads)
    with source.base.memory:
        assert bytes(source.read_at(0, 1000)) == plain
    source.close()


@pytest.mark.parametrize("threads", [1, 4])
def test_a_damaged_end_that_says_that_there_is_nothing(capfd, threads):
    whole = gzip.compress(text(600), mtime=0)
    for begin in range(len(whole) - 11, len(whole) - 7):
        with pytest.raises(CorruptArchiveError, match="the gzip member at offset 0"):
            index(whole[:begin] + bytes(len(whole) - begin), threads=threads)
    quiet(capfd)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("flags", [4, 8, 16])
def test_a_member_whose_header_has_no_end(threads, flags):
    """Is not passed over, though the file ends with the size of the member in front of it."""
    whole = bytearray(gzip.compress(text(300), mtime=0) + gzip.compress(text(300, 2), mtime=0).replace(b"\0", b"\1"))
    begin = len(gzip.compress(text(300), mtime=0))
    whole[begin + 3] = flags  # an extra field, a name or a comment that goes on to the end of the file
    whole[begin + 10 : begin + 12] = b"\xff\xff"
    whole[-4:] = (300).to_bytes(4, "little")
    with pytest.raises(CorruptArchiveError, match=f"the gzip member at offset {begin}"):
        index(bytes(whole), threads=threads)


@pytest.mark.parametrize("zeros", [1, 7, 8, 9, 17, 18, 500, 300_000])
def test_zeros_at_the_end(zeros):
    """Are padding, as tapes leave it; but not in strict mode."""
    plain = text(100_000)
    whole = gzip.compress(plain)
    check(whole + bytes(zeros), plain)
    check(gzip.compress(b"") + bytes(zeros), b"")
    with pytest.raises(CorruptArchiveError, match=f"{zeros} zero bytes follow the last gzip member, at offset"):
        index(whole + bytes(zeros), strict=True)


@pytest.mark.parametrize(
    "garbage", [b"g", b"garbage!", b"\0" * 600 + b"g", b"\x1f", b"\x1f\x8b", b"\x1f\x8bgarbage..."]
)
def test_garbage_at_the_end(capfd, garbage):
    whole = gzip.compress(text(100_000))
    with pytest.raises(CorruptArchiveError, match=f"at offset {len(whole)}"):
        index(whole + garbage)
    quiet(capfd)


def test_errors_of_the_file():
    """Are what they are, and not damage."""

    class Failing(MemorySource):
        def readinto_at(self, offset: int, buffer: memoryview) -> int:
            if offset > 400_000:
                raise OSError(5, "the disk is on fire")
            return super().readinto_at(offset, buffer)

    data = gzip.compress(text(3_000_000))
    for threads in (1, 4):
        with pytest.raises(OSError, match="the disk is on fire"):
            index(Failing(data), threads=threads)


def test_an_index_of_another_file():
    plain = text(3_000_000)
    found, source, _ = index(gzip.compress(plain))
    source.close()
    seek_points = found["gzip_index"][8:]
    for base, size, saved in (
        (gzip.compress(text(3_000_000, 2)), len(plain) + 1, seek_points),
        (gzip.compress(plain), len(plain), b"no index"),
        (gzip.compress(plain), len(plain), seek_points[:-9]),
    ):
        other = GzipSource(MemorySource(base), size, saved)
        with pytest.raises(CorruptArchiveError):
            other.read_at(2_000_000, 1000)
        other.close()


# ---- reading ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, bytes]:
    """A file with a dozen places to begin."""
    plain = text(40_000_000)
    path = tmp_path_factory.mktemp("gzip") / "large.gz"
    path.write_bytes(gzip.compress(plain, 1))
    return path, plain


def read_around(source: GzipSource, plain: bytes, seed: int, times: int = 40) -> bool:
    chance = random.Random(seed)
    places = [chance.randrange(len(plain)) for _ in range(times)]
    return all(bytes(source.read_at(at, 20_000)) == plain[at : at + 20_000] for at in places)


def test_many_threads(large):
    path, plain = large
    _, source, _ = index(LocalSource(path))
    right: list[bool] = []
    threads = [threading.Thread(target=lambda i=i: right.append(read_around(source, plain, i))) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 12
    source.close()


def test_no_threads_are_left(large):
    path, plain = large

    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    before = count()
    _, source, _ = index(LocalSource(path), threads=6)
    assert count() <= before  # a thread of another test may just be ending
    assert read_around(source, plain, 1)
    assert count() <= before  # a thread of another test may just be ending
    source.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_the_bytes_of_an_archive_are_let_go_of(capfd, damaged):
    """And those of its index; rapidgzip keeps every file object that it was given."""
    whole = bytearray(gzip.compress(random.Random(1).randbytes(3_000_000), 1))
    whole[-8] ^= damaged

    def read() -> None:
        with archivestream.open(bytes(whole)) as archive:
            assert len(archive[0]) == 3_000_000

    gc.collect()
    tracemalloc.start()
    for _ in range(5):
        with pytest.raises(CorruptArchiveError) if damaged else contextlib.nullcontext():
            read()
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert left < 1 << 20
    quiet(capfd)


def test_forks(large):
    """Of a process that has read, in which other threads read; each exits as processes do."""
    code = (
        "import os, sys, threading\n"
        "from archivestream.formats.gzip import read_index\n"
        "from archivestream.limits import Limits\n"
        "from archivestream.sources import LocalSource\n"
        f"_, source, _ = read_index(LocalSource(sys.argv[1]), threads=None, {OPTIONS})\n"
        "expected = {at: bytes(source.read_at(at, 1000)) for at in range(0, source.size, source.size // 9)}\n"
        "def read():\n"
        "    for _ in range(6):\n"
        "        assert all(bytes(source.read_at(at, 1000)) == data for at, data in expected.items())\n"
        "threads = [threading.Thread(target=read) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "children = []\n"
        "for i in range(4):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        read()\n"
        "        os._exit(7) if i % 2 else sys.exit(7)\n"
        "    children.append(child)\n"
        "codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]\n"
        "for thread in threads: thread.join()\n"
        "read()\n"
        "print(codes)\n"
    )
    done = run(code, large[0])
    assert done.stdout.split() == ["[7,", "7,", "7,", "7]"], done.stderr


# Of `read_index`, in the code of a subprocess.
OPTIONS = "strict=False, limits=Limits(), metadata_encoding=None, progress=None"


def run(code: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, **options)


def test_a_process_that_closes_nothing(large):
    """Ends as it should, though a reader that is left makes rapidgzip abort."""
    code = (
        "import sys, threading\n"
        "from archivestream.formats.gzip import read_index\n"
        "from archivestream.limits import Limits\n"
        "from archivestream.sources import LocalSource\n"
        f"_, source, _ = read_index(LocalSource(sys.argv[1]), threads=None, {OPTIONS})\n"
        "loop = [source]\n"
        "loop.append(loop)\n"
        "print(len(source.read_at(5, 5)))\n"
    )
    done = run(code, large[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


@pytest.mark.parametrize("what", ["read", "open", "open with threads", "read_at_exit"])
def test_exit_while_other_threads_decode(large, what):
    """A daemon is in the middle of it when the interpreter exits, and what it decodes with is closed for it."""
    code = (
        "import atexit, sys, threading, time\n"
        "import archivestream\n"
        "path, what, delay = sys.argv[1:]\n"
        "archive = archivestream.open(path)\n"
        "member = archive.open_member(0)\n"
        "def work():\n"
        "    while True:\n"
        "        if what == 'read':\n"
        "            with archive.open_member(0) as file: file.seek(9_000_000); file.read(5_000_000)\n"
        "        else:\n"
        "            threads = 8 if what == 'open with threads' else 1\n"
        "            archivestream.open(path, index='memory', threads=threads).close()\n"
        # One write for a line: two threads may come to it at once.
        "threading.excepthook = lambda args: sys.stdout.write(args.exc_type.__name__ + '\\n')\n"
        "def late():\n"
        "    try: member.read(10_000_000)\n"
        "    except RuntimeError as error: print('late', error)\n"
        "if what == 'read_at_exit':\n"
        "    import archivestream.sources.gzip\n"
        "    atexit.unregister(archivestream.sources.gzip._close_all)\n"
        "    atexit.register(late)\n"
        "    atexit.register(archivestream.sources.gzip._close_all)\n"
        "else:\n"
        "    for _ in range(2): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(float(delay))\n"
    )
    for delay in (0.02, 0.3):
        done = run(code, large[0], what, delay)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        if what == "read_at_exit":
            assert [line.partition("gz: ")[2] for line in lines] == [
                "gzip cannot be read any more: the interpreter exits"
            ]
        else:
            assert set(lines) <= {"RuntimeError"}


def test_no_descriptor_is_left(large):
    """With threads, rapidgzip opens the file once more, where it can."""
    code = (
        "import os, resource, sys\n"
        "import archivestream\n"
        "archivestream.open(sys.argv[1], index='memory').close()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "taken = []\n"
        "try:\n"
        "    while True: taken.append(os.open(os.devnull, os.O_RDONLY))\n"
        "except OSError: os.close(taken.pop())\n"
        "with archivestream.open(sys.argv[1], index='memory', threads=8) as archive:\n"
        "    print(archive.sizes[0])\n"
    )
    done = run(code, large[0])
    assert (done.stdout, done.stderr) == (f"{len(large[1])}\n", "")


def test_ctrl_c_at_any_time(large):
    """Is Ctrl-C, and no damage, wherever in native code and in the file object that it calls it comes."""
    code = (
        "import random, signal, sys, time\n"
        "import archivestream\n"
        "archive = archivestream.open(sys.argv[1])\n"
        "good = archive.read(0)\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "found, end = 0, time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.03))\n"
        "        if random.random() < 0.5: archive.open_member(0).read()\n"
        "        else: archivestream.open(sys.argv[1], index='memory', threads=1).close()\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    except KeyboardInterrupt:\n"
        "        found += 1\n"
        "print(found > 10, archive.read(0) == good)\n"
    )
    done = run(code, large[0])
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_pickles(large):
    path, plain = large
    _, source, _ = index(LocalSource(path))
    copy = pickle.loads(pickle.dumps(source))
    assert read_around(copy, plain, 1)
    copy.close()
    source.close()
    padded = MemorySource(path.read_bytes() + bytes(100))
    _, source, _ = index(padded)
    copy = pickle.loads(pickle.dumps(source))
    assert read_around(copy, plain, 2)
    copy.close()


def test_the_sidecar(large):
    """Reading goes on from a saved index without decoding all first."""
    path, plain = large
    with archivestream.open(path) as archive:
        [saved] = map(Path, archive.summary().saved_indexes)
    base = LocalSource(path)
    assert saved.stat().st_size < 0.05 * base.size
    found = sidecar.load_any(base)
    assert (found.path, found.metadata.format, found.metadata.data_end) == (saved, "gz", len(plain))
    assert found.metadata.crc32 == crc32(path.read_bytes())
    columns = Index(found.columns, data_end=[len(plain)], layouts=[Layout.BLOCKS], formats=["gz"])
    source = open_decoded(base, columns)
    assert read_around(source, plain, 5)
    assert source.change() is None
    os.utime(path)
    assert source.change() is not None
    assert sidecar.load_any(LocalSource(path)).touched
    source.close()


def test_progress(large):
    path, _ = large
    for threads in (1, 4):
        seen: list[tuple[int, int]] = []
        _, source, _ = index(LocalSource(path), threads=threads, progress=lambda *done, to=seen: to.append(done))
        source.close()
        size = path.stat().st_size
        assert {of for _, of in seen} == {size}
        done = [number for number, _ in seen]
        assert done == sorted(done)
        assert size - 100 < done[-1] <= size


def test_a_tar_inside_is_found():
    """And what is none is one member. The headers of a tar lie across the blocks that the scanner is fed."""
    members = [(f"member {i}", text(i * 997, i)) for i in range(60)]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    plain = file.getvalue()
    found, source, _ = index(gzip.compress(plain))
    assert (found.formats, found.layouts, found.data_end) == (("tar.gz",), (Layout.BLOCKS,), (len(plain),))
    assert found["size"].tolist() == [len(data) for _, data in members]
    assert [found.name(i) for i in range(len(found))] == [name for name, _ in members]
    starts = found["offset"].tolist()
    assert all(plain[at : at + len(data)] == data for at, (_, data) in zip(starts, members, strict=True))
    assert found["block_start"].tolist() == list(range(0, len(plain), 256 << 10))
    source.close()
    found, source, _ = index(gzip.compress(plain[100:]))
    assert (found.formats, len(found)) == (("gz",), 1)
    source.close()


# ---- size and time ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bomb(tmp_path_factory) -> tuple[Path, int]:
    """4.5 GB of zeros in one member of 4.4 MB: ISIZE has wrapped around."""
    piece, count = bytes(64 << 20), 68
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    flushed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(count):
        crc = crc32(piece, crc)
    size = count * len(piece)
    path = tmp_path_factory.mktemp("gzip") / "bomb.gz"
    end = b"\3\0" + struct.pack("<2L", crc, size & 0xFFFFFFFF)
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\3" + flushed * count + end)
    return path, size


def test_memory_is_bounded(bomb):
    path, size = bomb
    code = (
        "import sys\n"
        "from archivestream.formats.gzip import read_index\n"
        "from archivestream.limits import Limits\n"
        "from archivestream.sources import LocalSource\n"
        f"found, source, _ = read_index(LocalSource(sys.argv[1]), threads=1, {OPTIONS})\n"
        "assert not any(source.read_at(source.size - 5000, 5000))\n"
        "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(source.size, int(peak[0]) // 1024, len(found['block_size']))\n"
    )
    done = run(code, path)
    assert done.returncode == 0, done.stderr
    found, peak, blocks = map(int, done.stdout.split())
    assert (found, blocks) == (size, size >> 18)
    assert peak < 800  # MiB: 460 or so


@pytest.mark.parametrize("threads", [1, 4])
def test_ctrl_c(bomb, threads):
    code = (
        "import sys, os, time, threading, signal\n"
        "from archivestream.formats.gzip import read_index\n"
        "from archivestream.limits import Limits\n"
        "from archivestream.sources import LocalSource\n"
        "def interrupt():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "def count():\n"
        "    return len(os.listdir('/proc/self/task'))\n"
        "before = count() + 1\n"  # that which calls rapidgzip for the main thread stays
        "timer = threading.Timer(0.3, interrupt)\n"
        "timer.start()\n"
        "begin = time.monotonic()\n"
        "try:\n"
        f"    read_index(LocalSource(sys.argv[1]), threads=int(sys.argv[2]), {OPTIONS})\n"
        "except KeyboardInterrupt:\n"
        "    after = time.monotonic() - begin\n"
        "    timer.join()\n"
        "    while count() > before and time.monotonic() - begin < 5:\n"
        "        time.sleep(0.01)\n"
        "    print(after, count() - before)\n"
    )
    done = run(code, bomb[0], threads)
    assert done.returncode == 0, done.stderr
    after, left = done.stdout.split()
    assert left == "0"
    assert float(after) < 2


def test_a_missing_package_names_its_extra():
    code = (
        "import sys\n"
        "sys.modules['rapidgzip'] = None\n"
        "import archivestream\n"
        "from archivestream.formats.gzip import read_index\n"
        "from archivestream.limits import Limits\n"
        "from archivestream.sources import MemorySource\n"
        "try:\n"
        f"    read_index(MemorySource(bytes.fromhex('1f8b0800000000000003') + bytes(20)), threads=None, {OPTIONS})\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = run(code)
    assert "<30 bytes>" in done.stdout
    assert "archivestream[gzip]" in done.stdout


def a_tar(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("saved", [b"", b"short", struct.pack("<Q", 1 << 40) + bytes(50)])
def test_a_forged_index(saved):
    """Of a saved index whose checksums are right."""
    base = MemorySource(gzip.compress(b"plain"))
    columns = {**index(base)[0].columns, "gzip_index": saved}
    with pytest.raises(CorruptArchiveError, match="saved index"):
        open_decoded(base, Index(columns, data_end=[5], layouts=[Layout.BLOCKS])).read_at(0, 5)


def test_what_is_damaged_is_named(capfd):
    """The gzip data, if they are; else the tar."""
    plain = bytearray(a_tar([("one", text(3_000_000)), ("two", b"2")]))
    plain[512 + 3_000_320 + 3] ^= 1
    with pytest.raises(CorruptArchiveError, match="checksum of a header"):
        index(gzip.compress(plain))
    damaged = bytearray(gzip.compress(plain))
    damaged[-8] ^= 1
    with pytest.raises(CorruptArchiveError, match="the gzip member at offset 0 is damaged"):
        index(bytes(damaged))
    with pytest.raises(CorruptArchiveError, match="truncated"):
        index(gzip.compress(a_tar([("one", text(3_000_000))])[:2_000_000]))
    with pytest.raises(LimitExceededError, match="max_members = 1"):
        index(gzip.compress(a_tar([("one", b"1"), ("two", b"2")])), limits=Limits(max_members=1))
    quiet(capfd)


def test_damage_since_it_was_indexed_is_an_error_of_the_member():
    data = bytearray(gzip.compress(text(3_000_000), 6))
    columns, source, _ = index(MemorySource(data))
    options = {"limits": Limits(), "verify": True, "strict": False, "threads": 2, "cache": 0}
    reader = MemberReader(columns, [source], **options)
    assert reader.check(np.array([0, 0])) == {}
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xff" * 2000
    errors = reader.check(np.array([0, 0]))
    assert list(errors) == [0, 1]
    assert all(isinstance(error, CorruptArchiveError) and error.member == "data" for error in errors.values())
    with pytest.raises(CorruptArchiveError, match="member 'data'"):
        reader.read(0)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux has /proc")
@pytest.mark.parametrize("closes", [True, False])
def test_the_file_is_closed_with_the_archive(closes: bool, tmp_path: Path) -> None:
    # rapidgzip never lets go of the file object that it reads through.
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(text(5000)))

    def descriptors() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{name}") == str(path) for name in os.listdir("/proc/self/fd"))

    archive = archivestream.open(path)
    assert archive[0] == text(5000)
    assert descriptors()
    if closes:
        archive.close()
    else:
        del archive
    assert descriptors() == 0
