"""Consistency regularisation (CR): D shall give a real image the same logit after an augmentation that doesn't change what it shows.

Zhang, Zhang, Odena, Lee: Consistency Regularization for Generative Adversarial Networks, ICLR 2020. Adds to L_D  weight E (D(x_aug) - D(x_ref))^2
over reals, both sides differentiated. As DiffAugment's CR-BigGAN has it (Zhao et al., NeurIPS 2020), T its augmentation:

    against="shifted"    x_ref = T(x), x_aug = shift(flip(T(x)))    without T (plain CR) and with all of the data
    against="plain"      x_ref = T(x), x_aug = x                    with T at 10 and 20 % of the data

flip: left to right with probability 0.5 per image; shift: by up to an eighth of each side, zeros coming in. Defaults: weight 10, every D step. The
adversarial loss keeps to D(T(x)). Deviation: x_aug takes a pass through D of its own rather than a third of the joint one, so that batch
statistics, where D has them, are its own, and spectral norm is one power iteration further (felt in the first steps of a fresh D alone).
"""

from __future__ import annotations

from typing import Literal

from handful import catalog
from handful.errors import within
from handful.seam import Conflict, Context, Needs, Result, Side, Term, View


class Consistency(Term):
    """weight; against: above; every: lazy interval (the trainer multiplies by it). Stats per real: penalty.

    Refused where against="plain" has no augmentation to compare with. Raises UsageError for a weight below 0.
    """

    conflicts = (
        Conflict("no augmentation, where against=plain", lambda term, nets: term.against == "plain" and nets.augment.identity,
                 "terms.{name}.against=plain compares augmented images with plain ones, but nothing is augmented: {remedy}",
                 "take against=shifted, or an augmentation (--set augment=diffaug)"),)

    def __init__(self, weight: float = 10.0, against: Literal["shifted", "plain"] = "shifted", every: int = 1) -> None:
        super().__init__()
        within(0, weight=weight)
        self.weight, self.against, self.every = weight, against, every
        self.flip = catalog.build("augment", catalog.Use("flip", probability=0.5))
        self.shift = catalog.build("augment", catalog.Use("diffaug", policy="translation", translation_ratio=0.125))

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        real = ctx.real
        if self.against == "plain":
            other = real.x.detach()
        else:
            other = self.flip.draw(real.x_in.detach(), ctx.rng.fork("flip")).image
            other = self.shift.draw(other, ctx.rng.fork("shift")).image
        judged = ctx.nets.judge(other, real.c, rng=ctx.rng.fork("judge"), augment=False)
        gap = (judged.logits - real.logits).reshape(len(other), -1)                                       # [B,*]
        penalty = self.weight * gap.square().mean(1)                                                      # [B]
        return Result(penalty.mean(), {"penalty": penalty.detach()})
