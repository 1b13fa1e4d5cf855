"""D's logits on held-out images, to see it overfit: reals that it never trained on drift from the training images towards the fakes.

Karras et al.: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, figure 1. Adds nothing to the losses; one pass of a batch of
held-out images (data.holdout) through augmentation and D, without gradient, every 16 iterations: about 1 % of the work.
"""

from __future__ import annotations

from handful.seam import Context, Needs, Result, Side, Term, View


class HeldoutLogits(Term):
    """every: in iterations. Stats per held-out image: logits (their mean where D gives several)."""

    def __init__(self, every: int = 16) -> None:
        super().__init__()
        self.every = every

    def needs(self, side: Side) -> Needs | None:
        return Needs(heldout=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        logits = ctx.heldout.logits.detach()
        return Result(stats={"logits": logits.flatten(1).mean(1) if logits.ndim > 1 else logits})
