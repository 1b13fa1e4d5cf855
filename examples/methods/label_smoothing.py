"""One-sided label smoothing that fades: D is asked for less than certainty about reals while the run is young.

Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen: Improved Techniques for Training GANs, NeurIPS 2016, section 3.4 (the target of reals is 0.9,
that of fakes stays 0), on the non-saturating loss. The fading is this example's own.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class LabelSmoothing(AdversarialLoss):
    """amount: 1 - the target of reals at the start; kimg: over which it falls to 0 (0: it stays)."""

    def __init__(self, amount: float = 0.1, kimg: float = 0.0, heads: Literal["all", "each"] = "all") -> None:
        super().__init__(heads)
        self.amount, self.kimg = amount, kimg

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        fade = max(0.0, 1 - ctx.images_seen / (1000 * self.kimg)) if self.kimg else 1.0
        smooth = self.amount * fade
        return ((1 - smooth) * F.softplus(-real) + smooth * F.softplus(real)).mean() + F.softplus(fake).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return F.softplus(-fake).mean()
