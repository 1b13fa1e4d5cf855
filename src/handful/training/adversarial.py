"""The adversarial loss as a term, the first of both sides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..seam import AdversarialLoss, Context, Judged, LossContext, Needs, Result, Side, Term, View

ADVERSARIAL = "adv"


class Adversarial(Term):
    """Stats: per-image scores of D; r_t, their signs on reals (Karras et al. 2020, eq. 1)."""

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss = loss
        self.exact_under_accumulation = getattr(loss, "exact_under_accumulation", True)

    def needs(self, side: Side) -> Needs:
        logits = View(logits=True)
        return Needs(real=logits, fake=logits) if side == "d" or self.loss.paired else Needs(fake=logits)

    def forward(self, ctx: Context) -> Result:
        about = LossContext(ctx.rng, ctx.images_seen, ctx.batch)
        stats: dict[str, Tensor] = {"logits_fake": ctx.fake.score.detach()}
        if ctx.side == "d":
            real = ctx.real.score.detach()
            stats |= {"logits_real": real, "r_t": real.sign()}
            return Result(self._of_heads(lambda real, fake: self.loss.d(real, fake, about), ctx.real.judged, ctx.fake.judged), stats)
        if self.loss.paired:
            return Result(self._of_heads(lambda real, fake: self.loss.g(fake, real, about), ctx.real.judged, ctx.fake.judged), stats)
        return Result(self._of_heads(lambda fake: self.loss.g(fake, None, about), ctx.fake.judged), stats)

    def _of_heads(self, loss: Callable[..., Tensor], *judged: Judged) -> Tensor:
        """The loss of all logits at once, or the mean over heads of that of each, as the loss says and D names them."""
        if getattr(self.loss, "heads", "all") == "all" or not judged[0].heads:
            return loss(*(j.logits for j in judged))
        heads = zip(*(j.logits.split(j.heads, 1) for j in judged))
        return torch.stack([loss(*logits) for logits in heads]).mean()
