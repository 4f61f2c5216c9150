"""Bombs, as `python -m tests.bombs` has them, smaller: memory in proportion to the file, and no quadratic time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("rapidgzip")

from bombs.kinds import BASE, BOMBS
from bombs.server import Server

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc how much memory it takes")

# Of the processor: far beyond what any of them needs, and far below what they would take were the time quadratic.
SECONDS = 30
# Should a bomb go off, it is stopped here.
MEMORY = 4 << 30


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("ours", Path(__file__).parents[1])
    yield server
    server.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(bomb.name, marks=[pytest.mark.xfail(strict=True, reason=bomb.fault)] * bool(bomb.fault))
        for bomb in BOMBS.values()
    ],
)
def test_memory_is_in_proportion_to_the_file(server: Server, name: str, tmp_path: Path) -> None:
    bomb = BOMBS[name]
    path = tmp_path / f"{name}.{bomb.suffix}"
    made = server.ask("make", name, path, bomb.small, SECONDS, MEMORY)
    assert made.kind == "read", made
    found = server.ask("read", name, path, bomb.small, SECONDS, MEMORY)
    assert found.kind in ("read", "refused"), found
    assert found.peak <= BASE + bomb.factor * path.stat().st_size, found
