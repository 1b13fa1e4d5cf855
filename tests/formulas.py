"""Discriminators given by a formula, whose penalties have closed forms; and one call of a term on them, as the trainer would make it."""

from __future__ import annotations

import torch
from torch import Tensor

from handful.rng import Rng
from handful.seam import Discriminator, Judged, Result, Term
from handful.training.networks import LiveNets
from tiny import context, look


class Formula(Discriminator):
    """logits = of(image, extra); scale: there is a further scale, "small", of a real image every second pixel."""

    num_classes = 0

    def __init__(self, of, scale: bool = False):
        super().__init__()
        self.of, self.scale = of, scale

    def extra_of(self, image):
        return {"small": image[..., ::2, ::2]} if self.scale else {}

    def forward(self, image, c=None, extra=None, want=frozenset()):
        return Judged(self.of(image, extra or self.extra_of(image)))


def linear(w: Tensor) -> Formula:
    """D(x) = w.x, w [C*H*W]: the gradient is w everywhere."""
    return Formula(lambda x, extra: x.flatten(1) @ w)


def quadratic(a: Tensor) -> Formula:
    """D(x) = x^T A x / 2, A [CHW,CHW]: the gradient is (A + A^T) x / 2."""
    return Formula(lambda x, extra: (x.flatten(1) @ a * x.flatten(1)).sum(1) / 2)


def pictures(n: int = 3, seed: int = 0, side: int = 4, channels: int = 1) -> Tensor:
    """fp64 [n,channels,side,side], uniform in [-1,1]."""
    return torch.rand(n, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def call(term: Term, D: Discriminator, real: Tensor, fake: Tensor | None = None, T=None, c: Tensor | None = None, slots: range | None = None,
         **ctx) -> Result:
    """One forward of a term of D's side on images that nothing else looks at."""
    need, n = term.needs("d"), len(real)
    slots = slots or range(n)
    passes = {}
    for which, view, x in (("real", need.real, real), ("fake", need.fake, fake)):
        if view:
            passes[which] = look(D, x, view, T, Rng(4, batch=n, slots=range(n)).fork(which), c).seen_by(view, "the test")
            passes[which].extra.update(D.extra_of(passes[which].x_in))
    batch = ctx.pop("batch", n)
    return term(context(rng=Rng(7, batch=batch, slots=slots), slots=slots, batch=batch, nets=LiveNets(None, D, None, T), **passes, **ctx))
