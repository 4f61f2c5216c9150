"""Train with several processes, on GPUs or on the CPU; stop, and go on with any number of them.

    torchrun --standalone --nproc-per-node 4 train_ddp.py --max-steps 10
    torchrun --standalone --nproc-per-node 2 train_ddp.py   # goes on with the samples that the four have left

The loader takes rank and world size from `torch.distributed`: each sample of an epoch comes to one rank only, and all
ranks make as many steps. Its state counts the samples of all ranks together, so one rank saves it, and any number take
it up. Network and data are those of ``train_digits.py``, which stands beside this file.

It needs ``pip install "archivestream[demo]"``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist

# An optimizer would import this later. Its functions have the process group that is there then as a default, which
# would keep gloo's threads alive until Python ends, and that may then abort.
import torch.distributed.nn
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from train_digits import make_network, save, write_digits

from archivestream import ArchiveDataset, ArchiveLoader, Normalize


def main() -> None:
    """Train as one of the processes; the first one prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=Path("digits.zip"), help="default: %(default)s")
    parser.add_argument("--checkpoint", type=Path, default=Path("digits-ddp.pt"), help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="in all; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="of each process; default: %(default)s")
    parser.add_argument("--max-steps", type=int, help="stop after so many steps of this run")
    args = parser.parse_args()

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")
    train(args)
    dist.destroy_process_group()


def train(args: argparse.Namespace) -> None:
    """Train until the epochs or the steps are over."""
    first, ranks = dist.get_rank() == 0, dist.get_world_size()
    if first and not args.archive.exists():
        write_digits(args.archive)
    dist.barrier()  # the archive is there

    dataset = ArchiveDataset(args.archive, decode="image", labels="folder")
    loader = ArchiveLoader(dataset, args.batch_size, shuffle=True, device="auto", finish=Normalize(0.5, 0.5))
    device = loader.device or torch.device("cpu")
    torch.manual_seed(0)
    network = DistributedDataParallel(make_network(len(dataset.classes)).to(device))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, map_location=device, weights_only=True)
        network.module.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])

    steps = 0
    while (epoch := loader.state_dict()["epoch"]) < args.epochs:
        total, samples = torch.zeros(2, device=device)
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(labels)
            samples += len(labels)
            steps += 1
            if steps == args.max_steps:
                break
        dist.all_reduce(total)
        dist.all_reduce(samples)
        if first:
            save(args.checkpoint, network.module, optimizer, loader)
            print(f"epoch {epoch + 1}: {samples:.0f} samples on {ranks} ranks, loss {total / samples:.4f}", flush=True)
        if steps == args.max_steps:
            return


if __name__ == "__main__":
    main()
