"""InsGen: D also tells every single image from all others, reals and fakes each in a task of their own, and G is to make what it can tell apart.

Yang, Shen, Xu, Zhou: Data-Efficient Instance Generation from Instance Discrimination, NeurIPS 2021, equations 5 to 11. With d the layers of D up to
the tap, D' a slow copy of D, T an augmentation drawn anew for each view, C the InfoNCE loss of a query and its key against a queue of past keys:

    L_D += weight_real C(d(T x), d'(T x)) + weight_fake C(d(T G(z)), d'(T G(z + e)))        L_G += weight_g C(d(T G(z)), d'(T G(z)))

Defaults are the released code's, which differs from the paper:

    setting                 paper                                    released code, and the default here
    temperature             2 (very probably a slip)                 0.2
    tap                     all but the last layer ("pre_logits")    the last feature map before the epilogue, averaged over space
    enqueue                 "key"                                    the fakes' queue stores "query": the slow head on D's own features of T G(z)
    perturb                 says no more than G(z + e) ("same")      "fresh" style mixing and noise; e ~ N(0, 0.15^2), no number in the paper
    slow head of the fakes  -                                        moves in G's step too

Weights 1, 1, 0.1, momentum 0.999 and queues of 5 % of the images (the release: twice that with flips) are in both; of a batch larger than its queue
the first keys are kept. The heads have two layers, as wide as the features and 128. The rate of the fakes' head is that of G's Adam, of the reals'
head that of D's, each with its lazy correction (as released).

mode="shared" (not published) takes the adversarial loss's own pass as the query, so that D runs no further time: each key costs a pass of D' alone.

Deviations: D' and the slow heads move at the end of a step, which is the release's beginning of the next, but that D' learns of a lazy step of D
(R1) one iteration later; with several D steps in an iteration they move after each. Buffers of D' are D's (spectral norm's vectors, running
statistics); it runs in evaluation mode, but for batch norm, which takes the statistics of the batch at hand, and spectral norm, which iterates, as
D's own do (the release's D has neither). The heads step once per optimiser step, not per micro-batch. Keys aren't shuffled over processes: without
batch norm in D that changes nothing; with it an image and its key are judged in the same company. G(z + e) leaves G's average of w alone. It works
without an augmentation, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from handful.errors import UsageError, within
from handful.seam import Context, Discriminator, Needs, Nets, Pass, Result, Side, Term, View
from handful.terms._contrast import ROLES, Head, choose_tap, follow, info_nce, perturbed, queue_length, rest, slow_copy
from handful.terms._views import Shown, judged, shown


class InsGen(Term):
    """weight_real, weight_fake, weight_g: of the three losses; one of 0 leaves out all its work. mode: "released" or "shared". temperature; tap: a
    feature of D (None: its last map); perturb_std: of e; perturb, enqueue: above; queue_real, queue_fake: keys kept (None: the 5 % rule); momentum:
    of D' and the slow heads; hidden, width: units of the heads (hidden None: as many as the tap has channels).

    Stats per image: cl_real, cl_fake, cl_g, the losses without weights, and cos_real, cos_fake, cos_g, the cosine of query and key. Raises UsageError
    for numbers out of range, a tap that D hasn't, weight_g without weight_fake; HandfulError for a queue longer than there are reals.
    """

    roles = frozenset(ROLES.values())
    slow_d: Discriminator | None

    def __init__(self, weight_real: float = 1.0, weight_fake: float = 1.0, weight_g: float = 0.1, mode: Literal["released", "shared"] = "released",
                 temperature: float = 0.2, tap: str | None = None, perturb_std: float = 0.15, perturb: Literal["fresh", "same"] = "fresh",
                 enqueue: Literal["query", "key"] = "query", queue_real: int | None = None, queue_fake: int | None = None,
                 momentum: float = 0.999, hidden: int | None = None, width: int = 128) -> None:
        super().__init__()
        within(0, weight_real=weight_real, weight_fake=weight_fake, weight_g=weight_g, perturb_std=perturb_std)
        within(1e-6, temperature=temperature)
        within(0, 1, momentum=momentum)
        within(1, queue_real=queue_real, queue_fake=queue_fake, hidden=hidden, width=width)
        if weight_g and not weight_fake:
            raise UsageError(f"weight_g={weight_g:g} with weight_fake=0: G's loss needs the head and queue that fakes train; set weight_g=0 too")
        self.weights = {"real": weight_real, "fake": weight_fake}
        self.weight_g, self.mode, self.temperature, self.tap = weight_g, mode, temperature, tap
        self.perturb_std, self.perturb, self.enqueue = perturb_std, perturb, enqueue
        self.lengths = {"real": queue_real, "fake": queue_fake}
        self.momentum, self.hidden, self.width = momentum, hidden, width
        self.kinds = tuple(kind for kind, weight in self.weights.items() if weight)
        self.roles = frozenset(ROLES[kind] for kind in self.kinds)
        self.optim = {f"{kind}_head": ("d", "g" if kind == "fake" else None) for kind in self.kinds}
        self.notes: list[str] = []
        self.slow_d = None

    def setup(self, nets: Nets) -> None:
        self.tap = choose_tap("insgen", self.tap, nets.D.feature_info)
        channels = nets.D.feature_info[self.tap].channels
        for kind in self.kinds:
            length = queue_length("insgen", self.lengths[kind], nets.facts, "queue_real" if kind == "real" else None)
            self.add_module(f"{kind}_head", Head(channels, length, self.hidden, self.width))
        if self.kinds:
            self.slow_d = slow_copy(nets.D)
        if self.weights["real"] and nets.augment.identity:
            self.notes.append("insgen: nothing is augmented, so the two views of a real image are the same and its task is easy; "
                              "an augmentation makes it one (--set augment=diffaug)")

    def train(self, mode: bool = True) -> InsGen:
        """The slow copy of D stays at rest."""
        super().train(mode)
        if self.slow_d is not None:
            rest(self.slow_d)
        return self

    def needs(self, side: Side) -> Needs | None:
        kinds = self._kinds(side)
        view = View(logits=True, features=frozenset({self.tap} if self.mode == "shared" and self.tap else ()))
        return Needs(real=view if "real" in kinds else View(), fake=view if "fake" in kinds else View()) if kinds else None

    def forward(self, ctx: Context) -> Result:
        passes = {kind: getattr(ctx, kind) for kind in self._kinds(ctx.side)}
        queries = self._queries(ctx, passes)
        with torch.no_grad():
            views = {kind: self._perturbed(ctx) if kind == "fake" and ctx.side == "d" else shown(ctx, kind, "x") for kind in passes}
            keys = self._features(ctx, views, "key", self.slow_d)
        loss, stats, gather = torch.zeros((), device=ctx.rng.device), {}, {}
        for kind in passes:
            head, name = self.head(kind), "g" if ctx.side == "g" else kind
            key = head.embed_slowly(keys[kind])
            each, cosine = info_nce(head.embed(queries[kind]), key, head.queue, self.temperature)                     # [B], [B]
            loss = loss + (self.weight_g if ctx.side == "g" else self.weights[kind]) * each.mean()
            stats |= {f"cl_{name}": each.detach(), f"cos_{name}": cosine.detach()}
            if ctx.side == "d":
                gather[kind] = head.embed_slowly(queries[kind].detach()) if kind == "fake" and self.enqueue == "query" else key
        return Result(loss, stats, gather)

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        for kind in self._kinds(side):
            self.head(kind).follow(self.momentum)
        for kind, keys in gathered.items():
            self.head(kind).insert(keys)
        if side == "d":
            follow(self.slow_d, nets.D, self.momentum)

    def head(self, kind: str) -> Head:
        return self.get_submodule(f"{kind}_head")

    def _kinds(self, side: Side) -> tuple[str, ...]:
        return self.kinds if side == "d" else ("fake",) if self.weight_g else ()

    def _queries(self, ctx: Context, passes: Mapping[str, Pass]) -> dict[str, Tensor]:
        if self.mode == "shared":
            return {kind: p.features[self.tap] for kind, p in passes.items()}
        return self._features(ctx, {kind: shown(ctx, kind, "x") for kind in passes}, "query")

    def _features(self, ctx: Context, views: Mapping[str, Shown], purpose: str, net: Discriminator | None = None) -> dict[str, Tensor]:
        """Of further augmentations of the images."""
        found = judged(ctx, views, ctx.rng.fork(purpose), frozenset({self.tap}), augment=True, net=net, logits=False)
        return {kind: j.features[self.tap] for kind, j in found.items()}

    def _perturbed(self, ctx: Context) -> Shown:
        """G(z + e); with the same noise and e = 0 these are the images at hand."""
        same, made = self.perturb == "same", ctx.fake.generated
        if same and not self.perturb_std:
            return shown(ctx, "fake", "x")
        e = self.perturb_std * ctx.rng.fork("perturbation").randn(*made.z.shape)
        return perturbed(ctx.nets, made, e, ctx.rng.fork("perturbed"), same=same)
