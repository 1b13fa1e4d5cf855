"""Contrast of perturbed fakes alone, after FakeCLR: D is to recognise G(z) in G(z + e) among other fakes, so that near latents make near pictures.

Li, Wang, Zheng, Zhang, Li: FakeCLR: Exploring Contrastive Learning for Solving Latent Discontinuity in Data-Efficient GANs, ECCV 2022. Adds to L_D

    weight C(d(T G(z)), d'(T G(z + e)))

in InsGen's terms (terms/insgen.py): d the layers of D up to the tap, D' a slow copy of D, T an augmentation drawn anew, C InfoNCE against a queue.

Known, from the paper's abstract: of the contrastive tasks in use it is the perturbation of the latent that helps; so perturbed fakes alone are
contrasted; with three techniques, called noise-related latent augmentation, diversity-aware queue and forgetting factor of the queue. Its official
code was not consulted, and nothing but their names is taken from there, so that published figures can't be expected to the digit. Chosen:

* noise_related: e_i = perturb_std |z_i| n_i, n standard normal, instead of perturb_std n_i. Where the latents lie close together (z_i near 0) e is
  small, so that z + e isn't taken for a neighbour's picture; where they are sparse it reaches further. The mean of e^2 is the same.
* diversity_aware: of the queue the newest part counts that G's diversity fills: the variance of the fakes' features (the tap, averaged over space,
  summed over channels) by that of the reals', at most 1, as a moving average over about 100 steps. A queue longer than G has different pictures
  holds near-copies of the query as negatives. At least one batch counts.
* forget: a key that is a steps old counts forget^a times, because D' and G have moved on since. 1 leaves all keys equal.

perturb_std 0.15, weight 1, temperature 0.2, momentum 0.999, the queue of 5 % of the images, the tap, the head and its rate are InsGen's (as
released). Chosen otherwise: G(z + e) keeps G(z)'s style mixing and noise ("same"), since only z shall move; the queue stores keys, as MoCo's does; no
loss for G. query="shared" takes the adversarial loss's own pass of the fakes as the query: D runs no further time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from handful.errors import within
from handful.seam import Context, Discriminator, Needs, Nets, Result, Side, Term, View
from handful.terms._contrast import ROLES, Head, choose_tap, follow, info_nce, perturbed, queue_length, rest, slow_copy
from handful.terms._views import Shown, judged, shown, vector

DIVERSITY_RATE = 0.01                             # of the moving average, per step


class FakeContrast(Term):
    """weight; query: "own" further augmentation of the fakes, or "shared"; temperature; tap: a feature of D (None: its last map); perturb_std;
    perturb: "same" or "fresh" style mixing and noise; noise_related, diversity_aware, forget: the three techniques (False, False, 1 leave them out);
    queue: keys kept (None: 5 % of the images); momentum: of D' and the slow head; hidden, width: units of the head (hidden None: the tap's channels).

    Stats per fake: cl_fake, the loss without its weight, cos_fake, the cosine of query and key, and diversity, as it was used. Raises UsageError for
    numbers out of range and a tap that D hasn't.
    """

    roles = frozenset({ROLES["fake"]})
    diversity: Tensor

    def __init__(self, weight: float = 1.0, query: Literal["own", "shared"] = "own", temperature: float = 0.2, tap: str | None = None,
                 perturb_std: float = 0.15, perturb: Literal["same", "fresh"] = "same", noise_related: bool = True, diversity_aware: bool = True,
                 forget: float = 0.99, queue: int | None = None, momentum: float = 0.999, hidden: int | None = None, width: int = 128) -> None:
        super().__init__()
        within(0, weight=weight, perturb_std=perturb_std)
        within(1e-6, temperature=temperature)
        within(0, 1, momentum=momentum)
        within(1e-6, 1, forget=forget)
        within(1, queue=queue, hidden=hidden, width=width)
        self.weight, self.query, self.temperature, self.tap = weight, query, temperature, tap
        self.perturb_std, self.perturb, self.noise_related = perturb_std, perturb, noise_related
        self.diversity_aware, self.forget, self.length = diversity_aware, forget, queue
        self.momentum, self.hidden, self.width = momentum, hidden, width
        self.optim = {"head": ("d", "g")} if weight else {}
        self.roles = frozenset({ROLES["fake"]} if weight else ())
        self.slow_d: Discriminator | None = None
        self.register_buffer("diversity", torch.zeros(()))                        # 0: not measured yet

    def setup(self, nets: Nets) -> None:
        self.tap = choose_tap("fake_contrast", self.tap, nets.D.feature_info)
        if self.weight:
            length = queue_length("fake_contrast", self.length, nets.facts)
            self.head = Head(nets.D.feature_info[self.tap].channels, length, self.hidden, self.width)
            self.slow_d = slow_copy(nets.D)

    def train(self, mode: bool = True) -> FakeContrast:
        """The slow copy of D stays at rest."""
        super().train(mode)
        if self.slow_d is not None:
            rest(self.slow_d)
        return self

    def needs(self, side: Side) -> Needs | None:
        if side == "g" or not self.weight:
            return None
        tap = frozenset({self.tap} if self.tap else ())
        wanted = View(features=tap) if self.diversity_aware else View()
        return Needs(real=wanted, fake=View(logits=True, features=tap if self.diversity_aware or self.query == "shared" else frozenset()))

    def forward(self, ctx: Context) -> Result:
        made = ctx.fake.generated
        if self.query == "shared":
            query = ctx.fake.features[self.tap]
        else:
            query = self._features(ctx, shown(ctx, "fake", "x"), "query")
        other = perturbed(ctx.nets, made, self._step(made.z, ctx), ctx.rng.fork("perturbed"), same=self.perturb == "same")
        with torch.no_grad():
            key = self.head.embed_slowly(self._features(ctx, other, "key", self.slow_d))
        each, cosine = info_nce(self.head.embed(query), key, self.head.queue, self.temperature, self._counting(ctx.batch))       # [B], [B]
        gather = {"key": key}
        if self.diversity_aware:
            gather |= {kind: vector(p.features[self.tap].detach()) for kind, p in (("real", ctx.real), ("fake", ctx.fake))}
        stats = {"cl_fake": each.detach(), "cos_fake": cosine.detach(), "diversity": self.diversity.repeat(len(each))}
        return Result(self.weight * each.mean(), stats if self.diversity_aware else {k: v for k, v in stats.items() if k != "diversity"}, gather)

    def commit(self, side: Side, means: Mapping[str, Tensor], gathered: Mapping[str, Tensor], nets: Nets, images: int) -> None:
        self.head.follow(self.momentum)
        self.head.insert(gathered["key"])
        follow(self.slow_d, nets.D, self.momentum)
        if self.diversity_aware:
            spread = {kind: gathered[kind].var(0, correction=0).sum() for kind in ("real", "fake")}
            now = (spread["fake"] / spread["real"].clamp(min=1e-12)).clamp(1e-3, 1)
            self.diversity.copy_(torch.where(self.diversity > 0, self.diversity.lerp(now, DIVERSITY_RATE), now))

    def _features(self, ctx: Context, view: Shown, purpose: str, net: Discriminator | None = None) -> Tensor:
        """Of a further augmentation of the images."""
        found = judged(ctx, {"fake": view}, ctx.rng.fork(purpose), frozenset({self.tap}), augment=True, net=net, logits=False)
        return found["fake"].features[self.tap]

    def _step(self, z: Tensor, ctx: Context) -> Tensor:
        """e, [B,z_dim]."""
        e = self.perturb_std * ctx.rng.fork("perturbation").randn(*z.shape)
        return e * z.abs() if self.noise_related else e

    def _counting(self, batch: int) -> Tensor | None:
        """How much each key counts, as a logarithm [K]."""
        if not self.diversity_aware and self.forget == 1:
            return None
        length = self.head.queue.shape[1]
        age = (self.head.queue_ptr - 1 - torch.arange(length, device=self.head.queue.device)) % length            # in keys, 0 the newest
        weight = (age // batch) * math.log(self.forget)
        if not self.diversity_aware:
            return weight
        full = (self.diversity * length).clamp(min=batch)
        return weight.masked_fill((age >= full) & (self.diversity > 0), -torch.inf)
