"""ContraD: D's features learn by contrast alone, between augmented views of images, and a small head judges them.

Jeong, Shin: Training GANs with Stronger Augmentations via Contrastive Discriminator, ICLR 2021. With f the features of D (its "pre_logits", a map
averaged over its pixels), heads h_r, h_f and d of two layers each, views v = T(x), v' = T'(x) of N reals and w = T''(G(z)) of N fakes, cosines
divided by the temperature 0.1:

    L_D = L+ + weight_fake L- + L_dis
    L+      NT-Xent (SimCLR) over h_r of the 2 N views: each is to find the image's other view among all but itself
    L-      supervised contrast over h_f of all 3 N: each fake is to find the other N - 1 fakes among all but itself (mean of -log softmax over them)
    L_dis   the adversarial loss of the run (published: non-saturating) on the logits d(stop_gradient(f(.))); in G's step d(f(.)) with gradient

Defaults: weight_fake 1, temperature 0.1, hidden 512 (1024 with SNGAN's ResNet), 128 outputs; leaky ReLU of slope 0.1 (all published). Published with
augment=simclr, warm-up of 3000 steps, R1 of gamma 0.1 by the augmented image.

The stop-gradient closes while D trains, to a plain backward alone: whatever differentiates D by its pixels with a graph (R1, DigGAN) sees through
it, and its own gradient reaches f. So every loss of logits in D's step (LeCam's too) trains d only. Whether D trains is told by d's parameters,
which don't require gradients in G's step; a loop of one's own must freeze D there.

Chosen here: the heads' layers are of the kind of D's own, with spectral norm (published for SNGAN's), equalised (StyleGAN2), or plain. What of D
the features don't depend on (its own output layer) is frozen. Reals pass D twice, one extra pass a step; in it batch statistics are its own.
Negatives are those of the micro-batch on one device; one image alone has none and adds nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handful.errors import within
from handful.nn.conv import Linear
from handful.nn.equalized import EqualConv2d, EqualLinear
from handful.nn.spectral import Spectral
from handful.rng import Rng, ambient
from handful.seam import Conflict, Context, Discriminator, FeatureInfo, Judged, Needs, Nets, PassOf, Result, Side, Term, View
from handful.terms._contrast import ROLES
from handful.terms._wrapped import Wrapped, chain, has_scales, name_of, unused_by

SLOPE = 0.1
REAL, FAKE = "contrast_real", "contrast_fake"          # the features that the wrapped D has beside its own: h_r(f) and h_f(f)


class ContraD(Term):
    """weight_fake: of L-; temperature; hidden: width of the heads; width: of what is compared. Stats per image: contrast_real, contrast_fake, the two
    losses without weight; cos_real, the cosine of an image's two views.

    Refused where D knows classes, looks at further scales apart or has its logits rewritten inside, where nothing is augmented, and where a
    micro-batch holds one image. Raises UsageError for numbers out of range.
    """

    roles = frozenset(ROLES.values())
    conflicts = (
        Conflict("images with labels", lambda term, nets: _inside(nets).num_classes,
                 "terms.{name} judges images by a head of its own, which knows no classes: {remedy}",
                 "train without labels (no --labels), or leave it out (--set terms.{name}=null)"),
        Conflict("a discriminator that looks at further scales of an image, such as fastgan's",
                 lambda term, nets: has_scales(_inside(nets)) and name_of(_inside(nets)),
                 "terms.{name} judges one vector of an image, but {found} looks at further scales of it apart: {remedy}",
                 "take another architecture (--set d=stylegan2), or leave it out (--set terms.{name}=null)"),
        Conflict("a term listed before it that rewrites D's logits, such as pa_gan",
                 lambda term, nets: any(getattr(d, "rewrites_logits", False) for d in chain(_inside(nets))),
                 "terms.{name} has a head in place of D's own, and a term before it rewrites D's own logits: {remedy}", "list {name} before it"),
        Conflict("no augmentation, or one that leaves images as they are, such as apa", lambda term, nets: nets.augment.identity,
                 "terms.{name} compares two views of an image, and without an augmentation they are the same: {remedy}",
                 "take one (--set augment=simclr)"),
        Conflict("train.augment_at without real or fake_d",
                 lambda term, nets: nets.facts.augment_at is not None and not {"real", "fake_d"} <= set(nets.facts.augment_at),
                 "terms.{name} compares augmented views, but train.augment_at leaves some pictures as they are: {remedy}",
                 "take it back, or leave the term out (--set terms.{name}=null)"),
        Conflict("a micro-batch of one image", lambda term, nets: nets.facts.micro_batch == 1,
                 "terms.{name} compares the images of a micro-batch, and there is one in each: {remedy}",
                 "give train.batch and train.micro_batch 2 or more images for each process"))
    exact_under_accumulation = False

    def __init__(self, weight_fake: float = 1.0, temperature: float = 0.1, hidden: int = 512, width: int = 128) -> None:
        super().__init__()
        within(0, weight_fake=weight_fake)
        within(1e-6, temperature=temperature)
        within(1, hidden=hidden, width=width)
        self.weight_fake, self.temperature, self.hidden, self.width = weight_fake, temperature, hidden, width
        self.roles = self.roles if weight_fake else frozenset({ROLES["real"]})
        self.notes: list[str] = []

    def wrap(self, d: Discriminator) -> Discriminator:
        return _Contrastive(d, self.hidden, self.width)

    def setup(self, nets: Nets) -> None:
        if not nets.augment.for_contrast:
            self.notes.append("contrad: published with views that differ strongly (--set augment=simclr)")

    def needs(self, side: Side) -> Needs | None:
        if side == "g":
            return None
        return Needs(real=View(features=frozenset({REAL, FAKE})), fake=View(features=frozenset({FAKE})))

    def forward(self, ctx: Context) -> Result:
        real = ctx.real
        other = ctx.nets.judge(real.x.detach(), real.c, rng=ctx.rng.fork("second view"), want=frozenset({REAL, FAKE}))
        views = [_unit(p.features[REAL]) for p in (real, other)]                                          # [N,W] each
        same = nt_xent(*views, self.temperature)                                                          # [N]
        alike = supervised(_unit(ctx.fake.features[FAKE]), torch.cat([_unit(p.features[FAKE]) for p in (real, other)]), self.temperature)
        stats = {"contrast_real": same, "contrast_fake": alike, "cos_real": (views[0] * views[1]).sum(1)}
        return Result(same.mean() + self.weight_fake * alike.mean(), {k: v.detach() for k, v in stats.items()})


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The loss of each pair of views a_i, b_i [N,W] of length 1, mean of its two, [N]: cross-entropy of finding one by the other among 2 N - 1."""
    n = len(a)
    both = torch.cat([a, b])
    logits = both @ both.T / temperature                                                                  # [2N,2N]
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=a.device), -torch.inf)
    partner = torch.arange(2 * n, device=a.device).roll(n)
    return F.cross_entropy(logits, partner, reduction="none").view(2, n).mean(0)


def supervised(fakes: Tensor, reals: Tensor, temperature: float) -> Tensor:
    """The loss of each fake, [N]: minus the mean log softmax, among all others, over the other fakes. fakes [N,W], reals [M,W] of length 1."""
    n = len(fakes)
    itself = torch.eye(n, dtype=torch.bool, device=fakes.device)
    logits = fakes @ torch.cat([fakes, reals]).T / temperature                                            # [N,N+M]
    logits = logits.masked_fill(F.pad(itself, (0, len(reals))), -torch.inf)
    chance = logits.log_softmax(1)[:, :n].masked_fill(itself, 0)
    return -chance.sum(1) / max(n - 1, 1)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1)


class _Contrastive(Wrapped):
    def __init__(self, d: Discriminator, hidden: int, width: int) -> None:
        super().__init__(d)
        self.draws = d.draws
        channels = d.feature_info["pre_logits"].channels
        self.heads = nn.ModuleDict({REAL: _mlp(d, channels, hidden, width), FAKE: _mlp(d, channels, hidden, width)})
        self.to_logit = _mlp(d, channels, hidden, 1)
        self.feature_info = {**d.feature_info, REAL: FeatureInfo(width), FAKE: FeatureInfo(width)}
        for p in unused_by(d, "pre_logits", "contrad"):
            p.requires_grad_(False)

    def forward(self, image: Tensor, c: Tensor | None = None, extra: dict[str, Tensor] | None = None, want: frozenset[str] = frozenset(), *,
                rng: Rng | None = None, of: PassOf = "other") -> Judged:
        rng = ambient(image.device) if rng is None else rng
        judged = self.judge(image, c, extra, want - self.heads.keys() | {"pre_logits"}, rng, of=of)
        f = judged.features["pre_logits"]
        f = f.mean((2, 3)) if f.ndim == 4 else f                                                          # [B,C]
        closed = next(self.to_logit.parameters()).requires_grad and torch.is_grad_enabled()               # D trains
        logits = self.to_logit(_stopped(f) if closed else f)[:, 0]
        features = {**judged.features, **{name: head(f) for name, head in self.heads.items() if name in want}}
        return Judged(logits, {k: v for k, v in features.items() if k in want})


def _inside(nets: Nets) -> Discriminator:
    """The discriminator that ContraD was put around, with what other terms had put around it before."""
    return next(m.inner for m in nets.D.modules() if isinstance(m, _Contrastive))


def _stopped(f: Tensor) -> Tensor:
    """f, with a gradient where a graph of it is made, and none in a plain backward. A compiled D is never differentiated by its pixels."""
    return f.detach() if torch.compiler.is_compiling() else _Stop.apply(f)


class _Stop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f: Tensor) -> Tensor:
        return f.view_as(f)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad if torch.is_grad_enabled() else None


def _mlp(d: Discriminator, cin: int, hidden: int, cout: int) -> nn.Sequential:
    """Two layers of the kind of d's own."""
    if any(isinstance(m, Spectral) and m.u is not None for m in d.modules()):
        layers = [Linear(a, b, bias="zeros") for a, b in ((cin, hidden), (hidden, cout))]
    else:
        kind = EqualLinear if any(isinstance(m, EqualLinear | EqualConv2d) for m in d.modules()) else nn.Linear
        layers = [kind(a, b) for a, b in ((cin, hidden), (hidden, cout))]
    return nn.Sequential(layers[0], nn.LeakyReLU(SLOPE), layers[1])
