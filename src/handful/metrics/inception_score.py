"""Inception Score: every picture of one clear class, all classes alike. Looks at fakes alone. Protocols: is50k, is10k.

Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, "Improved Techniques for Training GANs" (NeurIPS 2016), section 4: exp(E
KL(p(y|x) || p(y))). As StyleGAN2-ADA's release: 1008 classes of the 2015 Inception, its final bias left out, 10 consecutive parts
of the samples, mean and deviation (population) over the parts. It knows ImageNet's classes only, and rewards a model that copies
its training set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._metric import Metric, Resources
from ._stats import PARTS, Splits, Stats


@dataclass
class InceptionScore(Metric):
    """`InceptionScore()(logits)`, logits [N,classes]."""

    takes = ("", "splits")
    better = "higher"
    least = 10

    def __call__(self, logits: Tensor, resources: Resources | None = None) -> dict[str, Any]:
        """From logits [N,classes]: {"value", "std", "protocol", "count_fake"}."""
        self.enough(0, len(logits), "the Inception Score")
        splits = Splits(len(logits), logits.shape[1])
        splits.add(torch.arange(len(logits)), logits)
        found = self.compute(None, Stats(splits=splits), resources or Resources())
        return {**found, "protocol": self.words(0, len(logits)), "count_fake": len(logits)}

    def compute(self, real: Stats | None, fake: Stats, resources: Resources, key: Any = None) -> dict[str, Any]:
        scores = fake.splits.scores()
        resources.progress(1, 1)
        note = {} if fake.count >= 5000 else {"note": "below 5000 samples the score is too low"}
        return {"value": float(scores.mean()), "std": float(scores.std(correction=0)), **note}

    def words(self, reals: int, fakes: int) -> str:
        return f"{fakes} samples in {min(PARTS, fakes)} consecutive parts, final bias left out"
