"""The device that batches are sent to, and what it can do by itself: copies, and steps of a known duration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

__all__ = ["Device", "find"]

_WARM_UP = 300_000_000  # cycles, after which the clock is no idle one


@dataclass(frozen=True)
class Device:
    """A GPU, or, where there is none, the processor: ordinary memory, which takes the same way.

    Attributes
    ----------
    name : {"cuda", "cpu"}
        As `archivestream.ArchiveLoader` and PyTorch have it.
    described : str
        Which one; without a GPU, why there is none.
    """

    name: str
    described: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is one."""
        return self.name == "cuda"

    @property
    def ours(self) -> str:
        """What our side is called: targets are for that on a GPU."""
        return "ours, on the GPU" if self.is_gpu else "ours, on the CPU"

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        if self.is_gpu:
            return [f"on {self.described}"]
        return [f"{self.described}: the same code fills ordinary memory, and how fast that is has no target"]

    def synchronize(self) -> None:
        """Wait for all work of the device."""
        if self.is_gpu:
            import torch

            torch.cuda.synchronize()

    def copies(self, piece: int, room: int, total: int) -> Callable[[], None]:
        """Make what copies memory of the host, page-locked for a GPU, to the device, piece by piece.

        Parameters
        ----------
        piece : int
            Bytes of each copy.
        room : int
            Bytes of the memory; whole pieces of it are copied in turn.
        total : int
            Bytes that are copied by a call, in whole pieces.
        """
        import torch

        source = torch.ones(room, dtype=torch.uint8, pin_memory=self.is_gpu)
        target = torch.ones(room, dtype=torch.uint8, device=self.name)
        pieces = [(target[at : at + piece], source[at : at + piece]) for at in range(0, room - piece + 1, piece)]

        def run() -> None:
            for to, start in islice(cycle(pieces), total // piece):
                to.copy_(start, non_blocking=True)
            self.synchronize()

        return run

    def step(self, seconds: float) -> Callable[[], None]:
        """Make a step of training that takes so long: it keeps the GPU busy, and returns at once.

        The processor sleeps in its place.
        """
        if not self.is_gpu:
            return lambda: time.sleep(seconds)
        import torch

        cycles = max(1, round(seconds * _cycles_per_second()))
        return lambda: torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


@cache
def find() -> Device:
    """Find the device."""
    try:
        import torch
    except ImportError:
        return Device("cpu", "no CUDA device: PyTorch is not installed")
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return Device("cpu", f"no CUDA device: PyTorch {torch.__version__} was built without CUDA")
    if not torch.cuda.is_available():
        return Device("cpu", "no CUDA device: the driver has none")
    properties = torch.cuda.get_device_properties(0)
    return Device("cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


@cache
def _cycles_per_second() -> float:
    """Measure how fast the GPU counts while it waits."""
    import torch

    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    cycles = 100_000_000
    torch.cuda._sleep(_WARM_UP)  # type: ignore[no-untyped-call]
    begin.record()
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
    end.record()
    end.synchronize()
    return float(cycles / (begin.elapsed_time(end) / 1e3))
