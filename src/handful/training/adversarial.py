"""The adversarial loss as a term, the first of both sides."""

from __future__ import annotations

from torch import Tensor

from ..seam import AdversarialLoss, Context, Needs, Result, Side, Term, View

ADVERSARIAL = "adv"


class Adversarial(Term):
    """The adversarial loss as the first term of each side. Stats: per-image mean logits; r_t, their signs on reals (Karras et al. 2020, eq. 1)."""

    def __init__(self, loss: AdversarialLoss) -> None:
        super().__init__()
        self.loss = loss

    def needs(self, side: Side) -> Needs:
        logits = View(logits=True)
        return Needs(real=logits, fake=logits) if side == "d" or self.loss.paired else Needs(fake=logits)

    def forward(self, ctx: Context) -> Result:
        fake = ctx.fake.logits
        stats: dict[str, Tensor] = {"logits_fake": _per_image(fake)}
        if ctx.side == "d":
            real = _per_image(ctx.real.logits)
            stats |= {"logits_real": real, "r_t": real.sign()}
            return Result(self.loss.d(ctx.real.logits, fake, ctx.rng), stats)
        return Result(self.loss.g(fake, ctx.real.logits if self.loss.paired else None, ctx.rng), stats)


def _per_image(logits: Tensor) -> Tensor:
    return logits.detach().flatten(1).mean(1) if logits.ndim > 1 else logits.detach()
