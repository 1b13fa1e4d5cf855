"""The adversarial loss as a term, the first of both sides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..seam import AdversarialLoss, Context, Judged, LossContext, Needs, Result, Side, Term, View

ADVERSARIAL = "adv"


class Adversarial(Term):
    """Stats: per-image scores of D; r_t, their signs on reals (Karras et al. 2020, eq. 1); in D's step, where D names its heads (`Judged.heads`),
    margin_0, margin_1, ...: how much higher the mean logit of each head is on reals than on fakes, in the order of the heads."""

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
            stats |= {"logits_real": real, "r_t": real.sign()} | _margins(ctx.real.judged, ctx.fake.judged)
            return Result(self._of_heads(lambda real, fake: self.loss.d(real, fake, about), ctx.real.judged, ctx.fake.judged), stats)
        if self.loss.paired:
            return Result(self._of_heads(lambda real, fake: self.loss.g(fake, real, about), ctx.real.judged, ctx.fake.judged), stats)
        return Result(self._of_heads(lambda fake: self.loss.g(fake, None, about), ctx.fake.judged), stats)

    def _of_heads(self, loss: Callable[..., Tensor], *judged: Judged) -> Tensor:
        """The loss of all logits at once, or the mean over heads of that of each, as the loss says and D names them; of several parts of D the
        weighted sum of their losses."""
        at_once = getattr(self.loss, "heads", "all") == "all"
        if not judged[0].heads or at_once and not judged[0].parts:
            return loss(*(j.logits for j in judged))
        total = 0
        for part in zip(*(j.by_part() for j in judged)):                     # (weight, heads) of the same part of each
            weight, each = part[0][0], [heads for _, heads in part]
            if at_once:
                total = total + weight * loss(*(torch.cat(heads, 1) for heads in each))
            else:
                total = total + weight * torch.stack([loss(*logits) for logits in zip(*each)]).mean()
        return total


def _margins(real: Judged, fake: Judged) -> dict[str, Tensor]:
    """The margin of each head, [B]: image by image, but of interest as a mean alone."""
    if not real.heads:
        return {}
    pairs = zip(*(j.logits.detach().split(j.heads, 1) for j in (real, fake)))
    return {f"margin_{i}": r.mean(1) - f.mean(1) for i, (r, f) in enumerate(pairs)}
