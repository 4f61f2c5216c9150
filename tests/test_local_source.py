"""Files as sources: closed while they are read, and asked for their state when they cannot say."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from archivestream.sources import LocalSource


class Meanwhile:
    """A buffer in which something happens between two steps of whoever fills it."""

    def __init__(self, size: int, happens: Any) -> None:
        self.data = bytearray(size)
        self.happens = happens

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, where: slice) -> memoryview:
        self.happens()
        return memoryview(self.data)[where]


def test_a_source_that_is_closed_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * 4096)
    (tmp_path / "two").write_bytes(b"2" * 4096)
    source = LocalSource(tmp_path / "one")
    others: list[int] = []

    def close_and_open() -> None:  # as other threads may
        if not others:
            source.close()
            others.append(os.open(tmp_path / "two", os.O_RDONLY))

    buffer: Any = Meanwhile(4096, close_and_open)
    try:
        assert source.readinto_at(0, buffer) == 4096
    finally:
        os.close(others[0])
    assert buffer.data == b"1" * 4096
    with pytest.raises(OSError, match="closed") as caught:
        source.read_at(0, 1)
    assert caught.value.errno == errno.EBADF


def test_a_file_that_cannot_be_asked_for_its_state(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    source = LocalSource(tmp_path / "one")
    assert source.change() is None
    source.descriptor = 1 << 20  # fstat fails, as on a network file system (ESTALE)
    assert os.strerror(errno.EBADF) in str(source.change())
