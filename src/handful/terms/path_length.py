"""Path length: a step of fixed size in W should change the image by a fixed amount, wherever and in whatever direction.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila: Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020, section 3.2 and appendix B.
Adds to L_G  weight E (l - a)^2  with  l = || d(image . y)/dw ||, y ~ N(0, 1) over the image divided by sqrt(H W), the norm over w and the root mean
square over the layers, and a the moving average of E l.

Defaults are those of StyleGAN2-ADA's PyTorch release: weight 2, decay 0.01, half a batch of its own latents (shrink 2), every 4 iterations in an
optimiser step of its own, style mixing included. As released, the penalty uses the average that already holds the current batch, with its graph;
what is kept for the next time is detached. Two deviations: the average is saved with the run, and it is the mean over all processes (the release
keeps one per process and forgets it). For generators without a mapping network, l is taken by their own latent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful.errors import within
from handful.seam import Context, Needs, Nets, Result, Side, Term


class PathLength(Term):
    """weight: 0 for no penalty, with the interval and so Adam's correction in place, as in the release's `cifar`; decay: of the moving average, per
    step of this term; shrink: the batch is divided by it; every, own_step: lazy regularisation.

    Buffer average: a. Stats per fake: penalty (weight (l - a)^2) and length (l), fp32.
    """

    exact_under_accumulation = False                       # a holds the mean over the micro-batch, and halves of odd ones are uneven

    def __init__(self, weight: float = 2.0, decay: float = 0.01, shrink: int = 2, every: int = 4, own_step: bool = True) -> None:
        super().__init__()
        within(0, weight=weight)
        within(0, 1, decay=decay)
        within(1, shrink=shrink)
        self.weight, self.decay, self.shrink, self.every, self.own_step = weight, decay, shrink, every, own_step
        self.register_buffer("average", torch.zeros(()))

    def needs(self, side: Side) -> Needs | None:
        return Needs() if side == "g" else None

    def active(self, side: Side, step: int, substep: int) -> bool:
        return self.weight > 0 and super().active(side, step, substep)

    def forward(self, ctx: Context) -> Result:
        shrink = self.shrink if len(ctx.slots) >= self.shrink else 1             # a micro-batch of one image stays whole
        slots = range(ctx.slots.start // shrink, ctx.slots.stop // shrink)
        rng = ctx.rng.fork("latents", batch=ctx.batch // shrink, slots=slots)
        z, c = ctx.nets.latents(len(slots), rng)
        made = ctx.nets.generate(z.requires_grad_(), c, rng=rng.fork("noise"))    # where the latent is z itself it must be a leaf
        y = rng.fork("y").randn(*made.image.shape)
        length = path_lengths(made.image, made.latent, y)                         # [n]
        average = self.average + self.decay * (length.mean() - self.average)
        penalty = self.weight * (length - average).square()
        return Result(penalty.mean(), {"penalty": penalty.detach(), "length": length.detach()})

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        self.average.lerp_(means["length"], self.decay)


def path_lengths(image: Tensor, latent: Tensor, y: Tensor) -> Tensor:
    """l of each image: image [n,C,H,W] made from latent [n,layers,w_dim] or [n,z_dim], y ~ N(0,1) [n,C,H,W] -> fp32 [n], with graph."""
    with torch.autocast(image.device.type, enabled=False):
        seen = (image * y).sum() / (image.shape[2] * image.shape[3]) ** 0.5
        grad, = torch.autograd.grad(seen, latent, create_graph=True)
        grad = grad.float()
        return (grad.square().sum(2).mean(1) if grad.ndim == 3 else grad.square().sum(1)).sqrt()
