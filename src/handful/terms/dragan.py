"""DRAGAN: holds the length of D's gradient at 1 in the neighbourhood of the reals.

Kodali, Abernethy, Hays, Kira: On Convergence and Stability of GANs, 2017. Adds to L_D  weight E (||dD(x^)/dx^|| - 1)^2, where

    noise="uniform"    x^ = x + a scale s v,    v ~ U[0,1) per element, a ~ U[0,1) per sample      (StudioGAN)
    noise="normal"     x^ = x + scale s n,      n ~ N(0,1) per element                             (the paper's N(0, c I), c = (scale s)^2)

and s is the standard deviation of all values of the batch. Defaults: weight 10, scale 0.5, uniform, every step. A conditional D is given the
labels of the reals. x is what D saw; with `at="x"` it is the image before augmentation, D judges T(x^), and the gradient goes through T. Further
scales are made from x^. D(x^) is one number, the mean where D gives several logits. Deviation: s is that of the micro-batch of each process.
"""

from __future__ import annotations

from typing import Literal

from handful.errors import within
from handful.seam import At, Context, Needs, Result, Side, Term, View
from handful.terms._points import TWICE, images_of, norm_at


class DRAGAN(Term):
    """weight; scale: of the noise, in standard deviations of the images; target: length of the gradient; noise: "uniform" or "normal"; every: lazy
    interval (the trainer multiplies by it); at: above. Stats per real: penalty and grad_norm, fp32. Raises UsageError for numbers below 0."""

    conflicts = (TWICE,)
    exact_under_accumulation = False                       # the standard deviation is the micro-batch's

    def __init__(self, weight: float = 10.0, scale: float = 0.5, target: float = 1.0, noise: Literal["uniform", "normal"] = "uniform",
                 every: int = 1, at: At = "x_in") -> None:
        super().__init__()
        within(0, weight=weight, scale=scale, target=target)
        self.weight, self.scale, self.target, self.noise, self.every, self.at = weight, scale, target, noise, every, at

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        x, _ = images_of(ctx.real, self.at, ctx.nets.D)
        if self.noise == "uniform":
            noise = ctx.rng.rand(*x.shape) * ctx.rng.rand(len(x))[:, None, None, None]
        else:
            noise = ctx.rng.randn(*x.shape)
        norm = norm_at(ctx, x + self.scale * x.std() * noise.to(x.dtype), None, self.at)                  # [B]
        penalty = self.weight * (norm - self.target).square()
        return Result(penalty.mean(), {"penalty": penalty.detach(), "grad_norm": norm.detach()})
