"""The script of `examples/` for several processes."""

from __future__ import annotations

import re
from pathlib import Path

from exampletools import EXAMPLES, require, run_python


def test_ddp_is_taken_up_by_another_number_of_processes(tmp_path: Path) -> None:
    require("torch", "sklearn", "PIL")
    script = EXAMPLES / "train_ddp.py"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    two = run_python(*launcher, script, "--max-steps", 10, "--epochs", 1, folder=tmp_path)
    (line,) = two.stdout.splitlines()
    assert re.fullmatch(r"epoch 1: 1280 samples on 2 ranks, loss [\d.]+", line)
    # What torchrun tells the only process.
    one = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = run_python(script, "--epochs", 1, folder=tmp_path, **one)
    (line,) = done.stdout.splitlines()
    assert re.fullmatch(r"epoch 1: 517 samples on 1 ranks, loss [\d.]+", line)  # of 1,797
