"""Relativistic pairing loss: D says of a real and a fake which is the more real; each fake is measured against the real of its slot.

Jolicoeur-Martineau: The relativistic discriminator, ICLR 2019 (RpGAN); Huang, Gokaslan, Kuleshov, Tompkin: The GAN is dead; long live the GAN!,
NeurIPS 2024 (R3GAN, with R1 and R2 beside it): L_D = E softplus(-(D(x) - D(G(z)))), L_G = E softplus(-(D(G(z)) - D(x))).
No constants, no deviations; the averaged form (RaGAN) isn't here.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from handful.errors import HandfulError
from handful.seam import AdversarialLoss, LossContext


class Relativistic(AdversarialLoss):
    """Logits [B] or [B,*] of reals and fakes in the same shape; scalars out. Raises HandfulError where they can't be paired."""

    paired = True

    def d(self, real: Tensor, fake: Tensor, ctx: LossContext) -> Tensor:
        return F.softplus(-_differences(real, fake)).mean()

    def g(self, fake: Tensor, real: Tensor | None, ctx: LossContext) -> Tensor:
        return F.softplus(_differences(real, fake)).mean()


def _differences(real: Tensor | None, fake: Tensor) -> Tensor:
    if real is None:
        raise HandfulError("loss 'relativistic' compares fakes with reals in the generator's step too: pass the reals' logits")
    if real.shape != fake.shape:
        raise HandfulError(f"loss 'relativistic' pairs each real with a fake, but their logits are {list(real.shape)} and {list(fake.shape)}: "
                           f"give both steps the same number of images (train.g_batch = batch)")
    return real - fake
