"""The controller of adaptive augmentation: more of it while D overfits, less while it doesn't.

Karras, Aittala, Hellsten, Laine, Lehtinen, Aila: Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, section 3.1, equation 1.
It adds nothing to the losses. Every `interval` steps of D a strength p moves by a fixed amount towards a target value of one of two heuristics,
or along a straight line:

* r_t = E[sign(D(T(x)))] over all of D's logits on reals since the last time, those of the lazy phases (R1) too; target 0.6.
* r_v = (E[D_train] - E[D_heldout]) / (E[D_train] - E[D_fake]); target 0.5; needs held-out images (data.holdout), a batch of which passes D in
  every step, as in the TensorFlow release. r = 0 means no overfitting in both, r = 1 complete overfitting.

Defaults are those of the PyTorch release: interval 4, kimg 500 (p goes from 0 to 1 within 500 000 images; 100 when fine-tuning), p never below 0
and without an upper bound (beyond 1 nothing changes but the way back). `max_p` bounds it: above 0.8 augmentations begin to show in the generated
images (appendix C). The release forgets p on resume; here it is part of the state, as are the running sums.

It moves whatever has a `p` (`seam.Strength`): by default the augmentation, else what a wrapper put into D (`of="d"`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from handful.errors import UsageError, within
from handful.seam import CONTROLS_AUGMENT, CONTROLS_D, Conflict, Context, Needs, Nets, Result, Side, Strength, Term, View

LEAKS_FROM = 0.8            # appendix C and section 3: safe below about this
FINE_TUNING_KIMG = 100.0    # the release's, for weights that are trained already
KNOWS_ALL = 0.95            # r_t beyond which D knows nearly every training image
PATIENCE = 10               # log lines in a row above it before a word is said


class AdaController(Term):
    """statistic: "r_t", "r_v" or "linear"; target: of the heuristic (None: 0.6, 0.5), or where the line ends (None: 0.6). interval: in steps of D;
    kimg: thousands of images in which p moves by 1. length_kimg: of the line, whose slope replaces kimg; give it with "linear" alone.

    start: p at the beginning of a run; None: as the augmentation was given it. max_p: None for no bound. of: "auto" (the augmentation if it has a
    p, else the one place inside D that has), "augment" or "d". Stats per real: p; r, the heuristic when p last moved; sign of the logits, and with
    r_v the logits of reals, held-out images and fakes. Refused where nothing has a p. Raises UsageError for numbers out of range.
    """

    roles = frozenset({CONTROLS_AUGMENT, CONTROLS_D})
    conflicts = (
        Conflict("no augmentation with a strength p, nor a term that puts one into D", lambda term, nets: term.of != "d" and not term.strengths(nets),
                 "terms.{name}: nothing here has a strength p to move; {remedy}",
                 "take an augmentation that has one (--set augment=ada), or leave the term out (--set terms.{name}=null)"),
        Conflict("no term that puts a strength p into D, where of=d", lambda term, nets: term.of == "d" and not term.strengths(nets),
                 "terms.{name}: no term puts a strength p into D; {remedy}",
                 "take one that does (--set terms.pa_gan={{}}), or leave `of` out, or leave the term out (--set terms.{name}=null)"),
        Conflict("several terms that put a strength p into D, where the augmentation has none or of=d",
                 lambda term, nets: len(term.strengths(nets)) > 1 and len(term.strengths(nets)),
                 "terms.{name}: {found} terms inside D have a strength p, and it moves one: {remedy}",
                 "keep one of them, or leave the term out (--set terms.{name}=null)"))
    may_change = frozenset({"target", "kimg", "interval", "max_p"})
    lengths = ("kimg", "length_kimg")
    charts = {"Adaptive strength": {"p": "p", "r": "r, the overfitting heuristic"}}
    remedy = "go on with a faster controller (--resume RUN --set terms.{name}.kimg=..., fewer than now)"

    def __init__(self, target: float | None = None, kimg: float = 500.0, interval: int = 4, statistic: Literal["r_t", "r_v", "linear"] = "r_t",
                 start: float | None = 0.0, max_p: float | None = None, of: Literal["auto", "augment", "d"] = "auto",
                 length_kimg: float | None = None) -> None:
        super().__init__()
        within(1, interval=interval)
        within(1e-9, kimg=kimg, length_kimg=length_kimg)
        within(0, start=start, max_p=max_p)
        if statistic == "linear":
            within(0, target=target)
            if length_kimg is None:
                raise UsageError("statistic=linear: say how long p rises with length_kimg, e.g. length_kimg=1000 for a run of 1000 kimg")
            if start != 0:
                raise UsageError(f"start={start}: a linear p begins at 0; leave start out")
        elif length_kimg is not None:
            raise UsageError(f"length_kimg={length_kimg:g} goes with statistic=linear alone, and this is {statistic}; how fast p moves there is kimg")
        self.start = start
        self.target = {"r_t": 0.6, "r_v": 0.5, "linear": 0.6}[statistic] if target is None else target
        self.kimg, self.interval, self.statistic, self.max_p, self.of = kimg, interval, statistic, max_p, of
        self.length_kimg = length_kimg
        self.observes = statistic != "r_v"                 # r_v wants fakes and held-out images, which the lazy phases don't have
        for name in ("r", "real", "other", "fake", "batches", "images"):
            self.register_buffer(name, torch.zeros(()))    # sums since the last move: r_t's signs or logits, over how many batches and images
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))
        self._high, self._high_p = 0, "augmented looks may leak into the pictures"
        self.notes: list[str] = []
        self.roles = frozenset()                           # one of the two, known in setup

    def setup(self, nets: Nets) -> None:
        if nets.facts.paired and self.statistic == "r_t":
            self.notes.append("ada_controller: this loss leaves a constant in D free, so r_t, the sign of D's logits, says nothing of overfitting; "
                              "take --set terms.ada_controller.statistic=r_v with images held out, or linear")
        strength = self._strength(nets)
        self.roles = frozenset({CONTROLS_AUGMENT if strength is nets.augment else CONTROLS_D})
        if strength is nets.augment and nets.augment.identity:
            self._high_p = "G's own pictures stand for most of the reals"            # APA
        if self.start is not None:
            strength.p.fill_(self.start)

    def strengths(self, nets: Nets) -> list[Strength]:
        """What it could move by its setting `of`; in a run it is one."""
        if self.of in ("auto", "augment") and _has_p(nets.augment):
            return [nets.augment]
        return [] if self.of == "augment" else [m for m in nets.D.modules() if _has_p(m)]

    def _strength(self, nets: Nets) -> Strength:
        return self.strengths(nets)[0]

    def needs(self, side: Side) -> Needs | None:
        if side == "g":
            return None
        logits = View(logits=True)
        return Needs(real=logits, fake=logits, heldout=logits) if self.statistic == "r_v" else Needs(real=logits)

    def forward(self, ctx: Context) -> Result:
        real = ctx.real.score.detach()
        stats = {"sign": real.sign(), "p": self._strength(ctx.nets).p.detach().expand(len(real)), "r": self.r.expand(len(real))}
        if self.statistic == "r_v":
            stats |= {"logits_real": real, "logits_heldout": ctx.heldout.score, "logits_fake": ctx.fake.score.detach()}
        return Result(stats=stats)

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        if self.statistic == "r_v":
            self.real += means["logits_real"]
            self.other += means["logits_heldout"]
            self.fake += means["logits_fake"]
        else:
            self.real += means["sign"]
        self.batches += 1
        self.images += images
        self.iterations += images > 0                      # a lazy phase belongs to the iteration before it
        p = self._strength(nets).p
        due = (self.iterations % self.interval == 0) & (images > 0)
        self.r.copy_(torch.where(due, self.heuristic(), self.r))
        if self.length_kimg is None:
            moved = p + torch.sign(self.r - self.target) * self.images / (1000 * self.kimg)
        else:                                              # the batch of a run is one number, so whole batches count the images
            moved = self.target * (self.iterations * images / (1000 * self.length_kimg)).clamp(max=1)
        p.copy_(torch.where(due, moved.clamp(0, self.max_p), p))
        for total in (self.real, self.other, self.fake, self.batches, self.images):
            total.mul_(~due)

    def heuristic(self) -> Tensor:
        """The heuristic over what was seen since p last moved: a scalar, 0 none, 1 complete."""
        if self.statistic == "r_v":
            return (self.real - self.other) / (self.real - self.fake).clamp(min=1e-8 * self.batches)
        return self.real / self.batches

    @classmethod
    def fine_tuning(cls, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        slow = settings.get("statistic") != "linear" and settings.get("kimg", 500) > FINE_TUNING_KIMG
        return {"kimg": FINE_TUNING_KIMG} if slow else {}

    def assume_typical(self, nets: Nets) -> None:
        self._strength(nets).p.fill_(0.3)                  # neither no augmentation, which costs nothing, nor all of it

    def status(self, logged: Mapping[str, float]) -> str:
        return f"p {logged['p']:.2f}" if "p" in logged else ""

    def overfitting(self, logged: Mapping[str, float]) -> str | None:
        if logged.get("sign", 0.0) > KNOWS_ALL and logged.get("p", 0.0) > 0.05:
            return f"D overfits: r_t is above {KNOWS_ALL}, it knows nearly every training image"
        return None

    def advice(self, logged: Mapping[str, float]) -> str | None:
        self._high = self._high + 1 if logged.get("p", 0.0) > LEAKS_FROM and self.length_kimg is None else 0
        if self._high != PATIENCE or CONTROLS_D in self.roles:          # what is inside D doesn't show in the pictures
            return None
        return (f"the augmentation's p has stayed above {LEAKS_FROM} ({logged['p']:.2f}): {self._high_p}, and D still "
                f"overfits; more images or a smaller discriminator help, --set terms.ada_controller.max_p={LEAKS_FROM} prevents it")


def _has_p(module: object) -> bool:
    return isinstance(getattr(module, "p", None), Tensor)

