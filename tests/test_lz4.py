"""ZIP members in LZ4 (method 30, DareBlopy's own): good ones, damaged ones, and what is said without the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from samples import text
from zipmaker import DEFLATE, STORED, Entry, make

import archivestream
from archivestream import CorruptArchiveError, LimitExceededError, Limits, UnsupportedFeatureError
from archivestream.member_io import open_member

block = pytest.importorskip("lz4.block")

LZ4 = 30
PACKAGE = Path(archivestream.__file__).parent


def compress(data: bytes, **options: object) -> bytes:
    """As DareBlopy 0.0.5 reads it: a block, with no size in front. Tried with that version, which refuses frames."""
    return block.compress(data, store_size=False, **options)  # type: ignore[no-any-return]


def entry(name: str, data: bytes, **options: object) -> Entry:
    return Entry(name.encode(), data, LZ4, compress(data, **options))


def test_a_block_by_hand() -> None:
    """LZ4 Block Format: a token of 5 literals and a match of 4 + 4 bytes, 5 back; then 5 literals to end it."""
    payload = b"\x54hello\x05\x00\x50world"
    with archivestream.open(make(Entry(b"a", b"hellohellohelworld", LZ4, payload))) as archive:
        assert archive[0] == b"hellohellohelworld"
        assert archive.info(0).compression == "lz4"


@pytest.mark.parametrize("size", [0, 1, 12, 13, 1000, 65_536, 300_000])
@pytest.mark.parametrize("mode", ["default", "high_compression", "fast"])
def test_every_way_to_read(size: int, mode: str) -> None:
    contents = [text(size), bytes(size), bytes(range(256)) * (size // 256)]
    members = [entry(f"{i}.txt", data, mode=mode) for i, data in enumerate(contents)]
    members.append(Entry(b"deflated", text(size), DEFLATE))
    with archivestream.open(make(*members)) as archive:
        expected = [*contents, text(size)]
        assert [*archive] == expected
        assert archive.read_many([3, 0, 2, 1]) == [expected[i] for i in (3, 0, 2, 1)]
        assert archive.read_batch(range(4)).data.tobytes() == b"".join(expected)
        assert archive.submit(range(4)).result()[1] == contents[1]
        assert archive.open_member(0).read() == contents[0]
        assert archive.verify().ok
        assert archive.summary().methods["lz4"] == 3
        assert archive.summary().unsupported == 0


def test_a_large_member_as_a_file(tmp_path: Path) -> None:
    data = text(1 << 16) * 300  # above what is decoded at once
    with archivestream.open(make(entry("large", data))) as archive:
        with archive.open_member("large") as file:
            file.seek(18 << 20)
            assert file.read(1000) == data[18 << 20 :][:1000]
            file.seek(0)
            assert file.read() == data
        assert archive.extract(path=tmp_path) == [tmp_path / "large"]
        assert (tmp_path / "large").read_bytes() == data


def test_an_empty_member_without_a_block() -> None:
    """As some writers have it; LZ4 itself has a token of zero."""
    with archivestream.open(make(Entry(b"a", b"", LZ4, b""), Entry(b"b", b"", LZ4, b"\0"))) as archive:
        assert [*archive] == [b"", b""]


DATA = text(5000)
GOOD = compress(DATA)


@pytest.mark.parametrize(
    ("payload", "size", "crc", "message"),
    [
        (GOOD[:-1], None, None, "damaged"),
        (GOOD + b"\0", None, None, "damaged"),
        (block.compress(DATA), None, None, "damaged"),
        (b"\x04\x22\x4d\x18" + GOOD, None, None, "damaged"),
        (GOOD, 4999, None, "damaged"),
        (GOOD, 5001, None, "fewer bytes than the 5001"),
        (GOOD, None, 1, "CRC-32"),
        (b"", None, None, "cannot hold"),
        (GOOD, 255 * (len(GOOD) + 1), None, "cannot hold"),
        (GOOD, 255 * len(GOOD), None, "fewer bytes"),
        (b"\0", 0, 1, "CRC-32"),
    ],
)
def test_damaged_members_harm_no_other(payload: bytes, size: int | None, crc: int | None, message: str) -> None:
    bad = Entry(b"bad", DATA if size != 0 else b"", LZ4, payload, size=size, crc=crc)
    with archivestream.open(make(bad, entry("good", DATA))) as archive:
        with pytest.raises(CorruptArchiveError, match=rf"member 'bad': .*{message}"):
            archive.read("bad")
        errors: dict[int, Exception] = {}
        assert archive.read_many([1, 0, 1], errors=errors)[::2] == [DATA, DATA]
        assert list(errors) == [1]


def test_flipped_bits_are_found() -> None:
    for place in range(0, len(GOOD), 7):
        payload = bytearray(GOOD)
        payload[place] ^= 1 << place % 8
        archive = archivestream.open(make(Entry(b"bad", DATA, LZ4, bytes(payload))))
        with archive, pytest.raises(CorruptArchiveError):
            archive.read(0)


def test_sizes_are_bounded_before_memory_is_taken() -> None:
    payload = b"\xff" * (1 << 20)
    huge = Entry(b"huge", b"", LZ4, payload, size=200 << 20, crc=0)
    archive = archivestream.open(make(huge), limits=Limits(max_member_bytes=1 << 20))
    with archive, pytest.raises(LimitExceededError, match="max_member_bytes"):
        archive.read(0)
    beyond = Entry(b"huge", b"", LZ4, payload, size=1 << 40, crc=0, zip64=["size"])
    archive = archivestream.open(make(beyond), limits=Limits(max_member_bytes=1 << 50))
    with archive, pytest.raises(CorruptArchiveError, match="cannot hold"):
        archive.read(0)


def test_without_the_package(tmp_path: Path) -> None:
    """A clear error for that member only, which names the extra."""
    path = tmp_path / "a.zip"
    path.write_bytes(make(entry("lz4.txt", DATA), Entry(b"stored.txt", DATA, STORED)))
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); sys.modules['lz4'] = None\n"
        "import archivestream\n"
        f"archive = archivestream.open({str(path)!r})\n"
        "errors = {}\n"
        "print(len(archive.read_many([0, 1], errors=errors)[1]), archive.summary().unsupported)\n"
        "print(type(errors[0]).__name__, errors[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "5000 1",
        f"{UnsupportedFeatureError.__name__} {path}: member 'lz4.txt': compression method 30 (lz4) needs a package: "
        "pip install 'archivestream[lz4]'",
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_checks_of_what_nobody_verified(monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    wrong = Entry(b"a", text(3000), LZ4, compress(b"x" + text(3000)[1:]))
    cache = archivestream.Cache(1 << 20) if cached else None
    with archivestream.open(make(wrong), verify=False, cache=cache) as archive:
        assert archive["a"].startswith(b"x")
        reader = archive._shared.reader
        assert open_member(reader, 0).read() == archive["a"]
        with pytest.raises(CorruptArchiveError, match="CRC-32"):
            open_member(reader, 0, verify=True)
        monkeypatch.setattr("archivestream.verification._BATCH_BYTES", 1000)  # a large member
        assert "CRC-32" in str(archive.verify().errors[0])
