"""Gradient penalty: holds the length of D's gradient at a target between reals and fakes: 1 (GP-1, WGAN-GP) or 0 (GP-0).

Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville: Improved Training of Wasserstein GANs, NeurIPS 2017, equation 3. Adds to L_D

    weight E (||dD(x^)/dx^|| - target)^2 + drift E D(x)^2,    x^ = u x_R + (1 - u) x_F,  u ~ U[0,1) per pair, x_R, x_F held fixed.

Defaults: weight 10, target 1, two-sided, every step (the paper); no drift. `drift=0.001` is the progressive GAN's addition (Karras et al. 2018,
appendix A.1), which keeps the logits on reals from wandering off; with it and the Wasserstein loss this is the WGAN-GP that the ADA paper compares
with. `target=0` is GP-0 (Thanh-Tung, Tran, Venkatesh, ICLR 2019).

x^ has no class of its own; a conditional D is given the label of its real image, as in StudioGAN. Of images with a further scale (FastGAN's) that is
mixed with the same u and counts as part of x^. The papers know no augmentation: here x^ lies between the images that D saw, T(x_R) and T(x_F),
because that is where D is used; with `at="x"` it lies between the images before augmentation, D judges T(x^), and the gradient goes through T.
D(x^) is one number, the mean where D gives several logits; in the drift each counts as one D(x). x^ takes a pass through D of its own.
"""

from __future__ import annotations

import torch

from handful.errors import within
from handful.seam import At, Context, Needs, Result, Side, Term, View
from handful.terms._points import TWICE, images_of, norm_at


class GradientPenalty(Term):
    """weight; target: length of the gradient; drift: weight of the squared logits on reals; every: lazy interval (the trainer multiplies by it);
    at: above. Stats per pair: penalty (drift included) and grad_norm, fp32. Raises UsageError for numbers below 0."""

    conflicts = (TWICE,)

    def __init__(self, weight: float = 10.0, target: float = 1.0, drift: float = 0.0, every: int = 1, at: At = "x_in") -> None:
        super().__init__()
        within(0, weight=weight, target=target, drift=drift)
        self.weight, self.target, self.drift, self.every, self.at = weight, target, drift, every, at

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True), fake=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        (real, real_scales), (fake, fake_scales) = (images_of(p, self.at, ctx.nets.D) for p in (ctx.real, ctx.fake))
        u = ctx.rng.rand(len(real))[:, None, None, None].to(real.dtype)                                   # [B,1,1,1]
        scales = {k: torch.lerp(fake_scales[k], v, u) for k, v in real_scales.items()}
        norm = norm_at(ctx, torch.lerp(fake, real, u), scales, self.at)                                   # [B]
        penalty = self.weight * (norm - self.target).square()
        if self.drift:
            penalty = penalty + self.drift * ctx.real.logits.reshape(len(norm), -1).square().mean(1)
        return Result(penalty.mean(), {"penalty": penalty.detach(), "grad_norm": norm.detach()})
