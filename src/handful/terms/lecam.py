"""LeCam: ties D's logits on reals to a slow mean of its logits on fakes, and the other way round, so that few images can't drive them apart.

Tseng, Jiang, Liu, Yang, Yang: Regularizing Generative Adversarial Networks under Limited Data, CVPR 2021. Adds to L_D

    weight * (E (D(x) - a_F)^2 + E (D(G(z)) - a_R)^2),   a_R, a_F: moving averages of the mean logit on reals and on fakes.

Defaults are the released BigGAN code's: the one-sided form, weight * (E relu(D(x) - a_F)^2 + E relu(a_R - D(G(z)))^2), weight 0.3, averages with
decay 0.9, which is 0 (the latest value) up to iteration 1000, and the penalty from iteration 1001 on. `one_sided=False` is the paper's form; its
text advises decay 0.99. (The release for StyleGAN2-ADA has decay 0.99 with another start-up, weight 1e-6 for CIFAR-10, 3e-7 for FFHQ-256.)

Order: the release moves the averages before it evaluates the penalty, so a batch is measured against averages that contain it. That is the
default, `update="before"`, because with one process and no accumulation it is the published method to the letter. With several processes or
micro-batches each then adds its *own* mean for the moment, which makes the loss depend on how the batch was cut;
`update="after"` measures against the averages that the last step left and is exact however the batch is cut, one step behind the release. In
both the stored averages are the same: `commit` moves them once per step by the mean over the whole batch. Where D gives several logits
per image each counts as one D(x). Deviation: the averages start at the first batch's means, not at 1000 (which the release never uses either).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.seam import Context, Needs, Nets, Result, Side, Term, View


class LeCam(Term):
    """weight; decay: of the averages per step that runs; start: iterations of G before the penalty begins; one_sided: the release's form rather
    than the paper's; update: when the averages move, "before" the penalty is evaluated or "after"; every: run in each n-th step alone.

    Stats per image: real_logit, fake_logit, penalty (0 until it starts), decay (the one in force).
    """

    real_anchor: Tensor
    fake_anchor: Tensor
    begun: Tensor

    def __init__(self, weight: float = 0.3, decay: float = 0.9, start: int = 1000, one_sided: bool = True,
                 update: Literal["before", "after"] = "before", every: int = 1) -> None:
        super().__init__()
        self.weight, self.decay, self.start, self.one_sided, self.update, self.every = weight, decay, start, one_sided, update, every
        self.exact_under_accumulation = update == "after"
        for name in ("real_anchor", "fake_anchor", "begun"):                      # begun: 1 once the averages hold something
            self.register_buffer(name, torch.zeros(()))

    def needs(self, side: Side) -> Needs | None:
        return Needs(real=View(logits=True), fake=View(logits=True)) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        iteration = ctx.step + 1                                                  # the release counts from 1
        real, fake = (logits.reshape(len(logits), -1) for logits in (ctx.real.logits, ctx.fake.logits))       # [B,*]
        stats = {"real_logit": real.detach().mean(1), "fake_logit": fake.detach().mean(1)}
        stats["decay"] = torch.full_like(stats["real_logit"], self.decay if iteration >= self.start else 0.0)
        if self.update == "before":
            real_anchor, fake_anchor = self._moved({name: value.mean() for name, value in stats.items()})
        else:
            real_anchor, fake_anchor = self.real_anchor, self.fake_anchor
        over, under = real - fake_anchor, real_anchor - fake
        if self.one_sided:
            over, under = F.relu(over), F.relu(under)
        penalty = self.weight * (over.square().mean(1) + under.square().mean(1))  # [B]
        if self.update == "after":
            penalty = penalty * self.begun                                        # the very first step has nothing to be tied to
        if iteration <= self.start:
            return Result(None, stats | {"penalty": torch.zeros_like(stats["real_logit"])})
        return Result(penalty.mean(), stats | {"penalty": penalty.detach()})

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        for anchor, moved in zip((self.real_anchor, self.fake_anchor), self._moved(means)):
            anchor.copy_(moved)
        self.begun.fill_(1)

    def _moved(self, means: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both averages, moved by these means; the first ever are taken as they are."""
        step = 1 - self.begun * means["decay"]
        return self.real_anchor.lerp(means["real_logit"], step), self.fake_anchor.lerp(means["fake_logit"], step)
