"""Top-k training: G learns only from those of its images that D takes to be the most real.

Sinha, Zhao, Goyal, Raffel, Odena: Top-k Training of GANs, NeurIPS 2020, on the non-saturating loss. The share of the batch that counts
starts at 1 and falls by a factor per epoch of its length, not below `least`.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class TopK(AdversarialLoss):
    """least: the smallest share of a batch; decay: the factor on the share per `decay_kimg` thousand reals shown to D."""

    exact_under_accumulation = False                        # the best of a micro-batch are not the best of the batch

    def __init__(self, least: float = 0.5, decay: float = 0.99, decay_kimg: float = 1.0, heads: Literal["all", "each"] = "all") -> None:
        super().__init__(heads)
        self.least, self.decay, self.decay_kimg = least, decay, decay_kimg

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        score = fake.flatten(1).mean(1) if fake.ndim > 1 else fake
        share = max(self.least, self.decay ** (ctx.images_seen / (1000 * self.decay_kimg)))
        best = score.topk(max(1, round(share * len(score)))).indices
        return F.softplus(-fake[best]).mean()
