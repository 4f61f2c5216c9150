"""ArchiveSampler under torch: DataLoader, StatefulDataLoader, torch.distributed."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import archivestream
from archivestream import ArchiveSampler

torch = pytest.importorskip("torch")
from torch.utils.data import BatchSampler, DataLoader  # noqa: E402

from archivestream import ArchiveDataset  # noqa: E402

pytestmark = [
    # torchdata calls what torch has deprecated.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]

N = 103


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sampled") / "a.tar.zst"
    archivestream.pack([(f"{i:03d}", b"%03d" % i + bytes(70_000 + i)) for i in range(N)], path, frame_size=64 << 10)
    return path


def number(data: bytes) -> int:
    return int(data[:3])


@pytest.fixture(scope="module")
def dataset(path: Path) -> ArchiveDataset:
    return ArchiveDataset(path, transform=number)


def as_batch_sampler(dataset: ArchiveDataset, **options: Any) -> tuple[ArchiveSampler, dict[str, Any]]:
    sampler = ArchiveSampler(dataset, batch_size=8, **options)
    return sampler, {"batch_sampler": sampler}


def as_sampler(dataset: ArchiveDataset, **options: Any) -> tuple[ArchiveSampler, dict[str, Any]]:
    sampler = ArchiveSampler(dataset, **options)
    return sampler, {"sampler": sampler, "batch_size": 8}


WAYS = pytest.mark.parametrize("way", [as_sampler, as_batch_sampler])
WORKERS = pytest.mark.parametrize("workers", [0, 2])
SHUFFLES = pytest.mark.parametrize("shuffle", ["global", "block"])


@WAYS
@WORKERS
@SHUFFLES
def test_data_loader(dataset: ArchiveDataset, way: Any, workers: int, shuffle: str) -> None:
    sampler, options = way(dataset, shuffle=shuffle, seed=1)
    loader = DataLoader(dataset, num_workers=workers, **options)
    assert len(loader) == 13
    epochs = [[sample for batch in loader for sample in batch.tolist()] for _ in range(2)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert sampler.epoch == 2
    # What a loader that reads ahead has handed out is what it is told.
    sampler.set_epoch(0)
    batches = iter(loader)
    found = [sample for _ in range(4) for sample in next(batches).tolist()]
    assert found == epochs[0][:32]
    state = sampler.state_dict(delivered=32)
    del batches
    sampler.load_state_dict(state)
    assert found + [sample for batch in loader for sample in batch.tolist()] == epochs[0]


def test_batches_of_torch_over_it(dataset: ArchiveDataset) -> None:
    sampler = ArchiveSampler(dataset, shuffle="global")
    loader = DataLoader(dataset, batch_sampler=BatchSampler(sampler, 10, drop_last=True))
    assert sorted({sample for batch in loader for sample in batch.tolist()}) != list(range(N))
    assert len(loader) == 10


@WAYS
@WORKERS
@pytest.mark.parametrize(("every", "shuffle"), [(1, "block"), (3, "global")])
def test_stateful_data_loader(dataset: ArchiveDataset, way: Any, workers: int, shuffle: str, every: int) -> None:
    """What it has read ahead, or given since its last snapshot, is no part of its state."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def make(state: dict[str, Any] | None = None) -> Any:
        _, options = way(dataset, shuffle=shuffle, seed=5)
        loader = stateful(dataset, num_workers=workers, snapshot_every_n_steps=every, **options)
        if state is not None:
            loader.load_state_dict(json.loads(json.dumps(state)))
        return loader

    def run(loader: Any) -> list[list[int]]:
        return [batch.tolist() for batch in loader]

    first = make()
    epochs = [run(first) for _ in range(3)]
    assert all(sorted(itertools.chain(*epoch)) == list(range(N)) for epoch in epochs)
    for steps in (0, 5, 12):
        loader = make()
        batches = iter(loader)
        assert [next(batches).tolist() for _ in range(steps)] == epochs[0][:steps]
        resumed = make(loader.state_dict())
        del batches, loader
        assert run(resumed) == epochs[0][steps:]
        assert run(resumed) == epochs[1]
    # After the last batch, nothing is left of the epoch. Where torchdata makes the batches, it has looked for one more
    # sample already, so that the next epoch follows at once.
    loader = make()
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(13)] == epochs[0]
    resumed = make(loader.state_dict())
    assert [run(resumed), run(resumed)] in ([[], epochs[1]], [epochs[1], epochs[2]])
    assert list(batches) == []
    assert run(make(loader.state_dict())) == epochs[1]


DISTRIBUTED = """
import json, sys
from datetime import timedelta
import torch.distributed as distributed
import archivestream
from archivestream import ArchiveSampler

rank, port, path, out = int(sys.argv[1]), *sys.argv[2:]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
archive = archivestream.open(path)


def gather(value):
    gathered = [None, None]
    distributed.all_gather_object(gathered, value)
    return gathered


def run(sampler, steps):
    assert (sampler.rank, sampler.world_size) == (rank, 2)
    seen = []
    for step, batch in enumerate(sampler, 1):
        seen += [int(data[:3]) for data in archive.read_many(batch)]
        distributed.barrier()  # hangs where a rank has a step more
        if step == steps:
            break
    states = gather(sampler.state_dict())
    assert states == [states[0]] * 2, states
    return sum(gather(seen), []), states[1 - rank]


seen, state = run(ArchiveSampler(archive, batch_size=5, shuffle="block", seed=8, window=1 << 20), 4)
resumed = ArchiveSampler(archive, batch_size=3)
resumed.load_state_dict(state)
rest, over = run(resumed, 0)
if rank == 0:
    with open(out, "w") as file:
        json.dump([seen, state, rest, over], file)
distributed.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def test_two_processes(path: Path, tmp_path: Path) -> None:
    """Steps are equal, states are, and what is left of an epoch is the same for one process."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    environment = {**os.environ, "PYTHONPATH": str(Path(archivestream.__file__).parent.parent)}
    port, out = str(free_port()), tmp_path / "out"
    command = [sys.executable, "-c", DISTRIBUTED]
    processes = [
        subprocess.Popen([*command, str(rank), port, str(path), str(out)], env=environment) for rank in range(2)
    ]
    assert [process.wait(100) for process in processes] == [0, 0]
    seen, state, rest, over = json.loads(out.read_text())
    assert len(seen) == state["position"] == 40
    assert sorted(seen + rest) == list(range(N))
    assert (over["epoch"], over["position"]) == (1, 0)
    with archivestream.open(path) as archive:
        alone = ArchiveSampler(archive)
        alone.load_state_dict(state)
        assert sorted(alone) == sorted(rest)
