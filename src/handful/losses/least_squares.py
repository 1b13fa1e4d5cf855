"""Least-squares loss: D regresses 1 on reals and 0 on fakes, so that fakes far on the right side still get a gradient.

Mao, Li, Xie, Lau, Wang, Smolley: Least Squares Generative Adversarial Networks, ICCV 2017, equation 9 (0-1 coding: a = 0, b = c = 1):
L_D = 1/2 E (D(x) - 1)^2 + 1/2 E D(G(z))^2, L_G = 1/2 E (D(G(z)) - 1)^2. No deviations.
"""

from __future__ import annotations

from torch import Tensor

from handful.seam import AdversarialLoss, LossContext


class LeastSquares(AdversarialLoss):
    """Logits [B] or [B,*]; scalars out."""

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return (real - 1).square().mean() / 2 + fake.square().mean() / 2

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return (fake - 1).square().mean() / 2
