"""What is known of a set of images through one feature network: the features themselves, or sums that don't grow with their
number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rng import derive

BLOCK = 512                              # rows per matrix product: one product per small batch would be bound by memory
PARTS = 10                               # of the Inception Score


class Moments:
    """Mean and covariance of rows that come in batches, in fp64: sums of x and of x x^T, memory constant in their number."""

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        self._waiting: list[Tensor] = []

    @classmethod
    def of(cls, features: Tensor, device: torch.device | str = "cpu") -> Moments:
        new = cls(features.shape[1], device)
        for part in features.split(BLOCK):
            new.add(part)
        return new.settle()

    def add(self, rows: Tensor) -> None:
        """rows [B,D]"""
        self._waiting.append(rows.to(self.sum))
        if sum(map(len, self._waiting)) >= BLOCK:
            self.settle()

    def settle(self) -> Moments:
        """Takes in the rows that still wait."""
        if self._waiting:
            x = torch.cat(self._waiting)
            self._waiting.clear()
            self.count += len(x)
            self.sum += x.sum(0)
            self.outer.addmm_(x.T, x)
        return self

    def __add__(self, other: Moments) -> Moments:
        new = Moments(len(self.sum), self.sum.device)
        new.count, new.sum, new.outer = self.count + other.count, self.sum + other.sum, self.outer + other.outer
        return new

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    def covariance(self, ddof: int = 0) -> Tensor:
        """[D,D]; ddof 0: divided by n, 1: by n - 1."""
        return (self.outer - torch.outer(self.sum, self.mean)) / (self.count - ddof)


class Splits:
    """Of ten consecutive runs of `count` rows: the sums of p and of sum(p log p), for the Inception Score. Constant memory."""

    def __init__(self, count: int, classes: int) -> None:
        self.count, self.parts = count, min(PARTS, count)
        self.sizes = torch.bincount(self._part(torch.arange(count)), minlength=self.parts)
        self.probabilities = torch.zeros(self.parts, classes, dtype=torch.float64)
        self.negentropy = torch.zeros(self.parts, dtype=torch.float64)

    def _part(self, index: Tensor) -> Tensor:
        """Part i holds rows i n/parts .. (i+1) n/parts - 1, rounded down, as in the released code."""
        edges = torch.tensor([i * self.count // self.parts for i in range(1, self.parts)], dtype=torch.int64)
        return torch.bucketize(index, edges, right=True)

    def add(self, index: Tensor, logits: Tensor) -> None:
        """index int64 [B]: places of the rows in the whole; logits [B,classes]."""
        log_p = logits.double().log_softmax(1).cpu()
        p, part = log_p.exp(), self._part(index)
        self.probabilities.index_add_(0, part, p)
        self.negentropy.index_add_(0, part, (p * log_p).sum(1))

    def scores(self) -> Tensor:
        """exp(mean KL(p(y|x) || p(y))) of each part, [parts]."""
        mean = self.probabilities / self.sizes[:, None]
        return (self.negentropy / self.sizes - torch.special.xlogy(mean, mean).sum(1)).exp()


@dataclass
class Stats:
    """One set through one network: features [N,D] fp32 on the CPU, or moments of two random halves, or splits; whichever was asked
    for."""

    features: Tensor | None = None
    halves: tuple[Moments, Moments] | None = None
    splits: Splits | None = None

    @property
    def count(self) -> int:
        if self.features is not None:
            return len(self.features)
        return self.halves[0].count + self.halves[1].count if self.halves else self.splits.count

    def first(self, n: int) -> Stats:
        """Of the first n images."""
        return self if self.features is None or len(self.features) == n else Stats(features=self.features[:n])


def in_first_half(n: int) -> Tensor:
    """bool [n]: a random half, always the same one."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive("metrics", "halves")))
    half = torch.zeros(n, dtype=torch.bool)
    half[order[: n // 2]] = True
    return half
