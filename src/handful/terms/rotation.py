"""Auxiliary rotation: D also tells by how many quarters a picture was turned, and G makes pictures of which that can be told.

Chen, Zhai, Ritter, Lucic, Houlsby: Self-Supervised GANs via Auxiliary Rotation Loss, CVPR 2019, as Karras et al. compare with it
(Training Generative Adversarial Networks with Limited Data, NeurIPS 2020, appendix D.2). With R_k a turn by k quarters and C(k | x) the
probability that four more outputs of D's last layer give to k (softmax), in every step

    L_D += weight_d E mean_k -log C(k | R_k x)        L_G += weight_g E mean_k -log C(k | R_k G(z))        k = 0 ... 3

x and G(z) as D saw them, after the run's augmentation. Defaults are appendix D.2's: weight_d 5, weight_g 10. D learns the task on reals alone; its
layers and the four outputs stand still in G's step.

The outputs are a linear layer with equalised learning rate (StyleGAN2's last one) on "pre_logits", averaged over space where these are a map; trained
as D's other parameters. The release judges four times the batch. Here k = 0 is the pass that D makes anyway and the other three are one further run,
the same thing for less; where D has batch statistics it is the whole four times, as there: among upright pictures alone, statistics could give k = 0
away. All classes of a labelled set are turned alike, with their labels (the paper has none). FastGAN's smaller scale turns with its picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from handful.errors import UsageError, within
from handful.nn.equalized import EqualLinear
from handful.nn.precision import no_autocast
from handful.rng import joined
from handful.seam import Conflict, Context, Needs, Nets, Result, Side, Term, View
from handful.terms._views import picture_shape, shown, vector

_FEATURE = frozenset({"pre_logits"})


class Rotation(Term):
    """weight_g, weight_d: of G's and of D's part; one of 0 leaves out its work.

    Stats per image: cross_entropy, without weight, and accuracy, each the mean of the four turns. Raises UsageError for weights below 0 and for
    weight_g without weight_d (the outputs would never learn). Refused where images aren't square.
    """

    conflicts = (
        Conflict("images that aren't square", lambda term, nets: _not_square(nets),
                 "terms.{name} turns pictures by quarters, so they must be square, not {found}: {remedy}",
                 "crop them (handful data prepare DATA OUT --fit crop), or leave the term out"),)

    def __init__(self, weight_g: float = 10.0, weight_d: float = 5.0) -> None:
        super().__init__()
        within(0, weight_g=weight_g, weight_d=weight_d)
        if weight_g and not weight_d:
            raise UsageError(f"weight_g={weight_g:g} with weight_d=0: nobody would teach D the task; give weight_d, or set weight_g=0 too")
        self.weights: dict[Side, float] = {"d": weight_d, "g": weight_g}
        self.head: EqualLinear | None = None
        self.notes: list[str] = []

    def setup(self, nets: Nets) -> None:
        self.head = EqualLinear(nets.D.feature_info["pre_logits"].channels, 4)
        turning = {"rotate90", "rotate"} & set(getattr(nets.augment, "enabled", ()))
        if turning:
            self.notes.append(f"rotation: the augmentation turns pictures too ({', '.join(sorted(turning))}), so that the task can't always be "
                              "solved; --set augment.policy=xflip,xint,scale,aniso,xfrac,color leaves that out")

    def needs(self, side: Side) -> Needs | None:
        view = View(logits=True, features=_FEATURE)
        return Needs(**{"real" if side == "d" else "fake": view}) if self.weights[side] else None

    def forward(self, ctx: Context) -> Result:
        kind = "real" if ctx.side == "d" else "fake"
        seen, n = getattr(ctx, kind), len(ctx.slots)
        alone = ctx.nets.D.has_batch_stats
        features = self._turned(ctx, kind, range(0 if alone else 1, 4))
        if not alone:
            features = torch.cat([vector(seen.features["pre_logits"]), features])                                     # [4B,C], turn by turn
        with no_autocast(features):
            logits = self.head(features)                                                                              # [4B,4]
        turns = torch.arange(4, device=logits.device)[:, None].expand(4, n).flatten()
        entropy = F.cross_entropy(logits, turns, reduction="none").view(4, n).mean(0)                                 # [B]
        right = (logits.detach().argmax(1) == turns).to(entropy.dtype).view(4, n).mean(0)
        return Result(self.weights[ctx.side] * entropy.mean(), {"cross_entropy": entropy.detach(), "accuracy": right})

    def _turned(self, ctx: Context, kind: str, turns: range) -> Tensor:
        """Features [B len(turns),C] of the images turned by each of `turns`, in one run of D."""
        x, c, extra = shown(ctx, kind, "x_in")

        def turned(images: Tensor) -> Tensor:
            return torch.cat([torch.rot90(images, k, (2, 3)) for k in turns])

        rng = joined(*(ctx.rng.fork("judge", k) for k in turns))
        judged = ctx.nets.judge(turned(x), None if c is None else c.repeat(len(turns)), rng=rng, want=_FEATURE, augment=False,
                                extra={k: turned(v) for k, v in (extra or {}).items()})
        return vector(judged.features["pre_logits"])


def _not_square(nets: Nets) -> str:
    """Width and height of the images of a run, or "" where they are equal."""
    _, height, width = picture_shape(nets)
    return f"{width}x{height}" if height != width else ""
