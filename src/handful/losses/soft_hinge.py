"""FastGAN's hinge loss, whose margin is random: uniform in [0.8, 1.0) for every logit by itself.

Liu, Zhu, Song, Elgammal: Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis, ICLR 2021. The paper writes the
plain hinge; the released code has L_D = E max(0, 0.8 + 0.2 r - D(x)) + E max(0, 0.8 + 0.2 r' + D(G(z))), r and r' ~ U[0,1) drawn apart for
each logit, L_G = -E D(G(z)). Constants from the release; no deviations.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from handful.rng import Rng
from handful.seam import AdversarialLoss, LossContext


class SoftHinge(AdversarialLoss):
    """Logits [B] or [B,*]; scalars out. margin: the smallest margin; spread: how far above it lies at most."""

    def __init__(self, margin: float = 0.8, spread: float = 0.2, heads: Literal["all", "each"] = "all") -> None:
        super().__init__(heads)
        self.margin, self.spread = margin, spread

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        """Draws the reals' margins first, then the fakes'."""
        return F.relu(self._margins(real, ctx.rng) - real).mean() + F.relu(self._margins(fake, ctx.rng) + fake).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return -fake.mean()

    def _margins(self, logits: Tensor, rng: Rng) -> Tensor:
        return self.margin + self.spread * rng.rand(*logits.shape)
