"""Hinge loss: D stops caring about logits beyond the margin of 1; G raises its logits without end.

Lim, Ye: Geometric GAN, 2017; Tran, Ranganath, Blei: Hierarchical Implicit Models, 2017; the form of SNGAN, BigGAN and DiffAugment's BigGAN:
L_D = E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))), L_G = -E D(G(z)). No constants but the margin, no deviations.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class Hinge(AdversarialLoss):
    """Logits [B] or [B,*]; scalars out."""

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return -fake.mean()
