"""CHAIN's zero-mean penalty, and the controller of its strength p.

Ni, Koniusz, "CHAIN: Enhancing Generalization in Data-Efficient GANs via lipsCHitz continuity constrAined Normalization", CVPR 2024; the numbers are
those of the release. For a discriminator with CHAIN layers (arch/chain.py). Adds to L_D, once for the reals and once for the fakes of D's step,

    weight (p + offset) sum over layers and channels of (mean over batch and pixels of the layer's input)^2

and nothing to L_G. p is the probability that a layer acts on a channel of an image; it begins at 0 and from iteration `start` on moves after each
step of D, by the real logits of that step:

    E <- 0.9 E + 0.1 mean sign D(x);  p <- p + step sign(E - target), within [0, 1]

with weight 20, step 0.001, target 0.5 and start 5000. offset is 0, for about 100 images 0.1 as published. So p rises while D gives more than three
quarters of the reals a positive logit.

p is kept as a whole number of steps, so that sums of many don't drift; D's buffer p is that number times `step` in single precision, and what D
began with is rounded to a step. Deviation: the mean over a batch is that of the micro-batch on each process.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from handful.errors import within
from handful.seam import CONTROLS_D, Conflict, Context, Discriminator, Needs, Nets, Result, Side, Term, View
from handful.terms._wrapped import chain

MEANS = "channel_means"                 # what D calls the means of its CHAIN layers' inputs


class CHAIN(Term):
    """weight: lambda; offset: lambda_0; start: iterations before p begins to move; step: by how much; target: of the mean sign of the real logits;
    decay: of the running mean E of it. weight=0 leaves the controller.

    Buffers: steps, int64, p in steps; signs, E. Stats per image: p; signs, E before the step; sign, of the real logit; penalty, the sum without its
    weight, of reals and fakes together; moves, 1 from `start` on. Refused where D has no CHAIN layers. Raises UsageError for numbers out of range.
    """

    conflicts = (
        Conflict("a discriminator without CHAIN layers", lambda term, nets: not _has_layers(nets.D),
                 "terms.{name}: this discriminator has no CHAIN layers; {remedy}", "take the one that has (--set d=chain), or leave the term out "
                 "(--set terms.{name}=null)"),)
    roles = frozenset({CONTROLS_D})
    exact_under_accumulation = False
    may_change = frozenset({"weight", "offset", "target"})
    charts = {"CHAIN": {"p": "p", "signs": "E, the running mean of sign D(x) on reals"}}

    steps: Tensor
    signs: Tensor

    def __init__(self, weight: float = 20.0, offset: float = 0.0, start: int = 5000, step: float = 0.001, target: float = 0.5,
                 decay: float = 0.9) -> None:
        super().__init__()
        within(0, weight=weight, offset=offset, start=start)
        within(1e-9, 1, step=step)
        within(0, 1, decay=decay)
        self.weight, self.offset, self.start, self.step, self.target, self.decay = weight, offset, start, step, target, decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("signs", torch.zeros(()))

    def setup(self, nets: Nets) -> None:
        p = chain(nets.D)[-1].p
        self.steps.fill_(round(float(p) / self.step))
        self._show(p)

    def needs(self, side: Side) -> Needs | None:
        view = View(features=frozenset({MEANS}))
        return Needs(real=view | View(logits=True), fake=view) if side == "d" else None

    def forward(self, ctx: Context) -> Result:
        p, sign = chain(ctx.nets.D)[-1].p, ctx.real.score.detach().sign()
        penalty = sum(seen.features[MEANS].float().mean(0).square().sum() for seen in (ctx.real, ctx.fake))
        stats = {"sign": sign, "penalty": penalty.detach().expand(len(sign)), "p": p.expand(len(sign)), "signs": self.signs.expand(len(sign)),
                 "moves": torch.full_like(sign, float(ctx.step >= self.start))}
        return Result(self.weight * (p + self.offset) * penalty if self.weight else None, stats)

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        moves = means["moves"] > 0
        self.signs.copy_(torch.where(moves, self.decay * self.signs + (1 - self.decay) * means["sign"], self.signs))
        self.steps += torch.where(moves, torch.sign(self.signs - self.target), 0).long()
        self.steps.clamp_(0, round(1 / self.step))
        self._show(chain(nets.D)[-1].p)

    def _show(self, p: Tensor) -> None:
        """Writes p into D."""
        p.copy_((self.steps * self.step).clamp(max=1))

    def assume_typical(self, nets: Nets) -> None:
        self.steps.fill_(round(0.3 / self.step))                 # neither no layer, which costs nothing, nor all of them
        self._show(chain(nets.D)[-1].p)

    def status(self, logged: Mapping[str, float]) -> str:
        return f"p {logged['p']:.2f}" if "p" in logged else ""


def _has_layers(d: Discriminator) -> bool:
    own = chain(d)[-1]
    return MEANS in own.feature_info and isinstance(getattr(own, "p", None), Tensor)
