"""D's logits on held-out images, to see it overfit: reals that it never trained on drift from the training images towards the fakes.

Karras et al.: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, figure 1. Adds nothing to the losses; one pass of a batch of
held-out images (data.holdout) through augmentation and D, without gradient, every 16 iterations: about 1 % of the work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from handful.seam import Context, Needs, Result, Side, Term, View

OVERFITS = 0.75             # r_v from which held-out reals count as fakes to D


class HeldoutLogits(Term):
    """every: in iterations. Stats per held-out image: logits (their mean where D gives several)."""

    charts = {"D's logits": {"logits": "held-out reals"}}

    def __init__(self, every: int = 16) -> None:
        super().__init__()
        self.every = every

    def needs(self, side: Side) -> Needs | None:
        return Needs(heldout=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        return Result(stats={"logits": ctx.heldout.score})

    def derived(self, logged: Mapping[str, float]) -> Mapping[str, float]:
        """d/r_v: equation 1 of the paper, from the means of a stretch of the log; left out where it isn't known."""
        found = r_v(logged)
        return {} if found is None else {"d/r_v": found}

    def overfitting(self, logged: Mapping[str, float]) -> str | None:
        train, held, fake = _logits(logged)
        if not all(map(math.isfinite, (train, held, fake))):
            return None
        if (r_v(logged) or 0.0) > OVERFITS:
            return f"D overfits: it judges held-out images ({held:.2f}) nearly as it judges fakes ({fake:.2f}), training images at {train:.2f}"
        return ""


def r_v(logged: Mapping[str, float]) -> float | None:
    """(E D(train) - E D(held-out)) / (E D(train) - E D(fake)): 0 no overfitting, 1 complete. None where one of them isn't known, or D doesn't tell
    training images from fakes."""
    train, held, fake = _logits(logged)
    if not all(map(math.isfinite, (train, held, fake))) or train <= fake:
        return None
    return (train - held) / (train - fake)


def _logits(logged: Mapping[str, float]) -> tuple[float, float, float]:
    """The means of D's logits on training images, held-out images and fakes; NaN where they aren't known."""
    train, held, fake = (logged.get(k, math.nan) for k in ("logits_real", "logits", "logits_fake"))
    return train, held, fake
