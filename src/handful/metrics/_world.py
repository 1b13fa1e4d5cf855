"""One process or several: who works on which images, and how their shares come together again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """rank of `size` processes. Work is divided by index, so that the values are those of one process to rounding."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> World:
        """All processes of torch.distributed's default group, where there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else cls()

    def span(self, n: int, rank: int | None = None) -> range:
        """The share of 0 .. n-1 of this process, or of another."""
        rank = self.rank if rank is None else rank
        return range(n * rank // self.size, n * (rank + 1) // self.size)

    def gathered(self, x: Tensor, sizes: list[int]) -> Tensor:
        """The rows x of all processes, one after the other, on the CPU; sizes: how many each has."""
        if self.size == 1:
            return x.cpu()
        mine = x.new_zeros((max(sizes), *x.shape[1:]))
        mine[: len(x)] = x
        mine = self._sent(mine)
        box = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(box, mine)
        return torch.cat([part[:n].cpu() for part, n in zip(box, sizes)])

    def summed(self, x: Tensor) -> Tensor:
        if self.size == 1:
            return x
        sent = self._sent(x)
        dist.all_reduce(sent)
        return sent.to(x.device)

    def from_first(self, value: Any) -> Any:
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def _sent(self, x: Tensor) -> Tensor:
        return x.cuda() if dist.get_backend() == "nccl" else x.cpu()
