"""AugSelf: D also tells how each picture was augmented, the opposite for fakes, so that it notices what augmentation would teach it to overlook.

Hou, Cao, Yuan, Zhao, Ma, Pan, Wan, Wang, Shen, Cheng: Augmentation-Aware Self-Supervision for Data-Efficient GAN Training, NeurIPS 2023. With w what
the augmentation T drew for a picture, P the prediction from D's features f of both the augmented and the original one, |.|^2 the mean over w,

    L_D += weight_d (E |P(T(x), x) - w|^2 + E |P(T(y), y) + w|^2)        L_G += weight_g E (|P(T(y), y) - w|^2 - |P(T(y), y) + w|^2)

x reals, y = G(z), P(T(x), x) = H(f(T(x)) - f(x)). This is written from the paper's abstracts alone, which say: D predicts the parameter from the
augmented and the original picture; targets of reals and of fakes differ; G is to make pictures "augmentation-predictable real and not fake"; its
objective is then, under assumptions, the arithmetic-harmonic mean divergence. What they leave open, chosen here:

* targets w of reals and -w of fakes, and G's loss a difference of squares: with them the best P is w (p_R - p_F) / (p_R + p_F), for which G's loss is
  4 |w|^2 times that divergence, 1 - sum 2 p_R p_F / (p_R + p_F).
* the difference of the features: what wasn't augmented has w = 0 and nothing to tell it by, so that the two targets agree. H is linear, so that
  D's own layers must know; hidden puts a ReLU layer of so many units in between. f is "pre_logits", averaged over space where it is a map.
* w is 0 where T changes nothing and about 1 at its limits: DiffAugment's ranges as [-1, 1]; a hole's centre in half sides from the middle; ADA's
  affine map, in coordinates from -1 to 1, and colour matrix less the identity, gains in octaves, noise in tenths; 2 at most, so that no outlier rules
  a batch. Parameters of other augmentations are taken as drawn. FastGAN's smaller scale is augmented by itself, and that isn't asked for.
* both weights 1, every step; H trains as D does, and stands still with D in G's step, where the gradient reaches G through T(y) and through y.

The original pictures take one further run of D in each step (in D's two where it has batch statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from handful.errors import UsageError, within
from handful.nn.precision import no_autocast
from handful.rng import Rng
from handful.seam import Augment, Conflict, Context, Needs, Nets, Pass, Result, Side, Term, View
from handful.terms._views import judged, picture_shape, shown, vector

_FEATURE = frozenset({"pre_logits"})
_MOST = 2.0


class AugSelf(Term):
    """weight_d, weight_g: of D's and of G's part; one of 0 leaves out its work. hidden: units of the head's layer in between, 0 for none.

    Stats per image: error_real and error_fake in D's step, the mean square between prediction and own target; gap in G's, its loss without weight.
    Refused where the augmentation draws nothing to predict. Raises UsageError for numbers below 0 and for weight_g without weight_d.
    """

    conflicts = (
        Conflict("an augmentation that draws nothing for an image, such as none or apa", lambda term, nets: not _drawn(nets)[0],
                 "terms.{name} predicts what the augmentation draws for each picture, and this one draws nothing: {remedy}",
                 "take another (--set augment=diffaug), or leave the term out"),
        Conflict("train.augment_at without one of real, fake_d, fake_g",
                 lambda term, nets: nets.facts.augment_at is not None and len(nets.facts.augment_at) < 3,
                 "terms.{name} predicts what the augmentation draws, but train.augment_at leaves some pictures as they are: {remedy}",
                 "take it back, or leave the term out"))

    def __init__(self, weight_d: float = 1.0, weight_g: float = 1.0, hidden: int = 0) -> None:
        super().__init__()
        within(0, weight_d=weight_d, weight_g=weight_g, hidden=hidden)
        if weight_g and not weight_d:
            raise UsageError(f"weight_g={weight_g:g} with weight_d=0: nobody would teach D the task; give weight_d, or set weight_g=0 too")
        self.weights: dict[Side, float] = {"d": weight_d, "g": weight_g}
        self.hidden = hidden
        self.head: nn.Module | None = None

    def setup(self, nets: Nets) -> None:
        params, side = _drawn(nets)
        channels, parts = nets.D.feature_info["pre_logits"].channels, targets(params, nets.augment, side).shape[1]
        sizes = [channels, *[self.hidden] * bool(self.hidden), parts]
        layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
        self.head = layers[0] if len(layers) == 1 else nn.Sequential(layers[0], nn.ReLU(), layers[1])

    def needs(self, side: Side) -> Needs | None:
        view = View(logits=True, features=_FEATURE)
        return Needs(real=view if side == "d" else View(), fake=view) if self.weights[side] else None

    def forward(self, ctx: Context) -> Result:
        passes = {kind: getattr(ctx, kind) for kind in (("real", "fake") if ctx.side == "d" else ("fake",))}
        wanted = {kind: self._targets(p, ctx.nets.augment) for kind, p in passes.items()}                             # [B,d]
        plain = judged(ctx, {kind: shown(ctx, kind, "x") for kind in passes}, ctx.rng.fork("judge"), _FEATURE)
        predicted = {kind: self._predict(p.features["pre_logits"], plain[kind].features["pre_logits"]) for kind, p in passes.items()}
        if ctx.side == "g":
            gap = error(predicted["fake"], wanted["fake"]) - error(predicted["fake"], -wanted["fake"])                # [B]
            return Result(self.weights["g"] * gap.mean(), {"gap": gap.detach()})
        real, fake = error(predicted["real"], wanted["real"]), error(predicted["fake"], -wanted["fake"])              # [B], [B]
        return Result(self.weights["d"] * (real.mean() + fake.mean()), {"error_real": real.detach(), "error_fake": fake.detach()})

    def _predict(self, augmented: Tensor, plain: Tensor) -> Tensor:
        with no_autocast(augmented):
            return self.head(vector(augmented) - vector(plain))

    def _targets(self, seen: Pass, augment: Augment) -> Tensor:
        return targets(_own(seen.aug.params), augment, seen.x.shape[2:])


def error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean square over the parameters, [B]."""
    return (predicted - target).square().mean(1)


def targets(params: Mapping[str, Tensor], augment: Augment, side: tuple[int, int]) -> Tensor:
    """What was drawn for each image, scaled as above: fp32 [B,d] in [-2,2]. side: height and width of the images in pixels."""
    parts = []
    for name in sorted(params):
        drawn = params[name].detach().float()
        scale = _SCALED.get((name, tuple(drawn.shape[1:])))
        parts.append((scale(drawn, augment, side) if scale else drawn).reshape(len(drawn), -1))
    return torch.cat(parts, 1).clamp(-_MOST, _MOST)


def _drawn(nets: Nets) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """What the augmentation of a run draws for one image, and the height and width of its images."""
    device = next(nets.G.parameters()).device
    x = torch.zeros(1, *picture_shape(nets), device=device)
    return _own(nets.augment.draw(x, Rng(0, device)).params), x.shape[2:]


def _own(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without those of further scales, "NAME.parameter"."""
    return {k: v for k, v in params.items() if "." not in k}


def _translation(v: Tensor, augment: Augment, side: tuple[int, int]) -> Tensor:
    most = getattr(augment, "translation_ratio", None)                              # somebody's own may call its own so
    return v if most is None else torch.stack([v[:, i] / max(1, int(n * most + 0.5)) for i, n in enumerate(side)], 1)


def _centre(v: Tensor, augment: Augment, side: tuple[int, int]) -> Tensor:
    return torch.stack([2 * v[:, i] / n - 1 for i, n in enumerate(side)], 1)


def _hole(v: Tensor, augment: Augment, side: tuple[int, int]) -> Tensor:
    """ADA's, which not all images have: size and centre in parts of the side."""
    return torch.where(v[:, :1] > 0, torch.cat([2 * v[:, :1], 2 * v[:, 1:] - 1], 1), 0)


def _geometry(v: Tensor, augment: Augment, side: tuple[int, int]) -> Tensor:
    """[B,2,3] in pixels from the centre, columns first."""
    height, width = side
    (xx, xy, x), (yx, yy, y) = (row.unbind(1) for row in v.unbind(1))                                     # each [B]
    return torch.stack([xx - 1, xy * (height / width), x / (width / 2), yx * (width / height), yy - 1, y / (height / 2)], 1)


Scaling = Callable[[Tensor, Augment, tuple[int, int]], Tensor]

# By name and shape for one image, since DiffAugment's "cutout" isn't ADA's.
_SCALED: dict[tuple[str, tuple[int, ...]], Scaling] = {
    ("brightness", ()): lambda v, augment, side: 2 * v,
    ("saturation", ()): lambda v, augment, side: v - 1,
    ("contrast", ()): lambda v, augment, side: 2 * (v - 1),
    ("translation", (2,)): _translation,
    ("cutout", (2,)): _centre,
    ("cutout", (3,)): _hole,
    ("geometry", (2, 3)): _geometry,
    ("color", (3, 4)): lambda v, augment, side: v - torch.eye(3, 4, dtype=v.dtype, device=v.device),
    ("imgfilter", (4,)): lambda v, augment, side: v.log2(),
    ("noise", ()): lambda v, augment, side: 10 * v,
}
