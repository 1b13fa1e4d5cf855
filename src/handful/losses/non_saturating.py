"""Non-saturating logistic loss: cross-entropy for D, and G maximises log D rather than minimising log(1 - D).

Goodfellow et al.: Generative Adversarial Nets, NeurIPS 2014, section 3; the loss of StyleGAN2 and StyleGAN2-ADA:
L_D = E softplus(-D(x)) + E softplus(D(G(z))), L_G = E softplus(-D(G(z))). No constants, no deviations.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class NonSaturating(AdversarialLoss):
    """Logits [B] or [B,*]; scalars out."""

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return F.softplus(-fake).mean()
