"""Target: any calls, in any order, with any arguments, on an archive some of whose bytes are others.

An input is a list of choices. All that is read is compared with what `read` gives, and an exception must be one that
the documentation of the call names.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from archivestream import Archive, ArchiveError, Cache, Limits, MemberNotFoundError

from .reading import LIMITS, opened
from .seeds import archives
from .target import Data, require

__all__ = ["call_seeds", "run_calls"]

T = TypeVar("T")
MOST_CALLS = 20
KEY_ERRORS = (MemberNotFoundError, IndexError)


class Choices:
    """Choices, each made by the next byte; 0 where there are no more."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.at = 0

    def number(self, below: int) -> int:
        """Choose a number."""
        found = 0
        for _ in range((max(below, 1) - 1).bit_length() + 7 >> 3):
            found = found << 8 | (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1
        return found % max(below, 1)

    def one(self, options: Sequence[T]) -> T:
        """Choose one of several."""
        return options[self.number(len(options))]

    @property
    def over(self) -> bool:
        """Whether there are no more."""
        return self.at >= len(self.data)


@functools.cache
def _archives() -> list[bytes]:
    """Some of every kind; all but the first few are of the corpus."""
    return [data for data in archives() if len(data) < 6000]


def call_seeds() -> Iterator[bytes]:
    """Choices: of an archive, without damage, and some calls."""
    for archive, call in itertools.product(range(0, 60, 3), range(len(CALLS))):
        yield bytes([archive, 0, 0, call, 0, 1, 2, call, 1, 3, 0, 200, 7, call + 1, 9])


def run_calls(data: Data) -> None:
    """Open an archive with some options, and call."""
    choices = Choices(data)
    archive = bytearray(choices.one(_archives()))
    for _ in range(choices.number(4)):
        if archive:
            archive[choices.number(len(archive))] ^= choices.number(256)
    del archive[: choices.one((0, 0, 0, 0, 0, 0, 1, 30))]
    options: dict[str, Any] = {
        "strict": choices.one((False, False, True)),
        "threads": choices.one((1, 2, 3)),
        "verify": choices.one((True, True, False)),
        "cache": choices.one((None, 0, 500, 1 << 20, None)),
        "metadata_encoding": choices.one((None, None, None, None, "utf-8", "shift_jis", "utf-16")),
        "limits": choices.one((LIMITS, LIMITS, LIMITS, Limits(max_member_bytes=200), Limits(max_members=2))),
    }
    if choices.number(4) == 3:
        options["cache"] = Cache(choices.one((0, 1000, 1 << 20)), policy=choices.one(("keep", "lru")))
    source: Any = choices.one((bytes, io.BytesIO, bytearray, memoryview))(bytes(archive))
    with opened(source, **options) as whole:
        if whole is None:
            return
        views = [whole]
        for _ in range(MOST_CALLS):
            if choices.over:
                break
            view = choices.one(views)
            made = choices.one(CALLS)(view, choices)
            if made is not None and len(views) < 5:
                views.append(made)


# ---- calls ------------------------------------------------------------------------------------------------------

Call: TypeAlias = Callable[[Archive, Choices], "Archive | None"]


def _key(archive: Archive, choices: Choices) -> int | str:
    """Choose a key, which most of the time is one."""
    n = len(archive)
    place = choices.number(n + 2) - 1 if choices.number(8) == 0 else choices.number(n)
    if choices.number(3) == 0 and 0 <= place < n:
        return archive.names[place]
    return choices.one((place, place - n, place, -place - 1))


def _keys(archive: Archive, choices: Choices) -> list[int | str]:
    return [_key(archive, choices) for _ in range(choices.number(6))]


def _expected(archive: Archive, keys: Sequence[int | str]) -> list[bytes | None] | None:
    """What `read` gives for keys, with None for what is bad; None where one of the keys is none."""
    found: list[bytes | None] = []
    for key in keys:
        try:
            found.append(archive.read(key))
        except KEY_ERRORS:
            return None
        except ArchiveError:
            found.append(None)
    return found


def read(archive: Archive, choices: Choices) -> None:
    """One member, twice, and what is said of it."""
    key = _key(archive, choices)
    expected = _expected(archive, [key])
    require(_expected(archive, [key]) == expected, "the second time, it is another", key)
    try:
        info = archive.info(key)
    except KEY_ERRORS:
        require(expected is None, "read without info", key)
        return
    require(expected is not None, "info without read", key)
    data = expected[0] if expected else None
    require(data is None or len(data) == info.size, "another size", key)
    require(archive.names[info.position] == info.name, "another name", key)


def read_many(archive: Archive, choices: Choices) -> None:
    """Some members together, with and without a place for errors."""
    keys = _keys(archive, choices)
    expected = _expected(archive, keys)
    call = choices.one((archive.read_many, archive.read_batch, archive.read_packed))
    errors: dict[int, Exception] | None = {} if choices.number(2) else None
    try:
        found = _as_list(call(keys, errors=errors))  # type: ignore[operator]
    except KEY_ERRORS:
        require(expected is None, "a key is missed", keys)
        return
    except ArchiveError:
        require(errors is None and expected is not None and None in expected, "a good batch fails", keys)
        return
    require(expected is not None, "a key that is none is taken", keys)
    bad = {i for i, data in enumerate(expected or []) if data is None}
    require(set(errors or {}) == bad, "other members are bad", keys)
    require(all(data is None or data == ours for data, ours in zip(expected or [], found, strict=True)), "other bytes")


def _as_list(found: Any) -> list[bytes]:
    """Take what the calls return apart; what is bad is empty."""
    if isinstance(found, tuple):
        data, offsets, lengths = found
        return [data[at : at + size].tobytes() for at, size in zip(offsets.tolist(), lengths.tolist(), strict=True)]
    return [bytes(data or b"") for data in found]


def submit(archive: Archive, choices: Choices) -> None:
    """In the background; and given up, now and then."""
    keys = [key for key in _keys(archive, choices) if _expected(archive, [key]) is not None]
    expected = _expected(archive, keys)
    try:
        pending = archive.submit(keys)
        if choices.number(3) == 0:
            return
        batch = pending.result()
    except ArchiveError:
        require(expected is not None and None in expected, "a good batch fails", keys)
    else:
        require([bytes(data) for data in batch] == expected, "other bytes", keys)


def into(archive: Archive, choices: Choices) -> None:
    """To memory of the caller's, which is now and then too small or of another kind."""
    keys = [key for key in _keys(archive, choices) if _expected(archive, [key]) is not None]
    expected = _expected(archive, keys) or []
    size = sum(len(data or b"") for data in expected)
    size = max(0, size + choices.one((0, 0, 0, -1, 1, 100)))
    out: Any = choices.one((np.zeros(size, np.uint8), bytearray(size), np.zeros((size, 1), np.uint8), bytes(size)))
    try:
        batch = archive.read_batch(keys, out=out)
    except ArchiveError:
        require(None in expected, "a good batch fails", keys)
    except (ValueError, TypeError):
        require(isinstance(out, bytes) or size < sum(map(archive_size(archive), keys)), "memory is refused", size)
    else:
        require([bytes(data) for data in batch] == expected, "other bytes", keys)


def archive_size(archive: Archive) -> Callable[[int | str], int]:
    """Return what tells the size of a member."""
    return lambda key: archive.info(key).size


def read_as_file(archive: Archive, choices: Choices) -> None:
    """As a file, with seeks."""
    key = _key(archive, choices)
    expected = _expected(archive, [key])
    try:
        with archive.open_member(key) as file:
            for _ in range(choices.number(5)):
                place = choices.number(1000)
                file.seek(place)
                got = file.read(choices.one((1, 10, 100)))
                data = expected[0] if expected else None
                require(data is None or got == data[place : place + len(got)], "other bytes in a file", key, place)
            rest = file.read()
            require(expected is None or expected[0] is None or expected[0].endswith(rest), "another end", key)
    except KEY_ERRORS:
        require(expected is None, "a key is missed", key)
    except ArchiveError:
        require(expected is not None and expected[0] is None, "a good member fails", key)


def select(archive: Archive, choices: Choices) -> Archive | None:
    """Make a view, by keys, patterns, slices and masks."""
    n = len(archive)
    keys: Any = choices.one(
        (
            _keys(archive, choices),
            slice(choices.number(5) - 2, choices.number(9) - 2, choices.one((1, 2, -1, None))),
            np.arange(n) % 2 == choices.number(2),
            choices.one(("*", "a*", "folder/*", "[", "[!a]*", "label == 3", "")),
            np.arange(n, dtype=np.int32)[::-1],
            np.ones(n + 1, bool),
        )
    )
    try:
        places = archive.positions(keys)
        view = archive.select(keys)
    except (*KEY_ERRORS, ValueError):
        return None
    require(list(view.names) == [archive.names[int(i)] for i in places], "a view of other members")
    return view


def describe(archive: Archive, choices: Choices) -> None:
    """All that needs no member."""
    names = list(archive.names)
    require(archive.namelist() == names and [info.name for info in archive.infolist()] == names, "other names")
    require(archive.summary().members == len(archive) == len(archive.sizes) == len(archive.files()), "another count")
    require(sum(map(len, archive.by_type().values())) <= int(archive.files().sum()), "a file of two types")
    for name in names[:3]:
        require(name in archive and archive.getinfo(name).name == name, "a name is not found", name)
        archive.origin(name)
    repr(archive), archive.fingerprint, archive.counters, archive.ancestry, archive.placement()
    archive.names.folders(), archive.names.extensions(), archive.names.stems()


def verify(archive: Archive, choices: Choices) -> None:
    """All checksums."""
    report = archive.verify()
    require((archive.testzip() is None) == report.ok, "testzip() and verify() differ")


def add(archive: Archive, choices: Choices) -> Archive | None:
    """Two views as one."""
    both = archive + archive
    require(list(both.names) == list(archive.names) * 2, "other names")
    return both if len(both) < 200 else None


def send(archive: Archive, choices: Choices) -> Archive | None:
    """To another process and back."""
    try:
        found: Archive = pickle.loads(pickle.dumps(archive))
    except TypeError:  # opened from a file object
        return None
    require(list(found.names) == list(archive.names), "other names after pickling")
    return found


def read_as_arrays(archive: Archive, choices: Choices) -> None:
    """As arrays, images, rows: whatever there is in the members."""
    keys = [key for key in _keys(archive, choices) if _expected(archive, [key]) is not None]
    call = choices.one((archive.read_arrays, archive.read_padded, archive.map_arrays, archive.read_images))
    try:
        found = call(keys)
    except (ArchiveError, ValueError):
        return
    if call == archive.read_padded:
        data, lengths = found
        expected = _expected(archive, keys) or []
        rows = [data[i, : int(length)].tobytes() for i, length in enumerate(lengths)]
        require(rows == expected, "other bytes in rows", keys)


def extract(archive: Archive, choices: Choices) -> None:
    """To a folder, and nowhere else."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder, "inside")
        inside.mkdir()
        try:
            archive.extract(_keys(archive, choices) if choices.number(2) else None, inside)
        except (*KEY_ERRORS, ArchiveError, OSError):
            pass
        require([path.name for path in Path(folder).iterdir()] == ["inside"], "something is outside")


CALLS: tuple[Call, ...] = (
    read,
    read_many,
    submit,
    into,
    read_as_file,
    select,
    describe,
    verify,
    add,
    send,
    read_as_arrays,
    extract,
)
