"""Wasserstein loss: D is a critic, and the difference of its means estimates the distance of reals and fakes.

Arjovsky, Chintala, Bottou: Wasserstein GAN, ICML 2017: L_D = E D(G(z)) - E D(x), L_G = -E D(G(z)). The critic must be kept Lipschitz:
add the term `gradient_penalty` (WGAN-GP) or spectral norm; the paper's clipping of weights is left out, since both replaced it.
"""

from __future__ import annotations

from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class Wasserstein(AdversarialLoss):
    """Logits [B] or [B,*]; scalars out."""

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return fake.mean() - real.mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return -fake.mean()
