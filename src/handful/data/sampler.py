"""Which image comes next: an endless stream of fresh permutations that holds no state."""

from __future__ import annotations

import torch
from torch import Tensor

from handful.rng import derive


class Sampler:
    """An endless stream of image numbers, one permutation of all `count` images per epoch.

    Epoch k's permutation is derived from (seed, k), so that the stream at any position follows from the position alone: resuming
    needs nothing but the count of images seen. Batches straddle epochs.
    """

    def __init__(self, count: int, seed: int = 0):
        if count < 1:
            raise ValueError(f"a sampler needs at least one image, not {count}")
        self.count, self.seed = count, seed
        self._latest: dict[int, Tensor] = {}  # derived, kept only to spare drawing a long permutation for every batch

    def indices(self, start: int, n: int) -> Tensor:
        """int64 [n] on the CPU: the image numbers of the stream's positions start .. start + n - 1."""
        first, last = start // self.count, (start + max(n, 1) - 1) // self.count
        epochs = torch.cat([self._epoch(k) for k in range(first, last + 1)])
        return epochs[start - first * self.count :][:n].clone()

    def _epoch(self, k: int) -> Tensor:
        if k not in self._latest:
            generator = torch.Generator().manual_seed(derive(self.seed, "epoch", k))
            self._latest = {key: value for key, value in self._latest.items() if key == k - 1}
            self._latest[k] = torch.randperm(self.count, generator=generator)
        return self._latest[k]
