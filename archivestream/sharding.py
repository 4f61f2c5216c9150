"""Which samples of an epoch each rank takes, in which step: from counts alone."""

from __future__ import annotations

import operator
import os
import sys
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Shares", "find_rank"]


@dataclass(frozen=True)
class Shares:
    """How positions of an epoch's order are dealt out to ranks.

    Positions go round the ranks: sample `k` of a rank stands at ``begin + k * world_size + rank``, whatever the batch
    size. So where an epoch stands is one number, and a rest of it can be dealt out anew, to any number of ranks.

    Attributes
    ----------
    begin, length : int
        The first position to deal, and the number of all.
    world_size, batch_size : int
        Ranks, and samples of a rank in a step.
    drop_last : bool
        Leave out what does not fill a step of all ranks.
    pad : bool
        Go on from the start of the order until all ranks have as many samples.
    """

    begin: int
    length: int
    world_size: int
    batch_size: int
    drop_last: bool
    pad: bool

    @cached_property
    def total(self) -> int:
        """How many samples are dealt, to all ranks together."""
        rest = self.length - self.begin
        if self.drop_last:
            step = self.world_size * self.batch_size
            return rest // step * step
        return -(-rest // self.world_size) * self.world_size if self.pad else rest

    @cached_property
    def steps(self) -> int:
        """How many steps there are; where the last has fewer samples than ranks, not all of them have it."""
        return -(-self.total // (self.world_size * self.batch_size))

    @cached_property
    def _before_last(self) -> int:
        """How many samples each rank has before the last step."""
        full = max(0, self.steps - 1) * self.batch_size
        if full and self.total - full * self.world_size < self.world_size:
            # Too few for all ranks: the last two steps share what is left. With batches of one nothing can be shared.
            return full - self.batch_size // 2
        return full

    def samples(self, rank: int) -> int:
        """Return how many samples a rank has."""
        return max(0, -(-(self.total - rank) // self.world_size))

    def batches(self, rank: int) -> int:
        """Return how many steps a rank has."""
        return max(0, self.steps - (self.samples(rank) <= self._before_last))

    def end(self, step: int, rank: int) -> int:
        """Return how many samples a rank has in so many steps."""
        if step < self.steps - 1:
            return step * self.batch_size
        return self._before_last if step < self.steps else self.samples(rank)

    def position(self, delivered: int, rank: int) -> int:
        """Return where the epoch stands for all ranks when one of them has so many samples."""
        position = self.begin + delivered * self.world_size
        if self._before_last < delivered == self.samples(rank):  # in the last step some ranks may have one more
            position = self.begin + self.total
        return min(position, self.length)


def find_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return rank and number of ranks: as given, of ``torch.distributed``, of the environment, or 0 and 1.

    Raises
    ------
    ValueError
        If only one of them is given, or the rank is none of so many.
    """
    if (rank is None) != (world_size is None):
        raise ValueError("rank and world_size belong together: give both, or neither")
    if rank is not None and world_size is not None:
        rank, world_size = operator.index(rank), operator.index(world_size)
    else:
        rank, world_size = _distributed() or _environment()
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is none of {world_size}: it must be from 0 to world_size - 1")
    return rank, world_size


def _distributed() -> tuple[int, int] | None:
    distributed = sys.modules.get("torch.distributed")  # whoever uses it has imported it
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _environment() -> tuple[int, int]:
    """Return what ``torchrun`` and its like set."""
    names = ("RANK", "WORLD_SIZE")
    try:
        found = [int(os.environ[name]) for name in names]
    except KeyError:
        return 0, 1
    except ValueError:
        values = " and ".join(f"{name}={os.environ[name]!r}" for name in names)
        raise ValueError(f"the environment has {values}: give rank= and world_size=") from None
    return found[0], found[1]
